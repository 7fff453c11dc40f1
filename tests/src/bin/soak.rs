//! `make soak`: churn, kills and connections for as many rounds as `SOAK_ROUNDS` says. What the fault suite does for a minute, for
//! long; it ends with a panic at the first thing that does not hold.

use coracle_tests::{
    Cluster,
    chaos::Chaos,
    churn::{self, Footprint},
    connections, eventually, guest,
    random::Random,
};
use std::env;

/// Rounds when nobody says how many: about half an hour.
const ROUNDS_DEFAULT: usize = 50;
/// Connections of a round, and how often a container is killed amid them.
const CONNECTIONS: usize = 10_000;
const KILLS: usize = 4;
/// Pods of a round that come and go without kills.
const PODS: usize = 100;

fn main() {
    let named = env::var("SOAK_ROUNDS").ok();
    let rounds = named.map_or(ROUNDS_DEFAULT, |text| text.parse().expect("SOAK_ROUNDS is a number"));
    let mut cluster = Cluster::start();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    cluster.push(&guest("probe.wasm"), "probe:1");
    let mut random = Random::seeded();
    for round in 0..rounds {
        let mut chaos = Chaos::new(random.fork());
        for kill in 0..3 {
            chaos.round(&mut cluster, round * 10 + kill);
        }
        chaos.end(&cluster);
        let kubectl = cluster.kubectl();
        churn::round(&kubectl, "default", "warm", 10);
        let before = Footprint::of(&cluster);
        churn::round(&kubectl, "default", &format!("soak-{round}"), PODS);
        eventually("the footprint of before", || Footprint::of(&cluster).within(&before));
        connections::prepare(&kubectl);
        connections::round(&cluster, &mut random, CONNECTIONS, KILLS);
        kubectl.run("delete pods --all --timeout=55s").expect("the servers go");
        println!("round {} of {rounds}: {:?}", round + 1, Footprint::of(&cluster));
    }
    assert!(cluster.stop().success(), "{}", cluster.log());
}
