//! Two runners, which the test plays, on one fabric.

use super::{
    Network, Switch,
    addresses::Addresses,
    exchange::Exchange,
    line::{DIALS_MAX, Line, REFUSALS_MAX},
    notices::Notices,
    routes::Routes,
};
use crate::reflector::{Cache, Sink as _};
use coracle_net::{
    class::Ranges,
    fabric::{About, Fabric, FabricConfig, Limits, Notice},
    names::HostResolver,
    range::Ipv4Range,
};
use coracle_objects::ranges::{CLUSTER_DNS, POD_RANGE, SERVICE_RANGE};
use coracle_runner::{
    network::{Bound, DialFailure, FromRunnerNet, NetworkChannel, RunnerEnd, ToRunnerNet},
    protocol::LookupFailure,
};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
    time::Duration,
};
use tokio::{io::AsyncReadExt as _, sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// A test that waits longer has failed.
const WAIT_MAX: Duration = Duration::from_secs(30);

struct World {
    exchange: Arc<Exchange>,
    addresses: Arc<Addresses>,
    notices: mpsc::Receiver<Notice>,
    services: Cache,
    slices: Cache,
    _directory: tempfile::TempDir,
}

/// A runner that the test plays.
struct Runner {
    end: RunnerEnd,
    line: Arc<Line>,
    serving: JoinHandle<bool>,
}

impl World {
    fn new() -> Self {
        Self::with_patience(WAIT_MAX)
    }

    fn with_patience(patience: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let addresses = Arc::new(Addresses::open(directory.path(), WAIT_MAX));
        addresses.set_range("10.244.0.0/22");
        let routes = Arc::new(Routes::default());
        let range = |(first, bits)| Ipv4Range::new(first, bits);
        let config = FabricConfig {
            node_name: "n".to_owned(),
            ranges: Ranges {
                pods: range(POD_RANGE),
                services: range(SERVICE_RANGE),
                node_addresses: Vec::new(),
                servers: Vec::new(),
            },
            node_ranges: Vec::new(),
            dns_address: IpAddr::V4(CLUSTER_DNS),
            node_port_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            // Only this crate's own patience counts, also on a busy machine.
            limits: Limits { offer_timeout: 2 * WAIT_MAX, ..Limits::default() },
        };
        let (fabric, _) = Fabric::new(config, routes.clone());
        let (notices, receiver) = Notices::new();
        let exchange = Exchange::new(fabric, routes, addresses.clone(), notices, HostResolver::default(), patience);
        let (services, slices) = (Cache::new(), Cache::new());
        tokio::spawn(exchange.clone().keep_services(services.clone(), slices.clone(), CancellationToken::new()));
        Self { exchange, addresses, notices: receiver, services, slices, _directory: directory }
    }

    /// Services and slices become known.
    fn learn(&mut self, services: Vec<Value>, slices: Vec<Value>) {
        self.services.replace(services);
        self.slices.replace(slices);
    }

    fn runner(&self) -> Runner {
        let (channel, end) = NetworkChannel::pair().unwrap();
        let line = Line::new(channel);
        let serving = tokio::spawn({
            let (line, exchange) = (line.clone(), self.exchange.clone());
            async move { line.serve(&exchange).await }
        });
        Runner { end, line, serving }
    }

    /// A pod that runs in a runner.
    async fn pod(&self, uid: &str, runner: &Runner) -> SocketAddr {
        let address = self.addresses.take(uid).await.unwrap();
        let pod = json!({"metadata": {"namespace": "default", "name": uid, "uid": uid}, "spec": {}});
        self.exchange.add(&pod, address);
        self.exchange.routes.open(uid, &runner.line);
        SocketAddr::from((address, 8080))
    }
}

impl Runner {
    async fn send(&self, message: FromRunnerNet) {
        self.end.send(message, None).await.unwrap();
    }

    async fn dial(&self, id: u64, pod: &str, to: SocketAddr) {
        let from = SocketAddr::from(([0, 0, 0, 0], 40_000));
        self.send(FromRunnerNet::Dial { id, pod_uid: pod.to_owned(), from, to }).await;
    }

    async fn next(&self) -> (ToRunnerNet, Option<OwnedFd>) {
        tokio::time::timeout(WAIT_MAX, self.end.recv()).await.unwrap().unwrap().unwrap()
    }

    /// The answer to a dial.
    async fn connected(&self, id: u64) -> Result<UnixStream, DialFailure> {
        match self.next().await {
            (ToRunnerNet::Connected { id: of, result }, stream) if of == id => {
                result.map(|()| UnixStream::from(stream.unwrap()))
            }
            (other, _) => panic!("instead of an answer to {id}: {other:?}"),
        }
    }

    /// Takes the next offer: who connects, and the connection.
    async fn take(&self) -> (SocketAddr, UnixStream) {
        match self.next().await {
            (ToRunnerNet::Offer { id, from, .. }, stream) => {
                self.send(FromRunnerNet::Answer { id, result: Ok(()) }).await;
                (from, UnixStream::from(stream.unwrap()))
            }
            (other, _) => panic!("instead of an offer: {other:?}"),
        }
    }

    /// Whether the agent goes on, or would kill this runner.
    async fn verdict(self) -> bool {
        tokio::time::timeout(WAIT_MAX, self.serving).await.unwrap().unwrap()
    }
}

/// Reads exactly what was written at the other end.
fn carries(mut from: UnixStream, mut to: UnixStream) {
    for stream in [&from, &to] {
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
    }
    from.write_all(b"hello").unwrap();
    drop(from);
    let mut read = Vec::new();
    to.read_to_end(&mut read).unwrap();
    assert_eq!(read, b"hello");
}

#[tokio::test]
async fn pods_in_different_runners_connect() {
    let world = World::new();
    let (a, b) = (world.runner(), world.runner());
    let (from, to) = (world.pod("a", &a).await, world.pod("b", &b).await);
    a.dial(1, "a", to).await;
    let (peer, theirs) = b.take().await;
    let ours = a.connected(1).await.unwrap();
    assert_eq!((peer.ip(), peer.port()), (from.ip(), 40_000), "the pod's own address, whatever the runner says");
    carries(ours, theirs);
}

#[tokio::test]
async fn the_node_connects_to_its_pods() {
    let world = World::new();
    let (a, silent) = (world.runner(), world.runner());
    let (to, other) = (world.pod("a", &a).await, world.pod("b", &silent).await);
    let network = Network { addresses: world.addresses.clone(), switch: world.exchange.clone() };
    for (to, seen) in [(to, "10.244.0.1"), ("127.0.0.1:81".parse().unwrap(), "127.0.0.1")] {
        let (ours, (from, mut theirs)) = tokio::join!(network.dial_pod("a", to), a.take());
        assert_eq!(from.ip().to_string(), seen, "{to}");
        theirs.write_all(b"hello").unwrap();
        drop(theirs);
        let mut read = String::new();
        ours.unwrap().read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "hello");
    }
    // Nobody answers for this one, and it holds up nobody else.
    let mut hanging = Box::pin(network.dial_pod("b", other));
    assert!(futures::poll!(&mut hanging).is_pending());
    let (refused, ()) = tokio::join!(network.dial_pod("a", to), async {
        let (ToRunnerNet::Offer { id, .. }, _stream) = a.next().await else { panic!("no offer") };
        a.send(FromRunnerNet::Answer { id, result: Err(DialFailure::Refused) }).await;
    });
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(network.dial_pod("a", other).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(network.dial_pod("c", other).await.unwrap_err().kind(), ErrorKind::HostUnreachable);
    // Between two runs of its container it is refused at once.
    world.exchange.routes.close("a", &a.line);
    assert_eq!(network.dial_pod("a", to).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn other_hosts_are_dialled_as_the_pod_would() {
    let mut world = World::new();
    world.learn(Vec::new(), Vec::new());
    let (a, b) = (world.runner(), world.runner());
    let from = world.pod("a", &a).await;
    let to = world.pod("b", &b).await;
    let network = Network { addresses: world.addresses.clone(), switch: world.exchange.clone() };
    let host = to.ip().to_string();
    let (ours, (peer, mut theirs)) = tokio::join!(network.dial_for("a", &host, to.port()), b.take());
    assert_eq!(peer.ip(), from.ip());
    theirs.write_all(b"hello").unwrap();
    drop(theirs);
    let mut read = String::new();
    ours.unwrap().read_to_string(&mut read).await.unwrap();
    assert_eq!(read, "hello");
    let kind = async |host: &str| network.dial_for("a", host, 80).await.map(drop).unwrap_err().kind();
    assert_eq!(kind("127.0.0.1").await, ErrorKind::PermissionDenied, "the machine is nobody's to reach");
    assert_eq!(kind("no-such.default.svc.cluster.local").await, ErrorKind::HostUnreachable);
}

#[tokio::test]
async fn what_nobody_takes_is_refused() {
    let world = World::new();
    let (a, b) = (world.runner(), world.runner());
    world.pod("a", &a).await;
    let to = world.pod("b", &b).await;
    a.dial(1, "a", to).await;
    let (ToRunnerNet::Offer { id, .. }, stream) = b.next().await else { panic!("no offer") };
    b.send(FromRunnerNet::Answer { id, result: Err(DialFailure::Refused) }).await;
    assert_eq!(a.connected(1).await.unwrap_err(), DialFailure::Refused);
    drop(stream);
    // Nothing of it runs between two runs of its container.
    world.exchange.routes.close("b", &b.line);
    a.dial(2, "a", to).await;
    assert_eq!(a.connected(2).await.unwrap_err(), DialFailure::Refused);
}

#[tokio::test]
async fn a_slow_dial_holds_no_other() {
    let world = World::new();
    let (a, b, c) = (world.runner(), world.runner(), world.runner());
    world.pod("a", &a).await;
    let (slow, quick) = (world.pod("b", &b).await, world.pod("c", &c).await);
    a.dial(1, "a", slow).await;
    let (ToRunnerNet::Offer { .. }, held) = b.next().await else { panic!("no offer") };
    a.dial(2, "a", quick).await;
    let (_, theirs) = c.take().await;
    carries(a.connected(2).await.unwrap(), theirs);
    // Given up: the other end sees it, and the number may be used again.
    a.send(FromRunnerNet::Withdraw { id: 1 }).await;
    let held = UnixStream::from(held.unwrap());
    held.set_nonblocking(true).unwrap();
    let mut held = tokio::net::UnixStream::from_std(held).unwrap();
    assert_eq!(tokio::time::timeout(WAIT_MAX, held.read(&mut [0])).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn dials_under_way_are_bounded() {
    const PODS: u64 = 5;
    let mut world = World::new();
    let (a, b) = (world.runner(), world.runner());
    let to = world.pod("silent", &b).await;
    for number in 0..PODS {
        world.pod(&number.to_string(), &a).await;
    }
    // Nobody answers the offers.
    let over = 10;
    let all = u64::try_from(DIALS_MAX).unwrap() + over;
    for id in 0..all {
        a.dial(id, &(id % PODS).to_string(), to).await;
    }
    for id in all - over..all {
        assert_eq!(a.connected(id).await.unwrap_err(), DialFailure::TooMany);
    }
    let notice = tokio::time::timeout(WAIT_MAX, world.notices.recv()).await.unwrap().unwrap();
    assert_eq!(notice.message, Bound::RunnerConnections.to_string());
    a.send(FromRunnerNet::Withdraw { id: 0 }).await;
    let c = world.runner();
    let to = world.pod("answers", &c).await;
    // There is room again as soon as the withdrawn one is gone.
    let mut id = all;
    loop {
        a.dial(id, "1", to).await;
        tokio::select! {
            _ = c.take() => break,
            refused = a.connected(id) => assert_eq!(refused.unwrap_err(), DialFailure::TooMany),
        }
        id += 1;
    }
}

#[tokio::test]
async fn refusals_wait_for_a_runner_that_reads_late() {
    let world = World::new();
    let a = world.runner();
    let to = world.pod("a", &a).await;
    // Its runs have ended: everything is refused at once.
    world.exchange.routes.close("a", &a.line);
    // Far more than the channel has room for.
    let all = u64::try_from(REFUSALS_MAX).unwrap();
    for id in 0..all {
        a.dial(id, "a", to).await;
    }
    let mut refused = HashSet::new();
    while refused.len() < REFUSALS_MAX {
        match a.next().await {
            (ToRunnerNet::Connected { id, result }, None) => {
                assert_eq!(result, Err(DialFailure::Unreachable));
                assert!(id < all && refused.insert(id), "{id} twice");
            }
            (other, _) => panic!("instead of a refusal: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_dead_runner_fails_its_offers_and_nothing_else() {
    let world = World::new();
    let (a, b, c) = (world.runner(), world.runner(), world.runner());
    world.pod("a", &a).await;
    let (dies, lives) = (world.pod("b", &b).await, world.pod("c", &c).await);
    a.dial(1, "a", dies).await;
    a.dial(2, "a", lives).await;
    let (ToRunnerNet::Offer { .. }, _held) = b.next().await else { panic!("no offer") };
    let (ToRunnerNet::Offer { id, .. }, theirs) = c.next().await else { panic!("no offer") };
    let Runner { end, serving, .. } = b;
    drop(end);
    assert!(tokio::time::timeout(WAIT_MAX, serving).await.unwrap().unwrap(), "dying breaks no protocol");
    assert_eq!(a.connected(1).await.unwrap_err(), DialFailure::Refused);
    c.send(FromRunnerNet::Answer { id, result: Ok(()) }).await;
    carries(a.connected(2).await.unwrap(), UnixStream::from(theirs.unwrap()));
}

#[tokio::test]
async fn a_runner_speaks_only_for_its_own_pods() {
    let datagram = |uid: &str| FromRunnerNet::Datagram {
        pod_uid: uid.to_owned(),
        from: "10.244.0.2:1".parse().unwrap(),
        to: "10.244.0.3:1".parse().unwrap(),
        bytes: vec![1],
    };
    let dial = |uid: &str| FromRunnerNet::Dial {
        id: 1,
        pod_uid: uid.to_owned(),
        from: "10.244.0.2:1".parse().unwrap(),
        to: "10.244.0.3:1".parse().unwrap(),
    };
    let refused = |uid: &str| FromRunnerNet::Refused { pod_uid: uid.to_owned(), what: Bound::Ports };
    for (number, foreign) in [dial("b"), datagram("b"), refused("b"), dial("nobody")].into_iter().enumerate() {
        let world = World::new();
        let (a, b) = (world.runner(), world.runner());
        world.pod("a", &a).await;
        world.pod("b", &b).await;
        a.send(foreign).await;
        assert!(!a.verdict().await, "message {number}");
    }
    let world = World::new();
    let a = world.runner();
    let to = world.pod("a", &a).await;
    // What comes late is no breach, and is not done.
    world.exchange.routes.close("a", &a.line);
    a.send(datagram("a")).await;
    a.dial(2, "a", to).await;
    assert_eq!(a.connected(2).await.unwrap_err(), DialFailure::Unreachable);
    // Nor is a number used twice one after the other, but at the same time it is.
    let b = world.runner();
    let to = world.pod("b", &b).await;
    let c = world.runner();
    world.pod("c", &c).await;
    c.dial(7, "c", to).await;
    let (ToRunnerNet::Offer { .. }, _held) = b.next().await else { panic!("no offer") };
    c.dial(7, "c", to).await;
    assert!(!c.verdict().await);
}

#[tokio::test]
async fn datagrams_travel_both_ways() {
    let world = World::new();
    let (a, b) = (world.runner(), world.runner());
    let (here, there) = (world.pod("a", &a).await, world.pod("b", &b).await);
    let send = |runner: &Runner, pod: &str, from: SocketAddr, to: SocketAddr, bytes: &[u8]| {
        let (pod_uid, bytes) = (pod.to_owned(), bytes.to_vec());
        runner.end.try_send(&FromRunnerNet::Datagram { pod_uid, from, to, bytes }).unwrap();
    };
    send(&a, "a", here, there, b"ping");
    let expected = ToRunnerNet::Datagram { pod_uid: "b".to_owned(), to: there, from: here, bytes: b"ping".to_vec() };
    assert_eq!(b.next().await.0, expected);
    send(&b, "b", there, here, b"pong");
    let expected = ToRunnerNet::Datagram { pod_uid: "a".to_owned(), to: here, from: there, bytes: b"pong".to_vec() };
    assert_eq!(a.next().await.0, expected);
    let nobody = SocketAddr::from(([10, 244, 0, 200], 9));
    send(&a, "a", here, nobody, b"x");
    let expected = ToRunnerNet::DatagramRefused { pod_uid: "a".to_owned(), from: here, to: nobody };
    assert_eq!(a.next().await.0, expected);
}

#[tokio::test]
async fn bounds_that_guests_hit_become_notices() {
    let mut world = World::new();
    let a = world.runner();
    world.pod("a", &a).await;
    a.send(FromRunnerNet::Refused { pod_uid: "a".to_owned(), what: Bound::PodSockets }).await;
    let notice = tokio::time::timeout(WAIT_MAX, world.notices.recv()).await.unwrap().unwrap();
    assert_eq!((notice.about, notice.reason), (About::Pod("a".to_owned()), "NetworkLimit"));
    assert_eq!(notice.message, Bound::PodSockets.to_string());
}

#[tokio::test]
async fn services_and_names_are_waited_for_and_followed() {
    let mut world = World::new();
    let (a, b) = (world.runner(), world.runner());
    world.pod("a", &a).await;
    let backend = world.pod("b", &b).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": "web", "uid": "w"},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"],
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}]}});
    let slice = json!({"metadata": {"namespace": "default", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [backend.ip().to_string()], "conditions": {"ready": true}}]});
    // Dialled before anything is known.
    a.dial(1, "a", "10.96.0.20:80".parse().unwrap()).await;
    tokio::task::yield_now().await;
    world.learn(vec![service], vec![slice]);
    let (_, theirs) = b.take().await;
    carries(a.connected(1).await.unwrap(), theirs);
    assert_eq!(world.exchange.look_up("a", "web").await, Ok(vec!["10.96.0.20".parse().unwrap()]));
    assert_eq!(world.exchange.look_up("a", "a b").await, Err(LookupFailure::Invalid));
    world.learn(Vec::new(), Vec::new());
    let looked_up = async {
        while world.exchange.look_up("a", "web.default.svc.cluster.local").await != Err(LookupFailure::NotFound) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WAIT_MAX, looked_up).await.expect("a service that is gone has no name");
    a.dial(2, "a", "10.96.0.20:80".parse().unwrap()).await;
    assert_eq!(a.connected(2).await.unwrap_err(), DialFailure::Refused);
}

#[tokio::test]
async fn without_services_a_service_times_out_and_a_pod_does_not() {
    let world = World::with_patience(Duration::from_millis(10));
    let (a, b) = (world.runner(), world.runner());
    world.pod("a", &a).await;
    let to = world.pod("b", &b).await;
    assert_eq!(world.exchange.look_up("a", "web").await, Err(LookupFailure::Temporary));
    let service = "10.96.0.20:80".parse().unwrap();
    let failure = world.exchange.dial("a", SocketAddr::from(([0, 0, 0, 0], 1)), service).await.unwrap_err();
    assert_eq!(failure, coracle_net::fabric::DialFailure::TimedOut);
    a.dial(1, "a", to).await;
    b.take().await;
    a.connected(1).await.unwrap();
}
