//! Datagrams inside the cluster: between pods, through services with answers from the service, and floods.

use super::*;
use crate::fabric::{Bound, DATAGRAM_BYTES_MAX};

impl World {
    fn set_dns_like(&self, addresses: &[&str], more: Value) {
        self.set_services(&[service("web", "10.96.0.20", more)], &[slice("web", addresses)]);
    }

    fn flows(&self) -> usize {
        self.fabric.0.flows.lock().len()
    }
}

fn delivered(uid: &str, to: &str, from: &str, text: &str) -> Delivered {
    Delivered { uid: uid.to_owned(), to: at(to), from: at(from), bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

#[tokio::test]
async fn pods_send_each_other_datagrams() {
    let mut world = World::new();
    world.send("a", "10.244.0.1:1", "10.244.0.2:2", "ping");
    assert_eq!(world.delivered().await, delivered("b", "10.244.0.2:2", "10.244.0.1:1", "ping"));
    world.send("b", "10.244.0.2:2", "10.244.0.1:1", "pong");
    assert_eq!(world.delivered().await, delivered("a", "10.244.0.1:1", "10.244.0.2:2", "pong"));
    assert_eq!(world.flows(), 0);
}

#[tokio::test]
async fn a_service_answers_by_its_own_address() {
    let mut world = World::new();
    world.set_dns_like(&["10.244.0.2", "10.244.0.3"], json!({}));
    for port in [1000, 1001, 1002, 1003] {
        let client = format!("10.244.0.1:{port}");
        world.send("a", &client, "10.96.0.20:53", "question");
        let got = world.delivered().await;
        assert_eq!((got.from, got.to.port()), (at(&client), 5353));
        world.send("a", &client, "10.96.0.20:53", "again");
        assert_eq!(world.delivered().await.uid, got.uid, "a flow has one endpoint");
        world.send(&got.uid, &got.to.to_string(), &client, "answer");
        assert_eq!(world.delivered().await, delivered("a", &client, "10.96.0.20:53", "answer"));
    }
    // Hairpin: the service's pod talks to the service, and to itself by it.
    world.set_dns_like(&["10.244.0.1"], json!({}));
    world.send("a", "10.244.0.1:1000", "10.96.0.20:53", "me");
    assert_eq!(world.delivered().await, delivered("a", "10.244.0.1:5353", "10.244.0.1:1000", "me"));
    world.send("a", "10.244.0.1:5353", "10.244.0.1:1000", "you");
    assert_eq!(world.delivered().await, delivered("a", "10.244.0.1:1000", "10.96.0.20:53", "you"));
}

#[tokio::test]
async fn a_client_stays_with_its_endpoint_where_the_service_wants_that() {
    let mut world = World::new();
    world.set_dns_like(&["10.244.0.2", "10.244.0.3", "10.244.0.4"], json!({"sessionAffinity": "ClientIP"}));
    let mut uids = Vec::new();
    for port in 1000..1010 {
        world.send("a", &format!("10.244.0.1:{port}"), "10.96.0.20:53", "x");
        uids.push(world.delivered().await.uid);
    }
    assert!(uids.iter().all(|uid| *uid == uids[0]), "{uids:?}");
}

#[tokio::test]
async fn flows_follow_the_table_and_their_pods() {
    let mut world = World::new();
    world.set_dns_like(&["10.244.0.2"], json!({}));
    world.send("a", "10.244.0.1:1", "10.96.0.20:53", "x");
    assert_eq!(world.delivered().await.uid, "b");
    world.set_dns_like(&["10.244.0.3"], json!({}));
    assert_eq!(world.flows(), 0);
    world.send("a", "10.244.0.1:1", "10.96.0.20:53", "x");
    assert_eq!(world.delivered().await.uid, "c");
    world.fabric.remove_pod("c");
    assert_eq!(world.flows(), 0);
    world.send("a", "10.244.0.1:1", "10.96.0.20:53", "x");
    let refused = soon(world.refused.recv()).await.unwrap();
    assert_eq!(refused, ("a".to_owned(), at("10.244.0.1:1"), at("10.96.0.20:53")));
    world.set_dns_like(&["10.244.0.4"], json!({}));
    world.send("a", "10.244.0.1:1", "10.96.0.20:53", "x");
    assert_eq!(world.delivered().await.uid, "d");
    world.fabric.remove_pod("a");
    assert_eq!(world.flows(), 0);
}

#[tokio::test]
async fn answers_of_an_endpoint_that_was_left_come_from_the_service() {
    let mut world = World::new();
    let answer = delivered("a", "10.244.0.1:1", "10.96.0.20:53", "answer");
    world.set_dns_like(&["10.244.0.2"], json!({}));
    world.send("a", "10.244.0.1:1", "10.96.0.20:53", "x");
    assert_eq!(world.delivered().await.uid, "b");
    // It is not ready while it answers, and the client goes on with another one before the answer is there.
    let mut slices = [slice("web", &["10.244.0.2", "10.244.0.3"])];
    slices[0]["endpoints"][0]["conditions"] = json!({"ready": false});
    world.set_services(&[service("web", "10.96.0.20", json!({}))], &slices);
    world.send("b", "10.244.0.2:5353", "10.244.0.1:1", "answer");
    assert_eq!(world.delivered().await, answer);
    world.send("a", "10.244.0.1:1", "10.96.0.20:53", "x");
    assert_eq!(world.delivered().await.uid, "c");
    for (uid, endpoint) in [("b", "10.244.0.2:5353"), ("c", "10.244.0.3:5353")] {
        world.send(uid, endpoint, "10.244.0.1:1", "answer");
        assert_eq!(world.delivered().await, answer, "{uid}");
    }
    // Once it is gone its address may be anybody's.
    world.set_dns_like(&["10.244.0.3"], json!({}));
    world.send("b", "10.244.0.2:5353", "10.244.0.1:1", "hello");
    assert_eq!(world.delivered().await, delivered("a", "10.244.0.1:1", "10.244.0.2:5353", "hello"));
    assert_eq!(world.flows(), 1);
}

#[tokio::test]
async fn idle_flows_are_forgotten() {
    let mut world = World::with(Limits { flow_idle: Duration::from_millis(40), ..Limits::default() });
    world.set_dns_like(&["10.244.0.2"], json!({}));
    world.send("a", "10.244.0.1:1", "10.96.0.20:53", "x");
    world.delivered().await;
    until(|| world.flows() == 0).await;
    world.send("b", "10.244.0.2:5353", "10.244.0.1:1", "late");
    assert_eq!(world.delivered().await.from, at("10.244.0.2:5353"), "nobody remembers the service");
}

#[tokio::test]
async fn where_nobody_is_the_sender_is_told() {
    let mut world = World::new();
    world.set_dns_like(&[], json!({}));
    for to in ["10.244.3.9:1", "10.244.9.9:1", "10.96.0.20:53", "10.96.0.20:54", "127.0.0.1:53", "169.254.169.254:80"] {
        world.send("a", "10.244.0.1:1", to, "x");
        assert_eq!(soon(world.refused.recv()).await.unwrap().2, at(to));
    }
    let counted = world.fabric.statistics();
    assert_eq!((counted.datagrams_refused, counted.datagrams_delivered, counted.denied), (6, 0, 2));
}

#[tokio::test]
async fn a_pod_speaks_only_for_itself() {
    let mut world = World::new();
    world.send("a", "10.244.0.2:1", "10.244.0.3:1", "x");
    world.send("nobody", "10.244.0.1:1", "10.244.0.3:1", "x");
    world.send("a", "10.244.0.1:1", "10.244.0.3:1", "mine");
    assert_eq!(&*world.delivered().await.bytes, b"mine");
    assert!(world.delivered.try_recv().is_err());
}

#[tokio::test]
async fn floods_are_bounded_and_reported() {
    let mut world = World::with(Limits { flows: 10, ..Limits::default() });
    world.set_dns_like(&["10.244.0.2"], json!({}));
    for port in 1..=1000 {
        world.send("a", &format!("10.244.0.1:{port}"), "10.96.0.20:53", "x");
    }
    assert_eq!(world.flows(), 10);
    world.send("c", "10.244.0.3:1", "10.96.0.20:53", "x");
    assert_eq!(world.flows(), 11, "another pod does not notice");
    let long = Bytes::from(vec![0; DATAGRAM_BYTES_MAX + 1]);
    world.fabric.datagram("d", at("10.244.0.4:1"), at("10.244.0.2:1"), long);
    let hits = world.fabric.statistics().bounds;
    assert!(hits.contains(&(Bound::Flows, 990)) && hits.contains(&(Bound::DatagramSize, 1)), "{hits:?}");
    assert_eq!(world.notice().await.message, "refused: too many datagram flows");
    assert_eq!(world.notice().await.message, "refused: a datagram is too long");
    assert!(world.notices.try_recv().is_err());
    let longest = Bytes::from(vec![7; DATAGRAM_BYTES_MAX]);
    world.fabric.datagram("d", at("10.244.0.4:1"), at("10.244.0.3:1"), longest.clone());
    while world.delivered().await.bytes != longest {}
}
