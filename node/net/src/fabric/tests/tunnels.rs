//! Two fabrics joined by two real tunnels over loopback: what the doubles in `far` promise holds for the real thing.

use super::*;
use crate::tunnel::{Peer, Tunnel, TunnelConfig, TunnelLimits, tests::Authority};
use tokio::net::TcpStream;

/// Nodes `n1` with pods `a` to `d`, and `n2` with `x` at `10.244.8.2`.
struct Joined {
    one: World,
    other: World,
    tunnels: [Tunnel; 2],
}

impl Joined {
    fn new() -> Self {
        let authority = Authority::new();
        let limits = Limits { far_dial_patience: Duration::from_millis(500), ..Limits::default() };
        let one = World::with(limits.clone());
        let other = World::bare("n2", &["10.244.8.0/22"], limits, Arc::new(FakeMachine::default()));
        other.add_pod_at("x", [10, 244, 8, 2]);
        let ends = [(&one, "n1", "10.244.0.0/22"), (&other, "n2", "10.244.8.0/22")];
        let mut peers = Vec::new();
        let tunnels = ends.map(|(world, name, range)| {
            let config =
                TunnelConfig { node_name: name.to_owned(), listen: at("127.0.0.1:0"), limits: TunnelLimits::default() };
            let fabric = Arc::new(world.fabric.clone());
            let (tunnel, _notices) = Tunnel::open(config, authority.node(name, 1), fabric, None).unwrap();
            peers.push(Peer {
                node: name.to_owned(),
                addresses: vec![tunnel.local_address().unwrap()],
                ranges: vec![range.parse().unwrap()],
                credentials_since: 0,
            });
            world.fabric.set_elsewhere(Some(Arc::new(tunnel.clone())));
            tunnel
        });
        for tunnel in &tunnels {
            tunnel.set_peers(peers.clone());
        }
        Self { one, other, tunnels }
    }

    fn set_services(&self, services: &[Value], slices: &[Value]) {
        self.one.set_services(services, slices);
        self.other.set_services(services, slices);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_datagrams_reach_pods_of_the_other_node() {
    let mut both = Joined::new();
    let web = node_port_service("web", "10.96.0.20", 30_080);
    both.set_services(&[web], &[slice("web", &["~10.244.8.2"])]);
    let near = both.one.dial("10.96.0.20:80").await.unwrap();
    let far = both.other.offered().await;
    assert_eq!((&*far.uid, far.to, far.from), ("x", at("10.244.8.2:8080"), at("10.244.0.1:40000")));
    let (mut near, mut far) = (stream(near), stream(far.stream));
    carries(&mut near, &mut far, &vec![1; 1_000_000]).await;
    carries(&mut far, &mut near, &vec![2; 1_000_000]).await;

    both.one.send("a", "10.244.0.1:9", "10.96.0.20:53", "question");
    let got = both.other.delivered().await;
    assert_eq!((got.to, got.from), (at("10.244.8.2:5353"), at("10.244.0.1:9")));
    both.other.send("x", "10.244.8.2:5353", "10.244.0.1:9", "answer");
    let got = both.one.delivered().await;
    assert_eq!((got.from, &*got.bytes), (at("10.96.0.20:53"), &b"answer"[..]));

    let mut client = soon(async {
        loop {
            match TcpStream::connect((both.one.node_ports, 30_080)).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    })
    .await;
    let far = both.other.offered().await;
    assert_eq!(far.from.ip(), IpAddr::from([10, 244, 2, 1]));
    let mut far = stream(far.stream);
    carries(&mut client, &mut far, &vec![3; 500_000]).await;
    carries(&mut far, &mut client, &vec![4; 500_000]).await;
    both.other.manner("x", Manner::Refuses);
    assert_eq!(both.one.dial("10.244.8.2:8080").await.unwrap_err(), DialFailure::Refused);
    for tunnel in &both.tunnels {
        soon(tunnel.shutdown()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_costs_no_dial_while_others_are_there() {
    let mut both = Joined::new();
    both.set_services(&[service("web", "10.96.0.20", json!({}))], &[slice("web", &["~10.244.8.2"])]);
    drop(both.one.dial("10.96.0.20:80").await.unwrap());
    both.other.offered().await;
    both.set_services(&[service("web", "10.96.0.20", json!({}))], &[slice("web", &["~10.244.8.2", "10.244.0.2"])]);
    soon(both.tunnels[1].shutdown()).await;
    for _ in 0..20 {
        both.one.dial("10.96.0.20:80").await.unwrap();
    }
    assert_eq!(both.one.offers().len(), 20);
    let alone = both.one.dial("10.244.8.2:8080").await.unwrap_err();
    assert!(matches!(alone, DialFailure::Unreachable | DialFailure::TimedOut), "{alone}");
    soon(both.tunnels[0].shutdown()).await;
}
