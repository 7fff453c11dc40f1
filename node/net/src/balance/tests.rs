//! Choosing among endpoints: fair, faithful to clients, away from the dead.

use super::*;
use crate::services::Protocol;
use affinity::CLIENTS_MAX;
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::Ipv4Addr};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 9, 9));

fn services(endpoints: u8, spec: &Value) -> Services {
    let mut service = json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]},
    });
    for (field, value) in spec.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    let endpoints: Vec<Value> =
        (1..=endpoints).map(|last| json!({"addresses": [format!("10.244.0.{last}")]})).collect();
    let slice = json!({
        "metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"port": 80}], "endpoints": endpoints,
    });
    Services::build(&[service], &[slice], "n1")
}

fn target(services: &Services) -> Target {
    services.target("10.96.0.9".parse().unwrap(), 80, Protocol::Tcp).unwrap()
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 244, 0, last], 80))
}

/// One dial that succeeds at the first candidate.
fn dial(balancer: &mut Balancer, target: &Target, client: IpAddr, now: Instant) -> SocketAddr {
    let first = balancer.order(target, client, Origin::Inside, now)[0];
    balancer.dialling(&target.port.id, first);
    balancer.connected(target, client, first, now);
    first
}

fn fail(balancer: &mut Balancer, target: &Target, endpoint: SocketAddr, now: Instant) {
    balancer.dialling(&target.port.id, endpoint);
    balancer.failed(&target.port.id, endpoint, now);
}

#[test]
fn endpoints_take_turns() {
    let (now, target) = (Instant::now(), target(&services(3, &json!({}))));
    for seed in 0..20 {
        let mut balancer = Balancer::new(seed);
        let chosen: Vec<_> = (0..9).map(|_| dial(&mut balancer, &target, CLIENT, now)).collect();
        for round in chosen.chunks(3) {
            assert_eq!(round.iter().collect::<BTreeSet<_>>().len(), 3, "{chosen:?}");
        }
    }
}

#[test]
fn a_slow_endpoint_gets_less() {
    let (now, target) = (Instant::now(), target(&services(3, &json!({}))));
    let mut balancer = Balancer::new(7);
    let id = target.port.id.clone();
    (0..10).for_each(|_| balancer.dialling(&id, address(2)));
    let chosen = (0..300).map(|_| dial(&mut balancer, &target, CLIENT, now)).filter(|one| *one == address(2)).count();
    assert_eq!(chosen, 0, "somebody else always has fewer dials under way");
    (0..10).for_each(|_| balancer.withdrawn(&id, address(2)));
    assert!((0..6).any(|_| dial(&mut balancer, &target, CLIENT, now) == address(2)), "given up is not under way");
}

#[test]
fn candidates_are_distinct_and_bounded() {
    let now = Instant::now();
    for (endpoints, expected) in [(0, 0), (1, 1), (3, 3), (4, 4), (200, CANDIDATES_MAX)] {
        let mut balancer = Balancer::new(1);
        for _ in 0..50 {
            let order = balancer.order(&target(&services(endpoints, &json!({}))), CLIENT, Origin::Inside, now);
            assert_eq!(order.len(), expected);
            assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), expected);
        }
    }
}

#[test]
fn an_endpoint_that_failed_is_avoided_longer_each_time_and_tried_again() {
    let (start, target) = (Instant::now(), target(&services(3, &json!({}))));
    let mut balancer = Balancer::new(3);
    let mut now = start;
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        fail(&mut balancer, &target, address(2), now);
        let pause = Duration::from_secs(seconds);
        for _ in 0..20 {
            let order =
                balancer.order(&target, CLIENT, Origin::Inside, now + pause.saturating_sub(Duration::from_millis(1)));
            assert_eq!(order.last(), Some(&address(2)), "avoided for {seconds} s, and still the last resort");
        }
        now += pause;
        let firsts = (0..6).map(|_| balancer.order(&target, CLIENT, Origin::Inside, now)[0]);
        assert!(firsts.collect::<Vec<_>>().contains(&address(2)), "tried again after {seconds} s");
    }
    balancer.dialling(&target.port.id, address(2));
    balancer.connected(&target, CLIENT, address(2), now);
    fail(&mut balancer, &target, address(2), now);
    let firsts = (0..6).map(|_| balancer.order(&target, CLIENT, Origin::Inside, now + AVOIDED_FIRST)[0]);
    assert!(firsts.collect::<Vec<_>>().contains(&address(2)), "a success forgets what was before");
}

#[test]
fn failures_of_dials_that_were_under_way_together_count_once() {
    let (now, target) = (Instant::now(), target(&services(2, &json!({}))));
    let mut balancer = Balancer::new(3);
    (0..50).for_each(|_| balancer.dialling(&target.port.id, address(1)));
    (0..50).for_each(|_| balancer.failed(&target.port.id, address(1), now));
    let firsts = (0..4).map(|_| balancer.order(&target, CLIENT, Origin::Inside, now + AVOIDED_FIRST)[0]);
    assert!(firsts.collect::<Vec<_>>().contains(&address(1)));
}

#[test]
fn when_all_failed_all_are_tried_the_earliest_first() {
    let (start, target) = (Instant::now(), target(&services(3, &json!({}))));
    let mut balancer = Balancer::new(3);
    for (index, last) in [3, 1, 2].into_iter().enumerate() {
        fail(&mut balancer, &target, address(last), start + Duration::from_millis(10) * u32::try_from(index).unwrap());
    }
    let order = balancer.order(&target, CLIENT, Origin::Inside, start + Duration::from_millis(40));
    assert_eq!(order, [3, 1, 2].map(address));
}

#[test]
fn a_client_stays_with_its_endpoint_until_it_was_away_too_long() {
    let spec = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}}});
    let (start, target) = (Instant::now(), target(&services(5, &spec)));
    let mut balancer = Balancer::new(11);
    let own = dial(&mut balancer, &target, CLIENT, start);
    let mut now = start;
    for _ in 0..30 {
        now += Duration::from_secs(9);
        assert_eq!(dial(&mut balancer, &target, CLIENT, now), own, "each connection counts anew");
        let other = IpAddr::V4(Ipv4Addr::new(10, 244, 9, 8));
        dial(&mut balancer, &target, other, now);
    }
    let later = now + Duration::from_secs(10);
    let chosen: BTreeSet<_> = (0..5).map(|_| balancer.order(&target, CLIENT, Origin::Inside, later)[0]).collect();
    assert!(chosen.len() > 1, "after the timeout it belongs to nobody");
}

#[test]
fn a_client_whose_endpoint_fails_or_goes_moves_and_stays_there() {
    let spec = json!({"sessionAffinity": "ClientIP"});
    let (now, before) = (Instant::now(), services(3, &spec));
    let target_before = target(&before);
    let mut balancer = Balancer::new(11);
    let own = dial(&mut balancer, &target_before, CLIENT, now);
    fail(&mut balancer, &target_before, own, now);
    let second = dial(&mut balancer, &target_before, CLIENT, now);
    assert_ne!(second, own);
    let later = now + AVOIDED_MAX;
    assert_eq!(dial(&mut balancer, &target_before, CLIENT, later), second, "it does not move back");

    let fewer = services(u8::from(second != address(1)), &spec);
    balancer.follow(&fewer);
    let order = balancer.order(&target(&fewer), CLIENT, Origin::Inside, later);
    assert!(!order.contains(&second), "it is gone");
}

#[test]
fn a_change_elsewhere_forgets_nothing_and_what_is_gone_is_forgotten() {
    let spec = json!({"sessionAffinity": "ClientIP"});
    let (now, before) = (Instant::now(), services(8, &spec));
    let target_before = target(&before);
    let mut balancer = Balancer::new(2);
    let own = dial(&mut balancer, &target_before, CLIENT, now);
    fail(&mut balancer, &target_before, address(if own == address(8) { 7 } else { 8 }), now);
    // One more endpoint.
    let after = services(9, &spec);
    balancer.follow(&after);
    assert_eq!(balancer.order(&target(&after), CLIENT, Origin::Inside, now)[0], own);
    let state = &balancer.ports[&target_before.port.id];
    assert_eq!((state.endpoints.len(), state.clients.len()), (1, 1));
    // No affinity any more.
    balancer.follow(&services(9, &json!({})));
    assert_eq!(balancer.ports[&target_before.port.id].clients.len(), 0);
    balancer.follow(&services(0, &json!({})));
    assert!(balancer.ports[&target_before.port.id].endpoints.is_empty());
    balancer.follow(&Services::default());
    assert!(balancer.ports.is_empty());
    // Late news of a service that is gone.
    balancer.failed(&target_before.port.id, address(1), now);
    balancer.connected(&target_before, CLIENT, address(1), now);
    assert!(balancer.ports.is_empty());
}

#[test]
fn an_endpoint_that_was_not_ready_and_is_again_starts_afresh() {
    let (now, before) = (Instant::now(), services(3, &json!({})));
    let target = target(&before);
    let mut balancer = Balancer::new(2);
    fail(&mut balancer, &target, address(2), now);
    balancer.follow(&before);
    let firsts = |balancer: &mut Balancer| -> BTreeSet<SocketAddr> {
        (0..6).map(|_| balancer.order(&target, CLIENT, Origin::Inside, now)[0]).collect()
    };
    assert!(!firsts(&mut balancer).contains(&address(2)), "a change elsewhere forgets nothing");
    let mut unready = json!({
        "metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": "web"}}, "ports": [{"port": 80}],
    });
    unready["endpoints"] = json!([{"addresses": ["10.244.0.2"], "conditions": {"ready": false}}]);
    let service = json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]},
    });
    balancer.follow(&Services::build(&[service], &[unready], "n1"));
    balancer.follow(&before);
    assert!(firsts(&mut balancer).contains(&address(2)));
}

#[test]
fn clients_are_bounded_and_the_one_seen_longest_ago_goes_first() {
    let (now, mut clients) = (Instant::now(), Affinities::default());
    let client = |index: usize| IpAddr::V4(Ipv4Addr::from(u32::try_from(index).unwrap()));
    (0..CLIENTS_MAX).for_each(|index| clients.set(client(index), address(1), now));
    clients.set(client(0), address(2), now);
    clients.set(client(CLIENTS_MAX), address(1), now);
    let hour = Duration::from_hours(1);
    assert_eq!(clients.len(), CLIENTS_MAX);
    assert_eq!(clients.get(client(0), hour, now), Some(address(2)), "seen again a moment ago");
    assert_eq!(clients.get(client(1), hour, now), None);
    assert_eq!(clients.get(client(2), hour, now), Some(address(1)));
    clients.retain(|endpoint| endpoint == address(2));
    assert_eq!(clients.len(), 1);
}
