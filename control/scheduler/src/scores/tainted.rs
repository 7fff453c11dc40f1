//! Nodes with fewer `PreferNoSchedule` taints that the pod does not bear are better.

use super::SCORE_MAX;
use crate::{node::Offer, pod::PendingPod};
use coracle_objects::taints::{self, Effect};

/// How many of them the node has.
pub(super) fn unborne(offer: &Offer, pod: &PendingPod) -> i64 {
    let soft = offer.taints.iter().filter(|taint| taint.effect == Effect::PreferNoSchedule);
    let count = soft.filter(|taint| !taints::is_tolerated(taint, &pod.tolerations)).count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn score(unborne: i64, most: i64) -> i64 {
    if most <= 0 { SCORE_MAX } else { SCORE_MAX * (most - unborne) / most }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fewer_taints_are_better() {
        for (unborne, most, expected) in [(0, 0, 100), (0, 2, 100), (1, 2, 50), (2, 2, 0)] {
            assert_eq!(score(unborne, most), expected, "{unborne} of {most}");
        }
    }

    #[test]
    fn only_soft_taints_that_are_not_tolerated_count() {
        let taint = |key: &str, effect: &str| json!({"key": key, "effect": effect});
        let node = json!({
            "spec": {"taints": [taint("a", "PreferNoSchedule"), taint("b", "PreferNoSchedule"), taint("c", "NoSchedule")]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        let pod = json!({"spec": {"tolerations": [{"key": "a", "operator": "Exists", "effect": "PreferNoSchedule"}]}});
        assert_eq!(unborne(&Offer::of_node(&node), &PendingPod::of_pod(&pod)), 1);
    }
}
