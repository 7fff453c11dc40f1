//! What becomes of a node that falls silent or says that it is not ready, and of its pods. Each step is a controller of its
//! own, with a pure plan:
//!
//! ```text
//! silence ──▶ Ready is Unknown ─┬─▶ condition_taints: NoSchedule, so that nothing new comes
//!                               ├─▶ pod_marking: its pods are not ready, so that nothing is sent to them
//!                               └─▶ removal_taints: NoExecute, at the pace that its zone's state allows (zones)
//!                                        └─▶ crate::taint_eviction: pods go when their tolerations end
//! ```
//!
//! What changes about a node is told to people by `news`.
//!
//! Nothing here removes a pod, or says that a node is ready: that is the node's to say.

pub mod condition_taints;
pub mod news;
pub mod pod_marking;
pub mod removal_taints;
pub mod silence;
pub mod zones;

use crate::Context;
use serde_json::Value;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How patient the cluster is with its nodes. Defaults are kube-controller-manager's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long a node that has said whether it is ready may be silent; one whose own lease lasts longer may be for that long.
    pub grace: Duration,
    /// How long one may be that never has.
    pub startup_grace: Duration,
    /// In a zone as it should be, the pods of one more node begin to go after each of these times; `None`: never.
    pub eviction_interval: Option<Duration>,
    /// The same where much of a large zone is not ready.
    pub secondary_eviction_interval: Option<Duration>,
    /// A zone with more nodes than this is large; where much of a smaller one is not ready, nothing is removed.
    pub large_zone_nodes: usize,
    /// Much: this many percent of the nodes of a zone, and more than two.
    pub unhealthy_percent: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(40),
            startup_grace: Duration::from_mins(1),
            eviction_interval: Some(Duration::from_secs(10)),
            secondary_eviction_interval: Some(Duration::from_secs(100)),
            large_zone_nodes: 50,
            unhealthy_percent: 55,
        }
    }
}

/// A condition of a node.
pub(crate) fn condition<'a>(node: &'a Value, kind: &str) -> Option<&'a Value> {
    node["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// The condition `Ready` of a node, or of a pod.
pub(crate) fn ready(object: &Value) -> Option<&Value> {
    condition(object, "Ready")
}

/// What `Ready` says; "" when it is not there.
pub(crate) fn readiness(object: &Value) -> &str {
    ready(object).and_then(|ready| ready["status"].as_str()).unwrap_or_default()
}

/// Starts all of them.
pub fn start(context: &Context, settings: &Settings) -> [JoinHandle<()>; 5] {
    [
        silence::start(context, settings),
        condition_taints::start(context),
        pod_marking::start(context),
        removal_taints::start(context, settings),
        news::start(context),
    ]
}
