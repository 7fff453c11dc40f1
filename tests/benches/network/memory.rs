//! What an idle connection costs: proportional set size of runners and agent with many of them, less that with none.
//! Kernel buffers are not part of it. Each connection has said one byte, so both sides have it.

use crate::{
    Amount, client,
    paths::{HOLD, Places},
};
use coracle_tests::{Cluster, processes};

/// What is opened before, so that nothing is counted that is there once.
const WARM_UP: u64 = 100;

pub fn measure(cluster: &Cluster, places: &Places, amount: Amount) {
    println!("  memory per idle connection, KiB PSS (user space), over {} connections:", amount.held);
    let inside = format!("{}:{HOLD}", places.server);
    let mut held = Vec::new();
    let host = places.holder().to_string();
    row(cluster, amount.held, "one namespace, both ends in one runner", |count| {
        places.neighbour.order(&format!("open {inside} {count}"));
    });
    row(cluster, amount.held, "two namespaces, an end in each runner", |count| {
        places.far.order(&format!("open {inside} {count}"));
    });
    row(cluster, amount.held, "from the host through a node port", |count| {
        client::run(&format!("open {host} {count}"), &mut held).expect("connections");
    });
}

fn row(cluster: &Cluster, held: u64, name: &str, mut open: impl FnMut(u64)) {
    open(WARM_UP);
    let [agent, runners] = kib(cluster);
    open(held);
    let [agent_after, runners_after] = kib(cluster);
    let each = |before: f64, after: f64| (after - before) / f64::from(u32::try_from(held).unwrap_or(u32::MAX));
    println!("  {name:40} runners {:6.2}   agent {:6.2}", each(runners, runners_after), each(agent, agent_after));
}

/// Of the agent (one process with the control plane) and of all runners.
fn kib(cluster: &Cluster) -> [f64; 2] {
    let pss = |pid| processes::pss_kib(pid).and_then(|kib| u32::try_from(kib).ok()).map_or(0.0, f64::from);
    [pss(cluster.pid()), cluster.runners().into_iter().map(pss).sum()]
}
