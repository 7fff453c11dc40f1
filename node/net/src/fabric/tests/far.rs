//! Two nodes whose fabrics are joined directly: dials, node ports and datagrams to other nodes' pods, nodes that fall silent,
//! and nodes that say what they may not.

use super::*;
use crate::tunnel::{Arrivals, Carrier, Elsewhere};
use std::collections::HashSet;
use tokio::net::{TcpStream, UdpSocket};

/// What joins fabrics: calls go straight from one to the other.
#[derive(Default)]
struct Wires {
    nodes: Mutex<HashMap<Arc<str>, (crate::range::Ipv4Range, Fabric)>>,
    /// They answer nothing.
    silent: Mutex<HashSet<Arc<str>>>,
    /// They are known to answer nothing.
    gone: Mutex<HashSet<Arc<str>>>,
    /// Whom connections were tried with.
    dialled: Mutex<Vec<(Arc<str>, SocketAddr)>>,
}

/// The end of the wires at one node.
struct End {
    wires: Arc<Wires>,
    here: Arc<str>,
}

struct Wire(OwnedFd);

impl Carrier for Wire {
    fn stream(self: Box<Self>) -> io::Result<OwnedFd> {
        Ok(self.0)
    }

    fn carry(self: Box<Self>, socket: OwnedFd) {
        let mut near = stream(self.0);
        let client = std::net::TcpStream::from(socket);
        tokio::spawn(async move {
            let mut client = TcpStream::from_std(client).unwrap();
            drop(tokio::io::copy_bidirectional(&mut near, &mut client).await);
        });
    }
}

impl End {
    fn fabric(&self, node: &str) -> Option<Fabric> {
        if self.wires.silent.lock().contains(node) {
            return None;
        }
        self.wires.nodes.lock().get(node).map(|(_, fabric)| fabric.clone())
    }
}

#[async_trait]
impl Elsewhere for End {
    fn node_of(&self, address: IpAddr) -> Option<Arc<str>> {
        let IpAddr::V4(address) = address else { return None };
        let nodes = self.wires.nodes.lock();
        let found = nodes.iter().find(|(name, (range, _))| **name != self.here && range.contains(address));
        found.map(|(name, _)| Arc::clone(name))
    }

    async fn connect(&self, node: &str, from: SocketAddr, to: SocketAddr) -> Result<Box<dyn Carrier>, DialFailure> {
        self.wires.dialled.lock().push((node.into(), to));
        let Some(fabric) = self.fabric(node) else { return std::future::pending().await };
        let (near, far) = crate::fabric::dial::stream_pair().unwrap();
        fabric.connect(&self.here, from, to, far).await?;
        Ok(Box::new(Wire(near)))
    }

    fn send(&self, node: &str, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        if let Some(fabric) = self.fabric(node) {
            Arrivals::datagram(&fabric, &self.here, from, to, bytes);
        }
    }

    fn say_refused(&self, node: &str, from: SocketAddr, to: SocketAddr) {
        if let Some(fabric) = self.fabric(node) {
            fabric.datagram_refused(&self.here, from, to);
        }
    }

    fn seems_gone(&self, node: &str) -> bool {
        self.wires.gone.lock().contains(node)
    }
}

/// Nodes `n1` with pods `a` to `d`, and `n2` with `x` and `y` at `10.244.8.2` and `10.244.8.3`.
struct Joined {
    one: World,
    two: World,
    wires: Arc<Wires>,
}

fn limits() -> Limits {
    Limits { far_dial_patience: Duration::from_millis(50), ..Limits::default() }
}

impl Joined {
    fn new() -> Self {
        let one = World::with(limits());
        let two = World::bare("n2", &["10.244.8.0/22"], limits(), Arc::new(FakeMachine::default()));
        two.add_pod_at("x", [10, 244, 8, 2]);
        two.add_pod_at("y", [10, 244, 8, 3]);
        let wires = Arc::<Wires>::default();
        wires.nodes.lock().insert("n1".into(), ("10.244.0.0/22".parse().unwrap(), one.fabric.clone()));
        wires.nodes.lock().insert("n2".into(), ("10.244.8.0/22".parse().unwrap(), two.fabric.clone()));
        for (world, name) in [(&one, "n1"), (&two, "n2")] {
            world.fabric.set_elsewhere(Some(Arc::new(End { wires: Arc::clone(&wires), here: name.into() })));
        }
        Self { one, two, wires }
    }

    fn set_services(&self, services: &[Value], slices: &[Value]) {
        self.one.set_services(services, slices);
        self.two.set_services(services, slices);
    }

    fn dialled(&self) -> Vec<SocketAddr> {
        std::mem::take(&mut *self.wires.dialled.lock()).into_iter().map(|(_, to)| to).collect()
    }
}

fn web() -> Value {
    service("web", "10.96.0.20", json!({}))
}

#[tokio::test]
async fn pods_of_two_nodes_talk_by_address_and_through_a_service() {
    let mut both = Joined::new();
    both.set_services(&[web()], &[slice("web", &["~10.244.8.2"])]);
    for to in ["10.244.8.2:8080", "10.96.0.20:80"] {
        let near = both.one.dial(to).await.unwrap();
        let far = both.two.offered().await;
        assert_eq!((&*far.uid, far.to, far.from), ("x", at("10.244.8.2:8080"), at("10.244.0.1:40000")));
        let (mut near, mut far) = (stream(near), stream(far.stream));
        carries(&mut near, &mut far, &vec![1; 100_000]).await;
        carries(&mut far, &mut near, &vec![2; 100_000]).await;
    }
    both.two.manner("x", Manner::Refuses);
    assert_eq!(both.one.dial("10.244.8.2:8080").await.unwrap_err(), DialFailure::Refused);
    assert_eq!(both.one.dial("10.244.8.9:8080").await.unwrap_err(), DialFailure::Refused, "no such pod");
    assert_eq!(both.one.dial("10.244.40.1:80").await.unwrap_err(), DialFailure::Unreachable, "nobody's range");
    assert_eq!(both.two.fabric.statistics().arrived, 2);
}

#[tokio::test]
async fn what_one_node_refuses_another_takes() {
    let both = Joined::new();
    both.set_services(&[web()], &[slice("web", &["10.244.0.2", "~10.244.8.2", "~10.244.8.3"])]);
    for refuses in ["x", "y"] {
        both.two.manner(refuses, Manner::Refuses);
    }
    for _ in 0..10 {
        both.one.dial("10.96.0.20:80").await.unwrap();
    }
    assert_eq!(both.one.offers().len(), 10);
}

#[tokio::test]
async fn a_node_that_falls_silent_costs_no_connection_and_is_asked_last_until_it_is_heard_of() {
    let both = Joined::new();
    // Four of its endpoints stand together in the order of addresses.
    let addresses = ["~10.244.8.2", "~10.244.8.3", "~10.244.8.4", "~10.244.8.5", "10.244.0.2"];
    both.set_services(&[web()], &[slice("web", &addresses)]);
    both.wires.silent.lock().insert("n2".into());
    for _ in 0..20 {
        both.one.dial("10.96.0.20:80").await.unwrap();
    }
    assert_eq!(both.one.offers().len(), 20);
    let dialled = both.dialled().len();
    // Once, and perhaps once more on a machine so busy that a second passed.
    assert!((1..=4).contains(&dialled), "{dialled} dials to a silent node");
    both.wires.silent.lock().clear();
    both.two.add_pod_at("z", [10, 244, 8, 4]);
    both.two.add_pod_at("w", [10, 244, 8, 5]);
    // A sign of life from it is enough for those endpoints that did not fail themselves.
    soon(both.two.fabric.dial("x", at("10.244.8.2:1"), at("10.244.0.3:80"))).await.unwrap();
    both.dialled();
    for _ in 0..20 {
        both.one.dial("10.96.0.20:80").await.unwrap();
    }
    assert!(both.dialled().len() >= 5);
}

#[tokio::test]
async fn a_node_that_is_known_to_be_gone_is_not_even_asked_while_others_are_left() {
    let both = Joined::new();
    both.set_services(&[web()], &[slice("web", &["~10.244.8.2", "10.244.0.2"])]);
    both.wires.gone.lock().insert("n2".into());
    both.wires.silent.lock().insert("n2".into());
    for _ in 0..20 {
        both.one.dial("10.96.0.20:80").await.unwrap();
    }
    assert_eq!(both.dialled(), []);
}

#[tokio::test]
async fn a_client_of_a_node_port_reaches_pods_of_any_node() {
    let mut both = Joined::new();
    let web = node_port_service("web", "10.96.0.20", 30_080);
    both.set_services(&[web], &[slice("web", &["~10.244.8.2"])]);
    let mut near = soon(async {
        loop {
            match TcpStream::connect((both.one.node_ports, 30_080)).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    })
    .await;
    let far = both.two.offered().await;
    let port = near.local_addr().unwrap().port();
    // As the node that it came to.
    assert_eq!((&*far.uid, far.to, far.from), ("x", at("10.244.8.2:8080"), at(&format!("10.244.2.1:{port}"))));
    let mut far = stream(far.stream);
    carries(&mut near, &mut far, &vec![5; 200_000]).await;
    carries(&mut far, &mut near, &vec![6; 200_000]).await;
}

#[tokio::test]
async fn datagrams_go_to_other_nodes_and_come_back() {
    let mut both = Joined::new();
    both.set_services(&[web()], &[slice("web", &["~10.244.8.2"])]);
    for (to, arrives_at) in [("10.244.8.3:7", "10.244.8.3:7"), ("10.96.0.20:53", "10.244.8.2:5353")] {
        both.one.send("a", "10.244.0.1:9", to, "question");
        let got = both.two.delivered().await;
        assert_eq!((got.to, got.from, &*got.bytes), (at(arrives_at), at("10.244.0.1:9"), &b"question"[..]));
        both.two.send(&got.uid, arrives_at, "10.244.0.1:9", "answer");
        let got = both.one.delivered().await;
        assert_eq!((&*got.uid, got.to, got.from, &*got.bytes), ("a", at("10.244.0.1:9"), at(to), &b"answer"[..]));
    }
    // Nobody is there: who sent hears of it, by the address that it knows.
    both.two.fabric.remove_pod("x");
    for to in ["10.244.8.9:7", "10.96.0.20:53"] {
        both.one.send("a", "10.244.0.1:9", to, "anybody?");
        assert_eq!(soon(both.one.refused.recv()).await.unwrap(), ("a".to_owned(), at("10.244.0.1:9"), at(to)));
    }
}

#[tokio::test]
async fn datagrams_of_a_node_ports_clients_are_answered_through_it() {
    let mut both = Joined::new();
    let web = node_port_service("web", "10.96.0.20", 30_053);
    both.set_services(&[web], &[slice("web", &["~10.244.8.2"])]);
    until(|| both.one.fabric.0.open_sockets.lock().contains_key(&SocketAddr::new(both.one.node_ports, 30_053))).await;
    let clients = [UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap()];
    for client in &clients {
        client.connect((both.one.node_ports, 30_053)).await.unwrap();
        client.send(b"question").await.unwrap();
        let got = both.two.delivered().await;
        let seen = at(&format!("10.244.2.1:{}", client.local_addr().unwrap().port()));
        assert_eq!((got.to, got.from), (at("10.244.8.2:5353"), seen));
        both.two.send("x", "10.244.8.2:5353", &seen.to_string(), "answer");
        let mut buffer = [0; 100];
        let length = soon(client.recv(&mut buffer)).await.unwrap();
        assert_eq!(&buffer[..length], b"answer");
    }
}

#[tokio::test]
async fn a_flow_leaves_a_node_that_is_gone_and_stays_when_all_are() {
    let mut both = Joined::new();
    both.set_services(&[web()], &[slice("web", &["~10.244.8.2"])]);
    both.one.send("a", "10.244.0.1:9", "10.96.0.20:53", "first");
    both.two.delivered().await;
    both.wires.gone.lock().insert("n2".into());
    both.one.send("a", "10.244.0.1:9", "10.96.0.20:53", "second");
    assert_eq!(&*both.two.delivered().await.bytes, b"second", "there is nobody else");
    both.set_services(&[web()], &[slice("web", &["10.244.0.2", "~10.244.8.2"])]);
    both.one.send("a", "10.244.0.1:9", "10.96.0.20:53", "third");
    assert_eq!(both.one.delivered().await.uid, "b");
}

#[tokio::test]
async fn a_node_speaks_for_its_own_pods_and_reaches_pods_of_this_node_only() {
    let mut both = Joined::new();
    both.set_services(&[web()], &[slice("web", &["10.244.0.2"])]);
    let rows = [
        // Addresses that are not its own.
        ("10.244.0.2:1", "10.244.0.1:80", DialFailure::Denied),
        ("10.244.40.2:1", "10.244.0.1:80", DialFailure::Denied),
        ("203.0.113.5:1", "10.244.0.1:80", DialFailure::Denied),
        ("10.96.0.20:80", "10.244.0.1:80", DialFailure::Denied),
        // Anything but a pod.
        ("10.244.8.2:1", "127.0.0.1:6443", DialFailure::Denied),
        ("10.244.8.2:1", "169.254.169.254:80", DialFailure::Denied),
        ("10.244.8.2:1", "192.0.2.9:22", DialFailure::Denied),
        ("10.244.8.2:1", "198.51.100.1:6443", DialFailure::Denied),
        ("10.244.8.2:1", "198.51.100.8:80", DialFailure::Denied),
        ("10.244.8.2:1", "10.96.0.20:80", DialFailure::Denied),
        ("10.244.8.2:1", "[::ffff:127.0.0.1]:80", DialFailure::Denied),
        // Pods that are not here.
        ("10.244.8.2:1", "10.244.0.99:80", DialFailure::Refused),
        ("10.244.8.2:1", "10.244.8.3:80", DialFailure::Refused),
        ("10.244.8.2:1", "10.244.40.3:80", DialFailure::Refused),
    ];
    for (from, to, expected) in rows {
        let (_near, far) = crate::fabric::dial::stream_pair().unwrap();
        let answer = both.one.fabric.connect("n2", at(from), at(to), far).await;
        assert_eq!(answer, Err(expected), "{from} to {to}");
        Arrivals::datagram(&both.one.fabric, "n2", at(from), at(to), Bytes::from_static(b"x"));
    }
    both.one.fabric.datagram_refused("n2", at("10.244.0.1:9"), at("10.244.0.2:9"));
    assert_eq!(both.one.offers(), Vec::<String>::new());
    assert!(both.one.delivered.try_recv().is_err() && both.one.refused.try_recv().is_err());
    let notice = both.one.notice().await;
    let expected = "node n2 sends as 10.244.0.2:1 to 10.244.0.1:80, which it may not";
    assert_eq!((notice.about, &*notice.message), (crate::fabric::About::Node, expected));
}

#[tokio::test]
async fn connections_from_a_node_that_nobody_takes_are_bounded() {
    let one = World::with(Limits { arrivals: 4, ..limits() });
    let wires = Arc::<Wires>::default();
    for (name, range) in [("n2", "10.244.8.0/22"), ("n3", "10.244.12.0/22")] {
        wires.nodes.lock().insert(name.into(), (range.parse().unwrap(), one.fabric.clone()));
    }
    one.fabric.set_elsewhere(Some(Arc::new(End { wires, here: "n1".into() })));
    one.manner("a", Manner::Sleeps);
    let mut waiting = Vec::new();
    for (node, from) in [("n2", "10.244.8.2:1"), ("n2", "10.244.8.2:2"), ("n3", "10.244.12.2:1")] {
        let (near, far) = crate::fabric::dial::stream_pair().unwrap();
        let fabric = one.fabric.clone();
        let dial = async move { fabric.connect(node, at(from), at("10.244.0.1:80"), far).await };
        waiting.push((tokio::spawn(dial), near));
    }
    until(|| one.pods.offers.lock().len() == 3).await;
    let (_near, far) = crate::fabric::dial::stream_pair().unwrap();
    let refused = one.fabric.connect("n2", at("10.244.8.2:3"), at("10.244.0.1:80"), far).await;
    assert_eq!(refused, Err(DialFailure::TooMany));
    one.fabric.remove_pod("a");
    for (dial, _near) in waiting {
        assert_eq!(soon(dial).await.unwrap(), Err(DialFailure::Refused));
    }
}
