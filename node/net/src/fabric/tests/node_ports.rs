//! Node ports over real sockets: bytes both ways, changes of the table, ports that somebody else has.

use super::*;
use crate::fabric::About;
use std::net::TcpStream as StdTcpStream;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

impl World {
    /// A connection from outside, as soon as the port is open.
    async fn come_in(&self, port: u16) -> TcpStream {
        soon(async {
            loop {
                match TcpStream::connect((self.node_ports, port)).await {
                    Ok(stream) => return stream,
                    Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        })
        .await
    }

    async fn until_closed(&self, port: u16) {
        soon(async {
            while TcpStream::connect((self.node_ports, port)).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }
}

/// The node in its pods' eyes: the second address of its first range.
const GATEWAY: &str = "10.244.2.1";

fn tcp(offered: Offered) -> TcpStream {
    let stream = StdTcpStream::from(offered.stream);
    TcpStream::from_std(stream).unwrap()
}

/// Whether the other side refuses: nothing comes, and the end is abrupt.
async fn is_reset(mut stream: TcpStream) -> bool {
    soon(stream.read(&mut [0])).await.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn a_connection_from_outside_is_the_pods_own() {
    let mut world = World::new();
    world.set_services(&[node_port_service("web", "10.96.0.20", 30_080)], &[slice("web", &["10.244.0.2"])]);
    let mut near = world.come_in(30_080).await;
    let far = world.offered().await;
    // It comes from the machine's loopback: to a pod that is the node, and not itself.
    let port = near.local_addr().unwrap().port();
    assert_eq!((&*far.uid, far.to, far.from), ("b", at("10.244.0.2:8080"), at(&format!("{GATEWAY}:{port}"))));
    let mut far = tcp(far);
    carries(&mut near, &mut far, &vec![3; 500_000]).await;
    carries(&mut far, &mut near, &vec![4; 500_000]).await;
    assert_eq!(world.fabric.statistics().connected_node_port, 1);
    soon(world.fabric.shutdown()).await;
    world.until_closed(30_080).await;
}

#[tokio::test]
async fn a_failed_offer_is_tried_elsewhere_and_nobody_means_a_reset() {
    let mut world = World::new();
    let web = [node_port_service("web", "10.96.0.20", 30_080)];
    world.set_services(&web, &[slice("web", &["10.244.0.2", "10.244.0.3"])]);
    world.manner("b", Manner::Refuses);
    for _ in 0..10 {
        let mut near = world.come_in(30_080).await;
        let far = world.offered().await;
        assert_eq!(far.uid, "c");
        carries(&mut near, &mut tcp(far), b"hello").await;
    }
    world.manner("c", Manner::Refuses);
    assert!(is_reset(world.come_in(30_080).await).await);
    world.set_services(&web, &[]);
    assert!(is_reset(world.come_in(30_080).await).await);
}

#[tokio::test]
async fn a_connection_that_a_pod_may_still_take_is_offered_to_nobody_else() {
    let world = World::with(Limits { offer_timeout: Duration::from_millis(20), ..Limits::default() });
    let web = [node_port_service("web", "10.96.0.20", 30_080)];
    world.set_services(&web, &[slice("web", &["10.244.0.2", "10.244.0.3"])]);
    world.manner("b", Manner::Sleeps);
    world.manner("c", Manner::Sleeps);
    let mut near = world.come_in(30_080).await;
    assert!(!matches!(soon(near.read(&mut [0])).await, Ok(1..)), "it ends");
    assert_eq!(world.pods.offers.lock().len(), 1);
}

#[tokio::test]
async fn the_local_policy_keeps_to_this_node() {
    let world = World::new();
    let mut web = node_port_service("web", "10.96.0.20", 30_080);
    web["spec"]["externalTrafficPolicy"] = json!("Local");
    world.set_services(std::slice::from_ref(&web), &[slice("web", &["~10.244.0.2", "10.244.0.3"])]);
    for _ in 0..10 {
        drop(world.come_in(30_080).await);
    }
    until(|| world.pods.offers.lock().len() == 10).await;
    assert!(world.offers().iter().all(|uid| uid == "c"));
    world.set_services(&[web], &[slice("web", &["~10.244.0.2"])]);
    assert!(is_reset(world.come_in(30_080).await).await);
}

#[tokio::test]
async fn a_change_touches_only_what_it_is_about() {
    let mut world = World::new();
    let (web, api) = (node_port_service("web", "10.96.0.20", 30_080), node_port_service("api", "10.96.0.21", 30_081));
    let slices = [slice("web", &["10.244.0.2"]), slice("api", &["10.244.0.3"])];
    world.set_services(&[web.clone(), api], &slices);
    let mut near = world.come_in(30_080).await;
    let mut far = tcp(world.offered().await);
    drop(world.come_in(30_081).await);
    assert_eq!(world.offered().await.uid, "c");
    // Its own service loses its endpoint, the other one goes: the connection does not notice.
    world.set_services(std::slice::from_ref(&web), &[]);
    world.until_closed(30_081).await;
    assert!(is_reset(world.come_in(30_080).await).await);
    // Even its port goes.
    world.set_services(&[], &[]);
    world.until_closed(30_080).await;
    carries(&mut near, &mut far, b"still").await;
    carries(&mut far, &mut near, b"here").await;
    // And comes back at once.
    world.set_services(&[web], &slices);
    drop(world.come_in(30_080).await);
    assert_eq!(world.offered().await.uid, "b");
    assert!(world.notices.try_recv().is_err(), "nothing went wrong");
}

#[tokio::test]
async fn a_port_that_somebody_has_is_reported_once_and_taken_later() {
    let mut world = World::new();
    let somebody = TcpListener::bind((world.node_ports, 30_080)).await.unwrap();
    let services = [node_port_service("web", "10.96.0.20", 30_080), node_port_service("api", "10.96.0.21", 30_081)];
    let slices = [slice("web", &["10.244.0.2"]), slice("api", &["10.244.0.3"])];
    world.set_services(&services, &slices);
    let notice = world.notice().await;
    assert_eq!(notice.about, About::Service("default".to_owned(), "web".to_owned()));
    assert_eq!((notice.reason, notice.warning), ("NodePortNotOpen", true));
    assert!(notice.message.starts_with("node port 30080/TCP cannot be opened on 127."), "{}", notice.message);
    drop(world.come_in(30_081).await);
    assert_eq!(world.offered().await.uid, "c", "the others are open");
    world.set_services(&services, &slices[1..]);
    world.set_services(&services, &slices);
    drop(somebody);
    let notice = world.notice().await;
    assert_eq!((notice.reason, &*notice.message), ("NodePortOpen", "node port 30080/TCP is open"));
    drop(world.come_in(30_080).await);
    assert_eq!(world.offered().await.uid, "b");
}

#[tokio::test]
async fn a_pod_that_does_not_accept_holds_a_bounded_number() {
    let mut world = World::with(Limits { node_port_offers: 2, ..Limits::default() });
    world.set_services(&[node_port_service("web", "10.96.0.20", 30_080)], &[slice("web", &["10.244.0.2"])]);
    world.manner("b", Manner::Sleeps);
    let mut waiting = Vec::new();
    for _ in 0..6 {
        waiting.push(world.come_in(30_080).await);
    }
    until(|| world.pods.offers.lock().len() == 2).await;
    world.manner("b", Manner::Takes);
    // Two are given up when the pod goes; then the others have their turn.
    world.fabric.remove_pod("b");
    world.add_pod("b", 2);
    let mut far = tcp(world.offered().await);
    soon(far.write_all(b"x")).await.unwrap();
    assert!(world.offers().len() >= 3);
}

#[tokio::test]
async fn datagrams_through_a_node_port_are_answered_from_it() {
    let mut world = World::new();
    let web = [node_port_service("web", "10.96.0.20", 30_053)];
    world.set_services(&web, &[slice("web", &["10.244.0.2", "10.244.0.3"])]);
    until(|| world.fabric.0.open_sockets.lock().contains_key(&SocketAddr::new(world.node_ports, 30_053))).await;
    let (first, second) = (client(&world).await, client(&world).await);
    for client in [&first, &second, &first] {
        client.send(b"question").await.unwrap();
        let got = world.delivered().await;
        let seen = at(&format!("{GATEWAY}:{}", client.local_addr().unwrap().port()));
        assert_eq!((got.from, got.to.port(), &*got.bytes), (seen, 5353, &b"question"[..]));
        let answer = format!("for {}", got.from);
        world.send(&got.uid, &got.to.to_string(), &got.from.to_string(), &answer);
        let mut buffer = [0; 100];
        let length = soon(client.recv(&mut buffer)).await.unwrap();
        assert_eq!(&buffer[..length], answer.as_bytes());
    }
    // One client, one endpoint.
    assert_eq!(world.fabric.0.flows.lock().len(), 2);
    world.set_services(&[], &[]);
    until(|| world.fabric.0.open_sockets.lock().is_empty()).await;
    assert_eq!(world.fabric.0.flows.lock().len(), 0);
}

#[tokio::test]
async fn clients_are_what_they_are_where_pods_cannot_mistake_them() {
    let world = World::new();
    for (client, expected) in [
        ("203.0.113.5:1000", "203.0.113.5:1000"),
        ("[2001:db8::5]:1000", "[2001:db8::5]:1000"),
        ("192.0.2.9:1000", "192.0.2.9:1000"),
        ("127.0.0.1:1000", "10.244.2.1:1000"),
        ("[::1]:1000", "10.244.2.1:1000"),
        ("10.244.0.2:1000", "10.244.2.1:1000"),
        ("10.96.0.10:53", "10.244.2.1:53"),
        ("169.254.1.1:1000", "10.244.2.1:1000"),
    ] {
        assert_eq!(world.fabric.0.as_pods_see(at(client)), at(expected), "{client}");
    }
    world.fabric.set_node_ranges(["10.244.8.0/22".parse().unwrap()]);
    assert_eq!(world.fabric.0.as_pods_see(at("127.0.0.1:1")), at("10.244.8.1:1"));
    assert_eq!(world.dial("10.244.3.99:80").await.unwrap_err(), DialFailure::Unreachable, "another node's now");
}

/// Somebody who takes answers only from where questions went.
async fn client(world: &World) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect((world.node_ports, 30_053)).await.unwrap();
    socket
}

/// A service at external addresses, of which the machine has the first; what comes there is on loopback.
async fn external(world: &World) -> SocketAddr {
    let here = SocketAddr::new(world.node_ports, 8443);
    world.machine.own.lock().push("203.0.113.20".parse().unwrap());
    for port in [80, 53] {
        world.machine.ways.lock().insert(SocketAddr::from(([203, 0, 113, 20], port)), here);
    }
    let addresses = json!(["203.0.113.20", "203.0.113.21", "169.254.3.4", "198.51.100.1"]);
    let web = service("web", "10.96.0.20", json!({"externalIPs": addresses}));
    world.set_services(&[web], &[slice("web", &["10.244.0.2"])]);
    until(|| !world.fabric.0.open_sockets.lock().is_empty()).await;
    here
}

#[tokio::test]
async fn an_external_address_that_the_machine_has_is_open_for_both_protocols() {
    let mut world = World::new();
    external(&world).await;
    let mut near = world.come_in(8443).await;
    let far = world.offered().await;
    assert_eq!((&*far.uid, far.to), ("b", at("10.244.0.2:8080")));
    carries(&mut near, &mut tcp(far), b"by the outer door").await;

    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect((world.node_ports, 8443)).await.unwrap();
    socket.send(b"question").await.unwrap();
    let got = world.delivered().await;
    assert_eq!(got.to, at("10.244.0.2:5353"));
    world.send("b", "10.244.0.2:5353", &got.from.to_string(), "answer");
    let mut buffer = [0; 16];
    let length = soon(socket.recv(&mut buffer)).await.unwrap();
    assert_eq!(&buffer[..length], b"answer");

    world.set_services(&[], &[]);
    world.until_closed(8443).await;
    assert!(world.notices.try_recv().is_err(), "addresses of other machines are nothing to hear of");
}

#[tokio::test]
async fn load_balancers_hear_whether_the_node_has_endpoints() {
    let world = World::new();
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30_999});
    let ask = async || {
        let mut stream = world.come_in(30_999).await;
        soon(stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")).await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        answer
    };
    for (addresses, status, count) in [
        (&["10.244.0.2", "10.244.0.3", "~10.244.9.9"][..], "200 OK", 2),
        (&["~10.244.9.9"], "503 Service Unavailable", 0),
    ] {
        world.set_services(&[service("web", "10.96.0.20", spec.clone())], &[slice("web", addresses)]);
        let answer = ask().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        assert!(answer.contains(&format!("\"localEndpoints\":{count}")), "{answer}");
    }
    let cluster = service("web", "10.96.0.20", json!({"type": "LoadBalancer", "healthCheckNodePort": 30_999}));
    world.set_services(&[cluster], &[]);
    world.until_closed(30_999).await;
}

#[tokio::test]
async fn node_ports_follow_the_nodes_address() {
    let mut world = World::new();
    world.set_services(&[node_port_service("web", "10.96.0.20", 30_080)], &[slice("web", &["10.244.0.2"])]);
    let mut near = world.come_in(30_080).await;
    let mut far = tcp(world.offered().await);
    let before = world.node_ports;
    world.node_ports = own_loopback();
    world.fabric.set_node_address(world.node_ports);
    drop(world.come_in(30_080).await);
    assert_eq!(world.offered().await.uid, "b");
    soon(async {
        while TcpStream::connect((before, 30_080)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    carries(&mut near, &mut far, b"connections stay").await;
    world.fabric.set_node_address("192.0.2.77".parse().unwrap());
    world.dial("192.0.2.77:30080").await.unwrap();
    assert_eq!(world.dial("192.0.2.77:22").await.unwrap_err(), DialFailure::Denied);
}
