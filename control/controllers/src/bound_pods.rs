//! Pods and the nodes that they are bound to: which one it is, whether it is there, and what a pod says of itself when it
//! goes because of it. Decides nothing.

use crate::Context;
use coracle_client::clock;
use coracle_objects::{ApiError, ObjectKey, Reason, catalogue};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// The name of the node that a pod is bound to.
pub(crate) fn node_of(pod: &Value) -> Option<&str> {
    pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())
}

/// Whether there is a node of this name in the store: the caches may lag, and nothing is taken from a node that is there.
///
/// # Errors
/// When the store cannot be asked.
pub(crate) async fn node_is_there(context: &Context, name: &str) -> Result<bool, ApiError> {
    match context.client.get(catalogue::nodes(), &ObjectKey::cluster(name)).await {
        Ok(_) => Ok(true),
        Err(error) if error.reason == Reason::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The pod with the condition `DisruptionTarget`: it goes, and not because of itself.
pub(crate) fn disrupted(pod: &Value, reason: &str, message: &str, now: OffsetDateTime) -> Value {
    let mut pod = pod.clone();
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": clock::seconds_text(now),
    });
    if let Some(conditions) = pod["status"]["conditions"].as_array_mut() {
        conditions.retain(|one| one["type"] != "DisruptionTarget");
        conditions.push(condition);
    } else {
        pod["status"]["conditions"] = json!([condition]);
    }
    pod
}
