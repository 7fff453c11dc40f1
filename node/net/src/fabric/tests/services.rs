//! Dials to services: the choice of endpoints, what happens when one fails, affinity, and changes of the table.

use super::*;
use std::collections::BTreeMap;

fn web(addresses: &[&str]) -> ([Value; 1], [Value; 1]) {
    ([service("web", "10.96.0.20", json!({}))], [slice("web", addresses)])
}

impl World {
    fn set_web(&self, addresses: &[&str]) {
        let (services, slices) = web(addresses);
        self.set_services(&services, &slices);
    }
}

#[tokio::test]
async fn a_connection_reaches_an_endpoint_at_its_own_port() {
    let mut world = World::new();
    world.set_web(&["10.244.0.2"]);
    let near = world.dial("10.96.0.20:80").await.unwrap();
    let far = world.offered().await;
    assert_eq!((&*far.uid, far.to, far.from), ("b", at("10.244.0.2:8080"), at("10.244.0.1:40000")));
    carries(&mut stream(near), &mut stream(far.stream), &vec![7; 100_000]).await;
    assert_eq!(world.dial("10.96.0.20:8080").await.unwrap_err(), DialFailure::Refused, "not a port of the service");
}

#[tokio::test]
async fn a_pod_behind_a_service_reaches_itself_through_it() {
    let mut world = World::new();
    world.set_web(&["10.244.0.1"]);
    world.dial("10.96.0.20:80").await.unwrap();
    let far = world.offered().await;
    assert_eq!((&*far.uid, far.to, far.from), ("a", at("10.244.0.1:8080"), at("10.244.0.1:40000")));
}

#[tokio::test]
async fn connections_are_spread_over_all_endpoints() {
    let world = World::new();
    world.set_web(&["10.244.0.1", "10.244.0.2", "10.244.0.3"]);
    for _ in 0..300 {
        world.dial("10.96.0.20:80").await.unwrap();
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for uid in world.offers() {
        *counts.entry(uid).or_default() += 1;
    }
    assert!(counts.len() == 3 && counts.values().all(|count| (60..=140).contains(count)), "{counts:?}");
}

#[tokio::test]
async fn an_endpoint_that_refuses_costs_nobody_a_connection_and_is_left_alone_for_a_while() {
    let world = World::new();
    world.set_web(&["10.244.0.2", "10.244.0.3", "10.244.3.99", "~10.244.9.9"]);
    world.manner("b", Manner::Refuses);
    for _ in 0..50 {
        world.dial("10.96.0.20:80").await.unwrap();
    }
    let offers = world.offers();
    let refused = offers.iter().filter(|uid| **uid == "b").count();
    assert_eq!(offers.len() - refused, 50, "each came to c in the end");
    assert!((1..=10).contains(&refused), "b was asked {refused} times");
}

#[tokio::test]
async fn when_nobody_takes_it_the_dial_is_refused() {
    let world = World::new();
    world.set_web(&[]);
    assert_eq!(world.dial("10.96.0.20:80").await.unwrap_err(), DialFailure::Refused);
    world.set_web(&["10.244.0.2", "10.244.0.3"]);
    world.manner("b", Manner::Refuses);
    world.manner("c", Manner::Refuses);
    assert_eq!(world.dial("10.96.0.20:80").await.unwrap_err(), DialFailure::Refused);
    assert_eq!(world.offers().len(), 2);
    world.set_web(&["~10.244.9.9"]);
    assert_eq!(world.dial("10.96.0.20:80").await.unwrap_err(), DialFailure::Unreachable);
    assert_eq!(world.fabric.statistics().refused, 2);
}

#[tokio::test]
async fn a_client_stays_with_its_endpoint_where_the_service_wants_that() {
    let world = World::new();
    let sticky = service("web", "10.96.0.20", json!({"sessionAffinity": "ClientIP"}));
    let slices = [slice("web", &["10.244.0.2", "10.244.0.3", "10.244.0.4"])];
    world.set_services(&[sticky], &slices);
    for _ in 0..20 {
        world.dial("10.96.0.20:80").await.unwrap();
    }
    let offers = world.offers();
    assert!(offers.iter().all(|uid| *uid == offers[0]), "{offers:?}");
    // Its endpoint fails: it goes to another one, and stays there.
    world.manner(&offers[0], Manner::Refuses);
    for _ in 0..20 {
        world.dial("10.96.0.20:80").await.unwrap();
    }
    let later = world.offers();
    assert!(later[1] != offers[0] && later[1..].iter().all(|uid| *uid == later[1]), "{later:?}");
}

#[tokio::test]
async fn an_endpoint_is_asked_about_again_by_the_policy() {
    let mut world = World::new();
    world.set_web(&["127.0.0.1", "169.254.169.254", "192.0.2.9", "10.96.0.20"]);
    assert!(matches!(world.dial("10.96.0.20:80").await, Err(DialFailure::Denied | DialFailure::Refused)));
    assert_eq!(world.notice().await.reason, "NetworkDenied");
}

#[tokio::test]
async fn a_change_of_the_table_leaves_connections_alone() {
    let mut world = World::new();
    world.set_web(&["10.244.0.2"]);
    let near = world.dial("10.96.0.20:80").await.unwrap();
    let far = world.offered().await;
    world.set_services(&[], &[]);
    assert_eq!(world.dial("10.96.0.20:80").await.unwrap_err(), DialFailure::Refused);
    let (mut near, mut far) = (stream(near), stream(far.stream));
    carries(&mut near, &mut far, b"still here").await;
    carries(&mut far, &mut near, b"so am I").await;
}

#[tokio::test]
async fn external_addresses_and_node_ports_lead_to_the_service() {
    let mut world = World::new();
    let mut web = node_port_service("web", "10.96.0.20", 30_080);
    web["spec"]["externalIPs"] = json!(["203.0.113.20"]);
    world.set_services(&[web], &[slice("web", &["10.244.0.2"])]);
    for to in ["203.0.113.20:80", "192.0.2.9:30080"] {
        world.dial(to).await.unwrap();
        assert_eq!(world.offered().await.to, at("10.244.0.2:8080"), "{to}");
    }
    assert_eq!(world.dial("203.0.113.20:81").await.unwrap_err(), DialFailure::Refused);
    assert_eq!(world.dial("192.0.2.9:30081").await.unwrap_err(), DialFailure::Denied);
}

#[tokio::test]
async fn nothing_is_left_of_many_connections() {
    let mut world = World::with(Limits { offer_timeout: Duration::from_millis(20), ..Limits::default() });
    world.set_web(&["10.244.0.2", "10.244.0.3", "10.244.0.4", "10.244.3.99"]);
    world.manner("c", Manner::Refuses);
    let at_rest = world.fabric.0.tasks.len();
    let pod = world.fabric.0.pods.read().by_uid("a").unwrap();
    for round in 0..2000_u16 {
        // Somebody sleeps at times, and somebody gives up.
        world.manner("d", if round % 50 == 0 { Manner::Sleeps } else { Manner::Takes });
        let to = if round % 7 == 0 { at(DNS) } else { at("10.96.0.20:80") };
        let dial = world.fabric.dial("a", at("10.244.0.1:1"), to);
        if round % 3 == 0 {
            drop(tokio::time::timeout(Duration::from_millis(1), dial).await);
        } else {
            drop(soon(dial).await);
        }
        while world.offered.try_recv().is_ok() {}
    }
    until(|| world.fabric.0.tasks.len() == at_rest).await;
    let now = Instant::now();
    let held: Vec<_> = (0..Limits::default().dials).map(|_| pod.budget.dial(now)).collect();
    assert!(held.iter().all(Result::is_ok), "a dial that has ended still counts");
    let connections: Vec<_> = (0..Limits::default().dns_connections).map(|_| pod.budget.dns_connection()).collect();
    assert!(connections.iter().all(Result::is_ok), "a DNS connection that has ended still counts");
}
