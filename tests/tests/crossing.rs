//! Connections between nodes while nodes are killed and frozen: what `make soak` does for long.

use coracle_tests::{crossing, random::Random};

/// One of each kind.
const STRIKES: usize = 3;

#[test]
fn connections_between_nodes_are_whole_or_fail_and_leave_nothing() {
    let mut fleet = crossing::fleet();
    crossing::round(&mut fleet, &mut Random::seeded(), STRIKES);
}
