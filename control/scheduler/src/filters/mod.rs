//! Where a pod may run. Each filter is one file; the first that refuses a node counts for it, in kube-scheduler's order.
//!
//! There is no filter for `spec.nodeName`: a pod that has it never waits for a node.

mod host_ports;
mod node_affinity;
mod resources_fit;
mod tainted;
mod unschedulable;

use crate::{
    node::{Node, Offer},
    pod::PendingPod,
};
use coracle_objects::taints::Taint;
use std::{fmt, sync::Arc};

/// Why a node will not do, in kube-scheduler's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The node is cordoned.
    Unschedulable,
    /// The pod does not bear this taint.
    Taint(Arc<Taint>),
    /// `nodeSelector` or `nodeAffinity`.
    Affinity,
    /// A host port is taken.
    HostPorts,
    /// The node takes no more pods.
    TooManyPods,
    /// Too little of this resource is left.
    Insufficient(Box<str>),
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable => formatter.write_str("node(s) were unschedulable"),
            Self::Taint(taint) => write!(formatter, "node(s) had untolerated taint {taint}"),
            Self::Affinity => formatter.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::HostPorts => formatter.write_str("node(s) didn't have free ports for the requested pod ports"),
            Self::TooManyPods => formatter.write_str("Too many pods"),
            Self::Insufficient(resource) => write!(formatter, "Insufficient {resource}"),
        }
    }
}

/// How many nodes were refused for which reason.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Vec<(Refusal, usize)>,
}

impl Tally {
    /// Counts one more.
    pub fn add(&mut self, refusal: Refusal) {
        match self.counts.iter_mut().find(|(known, _)| *known == refusal) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((refusal, 1)),
        }
    }

    /// `0/3 nodes are available: 1 Insufficient cpu, 2 Too many pods.`; the parts are ordered as texts, numbers included.
    #[must_use]
    pub fn message(&self, nodes: usize) -> String {
        let mut parts: Vec<String> = self.counts.iter().map(|(refusal, count)| format!("{count} {refusal}")).collect();
        parts.sort();
        format!("0/{nodes} nodes are available: {}.", parts.join(", "))
    }
}

/// Whether the node passes; otherwise the reasons are counted.
type Filter = fn(&Node, &Offer, &PendingPod, &mut Tally) -> bool;

const FILTERS: [Filter; 5] =
    [unschedulable::passes, tainted::passes, node_affinity::passes, host_ports::passes, resources_fit::passes];

/// Whether the pod may run on the node; otherwise the reasons are counted.
pub fn pass(node: &Node, offer: &Offer, pod: &PendingPod, tally: &mut Tally) -> bool {
    FILTERS.iter().all(|passes| passes(node, offer, pod, tally))
}
