//! Removes pods from nodes with taints of the effect `NoExecute`, when their tolerations say so: at once, or some time after
//! the taint came. The pod's own grace applies; on a node that is not there the pod stays, ending, until the node is back,
//! or somebody says that it is out of service (see [`crate::pod_garbage`]).

use crate::{
    Context,
    bound_pods::{disrupted, node_of},
    runtime::{self, Controller, Keys, Next},
};
use async_trait::async_trait;
use coracle_client::{DeleteOptions, Part, Write, changes::Changed, clock, events::EventType};
use coracle_objects::{
    ApiError, ObjectKey, catalogue, meta, static_pods,
    taints::{self, Patience, Taint},
};
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};
use tokio::task::JoinHandle;

/// Why, in the pod's condition `DisruptionTarget`, in Kubernetes' words.
const REASON: &str = "DeletionByTaintManager";
const MESSAGE: &str = "Taint manager: deleting due to NoExecute taint";

/// What becomes of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// It stays.
    Keep,
    /// It goes after this time, unless the taint goes before.
    Wait(Duration),
    /// It goes.
    Remove,
}

/// What becomes of a pod with these tolerations on a node with these taints, each of which has been there for some time.
#[must_use]
pub fn plan(pod: &Value, taints: &[(Taint, Duration)]) -> Plan {
    let is_over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    // What has ended is in nobody's way, and what a node shows of its own files comes back.
    if meta::is_terminating(pod) || is_over || static_pods::is_mirror(pod) {
        return Plan::Keep;
    }
    let tolerations = taints::of_pod(&pod["spec"]);
    let mut plan = Plan::Keep;
    for (taint, age) in taints {
        let left = match taints::patience(taint, &tolerations) {
            Patience::None => Duration::ZERO,
            Patience::For(time) => time.saturating_sub(*age),
            Patience::Forever => continue,
        };
        plan = match plan {
            _ if left.is_zero() => return Plan::Remove,
            Plan::Wait(other) => Plan::Wait(left.min(other)),
            Plan::Keep | Plan::Remove => Plan::Wait(left),
        };
    }
    plan
}

/// Key and value.
type TaintName = (Box<str>, Box<str>);

/// When we saw a taint first, by the time that never jumps, and how old it was then.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Duration,
    age: Duration,
}

struct TaintEviction {
    context: Context,
    /// The taints of each node.
    since: Mutex<HashMap<String, HashMap<TaintName, Seen>>>,
    /// Pods that wait.
    waiting: Mutex<HashSet<ObjectKey>>,
}

impl TaintEviction {
    /// The node's taints that remove pods, and for how long they have been there. A taint that is new to us may be older: it
    /// says so itself.
    fn ages(&self, node: &Value) -> Vec<(Taint, Duration)> {
        let (now, wall) = (self.context.clock.monotonic(), self.context.clock.now());
        let found: Vec<_> = taints::removing(node).collect();
        let mut since = self.since.lock();
        if found.is_empty() {
            since.remove(meta::name(node));
            return Vec::new();
        }
        let known = since.entry(meta::name(node).to_owned()).or_default();
        let identity = |taint: &Taint| (taint.key.clone(), taint.value.clone());
        let present: HashSet<_> = found.iter().map(|(taint, _)| identity(taint)).collect();
        known.retain(|taint, _| present.contains(taint));
        let age = |(taint, added): (Taint, Option<&str>)| {
            let seen = known.entry(identity(&taint)).or_insert_with(|| {
                let age = added.and_then(clock::parse).and_then(|added| Duration::try_from(wall - added).ok());
                Seen { at: now, age: age.unwrap_or_default() }
            });
            (taint, now.saturating_sub(seen.at) + seen.age)
        };
        found.into_iter().map(age).collect()
    }

    fn event(&self, pod: &Value, what: &str) {
        let message = format!("{what} Pod {}", meta::key(pod));
        self.context.recorder.record(catalogue::pods(), pod, EventType::Normal, "TaintManagerEviction", &message);
    }

    async fn remove(&self, pod: &Value) -> Result<(), ApiError> {
        let client = &self.context.client;
        let disrupted = disrupted(pod, REASON, MESSAGE, self.context.clock.now());
        client.write(Write::Update(catalogue::pods(), Part::Status, disrupted)).await?;
        self.event(pod, "Marking for deletion");
        let options = DeleteOptions { uid: Some(meta::uid(pod).to_owned()), ..DeleteOptions::default() };
        runtime::write_all(&self.context, vec![Write::Delete(catalogue::pods(), meta::key(pod), options)]).await
    }
}

#[async_trait]
impl Controller for TaintEviction {
    /// A pod.
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ApiError> {
        let caches = &self.context.caches;
        let pod = caches.pods.get(key);
        let node =
            pod.as_ref().and_then(|pod| node_of(pod)).and_then(|node| caches.nodes.get(&ObjectKey::cluster(node)));
        let (Some(pod), Some(node)) = (pod, node) else {
            self.waiting.lock().remove(key);
            return Ok(Next::Done);
        };
        match plan(&pod, &self.ages(&node)) {
            Plan::Keep => {
                if self.waiting.lock().remove(key) && !meta::is_terminating(&pod) {
                    self.event(&pod, "Cancelling deletion of");
                }
                Ok(Next::Done)
            }
            Plan::Wait(time) => {
                self.waiting.lock().insert(key.clone());
                Ok(Next::After(time))
            }
            Plan::Remove => {
                tracing::info!(pod = %key, node = meta::name(&node), "removing a pod that does not tolerate its node's taints");
                self.remove(&pod).await?;
                self.waiting.lock().remove(key);
                Ok(Next::Done)
            }
        }
    }
}

/// Pods of nodes whose taints changed.
fn of_nodes(context: &Context) -> Keys<ObjectKey> {
    let pods = context.caches.pods.clone();
    let mut seen: HashMap<ObjectKey, Vec<Taint>> = HashMap::new();
    runtime::keys_from(&context.caches.nodes, move |nodes, changed| {
        let keys = match changed {
            Changed::Keys(keys) => keys,
            Changed::Everything => {
                seen.clear();
                nodes.keys()
            }
        };
        let mut affected = HashSet::new();
        for key in keys {
            let now: Vec<Taint> = nodes
                .get(&key)
                .map(|node| taints::removing(&node).map(|(taint, _)| taint).collect())
                .unwrap_or_default();
            let before = if now.is_empty() { seen.remove(&key) } else { seen.insert(key.clone(), now.clone()) };
            if before.unwrap_or_default() != now {
                affected.insert(key.name);
            }
        }
        if affected.is_empty() {
            return Vec::new();
        }
        let is_affected = |pod: &Value| node_of(pod).is_some_and(|node| affected.contains(node));
        pods.all().into_iter().filter(|pod| is_affected(pod)).map(|pod| meta::key(&pod)).collect()
    })
}

/// Starts the controller.
pub fn start(context: &Context) -> JoinHandle<()> {
    runtime::spawn("taint eviction", context, |context| {
        let sources = vec![runtime::same_keys(&context.caches.pods), of_nodes(context)];
        let (since, waiting) = (Mutex::default(), Mutex::default());
        (TaintEviction { context: context.clone(), since, waiting }, sources)
    })
}

#[cfg(test)]
mod tests;
