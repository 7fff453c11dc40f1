//! Nodes that the pod would rather have (preferred `nodeAffinity`) are better, by the weights of what they match.

use super::SCORE_MAX;

/// `weight` of `most`; nothing where no node has any.
pub(super) fn score(weight: i64, most: i64) -> i64 {
    if most <= 0 { 0 } else { SCORE_MAX * weight.max(0) / most }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_weight_is_better() {
        for (weight, most, expected) in [(0, 0, 0), (0, 10, 0), (5, 10, 50), (10, 10, 100)] {
            assert_eq!(score(weight, most), expected, "{weight} of {most}");
        }
    }
}
