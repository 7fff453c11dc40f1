//! What a node may touch: its own Node and lease, its pods, and what these refer to.

use super::{
    pods::{names_config_map, names_secret},
    roles::{NODE_RULES, allow},
};
use crate::identity::Attributes;
use coracle_objects::meta;
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
        ("", "nodes", "") => match verb {
            // Their addresses and ranges are what a node finds its peers by.
            "list" | "watch" => true,
            "get" | "create" | "update" | "patch" => is_own,
            _ => false,
        },
        ("", "nodes", "status") => matches!(verb, "get" | "update" | "patch") && is_own,
        ("coordination.k8s.io", "leases", "") => {
            namespace == LEASE_NAMESPACE && is_own && matches!(verb, "get" | "create" | "update" | "patch" | "delete")
        }
        ("", "pods", "") => match verb {
            "list" | "watch" => requires(attributes.field_selector, "spec.nodeName", node),
            "get" | "delete" => attributes.object.is_none_or(|pod| runs_on(pod, node)),
            // Mirrors of its own static pods and nothing else: admission sees to that.
            "create" => true,
            _ => false,
        },
        ("", "pods", "status") => {
            matches!(verb, "get" | "update" | "patch") && attributes.object.is_none_or(|pod| runs_on(pod, node))
        }
        ("", "secrets", "") => verb == "get" && is_referred_to(node, attributes, names_secret),
        ("", "configmaps", "") => verb == "get" && is_referred_to(node, attributes, names_config_map),
        _ => false,
    }
}

fn runs_on(pod: &Value, node: &str) -> bool {
    pod["spec"]["nodeName"] == node
}

fn is_referred_to(node: &str, attributes: &Attributes<'_>, names: fn(&Value, &str) -> bool) -> bool {
    let Attributes { namespace, name, .. } = *attributes;
    let Some(pods) = attributes.pods.filter(|_| !name.is_empty()) else { return false };
    pods.any_pod(namespace, &[node, name], &|pod| {
        runs_on(pod, node) && meta::namespace(pod) == namespace && names(pod, name)
    })
}

/// Whether every object that `selector` lets through has `field` equal to `value`.
fn requires(selector: &str, field: &str, value: &str) -> bool {
    selector.split(',').any(|term| {
        let Some((left, right)) = term.split_once('=') else { return false };
        // `a!=b` splits into `a!` and `b`, which is no field's name.
        left.trim() == field && right.strip_prefix('=').unwrap_or(right).trim() == value
    })
}
