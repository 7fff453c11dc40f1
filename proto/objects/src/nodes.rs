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

/// By how many seconds servers backdate certificates, since clocks of other machines may be behind.
pub const CERTIFICATES_BACKDATED_SECONDS: i64 = 600;

/// Random bytes at the end of the serial number of a node's certificate.
pub const SERIAL_RANDOM_BYTES: usize = 8;

/// The serial number of a certificate that is issued when the store is at `revision`.
#[must_use]
pub fn serial(revision: u64, random: [u8; SERIAL_RANDOM_BYTES]) -> [u8; 8 + SERIAL_RANDOM_BYTES] {
    let mut serial = [0; 8 + SERIAL_RANDOM_BYTES];
    serial[..8].copy_from_slice(&revision.to_be_bytes());
    serial[8..].copy_from_slice(&random);
    serial
}

/// The store's revision when the certificate with this serial number (bytes as in the certificate) was issued; 0 for
/// those that say nothing about it.
#[must_use]
pub fn issued_at(serial: &[u8]) -> u64 {
    let first = serial.iter().position(|byte| *byte != 0).unwrap_or(serial.len());
    let serial = &serial[first..];
    let Some(length) = serial.len().checked_sub(SERIAL_RANDOM_BYTES).filter(|length| *length <= 8) else { return 0 };
    serial[..length].iter().fold(0, |revision, byte| revision << 8 | u64::from(*byte))
}

/// Labels that every node gives itself, by its name and what its machine is.
pub const OWN_LABELS: [&str; 3] = ["kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch"];
/// Labels under Kubernetes' own domains that a node may give itself besides, as its operator says.
pub const CHOSEN_LABELS: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "node.kubernetes.io/instance-type"];

/// Whether a label is under one of Kubernetes' domains and not among those that a node may give itself.
#[must_use]
pub fn is_reserved_label(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    let is_under = |root: &str| domain.strip_suffix(root).is_some_and(|head| head.is_empty() || head.ends_with('.'));
    (is_under("kubernetes.io") || is_under("k8s.io")) && !OWN_LABELS.contains(&key) && !CHOSEN_LABELS.contains(&key)
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
    fn a_serial_begins_with_the_revision() {
        for revision in [0, 1, 255, 258, u64::MAX] {
            assert_eq!(issued_at(&serial(revision, [9; 8])), revision);
            assert_eq!(issued_at(&serial(revision, [0; 8])), revision);
        }
        assert_eq!((issued_at(&[1; 20]), issued_at(&[]), issued_at(&[5])), (0, 0, 0), "made by somebody else");
    }

    #[test]
    fn a_node_and_its_user_name_each_other() {
        assert_eq!(of_user(&user("one")), Some("one"));
        assert_eq!((of_user("system:node:"), of_user("system:admin")), (None, None));
    }
}
