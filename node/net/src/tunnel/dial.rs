//! The way to a peer: the connection that is there, or a new one. First directly, at each of the peer's addresses; when that
//! takes long or is known not to work, through the relay beside it. Who wants to reach the same peer waits for the same attempt.

use super::{
    Shared, Tunnel,
    elsewhere::{Carrier, Elsewhere},
    endpoint, frames,
    frames::Addresses,
    identity::{self, Known},
    limits::{ADDRESSES_MAX, NEXT_ADDRESS},
    link::{InUse, Link, NotConnected},
    marked,
    peers::Peer,
    pump::{End, Sending, pump},
    record::Record,
};
use crate::fabric::{DATAGRAM_BYTES_MAX, DialFailure, shares::Share};
use async_trait::async_trait;
use bytes::Bytes;
use quinn::{Connection, ConnectionError, RecvStream};
use rustls_pki_types::CertificateDer;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// What QUIC calls the other side; who it is, certificates say.
const SERVER_NAME: &str = "node";
/// A direct way that failed so recently is not waited for before the relay is tried.
const FAILURE_REMEMBERED: Duration = Duration::from_mins(1);
/// Connections that a dial may find broken before it gives up.
const TRIES: usize = 3;

#[async_trait]
impl Elsewhere for Tunnel {
    fn node_of(&self, address: IpAddr) -> Option<Arc<str>> {
        self.0.table.read().directory.node_of(address)
    }

    async fn connect(&self, node: &str, from: SocketAddr, to: SocketAddr) -> Result<Box<dyn Carrier>, DialFailure> {
        let (record, _) = self.0.peer(node).ok_or(DialFailure::Unreachable)?;
        // No pod takes all that there is between two nodes.
        let share = record.shares.try_take(&from.ip().to_string()).ok_or(DialFailure::TooMany)?;
        for _ in 0..TRIES {
            let link = self.0.link_to(&record).await?;
            match link.ask(Addresses { from, to }, self.0.config.limits.answer_timeout).await {
                Ok((sending, receiving, in_use)) => {
                    let shared = Arc::clone(&self.0);
                    return Ok(Box::new(Taken { shared, sending, receiving, in_use, share, pod: from.ip() }));
                }
                Err(NotConnected::Answered(failure)) => return Err(failure),
                Err(NotConnected::Lost) => {}
            }
        }
        Err(DialFailure::Unreachable)
    }

    fn send(&self, node: &str, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        if bytes.len() <= DATAGRAM_BYTES_MAX {
            self.0.send_frame(node, frames::whole(Addresses { from, to }, &bytes));
        }
    }

    fn say_refused(&self, node: &str, from: SocketAddr, to: SocketAddr) {
        self.0.send_frame(node, frames::refused(Addresses { from, to }));
    }

    fn seems_gone(&self, node: &str) -> bool {
        let Some((record, _)) = self.0.peer(node) else { return true };
        let state = record.state.lock();
        // One that is closed, and not forgotten yet, says nothing of the node.
        let has_bad_link = state.links.iter().any(|link| link.is_open());
        record.best(&state).is_none() && (state.is_paused(Instant::now()) || has_bad_link)
    }
}

/// A connection that a peer's pod has taken.
struct Taken {
    shared: Arc<Shared>,
    sending: Sending,
    receiving: RecvStream,
    in_use: InUse,
    share: Share,
    /// Who dialled.
    pod: IpAddr,
}

impl Taken {
    fn join(self, end: End) {
        let Self { shared, sending, receiving, in_use, share, pod } = self;
        shared.tasks.clone().spawn(async move {
            pump(end, sending, receiving, shared.patience(pod)).await;
            drop((in_use, share));
        });
    }
}

impl Carrier for Taken {
    fn stream(self: Box<Self>) -> io::Result<OwnedFd> {
        let (pods, kept) = marked::pair()?;
        self.join(End::Pod(kept));
        Ok(pods)
    }

    fn carry(self: Box<Self>, socket: OwnedFd) {
        self.join(End::socket(socket));
    }
}

impl Shared {
    /// Sends on the connection that is there; where there is none it waits for one, if there is room.
    fn send_frame(self: &Arc<Self>, node: &str, frame: Bytes) {
        let Some((record, _)) = self.peer(node) else { return };
        let mut state = record.state.lock();
        if let Some(link) = record.best(&state) {
            drop(state);
            link.send_datagram(&frame);
            return;
        }
        if state.is_paused(Instant::now()) {
            return;
        }
        state.keep_datagram(frame);
        self.begin_connecting(&record, &mut state);
    }

    /// A connection that works as far as anybody knows.
    pub(super) async fn link_to(self: &Arc<Self>, record: &Arc<Record>) -> Result<Arc<Link>, DialFailure> {
        loop {
            let mut changed = std::pin::pin!(record.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = record.state.lock();
                if let Some(link) = record.best(&state) {
                    return Ok(link);
                }
                if !state.is_connecting && state.is_paused(Instant::now()) || self.stop.is_cancelled() {
                    return Err(DialFailure::Unreachable);
                }
                self.begin_connecting(record, &mut state);
            }
            changed.await;
        }
    }

    fn begin_connecting(self: &Arc<Self>, record: &Arc<Record>, state: &mut super::record::State) {
        if state.is_connecting {
            return;
        }
        state.is_connecting = true;
        let (shared, record) = (Arc::clone(self), Arc::clone(record));
        self.tasks.spawn(async move {
            let result = shared.stop.clone().run_until_cancelled_owned(shared.reach(&record)).await;
            let mut state = record.state.lock();
            state.is_connecting = false;
            if let Some(Err(why)) = result {
                // The peer may have come by itself meanwhile.
                if record.best(&state).is_none() {
                    state.pause(Instant::now());
                    shared.reporter.unreachable(&record.node, &why);
                }
            }
            drop(state);
            record.changed.notify_waiters();
        });
    }

    /// Directly, or through the relay.
    async fn reach(self: &Arc<Self>, record: &Arc<Record>) -> Result<(), String> {
        if !self.relayed.is_there() {
            return self.reach_directly(record).await;
        }
        let is_known_to_fail = |(_, at): &(String, Instant)| at.elapsed() < FAILURE_REMEMBERED;
        let delay = if record.state.lock().why.as_ref().is_some_and(is_known_to_fail) {
            Duration::ZERO
        } else {
            self.config.limits.relay_delay
        };
        let both = |why: String, relay: String| format!("{why}; through the control plane: {relay}");
        let mut direct = std::pin::pin!(self.reach_directly(record));
        let first = tokio::time::timeout(delay, &mut direct).await;
        let mut relayed = std::pin::pin!(self.reach_through_relay(record));
        match first {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => return relayed.await.map_err(|relay| both(why, relay)),
            Err(_) => {}
        }
        // What people hear where the relay is faster than the failure.
        record.state.lock().why.get_or_insert_with(|| ("no answer yet".to_owned(), Instant::now()));
        tokio::select! {
            result = &mut direct => match result {
                Ok(()) => Ok(()),
                Err(why) => relayed.await.map_err(|relay| both(why, relay)),
            },
            result = &mut relayed => match result {
                Ok(()) => Ok(()),
                Err(relay) => direct.await.map_err(|why| both(why, relay)),
            },
        }
    }

    /// The peer's addresses, one beside the other with a pause in between. Remembers why it failed.
    pub(super) async fn reach_directly(self: &Arc<Self>, record: &Arc<Record>) -> Result<(), String> {
        let result = tokio::time::timeout(self.config.limits.direct_timeout, self.try_addresses(record)).await;
        let result = result.unwrap_or_else(|_| Err("no answer".to_owned()));
        if let Err(why) = &result {
            record.state.lock().why = Some((why.clone(), Instant::now()));
        }
        result
    }

    async fn try_addresses(self: &Arc<Self>, record: &Arc<Record>) -> Result<(), String> {
        let (_, peer) = self.peer(&record.node).ok_or(identity::UNKNOWN)?;
        let mut tries = JoinSet::new();
        // Behind routers that translate, another node may well have the same address: it is not to be found there.
        let own = self.endpoint.local_addr().ok();
        let elsewhere = peer.addresses.iter().copied().filter(|&address| Some(address) != own);
        for (index, address) in (0..).zip(elsewhere.take(ADDRESSES_MAX)) {
            let (shared, peer) = (Arc::clone(self), Arc::clone(&peer));
            tries.spawn(async move {
                tokio::time::sleep(NEXT_ADDRESS * index).await;
                shared.dial(&peer, address).await.map_err(|why| format!("{address}: {why}"))
            });
        }
        let mut failures = Vec::new();
        while let Some(result) = tries.join_next().await {
            match result {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(why)) => failures.push(why),
                Err(error) => failures.push(error.to_string()),
            }
        }
        Err(match peer.addresses.first() {
            _ if !failures.is_empty() => failures.join("; "),
            Some(address) => format!("its address {address} is this node's own"),
            None => "it says no address".to_owned(),
        })
    }

    async fn reach_through_relay(self: &Arc<Self>, record: &Arc<Record>) -> Result<(), String> {
        let (_, peer) = self.peer(&record.node).ok_or(identity::UNKNOWN)?;
        let dial = self.dial(&peer, self.relayed.address_of(&record.node));
        let result = tokio::time::timeout(self.config.limits.direct_timeout, dial).await;
        result.unwrap_or_else(|_| Err("no answer".to_owned()))
    }

    async fn dial(self: &Arc<Self>, peer: &Peer, address: SocketAddr) -> Result<(), String> {
        let config = endpoint::client(&self.identity, &self.config.limits, &peer.node, address)
            .map_err(|error| error.to_string())?;
        let connecting = self.endpoint.connect_with(config, address, SERVER_NAME).map_err(|error| error.to_string())?;
        let connection = connecting.await.map_err(|error| reason(&error))?;
        let known = known(&connection)?;
        // The other side has looked at this one's certificate when it welcomes it.
        let mut welcome = connection.accept_uni().await.map_err(|error| reason(&error))?;
        welcome.read_exact(&mut [0]).await.map_err(|error| error.to_string())?;
        self.register(Link::new(connection, true, known)).map(drop).map_err(str::to_owned)
    }
}

/// What the certificate of the other side says, which TLS has checked.
pub(super) fn known(connection: &Connection) -> Result<Known, String> {
    let identity = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let first = identity.as_ref().and_then(|chain| chain.first()).ok_or("it has no certificate")?;
    Ok(identity::known(first)?)
}

/// What TLS puts in front of what this crate finds wrong with a certificate.
const GENERAL: &str = "unexpected error: ";

fn own_words(reason: &str) -> &str {
    reason.strip_prefix(GENERAL).unwrap_or(reason)
}

/// Why a connection is none, for people.
pub(super) fn reason(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TransportError(error) if !error.reason.is_empty() => own_words(&error.reason).to_owned(),
        ConnectionError::ConnectionClosed(close) if !close.reason.is_empty() => {
            format!("it says: {}", own_words(&String::from_utf8_lossy(&close.reason)))
        }
        ConnectionError::ApplicationClosed(close) if !close.reason.is_empty() => {
            format!("it says: {}", String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::TimedOut => "no answer".to_owned(),
        other => other.to_string(),
    }
}
