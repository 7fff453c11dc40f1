//! The pure core: nodes with what is on them, and a pod, give a decision. The same calls give the same decisions.

use crate::{
    filters::{self, Tally},
    node::{Node, Offer},
    pod::{PendingPod, Usage},
    scores,
};
use coracle_objects::ObjectKey;
use serde_json::Value;
use std::{collections::HashMap, sync::Arc};

/// Up to this many nodes, all are looked at.
const ALWAYS_EXAMINED: usize = 100;

/// What kube-scheduler says when there is no node at all.
pub const NO_NODES: &str = "no nodes available to schedule pods";

/// Where a pod goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// To this node.
    Place(Arc<str>),
    /// Nowhere, for these reasons.
    Unschedulable(String),
}

/// A pod on a node.
#[derive(Debug, Clone)]
pub struct Placed {
    /// Which pod, should its name be used again.
    pub uid: String,
    /// The node.
    pub node: Arc<str>,
    usage: Arc<Usage>,
}

/// All nodes with what is on them, kept up to date by single changes.
#[derive(Debug, Default)]
pub struct Cluster {
    /// Ordered by name, as listings are: a cluster is taken over by appending.
    nodes: Vec<Node>,
    /// How many of them have an offer.
    offering: usize,
    placed: HashMap<ObjectKey, Placed>,
    /// Where the next search begins, so that no node is preferred when only some are examined.
    next_start: usize,
}

/// How many feasible nodes are enough: all of a small cluster, a shrinking share of a large one, as in kube-scheduler.
fn enough(nodes: usize) -> usize {
    if nodes <= ALWAYS_EXAMINED {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(ALWAYS_EXAMINED)
}

impl Cluster {
    fn position(&self, name: &str) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| (*node.name).cmp(name))
    }

    fn node_mut(&mut self, name: &str) -> &mut Node {
        let position = match self.position(name) {
            Ok(position) => position,
            Err(position) => {
                self.nodes.insert(position, Node::new(name));
                position
            }
        };
        &mut self.nodes[position]
    }

    fn forget_if_empty(&mut self, name: &str) {
        if let Ok(position) = self.position(name)
            && self.nodes[position].is_forgettable()
        {
            self.nodes.remove(position);
        }
    }

    /// How many nodes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offering
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offering == 0
    }

    /// Adds or changes a node; whether anything changed that matters for placing pods.
    pub fn set_node(&mut self, name: &str, node: &Value) -> bool {
        let offer = Offer::of_node(node);
        let known = self.node_mut(name);
        let changed = known.offer.as_ref() != Some(&offer);
        let is_new = known.offer.replace(offer).is_none();
        self.offering += usize::from(is_new);
        changed
    }

    /// Removes a node. Pods on it stay counted, should it come back.
    pub fn remove_node(&mut self, name: &str) {
        if let Ok(position) = self.position(name) {
            let removed = self.nodes[position].offer.take();
            self.offering -= usize::from(removed.is_some());
            self.forget_if_empty(name);
        }
    }

    /// Names of all nodes.
    pub fn node_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.nodes.iter().filter(|node| node.offer.is_some()).map(|node| &node.name)
    }

    /// Where a pod is.
    #[must_use]
    pub fn placed(&self, pod: &ObjectKey) -> Option<&Placed> {
        self.placed.get(pod)
    }

    /// Keys of all pods that are somewhere.
    pub fn placed_keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.placed.keys()
    }

    /// Puts a pod on a node, from wherever it was.
    pub fn place(&mut self, pod: &ObjectKey, uid: &str, node: &str, usage: &Arc<Usage>) {
        self.displace(pod);
        let on = self.node_mut(node);
        on.add(usage);
        let placed = Placed { uid: uid.to_owned(), node: Arc::clone(&on.name), usage: Arc::clone(usage) };
        self.placed.insert(pod.clone(), placed);
    }

    /// Takes a pod off its node; whether it was on one.
    pub fn displace(&mut self, pod: &ObjectKey) -> bool {
        let Some(placed) = self.placed.remove(pod) else { return false };
        self.node_mut(&placed.node).subtract(&placed.usage);
        self.forget_if_empty(&placed.node);
        true
    }

    /// Decides for each pod in turn, and places it so that the next one sees it.
    pub fn decide_all<'a>(&mut self, pods: impl IntoIterator<Item = &'a PendingPod>) -> Vec<Decision> {
        let decide = |pod: &PendingPod| {
            let decision = self.decide(pod);
            if let Decision::Place(node) = &decision {
                self.place(&pod.key, &pod.uid, node, &pod.usage);
            }
            decision
        };
        pods.into_iter().map(decide).collect()
    }

    /// Where a pod should go; nothing is placed.
    pub fn decide(&mut self, pod: &PendingPod) -> Decision {
        if self.is_empty() {
            return Decision::Unschedulable(NO_NODES.to_owned());
        }
        let (mut tally, nodes) = (Tally::default(), self.offering);
        match best(&self.feasible(pod, &mut tally), pod) {
            Some(node) => Decision::Place(Arc::clone(&node.name)),
            None => Decision::Unschedulable(tally.message(nodes)),
        }
    }

    /// Nodes on which the pod may run: enough of them, in the order of the search.
    fn feasible(&mut self, pod: &PendingPod, tally: &mut Tally) -> Vec<(&Node, &Offer)> {
        let (wanted, start) = (enough(self.offering), self.next_start % self.nodes.len());
        let mut found = Vec::with_capacity(wanted);
        let (before, after) = self.nodes.split_at(start);
        let mut examined = 0;
        for node in after.iter().chain(before) {
            examined += 1;
            let Some(offer) = &node.offer else { continue };
            if filters::pass(node, offer, pod, tally) {
                found.push((node, offer));
                if found.len() >= wanted {
                    break;
                }
            }
        }
        self.next_start = (start + examined) % self.nodes.len();
        found
    }
}

/// The node with the highest score; of equal ones the first.
fn best<'a>(feasible: &[(&'a Node, &Offer)], pod: &PendingPod) -> Option<&'a Node> {
    if let [(only, _)] = feasible {
        return Some(only);
    }
    let most = scores::Most::of(feasible.iter().copied(), pod);
    let mut best: Option<(i64, &Node)> = None;
    for (node, offer) in feasible {
        let score = scores::total(node, offer, pod, most);
        if best.is_none_or(|(highest, _)| score > highest) {
            best = Some((score, node));
        }
    }
    best.map(|(_, node)| node)
}

#[cfg(test)]
mod tests;
