//! What listens on the machine for services: node ports on the node's address, external addresses that the machine has, and
//! ports where load balancers ask for local endpoints. Kept in step with the service table by one task, which opens and closes
//! them; what stays is never touched, and what was accepted belongs to its pod and outlives any change.
//!
//! ```text
//! wanted, not open ── bound ──▶ open ── no longer wanted ──▶ closed
//!        │  │                    ▲
//!        │  └ taken by somebody ─┤ tried again with a growing pause; a notice says so once
//!        └─── not our address ───┘ looked at again now and then: addresses come and go
//! ```
//!
//! It must never listen on loopback or any other address that is not for the outside, or where the control plane is.

use super::{
    Shared, health_ports, node_port_datagrams, node_ports,
    notices::{About, Notice},
    udp_socket::UdpSocket,
};
use crate::{
    class::{self, AddressClass, Ranges},
    services::{Protocol, Services, Target},
};
use coracle_objects::ObjectKey;
use std::{
    collections::BTreeMap,
    future::pending,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Connections that the kernel holds for us until they are accepted.
const BACKLOG: u32 = 1024;
/// What cannot be opened is tried again after this, then after twice as long each time.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest pause before it is tried again, and how often the machine is asked for an external address.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Reasons of events about services.
const NOT_OPEN: &str = "NodePortNotOpen";
const OPEN: &str = "NodePortOpen";

/// Something that listens on the machine for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Opening {
    /// A node port, on the node's address for them.
    NodePort(SocketAddr, Protocol),
    /// A service's port at an external address, on the machine that has it.
    External(SocketAddr, Protocol),
    /// `healthCheckNodePort`, on the node's address for node ports.
    Health(SocketAddr),
}

/// What should be open, each with the service that wants it.
pub(crate) type Wanted = BTreeMap<Opening, ObjectKey>;

impl Opening {
    /// Whom a connection here is for.
    pub(crate) fn target(self, services: &Services) -> Option<Target> {
        match self {
            Self::NodePort(address, protocol) => services.node_port(address.port(), protocol),
            Self::External(address, protocol) => services.target(address.ip(), address.port(), protocol),
            Self::Health(_) => None,
        }
    }

    /// Where clients find it.
    pub(crate) fn address(self) -> SocketAddr {
        match self {
            Self::NodePort(address, _) | Self::External(address, _) | Self::Health(address) => address,
        }
    }

    fn text(self) -> String {
        match self {
            Self::NodePort(address, protocol) => format!("node port {}/{protocol}", address.port()),
            Self::External(address, protocol) => format!("external port {}/{protocol}", address.port()),
            Self::Health(address) => format!("health check node port {}", address.port()),
        }
    }
}

/// All that the services of a table want. An opening that two want is the first one's, as in the table.
pub(crate) fn wanted(table: &Services, here: IpAddr, ranges: &Ranges) -> Wanted {
    let mut wanted = Wanted::new();
    for (port, protocol, of) in table.node_ports() {
        wanted.insert(Opening::NodePort(SocketAddr::new(here, port), protocol), of.id.service.clone());
    }
    for (address, port, protocol, of) in table.external_addresses() {
        let address = SocketAddr::new(address, port);
        if is_for_outside(address, ranges) {
            wanted.insert(Opening::External(address, protocol), of.id.service.clone());
        }
    }
    for (port, service) in table.health_check_ports() {
        wanted.entry(Opening::Health(SocketAddr::new(here, port))).or_insert_with(|| service.clone());
    }
    wanted
}

fn is_for_outside(address: SocketAddr, ranges: &Ranges) -> bool {
    let class = class::classify(address.ip(), ranges);
    let is_refused = |one: &SocketAddr| one.ip() == address.ip() && (one.port() == 0 || one.port() == address.port());
    matches!(class, AddressClass::Outside | AddressClass::Node) && !ranges.servers.iter().any(is_refused)
}

/// What is open. Its task ends when it is closed.
struct Open {
    close: CancellationToken,
    task: JoinHandle<()>,
}

/// What could not be opened.
struct Failed {
    retry_at: Instant,
    pause: Duration,
    /// Whether people heard of it.
    was_said: bool,
}

/// Opens and closes as it is wanted, until the fabric ends.
pub(crate) async fn keep(shared: Arc<Shared>, mut wanted: watch::Receiver<Wanted>) {
    let mut open: BTreeMap<Opening, Open> = BTreeMap::new();
    let mut failed: BTreeMap<Opening, Failed> = BTreeMap::new();
    loop {
        let now_wanted = wanted.borrow_and_update().clone();
        failed.retain(|opening, _| now_wanted.contains_key(opening));
        let leaving: Vec<Opening> = open.keys().filter(|one| !now_wanted.contains_key(one)).copied().collect();
        for opening in leaving {
            if let Some(one) = open.remove(&opening) {
                one.close.cancel();
                // The port is free once this returns: whoever wants it next can have it.
                drop(one.task.await);
            }
        }
        for (opening, service) in now_wanted.iter().filter(|(one, _)| !open.contains_key(one)).collect::<Vec<_>>() {
            let now = Instant::now();
            if failed.get(opening).is_some_and(|one| now < one.retry_at) {
                continue;
            }
            match shared.open(*opening, service) {
                Ok(Some(one)) => {
                    open.insert(*opening, one);
                    if failed.remove(opening).is_some_and(|before| before.was_said) {
                        shared.reporter.send(notice(service, OPEN, format!("{} is open", opening.text()), false));
                    }
                }
                Ok(None) => {
                    failed.insert(*opening, Failed { retry_at: now + RETRY_MAX, pause: RETRY_MAX, was_said: false });
                }
                Err(error) => {
                    let one =
                        failed.entry(*opening).or_insert(Failed { retry_at: now, pause: RETRY_FIRST, was_said: false });
                    if !one.was_said {
                        let address = opening.address().ip();
                        let message = format!("{} cannot be opened on {address}: {error}", opening.text());
                        shared.reporter.send(notice(service, NOT_OPEN, message, true));
                    }
                    one.was_said = true;
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

fn notice(service: &ObjectKey, reason: &'static str, message: String, warning: bool) -> Notice {
    let about = About::Service(service.namespace.clone(), service.name.clone());
    Notice { about, reason, message, warning }
}

impl Shared {
    /// Opens it; `None` where another machine has the address.
    fn open(self: &Arc<Self>, opening: Opening, service: &ObjectKey) -> io::Result<Option<Open>> {
        let seen_at = opening.address();
        let bound_at = match opening {
            Opening::External(address, _) if !self.machine.is_own(address.ip()) => return Ok(None),
            Opening::External(address, _) => self.machine.way_to(address),
            Opening::NodePort(..) | Opening::Health(_) => seen_at,
        };
        let close = self.stop.child_token();
        let (shared, over) = (Arc::clone(self), close.clone());
        let task = match opening {
            Opening::NodePort(_, Protocol::Tcp) | Opening::External(_, Protocol::Tcp) => {
                self.tasks.spawn(node_ports::accept(shared, listen(bound_at)?, opening, over))
            }
            Opening::NodePort(_, Protocol::Udp) | Opening::External(_, Protocol::Udp) => {
                let socket = Arc::new(UdpSocket::bind(bound_at)?);
                self.tasks.spawn(node_port_datagrams::serve(shared, socket, opening, over))
            }
            Opening::Health(_) => {
                self.tasks.spawn(health_ports::serve(shared, listen(bound_at)?, service.clone(), over))
            }
        };
        Ok(Some(Open { close, task }))
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of a listener that was here before may still linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
