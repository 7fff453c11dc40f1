//! `make soak`: storms of as many pods as `SOAK_CYCLES` says, as many pods as `SOAK_ADDRESSES` says that have the same few
//! addresses one after another, churn, kills and connections for as many rounds as `SOAK_ROUNDS` says, then connections
//! between nodes while nodes and the server are killed or frozen as often as `SOAK_STRIKES` says, and while the server is
//! away for `SOAK_AWAY` seconds, once silent and once dead; none where that is 0. What `storm`, `kill` and `churn` of the fault
//! suite and the suites `connections` and `crossing` do for a minute or two, for long; it ends with a panic at the first
//! thing that does not hold.

use coracle_tests::{
    Apart, Cluster, Footprint,
    chaos::Chaos,
    churn, connections,
    crossing::{self, Away},
    eventually, guest,
    hosts::{Realm, reuse},
    random::Random,
    storm::{Storm, VICTIMS, Victim},
};
use std::{env, time::Duration};

/// Rounds when nobody says how many: about half an hour.
const ROUNDS_DEFAULT: usize = 50;
/// Pods that every storm creates and deletes when nobody says how many, and after how many they must have settled.
const CYCLES_DEFAULT: usize = 1_000;
const CYCLES_BETWEEN: usize = 250;
/// Pods of the storm before the first measurement: with four events each they fill what an agent remembers of events,
/// which is bounded and so no leak.
const CYCLES_WARM: usize = 1_000;
const NAMESPACES: usize = 3;
/// Pods that have the addresses of one small range one after another when nobody says how many.
const ADDRESSES_DEFAULT: usize = 1_000;
/// Connections of a round, and how often a container is killed amid them.
const CONNECTIONS: usize = 10_000;
const KILLS: usize = 4;
/// Pods of a round that come and go without kills.
const PODS: usize = 100;

/// Strikes when nobody says how many, which is about half an hour; and how many between two looks at what is left.
const STRIKES_DEFAULT: usize = 150;
const STRIKES_BETWEEN: usize = 10;
/// Seconds that the server is away when nobody says how many.
const AWAY_DEFAULT: usize = 300;

fn main() {
    let mut random = Random::seeded();
    storm(named("SOAK_CYCLES", CYCLES_DEFAULT), &mut random);
    addresses(named("SOAK_ADDRESSES", ADDRESSES_DEFAULT), &mut random);
    rounds(named("SOAK_ROUNDS", ROUNDS_DEFAULT), random.fork());
    crossings(named("SOAK_STRIKES", STRIKES_DEFAULT), named("SOAK_AWAY", AWAY_DEFAULT), &mut random);
}

/// Nodes and servers that are killed and frozen, and a server that is away, while pods of all nodes talk to each other.
fn crossings(strikes: usize, away_seconds: usize, random: &mut Random) {
    if strikes + away_seconds == 0 {
        return;
    }
    let mut fleet = crossing::fleet();
    for done in (0..strikes).step_by(STRIKES_BETWEEN) {
        crossing::round(&mut fleet, random, STRIKES_BETWEEN.min(strikes - done));
    }
    let duration = Duration::from_secs(u64::try_from(away_seconds).unwrap_or(u64::MAX));
    for how in [Away::Silent, Away::Dead].into_iter().filter(|_| away_seconds > 0) {
        crossing::away(&mut fleet, random, how, duration);
    }
}

fn named(variable: &str, otherwise: usize) -> usize {
    let text = env::var(variable).ok();
    text.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// Pods of a host with the smallest range there is come and go while pods of another host ask for them by name.
fn addresses(count: usize, random: &mut Random) {
    if count == 0 {
        return;
    }
    let mut realm = Realm::unstarted(&["a", "b"]);
    realm.options("b", &["--max-pods", "30"]);
    realm.start_all();
    realm.push(&guest("probe.wasm"), "probe:1");
    println!("{:?}", reuse::churn(&realm, &realm.kubectl(), "a", "b", count, random));
}

/// Three storms of `cycles` pods each: one that kills everybody, one that spares the agent, and one that spares all, so
/// that whatever any of them leaks adds up.
fn storm(cycles: usize, random: &mut Random) {
    if cycles == 0 {
        return;
    }
    let mut apart = Apart::start();
    apart.push(&guest("toolbox.wasm"), "toolbox:1");
    let mut warm = Storm::new(&apart, random.fork(), "warm", NAMESPACES);
    portions(&mut warm, &mut apart, CYCLES_WARM, &[]);
    println!("{}", warm.end(&apart));
    let before = Footprint::without_runners(&apart);
    for victims in [&VICTIMS[..], &[Victim::Runner, Victim::Compiler]] {
        let mut storm = Storm::new(&apart, random.fork(), &format!("storm-{}", victims.len()), NAMESPACES);
        portions(&mut storm, &mut apart, cycles, victims);
        let done = storm.end(&apart);
        compare(&done, &apart, &before);
    }
    let mut lasting = Storm::new(&apart, random.fork(), "lasting", NAMESPACES);
    portions(&mut lasting, &mut apart, cycles.min(CYCLES_BETWEEN), &[]);
    lasting.calm(&apart);
    let with_runners = Footprint::of(&apart);
    portions(&mut lasting, &mut apart, cycles, &[]);
    lasting.calm(&apart);
    compare("lasting runners", &apart, &with_runners);
    let done = lasting.end(&apart);
    compare(&done, &apart, &before);
}

fn portions(storm: &mut Storm, apart: &mut Apart, cycles: usize, victims: &[Victim]) {
    for done in (0..cycles).step_by(CYCLES_BETWEEN) {
        storm.rage(apart, CYCLES_BETWEEN.min(cycles - done), victims);
        storm.settle(apart);
        println!("  {} more, settled: {}", CYCLES_BETWEEN.min(cycles - done), Footprint::of(apart));
    }
}

fn compare(done: &str, apart: &Apart, before: &Footprint) {
    eventually("the footprint of before", || Footprint::of(apart).within(before));
    println!("{done}\n  before {before}\n  after  {}", Footprint::of(apart));
}

fn rounds(rounds: usize, mut random: Random) {
    let mut cluster = Cluster::start();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    cluster.push(&guest("probe.wasm"), "probe:1");
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
        println!("round {} of {rounds}: {}", round + 1, Footprint::of(&cluster));
    }
    assert!(cluster.stop().success(), "{}", cluster.log());
}
