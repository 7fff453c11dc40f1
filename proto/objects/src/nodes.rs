//! What servers and nodes agree on about Node objects: constants, and how a node's user is named. Nothing here decides.

use serde_json::Value;

/// What begins the user name of a node's credentials; the node's name follows.
pub const USER_PREFIX: &str = "system:node:";
/// The group of all nodes' credentials.
pub const GROUP: &str = "system:nodes";

/// Annotation by which a node says where other nodes reach its end of the tunnel: `IP:PORT`, several separated by commas,
/// the one to try first in front. The node writes it.
pub const TUNNEL_ANNOTATION: &str = "coracle.dev/tunnel";
/// Annotation by which servers say that certificates of this node's name count only when they were issued at this store
/// revision or later, in decimal. Only servers write it; without it there was no earlier node of the name.
pub const CREDENTIALS_SINCE_ANNOTATION: &str = "coracle.dev/credentials-since";

/// Taint of a node that says that it is not ready.
pub const TAINT_NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of a node that nothing is heard of.
pub const TAINT_UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Taint of a node that was cordoned.
pub const TAINT_UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Taint by which an operator says that an unreachable machine is off: its pods may go at once.
pub const TAINT_OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Reason by which servers say in a pod's `Ready` that its node is not ready; what the node itself knows better it says again.
pub const POD_MARK_REASON: &str = "NodeNotReady";

/// Whether servers have marked a pod as being on a node that is not ready.
#[must_use]
pub fn is_pod_marked(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|one| one["type"] == "Ready" && one["reason"] == POD_MARK_REASON)
}

/// The user of the node called `node`.
#[must_use]
pub fn user(node: &str) -> String {
    format!("{USER_PREFIX}{node}")
}

/// The node whose user `user` is.
#[must_use]
pub fn of_user(user: &str) -> Option<&str> {
    user.strip_prefix(USER_PREFIX).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_and_its_user_name_each_other() {
        assert_eq!(of_user(&user("one")), Some("one"));
        assert_eq!((of_user("system:node:"), of_user("system:admin")), (None, None));
    }
}
