//! One QUIC connection with a peer.

use super::{frames, identity::Known, limits::SIGN_OF_LIFE_MAX, paths::is_relayed, peers::Path, pump::Sending};
use crate::fabric::DialFailure;
use bytes::{Bytes, BytesMut};
use frames::Addresses;
use parking_lot::Mutex;
use quinn::{Connection, RecvStream, SendDatagramError, VarInt};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use super::limits::SIGN_OF_LIFE;

/// A connection that is there.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) has_dialled: bool,
    pub(super) known: Known,
    pub(super) since: SystemTime,
    streams: AtomicUsize,
    used: Mutex<Instant>,
    /// Datagrams that had come when it was last found silent.
    silent_at: Mutex<Option<u64>>,
    numbers: AtomicU32,
}

/// A stream is carried; when it is dropped it is not any more.
#[derive(Debug)]
pub(super) struct InUse(Arc<Link>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

/// Why a peer's pod was not connected to.
#[derive(Debug)]
pub(super) enum NotConnected {
    /// The peer says so.
    Answered(DialFailure),
    /// The connection to it is none: another one may be better.
    Lost,
}

impl Link {
    pub(super) fn new(connection: Connection, has_dialled: bool, known: Known) -> Self {
        Self {
            connection,
            has_dialled,
            known,
            since: SystemTime::now(),
            streams: AtomicUsize::new(0),
            used: Mutex::new(Instant::now()),
            silent_at: Mutex::default(),
            numbers: AtomicU32::new(rand::random()),
        }
    }

    pub(super) fn path(&self) -> Path {
        if is_relayed(self.connection.remote_address()) { Path::Relayed } else { Path::Direct }
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Whether nothing has come since it was found silent.
    pub(super) fn is_silent(&self) -> bool {
        let mut silent_at = self.silent_at.lock();
        if silent_at.is_some_and(|count| count != self.received()) {
            *silent_at = None;
        }
        silent_at.is_some()
    }

    fn received(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// The certificate does not count any more.
    pub(super) fn has_expired(&self) -> bool {
        self.has_expired_for(Duration::ZERO)
    }

    /// It does not count any more since so long, at least.
    pub(super) fn has_expired_for(&self, grace: Duration) -> bool {
        SystemTime::now().duration_since(self.known.until).is_ok_and(|since| since >= grace)
    }

    pub(super) fn touch(&self) {
        *self.used.lock() = Instant::now();
    }

    pub(super) fn begin(self: &Arc<Self>) -> InUse {
        self.streams.fetch_add(1, Ordering::Relaxed);
        InUse(Arc::clone(self))
    }

    /// Streams that it carries.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// How long nobody has used it; nothing while somebody does.
    pub(super) fn unused_for(&self, now: Instant) -> Duration {
        if self.streams() > 0 {
            return Duration::ZERO;
        }
        now.saturating_duration_since(*self.used.lock())
    }

    pub(super) fn close(&self, code: VarInt, why: &str) {
        self.connection.close(code, why.as_bytes());
    }

    /// Asks the peer to connect its pod.
    pub(super) async fn ask(
        self: &Arc<Self>,
        addresses: Addresses,
        patience: Duration,
    ) -> Result<(Sending, RecvStream, InUse), NotConnected> {
        let in_use = self.begin();
        let sign_of_life = (SIGN_OF_LIFE + self.connection.rtt() * 4).min(SIGN_OF_LIFE_MAX);
        // A connection that is full waits for one of its streams to end, without a word to the peer: that is no silence.
        let (sending, receiving) = match tokio::time::timeout(sign_of_life, self.connection.open_bi()).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) => return Err(NotConnected::Lost),
            Err(_) => return Err(NotConnected::Answered(DialFailure::TooMany)),
        };
        let before = self.received();
        let mut asking = std::pin::pin!(self.exchange(addresses, Sending::new(sending), receiving));
        let first = tokio::time::timeout(sign_of_life, &mut asking).await;
        let answer = match first {
            Ok(answer) => answer,
            // Even a peer whose pod takes its time says that the question has come.
            Err(_) if self.received() == before => {
                *self.silent_at.lock() = Some(before);
                return Err(NotConnected::Lost);
            }
            Err(_) => match tokio::time::timeout(patience.saturating_sub(sign_of_life), asking).await {
                Ok(answer) => answer,
                Err(_) => return Err(NotConnected::Answered(DialFailure::TimedOut)),
            },
        };
        answer.map(|(sending, receiving)| (sending, receiving, in_use))
    }

    async fn exchange(
        &self,
        addresses: Addresses,
        mut sending: Sending,
        mut receiving: RecvStream,
    ) -> Result<(Sending, RecvStream), NotConnected> {
        let mut header = BytesMut::with_capacity(frames::ADDRESSES_BYTES_MAX);
        addresses.write(&mut header);
        let asked = sending.write_all(&header).await;
        let mut answer = [0];
        match receiving.read_exact(&mut answer).await {
            Ok(()) => match frames::answer_of(answer[0]) {
                Ok(()) if asked.is_ok() => Ok((sending, receiving)),
                Ok(()) => Err(NotConnected::Lost),
                Err(failure) => Err(NotConnected::Answered(failure)),
            },
            Err(_) if self.is_open() => Err(NotConnected::Answered(DialFailure::Refused)),
            Err(_) => Err(NotConnected::Lost),
        }
    }

    /// Sends what [`frames::whole`] or [`frames::refused`] made. It may be lost.
    pub(super) fn send_datagram(&self, frame: &Bytes) {
        self.touch();
        let bytes_max = self.connection.max_datagram_size().unwrap_or(0);
        if frame.len() <= bytes_max {
            match self.connection.send_datagram(frame.clone()) {
                Err(SendDatagramError::TooLarge) => {}
                // Sent, or the connection is over and the datagram with it.
                _ => return,
            }
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        // A path may have become narrower than it was said to be a moment ago: then the parts are lost with it.
        for part in frames::parts(frame, number, bytes_max) {
            if self.connection.send_datagram(part).is_err() {
                return;
            }
        }
    }
}
