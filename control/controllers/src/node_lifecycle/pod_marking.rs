//! Says of the pods of a node that is not ready, or is there no more, that they are not ready either: endpoints drop them at
//! once. Their node, when it is back, says what is so; against a node that speaks nobody insists.

use super::{readiness, ready};
use crate::{
    Context,
    bound_pods::{node_is_there, node_of},
    runtime::{self, Controller, Keys, Next},
};
use async_trait::async_trait;
use coracle_client::{Part, Write, clock, events::EventType};
use coracle_objects::{ApiError, ObjectKey, catalogue, meta, nodes::POD_MARK_REASON};
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};
use time::OffsetDateTime;
use tokio::task::JoinHandle;

/// Why, in the pod's condition and in its event.
const REASON: &str = POD_MARK_REASON;
const MESSAGE: &str = "Node is not ready";
/// A node that speaks of its pods while it counts as lost is contradicted no more often than this: mostly it is just coming
/// back, and says so next.
const INSISTENCE: Duration = Duration::from_secs(2);

/// What a node's state means for what its pods say of themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// They are believed.
    Believed,
    /// They are told once that they are not ready, for this change of the node's own mind; then they are believed.
    Once(String),
    /// They are not believed as long as it is so.
    Lost,
}

/// What the state of the node (`None`: it is there no more) means for its pods.
#[must_use]
pub fn standing(node: Option<&Value>) -> Standing {
    let Some(node) = node else { return Standing::Lost };
    match readiness(node) {
        "Unknown" => Standing::Lost,
        "False" => {
            let since = ready(node).and_then(|ready| ready["lastTransitionTime"].as_str()).unwrap_or_default();
            Standing::Once(format!("{}/{since}", meta::uid(node)))
        }
        _ => Standing::Believed,
    }
}

/// The pod with `Ready` false; `None` when it does not say that it is ready.
#[must_use]
pub fn marked(pod: &Value, now: OffsetDateTime) -> Option<Value> {
    let position = pod["status"]["conditions"].as_array()?.iter().position(|one| one["type"] == "Ready")?;
    if pod["status"]["conditions"][position]["status"] != "True" {
        return None;
    }
    let mut pod = pod.clone();
    let ready = &mut pod["status"]["conditions"][position];
    ready["status"] = "False".into();
    ready["reason"] = REASON.into();
    ready["message"] = MESSAGE.into();
    ready["lastTransitionTime"] = clock::seconds_text(now).into();
    Some(pod)
}

struct PodMarking {
    context: Context,
    /// Nodes that say that they are not ready, and for which of their changes their pods were told.
    told: Mutex<HashMap<String, String>>,
    /// When pods of each lost node were marked last.
    marked: Mutex<HashMap<String, Duration>>,
}

#[async_trait]
impl Controller for PodMarking {
    /// A node.
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ApiError> {
        let caches = &self.context.caches;
        let node = caches.nodes.get(key);
        let standing = standing(node.as_deref());
        match &standing {
            Standing::Once(change) if self.told.lock().get(&key.name) == Some(change) => return Ok(Next::Done),
            Standing::Once(_) | Standing::Lost => {}
            Standing::Believed => {
                self.told.lock().remove(&key.name);
                self.marked.lock().remove(&key.name);
                return Ok(Next::Done);
            }
        }
        let (pods, now) = (caches.pods.all(), self.context.clock.now());
        let of_node = pods.iter().filter(|pod| node_of(pod) == Some(&*key.name));
        let marked: Vec<(&Arc<Value>, Value)> = of_node.filter_map(|pod| Some((pod, marked(pod, now)?))).collect();
        if !marked.is_empty() {
            if node.is_none() && node_is_there(&self.context, &key.name).await? {
                // It is only new here: it will be seen.
                return Ok(Next::Done);
            }
            let (elapsed, last) = (self.context.clock.monotonic(), self.marked.lock().get(&key.name).copied());
            let rest = last.map_or(Duration::ZERO, |last| (last + INSISTENCE).saturating_sub(elapsed));
            if !rest.is_zero() {
                return Ok(Next::After(rest));
            }
            tracing::info!(node = key.name, pods = marked.len(), "the pods of a node that is not ready are not ready");
            let mut writes = Vec::with_capacity(marked.len());
            for (pod, changed) in marked {
                self.context.recorder.record(catalogue::pods(), pod, EventType::Warning, REASON, MESSAGE);
                writes.push(Write::Update(catalogue::pods(), Part::Status, changed));
            }
            runtime::write_all(&self.context, writes).await?;
            self.marked.lock().insert(key.name.clone(), elapsed);
        }
        if node.is_none() {
            self.told.lock().remove(&key.name);
            self.marked.lock().remove(&key.name);
        }
        if let Standing::Once(change) = standing {
            self.told.lock().insert(key.name.clone(), change);
        }
        Ok(Next::Done)
    }
}

/// Nodes of pods that changed.
fn of_pods(context: &Context) -> Keys<ObjectKey> {
    runtime::keys_from(&context.caches.pods, |pods, changed| {
        let changed = runtime::changed_keys(pods, changed).into_iter().filter_map(|key| pods.get(&key));
        let nodes: BTreeSet<ObjectKey> = changed
            .filter(|pod| readiness(pod) == "True")
            .filter_map(|pod| node_of(&pod).map(ObjectKey::cluster))
            .collect();
        nodes.into_iter().collect()
    })
}

/// Starts the controller.
pub fn start(context: &Context) -> JoinHandle<()> {
    runtime::spawn("pod marking", context, |context| {
        let sources = vec![runtime::same_keys(&context.caches.nodes), of_pods(context)];
        (PodMarking { context: context.clone(), told: Mutex::default(), marked: Mutex::default() }, sources)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_client::fake::{Fake, ManualClock};
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    fn node(status: &str, since: &str) -> Value {
        json!({"metadata": {"name": "n"}, "status": {"conditions": [
            {"type": "Ready", "status": status, "lastTransitionTime": since}]}})
    }

    fn pod(name: &str, node: &str, ready: &str) -> Value {
        json!({"metadata": {"namespace": "a", "name": name}, "spec": {"nodeName": node}, "status": {"conditions": [
            {"type": "Initialized", "status": "True"}, {"type": "Ready", "status": ready}]}})
    }

    #[test]
    fn whom_to_believe() {
        let table = [
            (Some(node("True", "1")), Standing::Believed),
            (Some(json!({"metadata": {"name": "n"}})), Standing::Believed),
            (Some(node("Unknown", "1")), Standing::Lost),
            (Some(node("False", "1")), Standing::Once("/1".to_owned())),
            (None, Standing::Lost),
        ];
        for (node, expected) in table {
            assert_eq!(standing(node.as_ref()), expected, "{node:?}");
        }
        let now = OffsetDateTime::UNIX_EPOCH;
        assert_eq!(marked(&pod("p", "n", "False"), now), None);
        assert_eq!(marked(&json!({}), now), None);
        assert_eq!(marked(&pod("p", "n", "True"), now).unwrap()["status"]["conditions"][1]["reason"], REASON);
    }

    #[tokio::test]
    async fn pods_of_lost_nodes_are_marked_and_those_of_speaking_ones_once() {
        let (clock, shutdown) = (ManualClock::new(), CancellationToken::new());
        let _ends = shutdown.clone().drop_guard();
        let fake = Fake::new(&clock);
        fake.put(catalogue::nodes(), node("True", "1"));
        fake.put(catalogue::pods(), pod("p", "n", "True"));
        fake.put(catalogue::pods(), pod("elsewhere", "m", "True"));
        fake.put(catalogue::nodes(), json!({"metadata": {"name": "m"}}));
        let context = Context::new(fake.client(), Arc::new(clock.clone()), shutdown);
        start(&context);
        let is_ready = |name: &str| {
            let pod = fake.peek(catalogue::pods(), &ObjectKey::namespaced("a", name)).unwrap();
            readiness(&pod) == "True"
        };
        let says = |ready: &str, since: &str| drop(fake.put(catalogue::nodes(), node(ready, since)));
        let pod_is_ready = || drop(fake.put(catalogue::pods(), pod("p", "n", "True")));
        clock.settle().await;
        assert!(is_ready("p"));

        says("Unknown", "2");
        clock.settle().await;
        assert!(!is_ready("p"));
        // Somebody writes it all the same: not while the node is lost.
        pod_is_ready();
        clock.advance(INSISTENCE).await;
        assert!(!is_ready("p"));

        says("True", "3");
        pod_is_ready();
        clock.settle().await;
        assert!(is_ready("p"));
        says("False", "4");
        clock.settle().await;
        assert!(!is_ready("p"));
        // The node speaks: it knows better.
        pod_is_ready();
        clock.settle().await;
        assert!(is_ready("p"));
        assert!(is_ready("elsewhere"));
        fake.remove(catalogue::nodes(), &ObjectKey::cluster("m"));
        clock.settle().await;
        assert!(!is_ready("elsewhere"));
    }
}
