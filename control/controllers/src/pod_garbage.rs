//! Removes pods that nobody else will: those on nodes that are no more, those that were deleted before they had a node, and
//! those that are ending on a node that is lost and of which somebody says that its machine is off.

use crate::{
    Context,
    bound_pods::{disrupted, node_is_there, node_of},
    node_lifecycle::readiness,
    runtime::{self, Controller, Keys, Next},
};
use async_trait::async_trait;
use coracle_client::{DeleteOptions, Part, Write, changes::Changed};
use coracle_objects::{ApiError, ObjectKey, catalogue, meta, nodes::TAINT_OUT_OF_SERVICE};
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};
use tokio::task::JoinHandle;

/// Why, in the condition `DisruptionTarget` of a pod whose node is gone, in Kubernetes' words.
const REASON: &str = "DeletionByPodGC";
const MESSAGE: &str = "PodGC: node no longer exists";
/// How long pods of a node that is gone stay, where nobody says otherwise: it may come back, e.g. because it registers anew.
pub const QUARANTINE_DEFAULT: Duration = Duration::from_secs(40);

/// What becomes of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Somebody looks after it.
    Keep,
    /// It goes, unless its node comes back within this time.
    Wait(Duration),
    /// It goes.
    Delete,
}

/// How the node that a pod names is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// The pod names none.
    None,
    /// It looks after its pods, or will.
    There,
    /// It is not ready, and its machine is off.
    Off,
    /// It has been gone for this time.
    Gone(Duration),
}

/// What becomes of a pod; one whose node has been gone for `quarantine` goes.
#[must_use]
pub fn plan(pod: &Value, node: Whereabouts, quarantine: Duration) -> Plan {
    match node {
        Whereabouts::None | Whereabouts::Off if meta::is_terminating(pod) => Plan::Delete,
        Whereabouts::None | Whereabouts::Off | Whereabouts::There => Plan::Keep,
        Whereabouts::Gone(time) => match quarantine.saturating_sub(time) {
            Duration::ZERO => Plan::Delete,
            left => Plan::Wait(left),
        },
    }
}

/// Whether somebody says that the machine of a node that is not ready is off.
fn is_off(node: &Value) -> bool {
    let mut taints = node["spec"]["taints"].as_array().into_iter().flatten();
    readiness(node) != "True" && taints.any(|taint| taint["key"] == TAINT_OUT_OF_SERVICE)
}

struct PodGarbage {
    context: Context,
    quarantine: Duration,
    /// Nodes named by pods that are not there, and since when we know.
    missing: Mutex<HashMap<String, Duration>>,
}

impl PodGarbage {
    fn whereabouts(&self, node: Option<&str>) -> Whereabouts {
        let Some(name) = node else { return Whereabouts::None };
        let mut missing = self.missing.lock();
        if let Some(node) = self.context.caches.nodes.get(&ObjectKey::cluster(name)) {
            missing.remove(name);
            return if is_off(&node) { Whereabouts::Off } else { Whereabouts::There };
        }
        let now = self.context.clock.monotonic();
        Whereabouts::Gone(now.saturating_sub(*missing.entry(name.to_owned()).or_insert(now)))
    }

    /// Says of a pod that has not ended that it failed, and, when its node is gone, that it goes because of that.
    async fn say_failed(&self, pod: &Value, whereabouts: Whereabouts) -> Result<(), ApiError> {
        if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
            return Ok(());
        }
        let mut failed = match whereabouts {
            Whereabouts::Gone(_) => disrupted(pod, REASON, MESSAGE, self.context.clock.now()),
            Whereabouts::None | Whereabouts::Off | Whereabouts::There => pod.clone(),
        };
        failed["status"]["phase"] = "Failed".into();
        runtime::write_all(&self.context, vec![Write::Update(catalogue::pods(), Part::Status, failed)]).await
    }
}

#[async_trait]
impl Controller for PodGarbage {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ApiError> {
        let Some(pod) = self.context.caches.pods.get(key) else { return Ok(Next::Done) };
        let node = node_of(&pod);
        let whereabouts = self.whereabouts(node);
        match plan(&pod, whereabouts, self.quarantine) {
            Plan::Keep => Ok(Next::Done),
            Plan::Wait(time) => Ok(Next::After(time)),
            Plan::Delete => {
                if let (Some(node), Whereabouts::Gone(_)) = (node, whereabouts)
                    && node_is_there(&self.context, node).await?
                {
                    return Ok(Next::After(self.quarantine));
                }
                self.say_failed(&pod, whereabouts).await?;
                let options = DeleteOptions {
                    grace_period_seconds: Some(0),
                    uid: Some(meta::uid(&pod).to_owned()),
                    resource_version: None,
                };
                tracing::info!(pod = %key, node, "removing a pod that no node looks after");
                runtime::write_all(&self.context, vec![Write::Delete(catalogue::pods(), key.clone(), options)]).await?;
                Ok(Next::Done)
            }
        }
    }
}

/// Pods of nodes that went, or whose machines went off.
fn of_lost_nodes(context: &Context) -> Keys<ObjectKey> {
    let pods = context.caches.pods.clone();
    runtime::keys_from(&context.caches.nodes, move |nodes, changed| {
        let is_lost = |key: &ObjectKey| nodes.get(key).is_none_or(|node| is_off(&node));
        let lost: HashSet<String> = match changed {
            Changed::Keys(keys) => keys.into_iter().filter(is_lost).map(|key| key.name).collect(),
            Changed::Everything => return pods.keys(),
        };
        if lost.is_empty() {
            return Vec::new();
        }
        let pods = pods.all().into_iter();
        pods.filter(|pod| node_of(pod).is_some_and(|node| lost.contains(node))).map(|pod| meta::key(&pod)).collect()
    })
}

/// Starts the controller; pods of a node that is gone stay for `quarantine`.
pub fn start(context: &Context, quarantine: Duration) -> JoinHandle<()> {
    runtime::spawn("pod garbage", context, move |context| {
        let sources = vec![runtime::same_keys(&context.caches.pods), of_lost_nodes(context)];
        (PodGarbage { context: context.clone(), quarantine, missing: Mutex::default() }, sources)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_client::fake::{Fake, ManualClock};
    use serde_json::json;
    use std::sync::Arc;
    use tokio_util::sync::CancellationToken;

    fn pod(name: &str, node: Option<&str>) -> Value {
        let mut pod = json!({"metadata": {"namespace": "a", "name": name}, "spec": {}});
        if let Some(node) = node {
            pod["spec"]["nodeName"] = node.into();
        }
        pod
    }

    #[test]
    fn only_pods_that_nobody_looks_after_go() {
        let mut ending = pod("p", None);
        ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let mut ending_there = pod("p", Some("n"));
        ending_there["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let (second, quarantine) = (Duration::from_secs(1), QUARANTINE_DEFAULT);
        let table = [
            (pod("p", None), Whereabouts::None, Plan::Keep),
            (ending, Whereabouts::None, Plan::Delete),
            (pod("p", Some("n")), Whereabouts::There, Plan::Keep),
            (ending_there.clone(), Whereabouts::There, Plan::Keep),
            (pod("p", Some("n")), Whereabouts::Off, Plan::Keep),
            (ending_there, Whereabouts::Off, Plan::Delete),
            (pod("p", Some("n")), Whereabouts::Gone(quarantine.saturating_sub(second)), Plan::Wait(second)),
            (pod("p", Some("n")), Whereabouts::Gone(quarantine), Plan::Delete),
        ];
        for (pod, node, expected) in table {
            assert_eq!(plan(&pod, node, quarantine), expected, "{pod} {node:?}");
        }
    }

    #[test]
    fn a_machine_is_off_when_its_node_is_lost_and_somebody_says_so() {
        let node = |ready: &str, key: &str| {
            json!({"spec": {"taints": [{"key": key, "effect": "NoExecute"}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}})
        };
        assert!(is_off(&node("Unknown", TAINT_OUT_OF_SERVICE)));
        assert!(!is_off(&node("True", TAINT_OUT_OF_SERVICE)));
        assert!(!is_off(&node("Unknown", "other")));
    }

    #[tokio::test]
    async fn pods_of_a_removed_node_go_unless_it_comes_back() {
        let (clock, shutdown) = (ManualClock::new(), CancellationToken::new());
        let _ends = shutdown.clone().drop_guard();
        let fake = Fake::new(&clock);
        let node = |name: &str| json!({"metadata": {"name": name}});
        for name in ["stays", "goes", "returns"] {
            fake.put(catalogue::nodes(), node(name));
            fake.put(catalogue::pods(), pod(&format!("on-{name}"), Some(name)));
        }
        let context = Context::new(fake.client(), Arc::new(clock.clone()), shutdown);
        start(&context, QUARANTINE_DEFAULT);
        clock.settle().await;
        fake.remove(catalogue::nodes(), &ObjectKey::cluster("goes"));
        fake.remove(catalogue::nodes(), &ObjectKey::cluster("returns"));
        clock.advance(Duration::from_secs(20)).await;
        fake.put(catalogue::nodes(), node("returns"));
        clock.advance(Duration::from_secs(19)).await;
        assert_eq!(fake.peek_all(catalogue::pods()).len(), 3);
        clock.advance(Duration::from_secs(1)).await;
        let failed: Vec<Value> = fake
            .writes()
            .into_iter()
            .filter_map(|write| if let Write::Update(_, Part::Status, pod) = write { Some(pod) } else { None })
            .collect();
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!((meta::name(&failed[0]), &failed[0]["status"]["phase"]), ("on-goes", &json!("Failed")));
        assert_eq!(failed[0]["status"]["conditions"][0]["reason"], "DeletionByPodGC");
        let left: Vec<_> = fake.peek_all(catalogue::pods()).iter().map(|pod| meta::name(pod).to_owned()).collect();
        assert_eq!(left, ["on-returns", "on-stays"]);
        clock.advance(Duration::from_mins(10)).await;
        assert_eq!(fake.peek_all(catalogue::pods()).len(), 2);
    }
}
