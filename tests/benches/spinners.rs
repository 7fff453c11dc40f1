//! What guests that compute delay: HTTP answers, commands, lines of logs, whole pods, each alone, beside spinners of its
//! own namespace, and beside those of another, in one run and by turns.
//!
//! `make bench` runs it against the release binary. Figures are printed, never asserted. `CORACLE_BENCH_SHORT=1` makes everything small, to see
//! that it works.

use coracle_tests::{
    Cluster, Kubectl,
    bystanders::{Bystanders, spinner},
    pods::{self, running},
};
use std::{env, thread::available_parallelism, time::Duration};

/// Spinners per core.
const SPINNERS: usize = 2;
const OTHER: &str = "other";

/// What was measured in one place.
#[derive(Default)]
struct Times {
    answers: Vec<Duration>,
    lines: Vec<Duration>,
    commands: Vec<Duration>,
    pods: Vec<Duration>,
}

fn main() {
    let (turns, answers) = if env::var_os("CORACLE_BENCH_SHORT").is_some() { (1, 20) } else { (5, 200) };
    let cores = available_parallelism().expect("the number of processors").get();
    let cluster = Cluster::start();
    let mut bystanders = Bystanders::prepare(&cluster);
    let kubectl = cluster.kubectl();
    kubectl.run(&format!("create namespace {OTHER}")).expect("a namespace");
    let places = [("alone", None), ("beside spinners", Some("default")), ("beside spinners elsewhere", Some(OTHER))];
    let mut all: [Times; 3] = Default::default();
    for _ in 0..turns {
        for (times, (_, namespace)) in all.iter_mut().zip(places) {
            let names = namespace.map(|namespace| spin(&kubectl, namespace, SPINNERS * cores));
            times.answers.extend((0..answers).map(|_| bystanders.answer()));
            times.lines.extend(bystanders.lines(answers / 4));
            times.commands.extend((0..answers / 10).map(|_| bystanders.command()));
            times.pods.extend((0..answers / 20).map(|_| bystanders.whole_pod()));
            if let (Some(namespace), Some(names)) = (namespace, names) {
                let gone =
                    kubectl.run(&format!("delete pod -n {namespace} --force --grace-period=0 {}", names.join(" ")));
                gone.expect("no spinners");
            }
        }
    }
    println!("{SPINNERS} spinners per core, {cores} cores:");
    for ((place, _), times) in places.iter().zip(all) {
        println!("  {place}:");
        for (what, times) in [
            ("HTTP answer", times.answers),
            ("line of a log: late by", times.lines),
            ("command, with its client", times.commands),
            ("pod from apply to its log", times.pods),
        ] {
            println!("    {what:<26} {}", quantiles(times));
        }
    }
    bystanders.assert_probes_were_answered();
    println!("  no probe failed (one second of patience)");
}

/// Starts spinners without requests; gives their names.
fn spin(kubectl: &Kubectl, namespace: &str, count: usize) -> Vec<String> {
    let names = (0..count).map(|number| format!("spinner-{number}")).collect::<Vec<_>>();
    let spinners = names.iter().map(|name| spinner(name, None)).collect::<Vec<_>>();
    pods::apply(kubectl, namespace, &spinners);
    for name in &names {
        running(kubectl, &format!("{name} -n {namespace}"));
    }
    names
}

fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |hundredths: usize| times[(times.len() * hundredths / 100).min(times.len() - 1)];
    format!("p50 {:>9.1?}   p99 {:>9.1?}   max {:>9.1?}   of {}", at(50), at(99), at(100), times.len())
}
