//! Nodes with fewer replicas of the same thing are better: one node's end should not take them all.

use super::SCORE_MAX;

pub(super) fn score(replicas: u32, replicas_max: u32) -> i64 {
    if replicas_max == 0 {
        return SCORE_MAX;
    }
    SCORE_MAX * i64::from(replicas_max.saturating_sub(replicas)) / i64::from(replicas_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_replicas_are_better() {
        for (replicas, most, expected) in [(0, 0, 100), (0, 4, 100), (1, 4, 75), (4, 4, 0)] {
            assert_eq!(score(replicas, most), expected, "{replicas} of {most}");
        }
    }
}
