//! Nodes whose CPU and memory would be used to the same degree are better: nothing gets stranded.

use super::SCORE_MAX;
use crate::{
    node::{Node, Offer},
    pod::Usage,
};

pub(super) fn score(node: &Node, offer: &Offer, usage: &Usage) -> i64 {
    let cpu = share(offer.allocatable.cpu_milli, node.requested.cpu_milli + usage.requests.cpu_milli);
    let memory = share(offer.allocatable.memory, node.requested.memory + usage.requests.memory);
    // The standard deviation of two values is half of their difference.
    SCORE_MAX - (cpu - memory).abs() * SCORE_MAX / (2 * PARTS)
}

/// A whole, in the parts that [`share`] counts.
const PARTS: i64 = 1_000_000;

/// Millionths of `capacity` that are taken, at most all.
fn share(capacity: i64, taken: i64) -> i64 {
    if capacity <= 0 || taken >= capacity {
        return PARTS;
    }
    let parts = i128::from(taken) * i128::from(PARTS) / i128::from(capacity);
    i64::try_from(parts).unwrap_or(PARTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_objects::resources::Resources;

    #[test]
    fn equal_shares_are_best() {
        let table = [((500, 500), 100), ((1000, 0), 50), ((0, 1000), 50), ((750, 250), 75), ((2000, 2000), 100)];
        for ((cpu_milli, memory), expected) in table {
            let mut node = Node::new("n");
            node.requested = Resources { cpu_milli, memory, ..Resources::default() };
            let allocatable = Resources { cpu_milli: 1000, memory: 1000, ..Resources::default() };
            let offer = Offer { allocatable, ..Offer::default() };
            let usage = Usage::of_pod(&serde_json::Value::Null);
            assert_eq!(score(&node, &offer, &usage), expected, "{cpu_milli}m {memory}");
        }
    }
}
