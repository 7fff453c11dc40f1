//! Nodes whose hosts do not reach each other: through the control plane, directly again, and what must not pass there.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A control plane that passes packets on.
#[derive(Default)]
struct Switch {
    tunnels: Mutex<HashMap<String, Tunnel>>,
    passed: AtomicUsize,
}

/// One node's way to it. The control plane knows who it is by its certificate.
struct Way {
    switch: Arc<Switch>,
    node: String,
}

impl Relay for Way {
    fn send(&self, node: &str, segment_bytes: usize, packets: Bytes) {
        let tunnel = self.switch.tunnels.lock().get(node).cloned();
        if let Some(tunnel) = tunnel {
            self.switch.passed.fetch_add(packets.len(), Ordering::Relaxed);
            tunnel.relayed(&self.node, segment_bytes, packets);
        }
    }
}

fn join(authority: &Authority, switch: &Arc<Switch>, name: &str, number: u8) -> Node {
    let way = Arc::new(Way { switch: Arc::clone(switch), node: name.to_owned() });
    let listen = "127.0.0.1:0".parse().unwrap();
    let node = Node::with(name, number, listen, authority.node(name, 0), limits(), Some(way));
    switch.tunnels.lock().insert(name.to_owned(), node.tunnel.clone());
    node
}

/// Two nodes that know addresses of each other at which nobody answers.
fn apart() -> (Node, Node, Arc<Switch>, std::net::UdpSocket) {
    let (authority, switch) = (Authority::new(), Arc::new(Switch::default()));
    let (one, two) = (join(&authority, &switch, "one", 1), join(&authority, &switch, "two", 2));
    let hole = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let lost = |peer: &Peer| vec![Peer { addresses: vec![hole.local_addr().unwrap()], ..peer.clone() }];
    one.tunnel.set_peers(lost(&two.peer));
    two.tunnel.set_peers(lost(&one.peer));
    (one, two, switch, hole)
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_take_the_detour_and_people_hear_of_it() {
    let (mut one, mut two, switch, _hole) = apart();
    let mut stream = one.connect("two", address(1, 1), address(2, ECHO)).await.unwrap();
    echoes(&mut stream, &vec![7; 300_000]).await;
    assert!(switch.passed.load(Ordering::Relaxed) > 300_000);
    assert_eq!((one.path_to("two"), two.path_to("one")), (Path::Relayed, Path::Relayed));
    let relayed = |notice: &Notice| match notice {
        Notice::Relayed { node, why } => Some((node.clone(), why.clone())),
        _ => None,
    };
    let (node, why) = one.hears(relayed).await;
    assert!(node == "two" && why.contains("no answer"), "{why}");
    assert_eq!(two.hears(relayed).await.0, "one");
    one.tunnel.send("two", address(1, 7), address(2, 53), Bytes::from(vec![1; 20_000]));
    assert_eq!(two.next_datagram().await.bytes, Some(Bytes::from(vec![1; 20_000])));
    let state = one.tunnel.states().remove(0);
    assert!(state.rtt.is_some() && state.since.is_some() && state.address.is_none() && state.why.is_some());
    assert_eq!(one.tunnel.detours(), [Detour { node, why }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_same_address_behind_another_router_is_not_looked_for_here() {
    let (mut one, two, _switch, _hole) = apart();
    one.tunnel.set_peers(vec![Peer { addresses: one.peer.addresses.clone(), ..two.peer.clone() }]);
    let mut stream = one.connect("two", address(1, 1), address(2, ECHO)).await.unwrap();
    echoes(&mut stream, b"by the detour").await;
    let first = one.hears(|notice| match notice {
        Notice::Relayed { why, .. } | Notice::Refused { why, .. } => Some(why.clone()),
        _ => None,
    });
    let why = first.await;
    assert!(why.contains("this node's own"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn once_there_is_a_direct_way_it_is_taken_and_nothing_breaks() {
    let (mut one, two, switch, _hole) = apart();
    let mut stream = one.connect("two", address(1, 1), address(2, ECHO)).await.unwrap();
    echoes(&mut stream, b"relayed").await;
    assert_eq!(one.tunnel.detours().len(), 1);
    introduce(&[&one, &two]);
    until("it is direct", || one.path_to("two") == Path::Direct).await;
    one.hears(|notice| matches!(notice, Notice::Direct { node } if node == "two").then_some(())).await;
    assert_eq!(one.tunnel.detours(), []);
    echoes(&mut stream, b"still relayed").await;
    let mut second = one.connect("two", address(1, 1), address(2, ECHO)).await.unwrap();
    drop(stream);
    let (record, _) = one.tunnel.0.peer("two").unwrap();
    until("the detour is closed", || {
        let links = record.state.lock().links.clone();
        links.iter().all(|link| link.path() == Path::Direct)
    })
    .await;
    let passed = switch.passed.load(Ordering::Relaxed);
    echoes(&mut second, &vec![1; 100_000]).await;
    assert!(switch.passed.load(Ordering::Relaxed) < passed + 10_000, "what is new goes directly");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_both_ways_is_told_with_both_reasons() {
    let (mut one, _two, switch, _hole) = apart();
    switch.tunnels.lock().clear();
    let start = Instant::now();
    assert!(one.connect("two", address(1, 1), address(2, ECHO)).await.is_err());
    assert!(start.elapsed() < limits().silence);
    let why = one.hears(|notice| match notice {
        Notice::Unreachable { why, .. } => Some(why.clone()),
        _ => None,
    });
    let why = why.await;
    assert!(why.contains("no answer; through the control plane: no answer"), "{why}");
    // While it is known not to work, nobody waits for it; a busy machine may need several attempts to be in time.
    let end = Instant::now() + LIMIT;
    loop {
        let start = Instant::now();
        assert!(one.connect("two", address(1, 1), address(2, ECHO)).await.is_err());
        if start.elapsed() < limits().direct_timeout {
            break;
        }
        assert!(Instant::now() < end, "every dial waits");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_detour_is_no_way_around_certificates() {
    let (authority, switch) = (Authority::new(), Arc::new(Switch::default()));
    let mut one = join(&authority, &switch, "one", 1);
    let two = join(&authority, &switch, "two", 2);
    // Three's packets come in two's name: its certificate says something else.
    let way = Arc::new(Way { switch: Arc::clone(&switch), node: "two".to_owned() });
    let listen = "127.0.0.1:0".parse().unwrap();
    let three = Node::with("three", 3, listen, authority.node("three", 0), limits(), Some(way));
    switch.tunnels.lock().insert("two".to_owned(), three.tunnel.clone());
    let mut mute = one.peer.clone();
    mute.addresses = Vec::new();
    three.tunnel.set_peers(vec![mute]);
    one.tunnel.set_peers(vec![two.peer.clone(), three.peer.clone()]);
    assert!(three.connect("one", address(3, 1), address(1, ECHO)).await.is_err());
    let why = one.hears(|notice| match notice {
        Notice::Refused { node, why, .. } if node.as_deref() == Some("three") => Some(why.clone()),
        _ => None,
    });
    assert!(why.await.contains("another node's name"));
    assert!(one.pods.asked.lock().is_empty());
    // Garbage and nodes that nobody knows are nothing.
    one.tunnel.relayed("nobody", 100, Bytes::from_static(b"x"));
    for (segment_bytes, length) in [(0, 10), (10, 0), (10, 100_000), (60_000, 60_000), (3, 50)] {
        one.tunnel.relayed("two", segment_bytes, Bytes::from(vec![0xff; length]));
    }
    drop(two);
}
