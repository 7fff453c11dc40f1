//! Removes pods that nobody else will: those on nodes that are no more, and those that were deleted before they had a
//! node.

use crate::{
    Context,
    runtime::{self, Controller, Keys, Next},
};
use async_trait::async_trait;
use coracle_client::{DeleteOptions, Write, changes::Changed};
use coracle_objects::{ApiError, ObjectKey, Reason, catalogue, meta};
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};
use tokio::task::JoinHandle;

/// A node that is gone may come back, e.g. because it registers anew.
pub const QUARANTINE: Duration = Duration::from_secs(40);

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

fn node_of(pod: &Value) -> Option<&str> {
    pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())
}

/// What becomes of a pod whose node (if it has one) has been missing for `missing`.
#[must_use]
pub fn plan(pod: &Value, missing: Option<Duration>) -> Plan {
    match (node_of(pod), missing) {
        (None, _) if meta::is_terminating(pod) => Plan::Delete,
        (None, _) | (Some(_), None) => Plan::Keep,
        (Some(_), Some(missing)) => match QUARANTINE.saturating_sub(missing) {
            Duration::ZERO => Plan::Delete,
            left => Plan::Wait(left),
        },
    }
}

struct PodGarbage {
    context: Context,
    /// Nodes named by pods that are not there, and since when we know.
    missing: Mutex<HashMap<String, Duration>>,
}

impl PodGarbage {
    fn missing_for(&self, node: &str) -> Option<Duration> {
        let mut missing = self.missing.lock();
        if self.context.caches.nodes.get(&ObjectKey::cluster(node)).is_some() {
            missing.remove(node);
            return None;
        }
        let now = self.context.clock.monotonic();
        Some(now.saturating_sub(*missing.entry(node.to_owned()).or_insert(now)))
    }

    /// The cache may lag: a pod is not taken away from a node that is there.
    async fn is_really_missing(&self, node: &str) -> Result<bool, ApiError> {
        match self.context.client.get(catalogue::nodes(), &ObjectKey::cluster(node)).await {
            Ok(_) => Ok(false),
            Err(error) if error.reason == Reason::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Controller for PodGarbage {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ApiError> {
        let Some(pod) = self.context.caches.pods.get(key) else { return Ok(Next::Done) };
        let node = node_of(&pod);
        match plan(&pod, node.and_then(|node| self.missing_for(node))) {
            Plan::Keep => Ok(Next::Done),
            Plan::Wait(time) => Ok(Next::After(time)),
            Plan::Delete => {
                if let Some(node) = node
                    && !self.is_really_missing(node).await?
                {
                    return Ok(Next::After(QUARANTINE));
                }
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

/// Pods of nodes that went.
fn of_gone_nodes(context: &Context) -> Keys<ObjectKey> {
    let pods = context.caches.pods.clone();
    runtime::keys_from(&context.caches.nodes, move |nodes, changed| {
        let is_gone = |key: &ObjectKey| nodes.get(key).is_none();
        let gone: HashSet<String> = match changed {
            Changed::Keys(keys) => keys.into_iter().filter(is_gone).map(|key| key.name).collect(),
            Changed::Everything => return pods.keys(),
        };
        if gone.is_empty() {
            return Vec::new();
        }
        let pods = pods.all().into_iter();
        pods.filter(|pod| node_of(pod).is_some_and(|node| gone.contains(node))).map(|pod| meta::key(&pod)).collect()
    })
}

/// Starts the controller.
pub fn start(context: &Context) -> JoinHandle<()> {
    runtime::spawn("pod garbage", context, |context| {
        let sources = vec![runtime::same_keys(&context.caches.pods), of_gone_nodes(context)];
        (PodGarbage { context: context.clone(), missing: Mutex::default() }, sources)
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
        let second = Duration::from_secs(1);
        let table = [
            (pod("p", None), None, Plan::Keep),
            (ending, None, Plan::Delete),
            (pod("p", Some("n")), None, Plan::Keep),
            (pod("p", Some("n")), Some(QUARANTINE.saturating_sub(second)), Plan::Wait(second)),
            (pod("p", Some("n")), Some(QUARANTINE), Plan::Delete),
        ];
        for (pod, missing, expected) in table {
            assert_eq!(plan(&pod, missing), expected, "{pod} {missing:?}");
        }
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
        start(&context);
        clock.settle().await;
        fake.remove(catalogue::nodes(), &ObjectKey::cluster("goes"));
        fake.remove(catalogue::nodes(), &ObjectKey::cluster("returns"));
        clock.advance(Duration::from_secs(20)).await;
        fake.put(catalogue::nodes(), node("returns"));
        clock.advance(Duration::from_secs(19)).await;
        assert_eq!(fake.peek_all(catalogue::pods()).len(), 3);
        clock.advance(Duration::from_secs(1)).await;
        let left: Vec<_> = fake.peek_all(catalogue::pods()).iter().map(|pod| meta::name(pod).to_owned()).collect();
        assert_eq!(left, ["on-returns", "on-stays"]);
        clock.advance(Duration::from_mins(10)).await;
        assert_eq!(fake.peek_all(catalogue::pods()).len(), 2);
    }
}
