//! Where a pod would run best: each score is one file and gives 0 to 100; the weighted sum decides.

mod balanced;
mod least_allocated;
mod node_affinity;
mod spread;
mod tainted;

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
const WEIGHT_NODE_AFFINITY: i64 = 2;
const WEIGHT_TAINTED: i64 = 3;

/// The most that any of the feasible nodes has of something: what [`total`] compares with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Most {
    replicas: u32,
    preference: i64,
    taints: i64,
}

impl Most {
    /// Of these nodes, for this pod.
    pub fn of<'a>(nodes: impl Iterator<Item = (&'a Node, &'a Offer)>, pod: &PendingPod) -> Self {
        nodes.fold(Self::default(), |most, (node, offer)| Self {
            replicas: most.replicas.max(replicas(node, pod)),
            preference: most.preference.max(pod.preferences.weight(&node.name, &offer.labels)),
            taints: most.taints.max(tainted::unborne(offer, pod)),
        })
    }
}

fn replicas(node: &Node, pod: &PendingPod) -> u32 {
    pod.usage.group.map_or(0, |group| node.of_group(group))
}

/// How good the node is for the pod.
#[must_use]
pub fn total(node: &Node, offer: &Offer, pod: &PendingPod, most: Most) -> i64 {
    let preference = pod.preferences.weight(&node.name, &offer.labels);
    WEIGHT_LEAST_ALLOCATED * least_allocated::score(node, offer, &pod.usage)
        + WEIGHT_BALANCED * balanced::score(node, offer, &pod.usage)
        + WEIGHT_SPREAD * spread::score(replicas(node, pod), most.replicas)
        + WEIGHT_NODE_AFFINITY * node_affinity::score(preference, most.preference)
        + WEIGHT_TAINTED * tainted::score(tainted::unborne(offer, pod), most.taints)
}
