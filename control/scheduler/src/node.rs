//! The scheduler's form of a node: what it offers and what is taken.

use crate::pod::{Group, HostPort, Usage};
use coracle_objects::{
    node_affinity::Labels,
    quantity::Quantity,
    resources::Resources,
    taints::{self, Taint},
};
use serde_json::Value;
use std::sync::Arc;

/// What a node says of itself, as far as placing pods is concerned. Heartbeats do not change it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// `status.allocatable`.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub pods_max: i64,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Taints, those of its conditions included.
    pub taints: Vec<Arc<Taint>>,
    /// `spec.unschedulable`: cordoned.
    pub is_unschedulable: bool,
}

impl Offer {
    /// Reads a node.
    #[must_use]
    pub fn of_node(node: &Value) -> Self {
        let status = &node["status"];
        let list = if status["allocatable"].is_object() { &status["allocatable"] } else { &status["capacity"] };
        Self {
            allocatable: Resources::from_list(list),
            pods_max: Quantity::from_value(&list["pods"]).unwrap_or(Quantity::ZERO).ceil(),
            labels: Labels::from_map(&node["metadata"]["labels"]),
            taints: taints::of_node(node),
            is_unschedulable: node["spec"]["unschedulable"].as_bool().unwrap_or(false),
        }
    }
}

/// A node with what is placed on it.
#[derive(Debug)]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `None`: pods are bound to it, but there is no such node (yet, or any more).
    pub offer: Option<Offer>,
    /// Sum of the requests.
    pub requested: Resources,
    /// Sum of the CPU by which nodes are compared, in millicores.
    pub assumed_cpu_milli: i64,
    /// Sum of the memory by which nodes are compared, in bytes.
    pub assumed_memory: i64,
    /// How many pods.
    pub pods: i64,
    /// Ports taken.
    pub host_ports: Vec<HostPort>,
    /// How many pods of each group, ordered by group.
    groups: Vec<(Group, u32)>,
}

impl Node {
    /// A node with nothing on it.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            offer: None,
            requested: Resources::default(),
            assumed_cpu_milli: 0,
            assumed_memory: 0,
            pods: 0,
            host_ports: Vec::new(),
            groups: Vec::new(),
        }
    }

    /// Puts a pod on it.
    pub fn add(&mut self, usage: &Usage) {
        self.requested.add(&usage.requests);
        self.assumed_cpu_milli += usage.assumed_cpu_milli;
        self.assumed_memory += usage.assumed_memory;
        self.pods += 1;
        self.host_ports.extend_from_slice(&usage.host_ports);
        if let Some(group) = usage.group {
            match self.groups.binary_search_by_key(&group, |entry| entry.0) {
                Ok(place) => self.groups[place].1 += 1,
                Err(place) => self.groups.insert(place, (group, 1)),
            }
        }
    }

    /// Takes a pod off it that was put on it before.
    pub fn subtract(&mut self, usage: &Usage) {
        self.requested.subtract(&usage.requests);
        self.assumed_cpu_milli -= usage.assumed_cpu_milli;
        self.assumed_memory -= usage.assumed_memory;
        self.pods -= 1;
        for port in &usage.host_ports {
            if let Some(place) = self.host_ports.iter().position(|other| other == port) {
                self.host_ports.swap_remove(place);
            }
        }
        let place = usage.group.and_then(|group| self.groups.binary_search_by_key(&group, |entry| entry.0).ok());
        if let Some(place) = place {
            self.groups[place].1 -= 1;
            if self.groups[place].1 == 0 {
                self.groups.remove(place);
            }
        }
    }

    /// How many pods of a group are on it.
    #[must_use]
    pub fn of_group(&self, group: Group) -> u32 {
        self.groups.binary_search_by_key(&group, |entry| entry.0).map_or(0, |place| self.groups[place].1)
    }

    /// Whether nothing is left that would have to be remembered.
    #[must_use]
    pub fn is_forgettable(&self) -> bool {
        self.offer.is_none() && self.pods == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_added_can_be_taken_away() {
        let pod = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{
            "resources": {"requests": {"cpu": "1", "example.com/gpu": 1}}, "ports": [{"hostPort": 80}],
        }]}});
        let (usage, mut node) = (Usage::of_pod(&pod), Node::new("n"));
        node.add(&usage);
        node.add(&usage);
        assert_eq!((node.pods, node.requested.cpu_milli, node.host_ports.len()), (2, 2000, 2));
        assert_eq!(usage.group.map(|group| node.of_group(group)), Some(2));
        assert!(!node.is_forgettable());
        node.subtract(&usage);
        node.subtract(&usage);
        assert_eq!((node.requested.cpu_milli, node.requested.extended("example.com/gpu")), (0, 0));
        assert_eq!(
            (node.assumed_cpu_milli, node.assumed_memory, node.host_ports.len(), node.groups.len()),
            (0, 0, 0, 0)
        );
        assert!(node.is_forgettable());
    }

    #[test]
    fn a_heartbeat_does_not_change_what_is_offered() {
        let node = |beat: &str| {
            json!({
                "metadata": {"resourceVersion": beat},
                "status": {
                    "allocatable": {"cpu": "2", "pods": "110"},
                    "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": beat}],
                },
            })
        };
        assert_eq!(Offer::of_node(&node("1")), Offer::of_node(&node("2")));
        assert_eq!(Offer::of_node(&node("1")).pods_max, 110);
    }
}
