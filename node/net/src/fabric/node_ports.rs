//! Node ports: real listeners on the node's address, kept in step with the service table. One task opens and closes them;
//! a port that stays is never touched, and what was accepted belongs to its pod and outlives any change.
//!
//! ```text
//! wanted, not open ── bound ──▶ open ── no longer wanted ──▶ closed
//!        │                       ▲
//!        └── taken by somebody ──┘ tried again with a growing pause; a notice says so once
//! ```

use super::{
    Shared,
    attempts::Attempts,
    bounds::Bound,
    dial::{OVER_BOUND, canonical},
    far::Place,
    node_port_datagrams,
    notices::{About, Notice},
    pods::DialFailure,
    statistics::Count,
    udp_socket::UdpSocket,
};
use crate::{
    class::{self, AddressClass},
    policy::{self, Peer, Way},
    services::{Origin, Protocol, Target},
};
use coracle_objects::ObjectKey;
use nix::sys::socket::{setsockopt, sockopt::Linger};
use std::{
    collections::BTreeMap,
    future::pending,
    io,
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream as StdTcpStream},
    os::fd::AsFd,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Connections that the kernel holds for us until they are accepted.
const BACKLOG: u32 = 1024;
/// A port that cannot be opened is tried again after this, then after twice as long each time.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest pause before a port is tried again.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// After an accept fails (no descriptors are left, most likely), so long nothing is accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The ports from which the node itself seems to connect to its pods, as systems choose them for clients.
const EPHEMERAL_FIRST: u16 = 32_768;
/// How many there are.
const EPHEMERAL_PORTS: usize = 28_232;

/// Reasons of events about services.
const NOT_OPEN: &str = "NodePortNotOpen";
const OPEN: &str = "NodePortOpen";

/// A port of the node.
pub(crate) type NodePort = (u16, Protocol);
/// The ports that should be open, each with the service that wants it.
pub(crate) type Wanted = BTreeMap<NodePort, ObjectKey>;

/// An open port. Its task ends when it is closed.
struct Open {
    close: CancellationToken,
    task: JoinHandle<()>,
}

/// A port that could not be opened.
struct Failed {
    retry_at: Instant,
    pause: Duration,
}

/// Opens and closes ports as they are wanted, until the fabric ends.
pub(crate) async fn keep(shared: Arc<Shared>, mut wanted: watch::Receiver<Wanted>) {
    let mut open: BTreeMap<NodePort, Open> = BTreeMap::new();
    let mut failed: BTreeMap<NodePort, Failed> = BTreeMap::new();
    loop {
        let ports = wanted.borrow_and_update().clone();
        failed.retain(|port, _| ports.contains_key(port));
        let leaving: Vec<NodePort> = open.keys().filter(|port| !ports.contains_key(port)).copied().collect();
        for port in leaving {
            if let Some(one) = open.remove(&port) {
                one.close.cancel();
                // The port is free once this returns: whoever wants it next can have it.
                drop(one.task.await);
            }
        }
        for (port, service) in ports.iter().filter(|(port, _)| !open.contains_key(port)).collect::<Vec<_>>() {
            let now = Instant::now();
            if failed.get(port).is_some_and(|one| now < one.retry_at) {
                continue;
            }
            match open_port(&shared, *port) {
                Ok(one) => {
                    open.insert(*port, one);
                    if failed.remove(port).is_some() {
                        shared.reporter.send(notice(service, OPEN, format!("{} is open", text(*port)), false));
                    }
                }
                Err(error) => {
                    if !failed.contains_key(port) {
                        let address = shared.config.node_port_address;
                        let message = format!("{} cannot be opened on {address}: {error}", text(*port));
                        shared.reporter.send(notice(service, NOT_OPEN, message, true));
                    }
                    let one = failed.entry(*port).or_insert(Failed { retry_at: now, pause: RETRY_FIRST });
                    one.retry_at = now + one.pause;
                    one.pause = (one.pause * 2).min(RETRY_MAX);
                }
            }
        }
        let retry = async {
            match failed.values().map(|one| one.retry_at).min() {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => return,
            changed = wanted.changed() => if changed.is_err() { return },
            () = retry => {}
        }
    }
}

fn text((port, protocol): NodePort) -> String {
    format!("node port {port}/{protocol}")
}

fn notice(service: &ObjectKey, reason: &'static str, message: String, warning: bool) -> Notice {
    let about = About::Service(service.namespace.clone(), service.name.clone());
    Notice { about, reason, message, warning }
}

fn open_port(shared: &Arc<Shared>, (port, protocol): NodePort) -> io::Result<Open> {
    let address = SocketAddr::new(shared.config.node_port_address, port);
    let close = shared.stop.child_token();
    let task = match protocol {
        Protocol::Tcp => {
            let listener = listen(address)?;
            shared.tasks.spawn(accept(Arc::clone(shared), listener, port, close.clone()))
        }
        Protocol::Udp => {
            let socket = Arc::new(UdpSocket::bind(address)?);
            shared.tasks.spawn(node_port_datagrams::serve(Arc::clone(shared), socket, address, close.clone()))
        }
    };
    Ok(Open { close, task })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of a listener that was here before may still linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections, a bounded number of which wait for their pod.
async fn accept(shared: Arc<Shared>, listener: TcpListener, port: u16, close: CancellationToken) {
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
                    shared_with_task.take_in(port, stream, canonical(from)).await;
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
    /// Gives a connection that came to a node port to one of the service's pods.
    async fn take_in(&self, port: u16, stream: TcpStream, from: SocketAddr) {
        let Ok(stream) = stream.set_nodelay(true).and_then(|()| stream.into_std()) else { return };
        if self.offer_to_service(port, &stream, from).await {
            self.counters.add(Count::ConnectedNodePort);
        } else {
            reset(stream);
            self.counters.add(Count::Refused);
        }
    }

    async fn offer_to_service(&self, port: u16, stream: &StdTcpStream, from: SocketAddr) -> bool {
        let Some(target) = self.services().node_port(port, Protocol::Tcp) else { return false };
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
        let services = self.services();
        match policy::decide_endpoint(Peer::Outside(from.ip()), endpoint, self.surroundings(&services)) {
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
        match (class::classify(client.ip(), &self.config.ranges), self.gateway()) {
            (AddressClass::Outside | AddressClass::Node, _) | (_, None) => client,
            (_, Some(gateway)) => SocketAddr::new(gateway.into(), client.port()),
        }
    }

    /// Whom a pod sees when the node itself connects to its address `to`. The port stands for nothing: nobody answers there.
    pub(crate) fn node_as_seen_at(&self, to: SocketAddr) -> SocketAddr {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % EPHEMERAL_PORTS;
        let port = EPHEMERAL_FIRST.saturating_add(u16::try_from(turn).unwrap_or_default());
        let inside = if to.ip().is_loopback() { Some(to.ip()) } else { self.gateway().map(IpAddr::V4) };
        SocketAddr::new(inside.unwrap_or(self.config.node_port_address), port)
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
