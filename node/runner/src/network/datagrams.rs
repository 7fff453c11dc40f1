//! UDP sockets, and the datagrams that wait in them. What does not fit is lost, as datagrams may be.

use super::{FromRunnerNet, MAX_DATAGRAM_BYTES, channel::ChannelError, error::SocketError, pod::Pod};
use crate::memory::{MemoryAccount, Reservation};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// Bytes of datagrams that wait in one socket: Linux's default.
pub(crate) const MAX_QUEUED_BYTES: usize = 208 << 10;
/// What a datagram counts beside its bytes, so that empty ones are bounded too.
const OVERHEAD_BYTES: usize = 256;

#[derive(Debug)]
struct Datagram {
    from: SocketAddr,
    bytes: Vec<u8>,
    _room: [OwnedSemaphorePermit; 2],
    /// Of the container that will receive it.
    _held: Reservation,
}

#[derive(Debug, Default)]
struct Waiting {
    datagrams: VecDeque<Datagram>,
    bytes: usize,
    /// Whom the socket is connected to: it receives from nobody else.
    remote: Option<SocketAddr>,
    /// What the guest is told once, at its next call.
    error: Option<SocketError>,
}

/// Where datagrams wait. Whoever sends has this, the guest has the [`Datagrams`].
#[derive(Debug)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    memory: Arc<MemoryAccount>,
}

impl Inbox {
    /// What waits in it is `memory`'s.
    pub(super) fn new(memory: Arc<MemoryAccount>) -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new(), memory }
    }

    /// # Errors
    /// `Refused` when the socket is connected to somebody else.
    pub(super) fn push(&self, pod: &Pod, from: SocketAddr, bytes: Vec<u8>) -> Result<(), SocketError> {
        let cost = bytes.len() + OVERHEAD_BYTES;
        {
            let mut waiting = self.waiting.lock();
            if waiting.remote.is_some_and(|remote| remote != from) {
                return Err(SocketError::Refused);
            }
            let room = if waiting.bytes + cost <= MAX_QUEUED_BYTES { self.room(pod, cost) } else { None };
            let Some((room, held)) = room else {
                drop(waiting);
                pod.hit(super::Bound::QueuedDatagrams);
                return Ok(());
            };
            waiting.bytes += cost;
            waiting.datagrams.push_back(Datagram { from, bytes, _room: room, _held: held });
        }
        self.arrived.notify_waiters();
        Ok(())
    }

    fn room(&self, pod: &Pod, bytes: usize) -> Option<([OwnedSemaphorePermit; 2], Reservation)> {
        let held = self.memory.try_reserve(u64::try_from(bytes).ok()?)?;
        Some((pod.queue_permits(bytes)?, held))
    }

    /// Something that this socket sent to `to` reached nobody. As on Linux, only a connected socket is told.
    pub(super) fn refused(&self, to: SocketAddr) {
        let mut waiting = self.waiting.lock();
        if waiting.remote == Some(to) {
            waiting.error = Some(SocketError::Refused);
            drop(waiting);
            self.arrived.notify_waiters();
        }
    }
}

/// A UDP socket. Its port is free when it is dropped.
#[derive(Debug)]
pub(crate) struct Datagrams {
    pod: Arc<Pod>,
    inbox: Arc<Inbox>,
    bound: SocketAddr,
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.pod.free_datagrams(self.bound);
    }
}

impl Datagrams {
    pub(super) fn new(pod: Arc<Pod>, inbox: Arc<Inbox>, bound: SocketAddr) -> Self {
        Self { pod, inbox, bound }
    }

    /// The address and port that it has; once connected, the address that it sends from.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.remote_addr().and_then(|remote| self.pod.source_of(self.bound, remote).ok()).unwrap_or(self.bound)
    }

    /// Whom it is connected to.
    pub(crate) fn remote_addr(&self) -> Option<SocketAddr> {
        self.inbox.waiting.lock().remote
    }

    /// Connects to one peer, or to nobody: the only one it receives from then.
    ///
    /// # Errors
    /// As [`Self::send`] to it.
    pub(crate) fn connect(&self, remote: Option<SocketAddr>) -> Result<(), SocketError> {
        let remote = remote.map(|remote| SocketAddr::new(remote.ip(), remote.port()));
        if let Some(remote) = remote {
            self.source(remote)?;
        }
        let mut waiting = self.inbox.waiting.lock();
        waiting.remote = remote;
        waiting.error = None;
        Ok(())
    }

    fn source(&self, to: SocketAddr) -> Result<SocketAddr, SocketError> {
        if to.port() == 0 || to.ip().is_unspecified() {
            return Err(SocketError::InvalidArgument);
        }
        if to.ip() == Ipv4Addr::BROADCAST {
            return Err(SocketError::Denied);
        }
        if to.ip().is_multicast() {
            return Err(SocketError::Unreachable);
        }
        self.pod.source_of(self.bound, to)
    }

    /// Sends a datagram. It may be lost on its way, which is no error.
    ///
    /// # Errors
    /// `TooLarge`, `InvalidArgument`, `Unreachable`, or what became of an earlier one: `Refused`.
    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8]) -> Result<(), SocketError> {
        let to = SocketAddr::new(to.ip(), to.port());
        if let Some(error) = self.inbox.waiting.lock().error.take() {
            return Err(error);
        }
        if bytes.len() > MAX_DATAGRAM_BYTES {
            return Err(SocketError::TooLarge);
        }
        let from = self.source(to)?;
        if self.pod.is_inside(to.ip()) {
            if self.pod.deliver(to, from, bytes.to_vec()).is_err() {
                self.inbox.refused(to);
            }
            return Ok(());
        }
        self.pod.traffic().send(bytes.len());
        let pod_uid = self.pod.uid().to_owned();
        match self.pod.switch().pass(&FromRunnerNet::Datagram { pod_uid, from, to, bytes: bytes.to_vec() }) {
            Ok(()) | Err(ChannelError::Full) => Ok(()),
            Err(_) => Err(SocketError::Unreachable),
        }
    }

    /// The next datagram and who sent it, if one waits.
    ///
    /// # Errors
    /// What became of an earlier one that was sent: `Refused`.
    pub(crate) fn try_receive(&self) -> Result<Option<(Vec<u8>, SocketAddr)>, SocketError> {
        let mut waiting = self.inbox.waiting.lock();
        if let Some(error) = waiting.error.take() {
            return Err(error);
        }
        while let Some(Datagram { from, bytes, .. }) = waiting.datagrams.pop_front() {
            waiting.bytes = waiting.bytes.saturating_sub(bytes.len() + OVERHEAD_BYTES);
            // What came before the socket was connected may be from somebody else.
            if waiting.remote.is_none_or(|remote| remote == from) {
                return Ok(Some((bytes, from)));
            }
        }
        Ok(None)
    }

    /// Waits until there is a datagram or an error.
    pub(crate) async fn readable(&self) {
        loop {
            // From here on no arrival is missed.
            let arrived = self.inbox.arrived.notified();
            {
                let waiting = self.inbox.waiting.lock();
                if !waiting.datagrams.is_empty() || waiting.error.is_some() {
                    return;
                }
            }
            arrived.await;
        }
    }
}
