//! Events that nodes write: small ones, and not many, since each of them is stored and replicated.

use crate::{
    door::Target,
    identity::Identity,
    nodelink::bounds::{Bucket, Rate},
};
use coracle_objects::{ApiError, Reason, catalogue};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use tokio::time::Instant;

/// Events of one node, new ones and changes. An agent that comes back has a few to tell of each of its pods.
const RATE: Rate = Rate { per_second: 20.0, burst: 1_000.0 };
/// The largest event of a node, in bytes of JSON. The text of one has 1 KiB at most.
const EVENT_BYTES_MAX: usize = 16 * 1024;
/// Nodes that are remembered; beyond it those that rest are forgotten.
const NODES_MAX: usize = 16 * 1024;

/// What each node has written lately.
#[derive(Default)]
pub(crate) struct NodeEvents {
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl NodeEvents {
    /// Counts an event that is to be stored, where a node writes it.
    ///
    /// # Errors
    /// 413 for one that is too large, 429 when there are too many.
    pub(crate) fn admit(&self, identity: &Identity, target: &Target, event: &Value) -> Result<(), ApiError> {
        if target.kind != catalogue::events() {
            return Ok(());
        }
        let Some(node) = identity.node_name() else { return Ok(()) };
        let bytes = event.to_string().len();
        if bytes > EVENT_BYTES_MAX {
            let message = format!("node \"{node}\" may write events of {EVENT_BYTES_MAX} bytes; this one has {bytes}");
            return Err(ApiError::new(Reason::RequestEntityTooLarge, message));
        }
        let now = Instant::now();
        let mut buckets = self.buckets.lock();
        if buckets.len() >= NODES_MAX && !buckets.contains_key(node) {
            buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        if buckets.entry(node.to_owned()).or_insert_with(|| Bucket::new(RATE)).take(now) {
            return Ok(());
        }
        let message = format!("node \"{node}\" writes more than {} events a second; try again later", RATE.per_second);
        Err(ApiError::new(Reason::TooManyRequests, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::{Body, WriteOptions};
    use serde_json::json;

    fn event(text: &str) -> Value {
        json!({
            "metadata": {"generateName": "e-"}, "reason": "Tested", "message": text, "type": "Normal",
            "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": "one"},
        })
    }

    #[tokio::test]
    async fn large_events_of_nodes_are_refused_and_many_too() {
        let (door, _proposer) = crate::testing::door().await;
        let events = Target::collection(catalogue::events(), "default");
        let code = async |identity: &Identity, text: &str| {
            let written = door.create(identity, &events, Body::Value(event(text)), WriteOptions::default()).await;
            written.map_or_else(|error| error.code(), |_| 201)
        };
        let large = "x".repeat(EVENT_BYTES_MAX);
        let one = Identity::node("one");
        assert_eq!(code(&one, &large).await, 413);
        assert_eq!(code(&Identity::admin(), &large).await, 201, "people may");
        assert_eq!(code(&one, "small").await, 201);
        while door.node_events.admit(&one, &events, &event("small")).is_ok() {}
        assert_eq!(code(&one, "small").await, 429);
        assert_eq!(code(&Identity::node("two"), "small").await, 201, "others go on");
        assert_eq!(code(&Identity::admin(), "small").await, 201);
    }
}
