//! Nodes with more left are better.

use super::SCORE_MAX;
use crate::{
    node::{Node, Offer},
    pod::Usage,
};

pub(super) fn score(node: &Node, offer: &Offer, usage: &Usage) -> i64 {
    let cpu = left(offer.allocatable.cpu_milli, node.assumed_cpu_milli + usage.assumed_cpu_milli);
    let memory = left(offer.allocatable.memory, node.assumed_memory + usage.assumed_memory);
    i64::midpoint(cpu, memory)
}

/// Hundredths of `capacity` that are left.
fn left(capacity: i64, taken: i64) -> i64 {
    if capacity <= 0 || taken >= capacity {
        return 0;
    }
    let hundredths = i128::from(capacity - taken) * i128::from(SCORE_MAX) / i128::from(capacity);
    i64::try_from(hundredths).unwrap_or(SCORE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_left() {
        for (capacity, taken, expected) in
            [(100, 0, 100), (100, 25, 75), (3, 1, 66), (100, 100, 0), (100, 101, 0), (0, 0, 0), (i64::MAX, 1, 99)]
        {
            assert_eq!(left(capacity, taken), expected, "{taken} of {capacity}");
        }
    }
}
