//! Connections from outside, by node ports and external addresses: each is given to a pod of its service, here or on another
//! node. Opened and closed by [`super::openings`].

use super::{
    Shared,
    attempts::Attempts,
    bounds::Bound,
    dial::{OVER_BOUND, canonical},
    far::Place,
    keep_alive,
    notices::About,
    openings::Opening,
    pods::DialFailure,
    statistics::Count,
};
use crate::{
    class::{self, AddressClass},
    policy::{self, Peer, Surroundings, Way},
    services::{Origin, Target},
};
use nix::sys::socket::{setsockopt, sockopt::Linger};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream as StdTcpStream},
    os::fd::AsFd,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

/// After an accept fails (no descriptors are left, most likely), so long nothing is accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The ports from which the node itself seems to connect to its pods, as systems choose them for clients.
const EPHEMERAL_FIRST: u16 = 32_768;
/// How many there are.
const EPHEMERAL_PORTS: usize = 28_232;

/// Accepts connections, a bounded number of which wait for their pod.
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener, opening: Opening, close: CancellationToken) {
    let offers = Arc::new(Semaphore::new(shared.config.limits.node_port_offers));
    let close = &close;
    loop {
        let one = async {
            let permit = Arc::clone(&offers).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((listener.accept().await?, permit))
        };
        let accepted = tokio::select! {
            () = close.cancelled() => return,
            accepted = one => accepted,
        };
        match accepted {
            Ok(((stream, from), permit)) => {
                let shared_with_task = Arc::clone(&shared);
                shared.spawn_until(shared.stop.clone(), async move {
                    shared_with_task.take_in(opening, stream, canonical(from)).await;
                    drop(permit);
                });
            }
            Err(_) => {
                tokio::select! {
                    () = close.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

/// Why a pod did not take a client's connection.
struct NotTaken {
    failure: DialFailure,
    /// It has a copy, and nobody knows whether it will use it.
    may_take_it_yet: bool,
}

impl From<DialFailure> for NotTaken {
    fn from(failure: DialFailure) -> Self {
        Self { failure, may_take_it_yet: false }
    }
}

impl Shared {
    /// Gives a connection from outside to one of the service's pods.
    async fn take_in(&self, opening: Opening, stream: TcpStream, from: SocketAddr) {
        let Ok(stream) = keep_alive::prepare(&stream).and_then(|()| stream.into_std()) else { return };
        if self.offer_to_service(opening, &stream, from).await {
            self.counters.add(Count::ConnectedNodePort);
        } else {
            reset(stream);
            self.counters.add(Count::Refused);
        }
    }

    async fn offer_to_service(&self, opening: Opening, stream: &StdTcpStream, from: SocketAddr) -> bool {
        let Some(target) = opening.target(&self.services()) else { return false };
        let mut attempts = Attempts::new(self, &target, from.ip(), Origin::Outside);
        while let Some(endpoint) = attempts.next() {
            match self.offer_from_outside(endpoint, stream, from, attempts.is_last()).await {
                Ok(()) => {
                    attempts.connected();
                    return true;
                }
                Err(NotTaken { failure, may_take_it_yet }) => {
                    attempts.failed(failure);
                    // Two pods must not read from one connection: it ends for all.
                    if may_take_it_yet {
                        let _ = stream.shutdown(Shutdown::Both);
                        return false;
                    }
                }
            }
        }
        false
    }

    async fn offer_from_outside(
        &self,
        endpoint: SocketAddr,
        stream: &StdTcpStream,
        from: SocketAddr,
        is_last: bool,
    ) -> Result<(), NotTaken> {
        let (services, ranges) = (self.services(), self.ranges());
        match policy::decide_endpoint(
            Peer::Outside(from.ip()),
            endpoint,
            Surroundings { ranges: &ranges, services: &services },
        ) {
            Ok(Way::Pod) => {}
            Ok(_) | Err(_) => return Err(DialFailure::Denied.into()),
        }
        // A copy, so that the next pod can have it when this one refuses.
        let copy = || stream.as_fd().try_clone_to_owned().map_err(|_| DialFailure::TooMany);
        match self.place_of(endpoint.ip())? {
            Place::Here(pod) => {
                let offered = self.offer(&pod, endpoint, self.as_pods_see(from), copy()?).await;
                offered.map_err(|failure| NotTaken { failure, may_take_it_yet: failure == DialFailure::TimedOut })
            }
            Place::There(node) => {
                let seen = self.as_far_pods_see(from)?;
                let carrier = self.connect_there(&node, seen, endpoint, is_last).await?;
                carrier.carry(copy()?);
                Ok(())
            }
        }
    }

    /// How pods of other nodes see a client of a node port: as this node, to which their answers must come. Only pods
    /// here may know who it is, as under `externalTrafficPolicy: Local`.
    pub(crate) fn as_far_pods_see(&self, client: SocketAddr) -> Result<SocketAddr, DialFailure> {
        let gateway = self.gateway().ok_or(DialFailure::Unreachable)?;
        Ok(SocketAddr::new(gateway.into(), client.port()))
    }

    /// How pods see a client of a node port: as what it is, unless its address is the machine's loopback or a pod's, say, and
    /// would mean something else to a pod. Then as the node, at the address that a gateway usually has in the node's range.
    pub(crate) fn as_pods_see(&self, client: SocketAddr) -> SocketAddr {
        match (class::classify(client.ip(), &self.ranges()), self.gateway()) {
            (AddressClass::Outside | AddressClass::Node, _) | (_, None) => client,
            (_, Some(gateway)) => SocketAddr::new(gateway.into(), client.port()),
        }
    }

    /// Whom a pod sees when the node itself connects to its address `to`. The port stands for nothing: nobody answers there.
    pub(crate) fn node_as_seen_at(&self, to: SocketAddr) -> SocketAddr {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % EPHEMERAL_PORTS;
        let port = EPHEMERAL_FIRST.saturating_add(u16::try_from(turn).unwrap_or_default());
        let inside = if to.ip().is_loopback() { Some(to.ip()) } else { self.gateway().map(IpAddr::V4) };
        SocketAddr::new(inside.unwrap_or(self.node_port_address()), port)
    }

    fn gateway(&self) -> Option<Ipv4Addr> {
        self.node_ranges.read().first().map(|range| Ipv4Addr::from(u32::from(range.first()) | 1))
    }

    /// Counts and reports that a node port is over a bound.
    pub(crate) fn node_port_over(&self, target: &Target, bound: Bound) {
        self.counters.hit(bound);
        let service = &target.port.id.service;
        let about = About::Service(service.namespace.clone(), service.name.clone());
        let text = || format!("refused: {}", bound.text());
        self.reporter.warn(about, OVER_BOUND, bound.text(), text, Instant::now());
    }
}

/// Closes a connection so that the other side sees it refused, not served and ended.
fn reset(stream: StdTcpStream) {
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    if let Err(error) = setsockopt(&stream, Linger, &at_once) {
        tracing::debug!(%error, "a refused connection is closed without a reset");
    }
    drop(stream);
}
