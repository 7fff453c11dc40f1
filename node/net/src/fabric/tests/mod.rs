//! The fabric among pods, a machine and an outside that are made up: every pod takes what the test says, and addresses
//! outside lead to loopback. Node ports are real, on a loopback address of each test's own.

mod datagrams;
mod dials;
mod far;
mod into_pods;
mod names;
mod node_ports;
mod outside;
mod own_network;
mod services;
mod tunnels;

use super::{
    DialFailure, Fabric, FabricConfig, Limits, Notice, PodEntry, Pods,
    machine::{Machine, ThisMachine},
};
use crate::{class::Ranges, names::PodDns};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
};

/// Longest wait for anything in these tests.
const PATIENCE: Duration = Duration::from_mins(2);
/// The node's address, which pods may know.
const NODE: &str = "192.0.2.9";
/// Cluster DNS.
const DNS: &str = "10.96.0.10:53";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What must happen, happens soon.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// Looks again and again until it is so.
async fn until(mut is_so: impl FnMut() -> bool) {
    soon(async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// How many there may have been of what a bucket bounds, however slow the machine was meanwhile.
fn allowed(per_second: usize, since: Instant) -> usize {
    per_second + 1 + usize::try_from(since.elapsed().as_millis()).unwrap() * per_second / 1000
}

/// What a pod does with a connection that is offered to it.
#[derive(Debug, Clone, Copy)]
enum Manner {
    Takes,
    Refuses,
    /// Never says anything.
    Sleeps,
}

/// A connection that a pod was offered.
#[derive(Debug)]
struct Offered {
    uid: String,
    to: SocketAddr,
    from: SocketAddr,
    stream: OwnedFd,
}

/// A datagram that a pod was given.
#[derive(Debug, PartialEq, Eq)]
struct Delivered {
    uid: String,
    to: SocketAddr,
    from: SocketAddr,
    bytes: Bytes,
}

struct FakePods {
    manners: Mutex<HashMap<String, Manner>>,
    offers: Mutex<Vec<String>>,
    offered: mpsc::UnboundedSender<Offered>,
    delivered: mpsc::UnboundedSender<Delivered>,
    refused: mpsc::UnboundedSender<(String, SocketAddr, SocketAddr)>,
}

#[async_trait]
impl Pods for FakePods {
    async fn offer(&self, pod_uid: &str, to: SocketAddr, from: SocketAddr, stream: OwnedFd) -> Result<(), DialFailure> {
        self.offers.lock().push(pod_uid.to_owned());
        let manner = self.manners.lock().get(pod_uid).copied().unwrap_or(Manner::Takes);
        match manner {
            Manner::Takes => {
                let offered = Offered { uid: pod_uid.to_owned(), to, from, stream };
                self.offered.send(offered).map_err(|_| DialFailure::Refused)
            }
            Manner::Refuses => Err(DialFailure::Refused),
            Manner::Sleeps => std::future::pending().await,
        }
    }

    fn deliver(&self, pod_uid: &str, to: SocketAddr, from: SocketAddr, bytes: Bytes) {
        drop(self.delivered.send(Delivered { uid: pod_uid.to_owned(), to, from, bytes }));
    }

    fn datagram_refused(&self, pod_uid: &str, from: SocketAddr, to: SocketAddr) {
        drop(self.refused.send((pod_uid.to_owned(), from, to)));
    }
}

/// A machine whose outside is on loopback.
#[derive(Default)]
struct FakeMachine {
    own: Mutex<Vec<IpAddr>>,
    ways: Mutex<HashMap<SocketAddr, SocketAddr>>,
    names: Mutex<HashMap<String, Vec<IpAddr>>>,
    asked: Mutex<Vec<String>>,
    servers: Mutex<Vec<SocketAddr>>,
    /// Whether its resolver does not come to an end with names that it does not know.
    hangs: AtomicBool,
}

impl Machine for FakeMachine {
    fn is_own(&self, address: IpAddr) -> bool {
        self.own.lock().contains(&address)
    }

    fn look_up(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.lock().push(name.to_owned());
        while self.hangs.load(Ordering::Relaxed) && !self.names.lock().contains_key(name) {
            std::thread::sleep(Duration::from_millis(1));
        }
        match self.names.lock().get(name) {
            Some(addresses) => Ok(addresses.clone()),
            None if name.starts_with("broken") => Err(io::Error::other("no server")),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn name_servers(&self) -> Vec<SocketAddr> {
        self.servers.lock().clone()
    }

    fn way_to(&self, outside: SocketAddr) -> SocketAddr {
        // Nobody is at port 1 of loopback.
        self.ways.lock().get(&outside).copied().unwrap_or_else(|| at("127.0.0.1:1"))
    }

    fn seen_from(&self, way: SocketAddr) -> SocketAddr {
        let ways = self.ways.lock();
        ways.iter().find(|(_, one)| **one == way).map_or(way, |(outside, _)| *outside)
    }
}

/// A fabric and everything around it.
struct World {
    fabric: Fabric,
    notices: mpsc::Receiver<Notice>,
    pods: Arc<FakePods>,
    machine: Arc<FakeMachine>,
    offered: mpsc::UnboundedReceiver<Offered>,
    delivered: mpsc::UnboundedReceiver<Delivered>,
    refused: mpsc::UnboundedReceiver<(String, SocketAddr, SocketAddr)>,
    /// Where its node ports are.
    node_ports: IpAddr,
}

/// A loopback address that no other test has, in this process or beside it.
fn own_loopback() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(2);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    IpAddr::from([127, high | 1, low, NEXT.fetch_add(1, Ordering::Relaxed)])
}

impl World {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let machine = Arc::new(FakeMachine::default());
        let below: Arc<dyn Machine> = Arc::<FakeMachine>::clone(&machine);
        Self { machine, ..Self::on(limits, below) }
    }

    /// Pods `a` to `d` have the addresses `10.244.0.1` to `10.244.0.4`.
    fn on(limits: Limits, below: Arc<dyn Machine>) -> Self {
        let world = Self::bare("n1", &["10.244.2.0/23", "10.244.0.0/23"], limits, below);
        for (uid, last) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
            world.add_pod(uid, last);
        }
        world
    }

    /// A node without pods.
    fn bare(name: &str, ranges: &[&str], limits: Limits, below: Arc<dyn Machine>) -> Self {
        let (offered_sender, offered) = mpsc::unbounded_channel();
        let (delivered_sender, delivered) = mpsc::unbounded_channel();
        let (refused_sender, refused) = mpsc::unbounded_channel();
        let pods = Arc::new(FakePods {
            manners: Mutex::default(),
            offers: Mutex::default(),
            offered: offered_sender,
            delivered: delivered_sender,
            refused: refused_sender,
        });
        let machine = Arc::default();
        let node_ports = own_loopback();
        let config = FabricConfig {
            node_name: name.to_owned(),
            ranges: Ranges {
                pods: "10.244.0.0/16".parse().unwrap(),
                services: "10.96.0.0/16".parse().unwrap(),
                node_addresses: vec![NODE.parse().unwrap()],
                servers: vec![at("198.51.100.1:6443")],
            },
            node_ranges: ranges.iter().map(|one| one.parse().unwrap()).collect(),
            dns_address: at(DNS).ip(),
            node_port_address: node_ports,
            limits,
        };
        let doors: Arc<dyn Pods> = Arc::<FakePods>::clone(&pods);
        let (fabric, notices) = Fabric::on_machine(config, doors, below);
        Self { fabric, notices, pods, machine, offered, delivered, refused, node_ports }
    }

    fn add_pod(&self, uid: &str, last: u8) {
        self.add_pod_at(uid, [10, 244, 0, last]);
    }

    fn add_pod_at(&self, uid: &str, address: [u8; 4]) {
        self.fabric.add_pod(PodEntry {
            uid: uid.to_owned(),
            namespace: "default".to_owned(),
            name: format!("pod-{uid}"),
            addresses: vec![IpAddr::from(address)],
            dns: PodDns::cluster_first("default"),
        });
    }

    fn manner(&self, uid: &str, manner: Manner) {
        self.pods.manners.lock().insert(uid.to_owned(), manner);
    }

    /// Whom connections were offered to, in order, since this was last asked.
    fn offers(&self) -> Vec<String> {
        std::mem::take(&mut *self.pods.offers.lock())
    }

    fn set_services(&self, services: &[Value], slices: &[Value]) {
        self.fabric.set_services(services, slices);
    }

    /// A dial from pod `a`.
    async fn dial(&self, to: &str) -> Result<OwnedFd, DialFailure> {
        soon(self.fabric.dial("a", at("10.244.0.1:40000"), at(to))).await
    }

    async fn offered(&mut self) -> Offered {
        soon(self.offered.recv()).await.unwrap()
    }

    async fn delivered(&mut self) -> Delivered {
        soon(self.delivered.recv()).await.unwrap()
    }

    async fn notice(&mut self) -> Notice {
        soon(self.notices.recv()).await.unwrap()
    }

    fn send(&self, uid: &str, from: &str, to: &str, text: &str) {
        self.fabric.datagram(uid, at(from), at(to), Bytes::copy_from_slice(text.as_bytes()));
    }
}

/// A service `NAME` in `default`, on port 80 to 8080 (TCP) and 53 to 5353 (UDP), with more fields of its `spec`.
fn service(name: &str, address: &str, more: Value) -> Value {
    let mut service = json!({
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": address, "ports": [
            {"name": "web", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"},
        ]},
    });
    if let (Some(spec), Value::Object(more)) = (service["spec"].as_object_mut(), more) {
        spec.extend(more);
    }
    service
}

/// The same with node ports.
fn node_port_service(name: &str, address: &str, port: u16) -> Value {
    let ports = json!([
        {"name": "web", "port": 80, "protocol": "TCP", "nodePort": port},
        {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": port},
    ]);
    service(name, address, json!({"type": "NodePort", "ports": ports}))
}

/// Ready endpoints of a service; the node's own, but for those that begin with `~`.
fn slice(name: &str, addresses: &[&str]) -> Value {
    let endpoint = |address: &&str| match address.strip_prefix('~') {
        Some(address) => json!({"addresses": [address], "nodeName": "n2"}),
        None => json!({"addresses": [address], "nodeName": "n1"}),
    };
    json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn stream(descriptor: OwnedFd) -> UnixStream {
    UnixStream::from_std(StdUnixStream::from(descriptor)).unwrap()
}

/// Writes to one end, and nothing more; the other end reads exactly that.
async fn carries(one: &mut (impl AsyncWriteExt + Unpin), other: &mut (impl AsyncReadExt + Unpin), bytes: &[u8]) {
    let mut read = Vec::new();
    let write = async {
        one.write_all(bytes).await.unwrap();
        one.shutdown().await.unwrap();
    };
    let ((), length) = soon(async { tokio::join!(write, other.read_to_end(&mut read)) }).await;
    assert_eq!(length.unwrap(), bytes.len());
    assert!(read == bytes, "other bytes came out");
}
