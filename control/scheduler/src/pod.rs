//! The scheduler's form of a pod.

use crate::{SCHEDULER_NAME, resources::assumed};
use coracle_objects::{
    ObjectKey, meta,
    node_affinity::{Labels, NodePreferences, NodeRequirements},
    resources::{self, Resources},
    taints::{self, Toleration},
};
use serde_json::Value;
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// A port that a pod wants of the node itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    address: Box<str>,
    protocol: Box<str>,
    port: i64,
}

impl HostPort {
    /// Whether both cannot be on one node.
    #[must_use]
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let is_any = |address: &str| address.is_empty() || address == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || is_any(&self.address) || is_any(&other.address))
    }
}

/// Pods of one namespace with the same labels: replicas of something. A hash: two groups that share one would only be
/// spread together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group(u64);

/// What a pod takes of the node that it is on.
#[derive(Debug, PartialEq, Eq)]
pub struct Usage {
    /// What is reserved for it.
    pub requests: Resources,
    /// CPU in millicores by which nodes are compared.
    pub assumed_cpu_milli: i64,
    /// Memory in bytes by which nodes are compared.
    pub assumed_memory: i64,
    /// Ports of the node.
    pub host_ports: Vec<HostPort>,
    /// `None` for a pod without labels.
    pub group: Option<Group>,
}

impl Usage {
    /// Reads a pod.
    #[must_use]
    pub fn of_pod(pod: &Value) -> Self {
        let spec = &pod["spec"];
        let (assumed_cpu_milli, assumed_memory) = assumed(spec);
        Self {
            requests: resources::requested(spec),
            assumed_cpu_milli,
            assumed_memory,
            host_ports: host_ports(spec),
            group: group(pod),
        }
    }
}

fn host_ports(spec: &Value) -> Vec<HostPort> {
    let list = |field: &str| spec[field].as_array().map_or(&[][..], Vec::as_slice);
    let sidecars = list("initContainers").iter().filter(|container| container["restartPolicy"] == "Always");
    let containers = list("containers").iter().chain(sidecars);
    let ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let host_ports = ports.filter_map(|port| {
        let text = |field: &str| port[field].as_str().unwrap_or_default();
        let number = port["hostPort"].as_i64().filter(|number| *number > 0)?;
        let protocol = if text("protocol").is_empty() { "TCP" } else { text("protocol") };
        Some(HostPort { address: text("hostIP").into(), protocol: protocol.into(), port: number })
    });
    host_ports.collect()
}

fn group(pod: &Value) -> Option<Group> {
    let labels = Labels::from_map(&pod["metadata"]["labels"]);
    if labels.pairs().is_empty() {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    (meta::namespace(pod), labels.pairs()).hash(&mut hasher);
    Some(Group(hasher.finish()))
}

/// A pod that waits for a node.
#[derive(Debug, PartialEq, Eq)]
pub struct PendingPod {
    /// Where it is.
    pub key: ObjectKey,
    /// Which it is.
    pub uid: String,
    /// Higher ones come first.
    pub priority: i64,
    /// What it will take.
    pub usage: Arc<Usage>,
    /// Which nodes it wants.
    pub requirements: NodeRequirements,
    /// Which of those it would rather have.
    pub preferences: NodePreferences,
    /// Which taints it bears.
    pub tolerations: Vec<Toleration>,
}

impl PendingPod {
    /// Reads a pod.
    #[must_use]
    pub fn of_pod(pod: &Value) -> Self {
        let spec = &pod["spec"];
        Self {
            key: meta::key(pod),
            uid: meta::uid(pod).to_owned(),
            priority: spec["priority"].as_i64().unwrap_or(0),
            usage: Arc::new(Usage::of_pod(pod)),
            requirements: NodeRequirements::of_pod(spec),
            preferences: NodePreferences::of_pod(spec),
            tolerations: taints::of_pod(spec),
        }
    }
}

/// Where a pod stands with regard to the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing<'a> {
    /// On this node.
    Bound(&'a str),
    /// To be placed by us.
    Pending,
    /// Takes nothing and is not to be placed.
    Irrelevant,
}

/// Where a pod stands.
#[must_use]
pub fn standing(pod: &Value) -> Standing<'_> {
    let spec = &pod["spec"];
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return Standing::Irrelevant;
    }
    if let Some(node) = spec["nodeName"].as_str().filter(|name| !name.is_empty()) {
        return Standing::Bound(node);
    }
    let is_ours = spec["schedulerName"].as_str().is_none_or(|name| name.is_empty() || name == SCHEDULER_NAME);
    let is_gated = spec["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
    if is_ours && !is_gated && !meta::is_terminating(pod) { Standing::Pending } else { Standing::Irrelevant }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_unbound_living_pods_without_another_scheduler_wait() {
        let table = [
            (json!({}), Standing::Pending),
            (json!({"spec": {"schedulerName": "default-scheduler"}}), Standing::Pending),
            (json!({"spec": {"schedulerName": "mine"}}), Standing::Irrelevant),
            (json!({"spec": {"nodeName": "n1", "schedulerName": "mine"}}), Standing::Bound("n1")),
            (json!({"spec": {"nodeName": "n1"}, "metadata": {"deletionTimestamp": "x"}}), Standing::Bound("n1")),
            (json!({"metadata": {"deletionTimestamp": "x"}}), Standing::Irrelevant),
            (json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Succeeded"}}), Standing::Irrelevant),
            (json!({"spec": {"schedulingGates": [{"name": "g"}]}}), Standing::Irrelevant),
        ];
        for (pod, expected) in table {
            assert_eq!(standing(&pod), expected, "{pod}");
        }
    }

    #[test]
    fn host_ports_conflict_by_protocol_number_and_address() {
        let port =
            |address: &str, protocol: &str, port| HostPort { address: address.into(), protocol: protocol.into(), port };
        let table = [
            (port("", "TCP", 80), port("10.0.0.1", "TCP", 80), true),
            (port("0.0.0.0", "TCP", 80), port("", "TCP", 80), true),
            (port("10.0.0.2", "TCP", 80), port("10.0.0.1", "TCP", 80), false),
            (port("", "UDP", 80), port("", "TCP", 80), false),
            (port("", "TCP", 81), port("", "TCP", 80), false),
        ];
        for (one, other, expected) in table {
            assert_eq!(
                (one.conflicts_with(&other), other.conflicts_with(&one)),
                (expected, expected),
                "{one:?} {other:?}"
            );
        }
    }

    #[test]
    fn replicas_are_pods_of_one_namespace_with_the_same_labels() {
        let pod = |namespace: &str, labels: Value| {
            Usage::of_pod(&json!({"metadata": {"namespace": namespace, "labels": labels}})).group
        };
        let one = pod("a", json!({"app": "x", "tier": "y"}));
        assert_eq!(one, pod("a", json!({"tier": "y", "app": "x"})));
        assert_ne!(one, pod("b", json!({"app": "x", "tier": "y"})));
        assert_ne!(one, pod("a", json!({"app": "x"})));
        assert_eq!(pod("a", json!({})), None);
    }
}
