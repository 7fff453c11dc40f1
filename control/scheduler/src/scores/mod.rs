//! Where a pod would run best: each score is one file and gives 0 to 100; the weighted sum decides.

mod balanced;
mod least_allocated;
mod spread;

use crate::{
    node::{Node, Offer},
    pod::PendingPod,
};

/// The best a node can get from one score.
pub const SCORE_MAX: i64 = 100;

/// Weights as in kube-scheduler's default profile.
const WEIGHT_LEAST_ALLOCATED: i64 = 1;
const WEIGHT_BALANCED: i64 = 1;
const WEIGHT_SPREAD: i64 = 2;

/// Most replicas of the pod that any of the feasible nodes has: what [`total`] compares with.
pub fn replicas_max<'a>(nodes: impl Iterator<Item = &'a Node>, pod: &PendingPod) -> u32 {
    pod.usage.group.map_or(0, |group| nodes.map(|node| node.of_group(group)).max().unwrap_or(0))
}

/// How good the node is for the pod.
#[must_use]
pub fn total(node: &Node, offer: &Offer, pod: &PendingPod, replicas_max: u32) -> i64 {
    let replicas = pod.usage.group.map_or(0, |group| node.of_group(group));
    WEIGHT_LEAST_ALLOCATED * least_allocated::score(node, offer, &pod.usage)
        + WEIGHT_BALANCED * balanced::score(node, offer, &pod.usage)
        + WEIGHT_SPREAD * spread::score(replicas, replicas_max)
}
