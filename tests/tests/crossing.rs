//! Connections and datagrams between nodes while nodes and the server are killed and frozen, and while the server is away:
//! what `make soak` does for long.

use coracle_tests::{
    crossing::{self, Away},
    random::Random,
};
use std::time::Duration;

/// One of each kind.
const STRIKES: usize = 6;
/// The server is away for so long: nodes find it out.
const AWAY: Duration = Duration::from_secs(3);

#[test]
fn what_passes_between_nodes_is_whole_or_fails_and_leaves_nothing() {
    let (mut fleet, mut random) = (crossing::fleet(), Random::seeded());
    crossing::round(&mut fleet, &mut random, STRIKES);
    for how in [Away::Silent, Away::Dead] {
        crossing::away(&mut fleet, &mut random, how, AWAY);
    }
}
