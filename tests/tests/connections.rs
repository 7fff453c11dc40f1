//! A thousand connections while containers are killed: what `make soak` does for long.

use coracle_tests::{connections, network::cluster, random::Random};

#[test]
fn a_thousand_connections_leave_nothing() {
    let (cluster, kubectl) = cluster();
    connections::prepare(&kubectl);
    connections::round(&cluster, &mut Random::seeded(), 1000, 3);
}
