//! Connections that the node itself makes into its pods.

use super::*;
use crate::fabric::Bound;

/// Begins something; whether it takes longer than that.
async fn is_under_way<T>(future: &mut (impl Future<Output = T> + Unpin)) -> bool {
    tokio::select! {
        biased;
        _ = future => false,
        () = std::future::ready(()) => true,
    }
}

#[tokio::test]
async fn the_node_reaches_a_pod_and_is_seen_as_its_gateway() {
    let mut world = World::new();
    let near = soon(world.fabric.dial_into("b", at("10.244.0.2:8080"))).await.unwrap();
    let far = world.offered().await;
    assert_eq!((&*far.uid, far.to), ("b", at("10.244.0.2:8080")));
    assert_eq!(far.from.ip(), at("10.244.2.1:0").ip());
    assert!(far.from.port() >= 32_768, "{}", far.from);
    carries(&mut stream(near), &mut stream(far.stream), b"ping").await;
    // At its loopback address it is the pod's own business.
    for own in ["127.0.0.1:81", "[::1]:81"] {
        let _near = soon(world.fabric.dial_into("c", at(own))).await.unwrap();
        let far = world.offered().await;
        assert_eq!((&*far.uid, far.to, far.from.ip()), ("c", at(own), at(own).ip()));
    }
    assert_eq!(world.fabric.statistics().connected, 3);
}

#[tokio::test]
async fn it_reaches_nothing_but_that_pod() {
    let world = World::new();
    for (uid, to, expected) in [
        ("b", "10.244.0.1:80", DialFailure::Denied),
        ("b", "10.96.0.10:53", DialFailure::Denied),
        ("b", "192.0.2.9:22", DialFailure::Denied),
        ("b", "198.51.100.9:80", DialFailure::Denied),
        ("nobody", "10.244.0.1:80", DialFailure::Unreachable),
        ("nobody", "127.0.0.1:80", DialFailure::Unreachable),
    ] {
        assert_eq!(soon(world.fabric.dial_into(uid, at(to))).await.unwrap_err(), expected, "{uid} {to}");
    }
    world.manner("b", Manner::Refuses);
    assert_eq!(soon(world.fabric.dial_into("b", at("10.244.0.2:1"))).await.unwrap_err(), DialFailure::Refused);
    assert_eq!(world.offers(), ["b"]);
}

#[tokio::test]
async fn what_a_pod_dials_takes_nothing_from_the_node() {
    let limits = Limits { dials: 1, node_dials: 1, ..Limits::default() };
    let world = World::with(limits);
    world.manner("c", Manner::Sleeps);
    // The pod's own dial is under way, and that is all that it may have.
    let hanging = world.fabric.dial("b", at("10.244.0.2:40000"), at("10.244.0.3:80"));
    let mut hanging = Box::pin(hanging);
    assert!(is_under_way(&mut hanging).await);
    let second = world.fabric.dial("b", at("10.244.0.2:40001"), at("10.244.0.1:80"));
    assert_eq!(soon(second).await.unwrap_err(), DialFailure::TooMany);
    soon(world.fabric.dial_into("b", at("10.244.0.2:80"))).await.unwrap();
}

#[tokio::test]
async fn what_the_node_dials_is_bounded_in_number_and_time() {
    let limits = Limits { node_dials: 2, offer_timeout: Duration::from_secs(2), ..Limits::default() };
    let mut world = World::with(limits);
    world.manner("b", Manner::Sleeps);
    let dial = || world.fabric.dial_into("b", at("10.244.0.2:80"));
    let (first, second, third) = soon(async { tokio::join!(dial(), dial(), dial()) }).await;
    assert_eq!(first.unwrap_err(), DialFailure::TimedOut);
    assert_eq!(second.unwrap_err(), DialFailure::TimedOut);
    assert_eq!(third.unwrap_err(), DialFailure::TooMany);
    assert_eq!(world.notice().await.message, format!("refused: {}", Bound::NodeDials.text()));
    // They have given back what they took; and a pod that goes ends what is under way.
    let again = world.fabric.dial_into("b", at("10.244.0.2:80"));
    let mut again = Box::pin(again);
    assert!(is_under_way(&mut again).await);
    world.fabric.remove_pod("b");
    assert_eq!(soon(again).await.unwrap_err(), DialFailure::Refused);
}
