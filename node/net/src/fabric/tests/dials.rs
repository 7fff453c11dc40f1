//! Dials by address: who is reached, who is not, and that nobody waits for nothing.

use super::*;
use crate::fabric::{About, Bound};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

#[tokio::test]
async fn a_pod_reaches_a_pod_by_a_pair_of_streams() {
    let mut world = World::new();
    let near = world.dial("10.244.0.2:8080").await.unwrap();
    let flags = OFlag::from_bits_truncate(fcntl(&near, FcntlArg::F_GETFL).unwrap());
    let kept = FdFlag::from_bits_truncate(fcntl(&near, FcntlArg::F_GETFD).unwrap());
    assert!(flags.contains(OFlag::O_NONBLOCK) && kept.contains(FdFlag::FD_CLOEXEC));
    let far = world.offered().await;
    assert_eq!((&*far.uid, far.to, far.from), ("b", at("10.244.0.2:8080"), at("10.244.0.1:40000")));
    let (mut near, mut far) = (stream(near), stream(far.stream));
    // One direction ends, the other one goes on.
    carries(&mut near, &mut far, b"ping").await;
    carries(&mut far, &mut near, b"pong").await;
    assert_eq!(world.fabric.statistics().connected, 1);
}

#[tokio::test]
async fn a_pod_reaches_itself_by_its_address() {
    let mut world = World::new();
    world.dial("10.244.0.1:8080").await.unwrap();
    assert_eq!(world.offered().await.uid, "a");
    world.dial("[::ffff:10.244.0.2]:8080").await.unwrap();
    assert_eq!(world.offered().await.uid, "b", "IPv4 in IPv6 clothes");
}

#[tokio::test]
async fn what_is_not_there_or_not_allowed_fails_at_once() {
    // Whoever waited would do so for longer than these tests do.
    let never = Duration::from_hours(1);
    let world = World::with(Limits {
        offer_timeout: never,
        outside_dial_timeout: never,
        far_dial_patience: never,
        far_dial_timeout: never,
        ..Limits::default()
    });
    world.machine.own.lock().push("203.0.113.9".parse().unwrap());
    for (to, expected) in [
        ("10.244.3.200:80", DialFailure::Refused),
        ("10.244.4.1:80", DialFailure::Unreachable),
        ("10.96.7.7:80", DialFailure::Refused),
        ("10.96.0.10:54", DialFailure::Refused),
        ("169.254.169.254:80", DialFailure::Refused),
        ("[fe80::1]:80", DialFailure::Refused),
        ("224.0.0.1:80", DialFailure::Refused),
        ("0.0.0.0:80", DialFailure::Refused),
        ("127.0.0.1:6443", DialFailure::Denied),
        ("[::1]:22", DialFailure::Denied),
        ("[::ffff:127.0.0.1]:22", DialFailure::Denied),
        ("192.0.2.9:22", DialFailure::Denied),
        ("198.51.100.1:6443", DialFailure::Denied),
        ("203.0.113.9:80", DialFailure::Denied),
        ("[64:ff9b::7f00:1]:80", DialFailure::Denied),
    ] {
        assert_eq!(world.dial(to).await.unwrap_err(), expected, "{to}");
    }
    let counted = world.fabric.statistics();
    assert_eq!((counted.refused, counted.unreachable, counted.denied), (7, 1, 7));
}

#[tokio::test]
async fn what_a_pod_may_not_do_is_reported_with_the_reason_and_not_each_time() {
    let mut world = World::new();
    for _ in 0..100 {
        assert_eq!(world.dial("127.0.0.1:6443").await.unwrap_err(), DialFailure::Denied);
    }
    let notice = world.notice().await;
    assert_eq!((notice.about, notice.reason), (About::Pod("a".to_owned()), "NetworkDenied"));
    assert_eq!(notice.message, "127.0.0.1:6443 is not reached from here: the host's loopback is out of a pod's reach");
    assert!(world.notices.try_recv().is_err());
}

#[tokio::test]
async fn a_pod_speaks_only_for_itself() {
    let world = World::new();
    let strange = world.fabric.dial("a", at("10.244.0.2:1"), at("10.244.0.3:80"));
    assert_eq!(strange.await.unwrap_err(), DialFailure::Denied);
    let unknown = world.fabric.dial("nobody", at("10.244.0.1:1"), at("10.244.0.3:80"));
    assert_eq!(unknown.await.unwrap_err(), DialFailure::Denied);
    assert_eq!(world.offers(), [""; 0]);
}

#[tokio::test]
async fn a_pod_that_says_nothing_is_given_up() {
    let world = World::with(Limits { offer_timeout: Duration::from_millis(30), ..Limits::default() });
    world.manner("b", Manner::Sleeps);
    assert_eq!(world.dial("10.244.0.2:80").await.unwrap_err(), DialFailure::TimedOut);
}

#[tokio::test]
async fn dials_end_with_either_pod() {
    let world = World::new();
    world.manner("b", Manner::Sleeps);
    for leaving in ["b", "a"] {
        let (fabric, offers) = (world.fabric.clone(), world.offers().len());
        assert_eq!(offers, usize::from(leaving == "a"));
        let dial =
            tokio::spawn(async move { fabric.dial("a", at("10.244.0.1:1"), at("10.244.0.2:80")).await.map(drop) });
        until(|| !world.pods.offers.lock().is_empty()).await;
        world.fabric.remove_pod(leaving);
        assert_eq!(soon(dial).await.unwrap(), Err(DialFailure::Refused), "{leaving} leaves");
        if leaving == "b" {
            assert_eq!(world.dial("10.244.0.2:80").await.unwrap_err(), DialFailure::Refused);
            world.add_pod("b", 2);
        }
    }
}

#[tokio::test]
async fn an_address_belongs_to_who_got_it_last() {
    let mut world = World::new();
    world.add_pod("e", 2);
    world.fabric.remove_pod("b");
    world.dial("10.244.0.2:80").await.unwrap();
    assert_eq!(world.offered().await.uid, "e");
}

#[tokio::test]
async fn dials_under_way_are_bounded_for_each_pod() {
    let mut world = World::with(Limits { dials: 3, ..Limits::default() });
    world.manner("b", Manner::Sleeps);
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let fabric = world.fabric.clone();
        waiting.push(tokio::spawn(async move { fabric.dial("a", at("10.244.0.1:1"), at("10.244.0.2:80")).await }));
    }
    until(|| world.pods.offers.lock().len() == 3).await;
    assert_eq!(world.dial("10.244.0.3:80").await.unwrap_err(), DialFailure::TooMany);
    let other = world.fabric.dial("d", at("10.244.0.4:1"), at("10.244.0.3:80")).await;
    assert!(other.is_ok(), "another pod does not notice");
    let notice = world.notice().await;
    assert_eq!(notice.reason, "NetworkLimit");
    assert_eq!(notice.message, "refused: too many connections being made at one time");
    // A dial that is withdrawn makes room.
    waiting.pop().unwrap().abort();
    soon(async {
        while world.dial("10.244.0.3:80").await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let hits = world.fabric.statistics().bounds;
    assert!(hits.iter().any(|(bound, times)| *bound == Bound::Dials && *times >= 1), "{hits:?}");
}

#[tokio::test]
async fn dials_per_second_are_bounded_for_each_pod() {
    let began = Instant::now();
    let world = World::with(Limits { dials_per_second: 5, ..Limits::default() });
    let mut failures = Vec::new();
    for _ in 0..50 {
        failures.extend(world.dial("10.244.0.2:80").await.err());
    }
    let (made, allowed) = (50 - failures.len(), allowed(5, began));
    assert!((1..=allowed).contains(&made), "{made} dials, {allowed} are allowed");
    assert!(failures.iter().all(|one| *one == DialFailure::TooMany), "{failures:?}");
}

#[tokio::test]
async fn the_control_plane_is_out_of_reach_wherever_it_goes() {
    let world = World::new();
    for (servers, is_denied) in [(&[][..], false), (&["198.51.100.9:6443"], true), (&["198.51.100.8:6443"], false)] {
        world.fabric.set_servers(servers.iter().map(|server| at(server)).collect());
        let dialled = world.dial("198.51.100.9:6443").await.map(drop);
        assert_eq!(dialled == Err(DialFailure::Denied), is_denied, "{servers:?}: {dialled:?}");
    }
}
