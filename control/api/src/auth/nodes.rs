//! What a node may touch: its own Node and lease, and its pods. What else it has to know it is told by the node link, which
//! picks it; nothing of that can be asked for.

use super::roles::{NODE_RULES, allow};
use crate::identity::Attributes;
use serde_json::Value;

/// Where node leases live.
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Whether the agent of `node` may do this.
pub(super) fn may(node: &str, attributes: &Attributes<'_>) -> bool {
    if allow(NODE_RULES, attributes) {
        return true;
    }
    let Attributes { verb, group, resource, subresource, namespace, name, .. } = *attributes;
    let is_own = name == node;
    match (group, resource, subresource) {
        ("", "nodes", "") => matches!(verb, "get" | "create" | "update" | "patch") && is_own,
        ("", "nodes", "status") => matches!(verb, "get" | "update" | "patch") && is_own,
        ("coordination.k8s.io", "leases", "") => {
            namespace == LEASE_NAMESPACE && is_own && matches!(verb, "get" | "create" | "update" | "patch" | "delete")
        }
        ("", "pods", "") => match verb {
            "get" | "delete" => attributes.object.is_none_or(|pod| runs_on(pod, node)),
            // Mirrors of its own static pods and nothing else: admission sees to that.
            "create" => true,
            _ => false,
        },
        ("", "pods", "status") => {
            matches!(verb, "get" | "update" | "patch") && attributes.object.is_none_or(|pod| runs_on(pod, node))
        }
        _ => false,
    }
}

fn runs_on(pod: &Value, node: &str) -> bool {
    pod["spec"]["nodeName"] == node
}
