//! The fabric: makes every connection and passes on every datagram of this node's pods. It asks the pure tables of this crate
//! what is meant and allowed, and does it with socket pairs, or with real sockets where somebody is outside.
//!
//! It must never open anything for a pod that the policy does not allow, reach this machine on a pod's behalf, or let one pod
//! use up what the others need: see [`bounds`].

mod arrivals;
mod attempts;
pub mod bounds;
mod datagrams;
mod dial;
mod dns_server;
mod far;
mod flows;
mod health_ports;
mod keep_alive;
mod machine;
mod node_port_datagrams;
mod node_ports;
mod notices;
mod openings;
mod outside;
mod outside_datagrams;
mod outside_streams;
mod pods;
mod resolver;
pub(crate) mod shares;
mod statistics;
#[cfg(test)]
mod tests;
mod udp_socket;
mod upstream;

pub use bounds::{Bound, Limits};
pub use datagrams::DATAGRAM_BYTES_MAX;
pub use notices::{About, NOTICE_INTERVAL, Notice};
pub use pods::{DialFailure, PodEntry, Pods};
pub use statistics::Statistics;

use crate::{
    balance::Balancer,
    class::Ranges,
    names::{NameError, Names},
    range::Ipv4Range,
    services::Services,
    tunnel::Elsewhere,
};
use bounds::ALL_FLOWS_MAX;
use bytes::Bytes;
use far::OtherNodes;
use flows::Flows;
use machine::{Machine, ThisMachine};
use notices::Reporter;
use openings::Wanted;
use outside_datagrams::OutsideSockets;
use outside_streams::OutsideStreams;
use parking_lot::{Mutex, RwLock};
use pods::PodTable;
use resolver::Resolver;
use serde_json::Value;
use shares::Shares;
use statistics::Counters;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, atomic::AtomicUsize},
    time::Instant,
};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use udp_socket::{ReceiveBuffer, UdpSocket};
use upstream::Upstream;

/// Idle flows are looked for so many times in the time after which they are idle.
const SWEEPS_PER_IDLE_TIME: u32 = 4;

/// What a fabric is made of.
#[derive(Debug, Clone)]
pub struct FabricConfig {
    /// The node's name, by which endpoint slices say what is local.
    pub node_name: String,
    /// The cluster's and the node's addresses. Pods reach node ports at the node's addresses and nothing else there; see
    /// [`Fabric::set_node_address`].
    pub ranges: Ranges,
    /// The ranges from which this node's pods have their addresses: in the rest of the pod range are other nodes' pods.
    /// Empty where that is not known yet: see [`Fabric::set_node_ranges`].
    pub node_ranges: Vec<Ipv4Range>,
    /// Where cluster DNS is, port 53.
    pub dns_address: IpAddr,
    /// The address on which node ports listen.
    pub node_port_address: IpAddr,
    /// What one pod may use.
    pub limits: Limits,
}

/// What the cluster is at one moment.
#[derive(Debug, Default)]
struct View {
    services: Arc<Services>,
    names: Arc<Names>,
}

/// Where the node is at one moment.
#[derive(Debug)]
struct Here {
    node_port_address: IpAddr,
    ranges: Arc<Ranges>,
}

struct Shared {
    config: FabricConfig,
    node_ranges: RwLock<Vec<Ipv4Range>>,
    here: RwLock<Here>,
    machine: Arc<dyn Machine>,
    doors: Arc<dyn Pods>,
    pods: RwLock<PodTable>,
    others: OtherNodes,
    /// Connections from other nodes that no pod has taken yet, by node.
    arrivals: Arc<Shares>,
    view: RwLock<View>,
    /// Held while a new view is made, so that the last one asked for is the last one seen.
    changing: Mutex<()>,
    balancer: Mutex<Balancer>,
    flows: Mutex<Flows>,
    outside_sockets: OutsideSockets,
    outside_streams: OutsideStreams,
    receive_buffer: ReceiveBuffer,
    /// Where datagrams from outside come in, by the address that clients know.
    open_sockets: Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>,
    wanted_ports: watch::Sender<Wanted>,
    resolver: Resolver,
    upstream: Upstream,
    turn: AtomicUsize,
    reporter: Reporter,
    counters: Counters,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The virtual network of one node. Clones are the same fabric. What comes from other nodes enters as [`crate::tunnel::Arrivals`].
#[derive(Clone)]
pub struct Fabric(Arc<Shared>);

impl Fabric {
    /// A fabric without pods and services, and what people should hear about. Within a tokio runtime; its tasks end with
    /// [`Fabric::shutdown`].
    #[must_use]
    pub fn new(config: FabricConfig, pods: Arc<dyn Pods>) -> (Self, mpsc::Receiver<Notice>) {
        Self::on_machine(config, pods, Arc::new(ThisMachine))
    }

    fn on_machine(
        config: FabricConfig,
        doors: Arc<dyn Pods>,
        machine: Arc<dyn Machine>,
    ) -> (Self, mpsc::Receiver<Notice>) {
        let (reporter, notices) = Reporter::new();
        let (wanted_ports, wanted) = watch::channel(Wanted::new());
        let limits = &config.limits;
        let shared = Arc::new(Shared {
            flows: Mutex::new(Flows::new(limits.flows, ALL_FLOWS_MAX, limits.flow_idle)),
            resolver: Resolver::new(Arc::clone(&machine)),
            upstream: Upstream::new(Arc::clone(&machine)),
            balancer: Mutex::new(Balancer::new(rand::random())),
            node_ranges: RwLock::new(config.node_ranges.clone()),
            here: RwLock::new(Here {
                node_port_address: config.node_port_address,
                ranges: Arc::new(config.ranges.clone()),
            }),
            arrivals: Shares::new(limits.arrivals),
            others: OtherNodes::default(),
            config,
            machine,
            doors,
            pods: RwLock::default(),
            view: RwLock::default(),
            changing: Mutex::default(),
            outside_sockets: OutsideSockets::default(),
            outside_streams: OutsideStreams::default(),
            receive_buffer: ReceiveBuffer::default(),
            open_sockets: Mutex::default(),
            wanted_ports,
            turn: AtomicUsize::new(0),
            reporter,
            counters: Counters::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        shared.tasks.spawn(openings::keep(Arc::clone(&shared), wanted));
        shared.tasks.spawn(sweep(Arc::clone(&shared)));
        (Self(shared), notices)
    }

    /// The ranges from which this node's pods have their addresses, once they are known. In the second address of the first
    /// one pods see whoever comes from this machine to a node port.
    pub fn set_node_ranges(&self, ranges: impl IntoIterator<Item = Ipv4Range>) {
        *self.0.node_ranges.write() = ranges.into_iter().collect();
    }

    /// The way to other nodes' pods, from now on. Until then, and after `None`, nobody is reached there.
    pub fn set_elsewhere(&self, way: Option<Arc<dyn Elsewhere>>) {
        self.0.others.set_way(way);
    }

    /// The node's address is another one from now on: pods know it by that, and node ports open there and close where they
    /// were. Connections that are there stay.
    pub fn set_node_address(&self, address: IpAddr) {
        let _changing = self.0.changing.lock();
        *self.0.here.write() = Here {
            node_port_address: address,
            ranges: Arc::new(Ranges { node_addresses: vec![address], ..Ranges::clone(&self.0.ranges()) }),
        };
        self.0.wanted_ports.send_replace(self.0.wanted(&self.0.services()));
    }

    /// The control plane is there from now on, and no pod reaches it. Connections that are there stay.
    pub fn set_servers(&self, servers: Vec<SocketAddr>) {
        let _changing = self.0.changing.lock();
        let ranges = Arc::new(Ranges { servers, ..Ranges::clone(&self.0.ranges()) });
        self.0.here.write().ranges = ranges;
        self.0.wanted_ports.send_replace(self.0.wanted(&self.0.services()));
    }

    /// Adds a pod, or gives one new addresses and names.
    pub fn add_pod(&self, pod: PodEntry) {
        self.0.pods.write().add(pod, &self.0.config.limits, &self.0.stop);
    }

    /// Removes a pod: its dials under way fail, its flows and sockets close. Connections that it has are its own.
    pub fn remove_pod(&self, uid: &str) {
        let Some(pod) = self.0.pods.write().remove(uid) else { return };
        self.0.flows.lock().remove_pod(uid, &pod.entry.addresses);
        self.0.outside_sockets.remove_pod(uid);
        self.0.outside_streams.remove_pod(uid);
        self.0.reporter.forget_pod(uid);
    }

    /// The cluster's `v1` Services and `discovery.k8s.io/v1` `EndpointSlices`, all of them. What did not change is not
    /// disturbed: node ports stay open, flows and what was learnt of endpoints are kept.
    pub fn set_services<'a, S, E>(&self, services: S, slices: E)
    where
        S: IntoIterator<Item = &'a Value>,
        S::IntoIter: Clone,
        E: IntoIterator<Item = &'a Value>,
        E::IntoIter: Clone,
    {
        let (services, slices) = (services.into_iter(), slices.into_iter());
        let _changing = self.0.changing.lock();
        let before = self.0.services();
        let table = Arc::new(before.rebuild(services.clone(), slices.clone(), &self.0.config.node_name));
        let names = Arc::new(Names::build(services, slices).with_ranges(&self.0.ranges()));
        let wanted = self.0.wanted(&table);
        *self.0.view.write() = View { services: Arc::clone(&table), names };
        if *table != *before {
            self.0.balancer.lock().follow(&table);
            self.0.flows.lock().forget(&table.gone_since(&before));
        }
        self.0.wanted_ports.send_if_modified(|ports| {
            let is_new = *ports != wanted;
            *ports = wanted;
            is_new
        });
    }

    /// Connects a pod, from its own address and port, to an address: gives one end of the connection, which does not block.
    /// Dropping the future withdraws the dial.
    ///
    /// # Errors
    /// See [`DialFailure`]. [`DialFailure::Denied`] also for a pod that is not there, or an address that is not its own.
    pub async fn dial(&self, pod_uid: &str, from: SocketAddr, to: SocketAddr) -> Result<OwnedFd, DialFailure> {
        self.0.dial(pod_uid, from, to).await
    }

    /// Connects the node itself to a pod of its own: to one of the pod's addresses, where the pod sees the node's gateway,
    /// or to a loopback address, which is the pod's own and where it sees itself. Policies say nothing about it, and the
    /// pod's own dials take nothing away from it. Gives one end of the connection, which does not block; dropping the
    /// future gives it up.
    ///
    /// # Errors
    /// See [`DialFailure`]. [`DialFailure::Unreachable`] for a pod that is not there, [`DialFailure::Denied`] for an
    /// address that is not the pod's.
    pub async fn dial_into(&self, pod_uid: &str, to: SocketAddr) -> Result<OwnedFd, DialFailure> {
        self.0.dial_into(pod_uid, to).await
    }

    /// Passes on a pod's datagram. Never blocks; it may be lost.
    pub fn datagram(&self, pod_uid: &str, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        self.0.datagram(pod_uid, from, to, bytes);
    }

    /// The addresses of a name as the pod's resolver would find them: hosts file, search list, cluster, outside.
    ///
    /// # Errors
    /// See [`NameError`].
    pub async fn look_up(&self, pod_uid: &str, name: &str) -> Result<Vec<IpAddr>, NameError> {
        self.0.look_up(pod_uid, name).await
    }

    /// What was done so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.0.counters.snapshot()
    }

    /// Closes node ports and sockets and waits until all tasks have ended. Connections that pods have are their own.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.others.set_way(None);
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Shared {
    fn services(&self) -> Arc<Services> {
        Arc::clone(&self.view.read().services)
    }

    fn ranges(&self) -> Arc<Ranges> {
        Arc::clone(&self.here.read().ranges)
    }

    fn node_port_address(&self) -> IpAddr {
        self.here.read().node_port_address
    }

    fn wanted(&self, table: &Services) -> Wanted {
        let here = self.here.read();
        openings::wanted(table, here.node_port_address, &here.ranges)
    }

    fn names(&self) -> Arc<Names> {
        Arc::clone(&self.view.read().names)
    }

    /// A task that ends when its work does, or when `over` is cancelled.
    fn spawn_until(&self, over: CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(over.run_until_cancelled_owned(work));
    }
}

/// Forgets what is idle, until the fabric ends.
async fn sweep(shared: Arc<Shared>) {
    let idle = shared.config.limits.flow_idle;
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(idle / SWEEPS_PER_IDLE_TIME) => {}
        }
        let now = Instant::now();
        shared.flows.lock().expire(now);
        shared.outside_sockets.expire(now, idle);
    }
}
