//! What nodes write of themselves: events, and their own Node, which all other nodes are told of. It is small, and not much,
//! since each of it is stored and replicated.

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

/// Nodes that are remembered; beyond it those that rest are forgotten.
const NODES_MAX: usize = 16 * 1024;

/// What one node may write of a kind, new objects and changes.
#[derive(Debug)]
struct Bound {
    /// As people read it.
    what: &'static str,
    rate: Rate,
    /// The largest one, in bytes of JSON.
    bytes_max: usize,
}

/// An agent that comes back has a few events to tell of each of its pods. The text of one has 1 KiB at most.
const EVENTS: Bound = Bound { what: "events", rate: Rate { per_second: 20.0, burst: 1_000.0 }, bytes_max: 16 * 1024 };
/// An agent changes its Node when a condition, an address or an image changes, and every quarter of an hour.
const OWN_NODE: Bound =
    Bound { what: "changes of its Node", rate: Rate { per_second: 2.0, burst: 100.0 }, bytes_max: 128 * 1024 };

fn bound(target: &Target) -> Option<&'static Bound> {
    if target.kind == catalogue::events() {
        Some(&EVENTS)
    } else if target.kind == catalogue::nodes() {
        Some(&OWN_NODE)
    } else {
        None
    }
}

/// What each node has written of each kind lately.
#[derive(Default)]
pub(crate) struct NodeWrites {
    buckets: Mutex<HashMap<(&'static str, String), Bucket>>,
}

impl NodeWrites {
    /// Counts an object that is to be stored, where a node writes it.
    ///
    /// # Errors
    /// 413 for one that is too large, 429 when there are too many.
    pub(crate) fn admit(&self, identity: &Identity, target: &Target, object: &Value) -> Result<(), ApiError> {
        let (Some(Bound { what, rate, bytes_max }), Some(node)) = (bound(target), identity.node_name()) else {
            return Ok(());
        };
        let bytes = object.to_string().len();
        if bytes > *bytes_max {
            let message = format!("node \"{node}\" may write {what} of {bytes_max} bytes; this one has {bytes}");
            return Err(ApiError::new(Reason::RequestEntityTooLarge, message));
        }
        let now = Instant::now();
        let mut buckets = self.buckets.lock();
        let account = (*what, node.to_owned());
        if buckets.len() >= NODES_MAX && !buckets.contains_key(&account) {
            buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        if buckets.entry(account).or_insert_with(|| Bucket::new(*rate)).take(now) {
            return Ok(());
        }
        let message = format!("node \"{node}\" writes more than {} {what} a second; try again later", rate.per_second);
        Err(ApiError::new(Reason::TooManyRequests, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::{Body, WriteOptions};
    use coracle_objects::patch::PatchType;
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
        let large = "x".repeat(EVENTS.bytes_max);
        let one = Identity::node("one");
        assert_eq!(code(&one, &large).await, 413);
        assert_eq!(code(&Identity::admin(), &large).await, 201, "people may");
        assert_eq!(code(&one, "small").await, 201);
        while door.node_writes.admit(&one, &events, &event("small")).is_ok() {}
        assert_eq!(code(&one, "small").await, 429);
        assert_eq!(code(&Identity::node("two"), "small").await, 201, "others go on");
        assert_eq!(code(&Identity::admin(), "small").await, 201);
    }

    #[tokio::test]
    async fn a_node_does_not_wear_the_others_out_with_its_own_changes() {
        let (door, _proposer) = crate::testing::door().await;
        let nodes = Target::collection(catalogue::nodes(), "");
        let one = Identity::node("one");
        crate::testing::create(&door, &nodes, json!({"metadata": {"name": "one"}})).await.unwrap();
        let change = async |identity: &Identity, text: &str| {
            let target = Target::object(catalogue::nodes(), "", "one");
            let patch = json!({"metadata": {"annotations": {"example.com/text": text}}});
            let patched = door.patch(identity, &target, &patch, PatchType::Merge, WriteOptions::default()).await;
            patched.map_or_else(|error| error.code(), |_| 200)
        };
        assert_eq!(change(&one, &"x".repeat(OWN_NODE.bytes_max)).await, 413);
        assert_eq!(change(&one, "small").await, 200);
        while door.node_writes.admit(&one, &nodes, &json!({})).is_ok() {}
        assert_eq!(change(&one, "another").await, 429);
        assert_eq!(change(&Identity::admin(), "another").await, 200, "people go on");
        assert!(door.node_writes.admit(&one, &Target::collection(catalogue::events(), "default"), &json!({})).is_ok());
    }
}
