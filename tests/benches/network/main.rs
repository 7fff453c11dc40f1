//! What the pod network costs, beside kernel loopback TCP and `wasmtime serve` in the same run.
//!
//! `make bench` runs it against the release binary. Figures are printed, never asserted. Whatever is compared takes turns,
//! and medians of all turns are printed. `CORACLE_BENCH_SHORT=1` makes everything small, to see that it works.

#[path = "../../guests/load/src/client.rs"]
mod client;
mod http;
mod memory;
mod paths;
#[path = "../../guests/load/src/servers.rs"]
mod servers;

use coracle_tests::Cluster;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::{env, time::Duration};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Amount {
    /// How often everything has its turn.
    turns: u32,
    round_trips: u32,
    mib: u32,
    connects: u32,
    http: Duration,
    /// Idle connections, of which the runner has both ends when both pods are in one namespace.
    held: u64,
}

const FULL: Amount =
    Amount { turns: 7, round_trips: 10_000, mib: 1024, connects: 5_000, http: Duration::from_secs(5), held: 2_000 };
const SHORT: Amount =
    Amount { turns: 3, round_trips: 1_000, mib: 64, connects: 300, http: Duration::from_secs(1), held: 1_000 };
/// Descriptors that are not for held connections.
const OTHER_DESCRIPTORS: u64 = 1_000;

fn main() {
    let mut amount = if env::var_os("CORACLE_BENCH_SHORT").is_some() { SHORT } else { FULL };
    // For the processes that are started here too. Three descriptors per connection: see the memory part.
    let (_, descriptors) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of descriptors");
    setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors).expect("as many descriptors as may be");
    amount.held = amount.held.min(descriptors.saturating_sub(OTHER_DESCRIPTORS) / 3);
    let binary = coracle_tests::site::binary().expect("the binary");
    println!("network, with {}, {} turns, medians:", binary.display(), amount.turns);

    let cluster = Cluster::start();
    let places = paths::Places::prepare(&cluster);
    paths::measure(&places, amount);
    http::measure(&cluster, amount);
    memory::measure(&cluster, &places, amount);
}

/// The middle one.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
