//! Taints with the effect `NoExecute` on nodes that are not ready: from then on the tolerations of their pods run out. At the
//! pace that the state of their zone allows, and not at all while no node of the cluster is ready: then the fault is more
//! likely on our side. What is ready again loses the taint at once.

use super::{
    Settings,
    condition_taints::with_taints,
    readiness, ready,
    zones::{self, State, ZoneName},
};
use crate::{
    Context,
    runtime::{self, Controller, Next},
};
use async_trait::async_trait;
use coracle_client::{Part, Write, clock, events::EventType};
use coracle_objects::{
    ApiError, catalogue, meta,
    nodes::{TAINT_NOT_READY, TAINT_UNREACHABLE},
    static_pods,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::task::JoinHandle;

const EFFECT: &str = "NoExecute";

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub struct Memory {
    /// When a node of each zone was tainted last.
    last: HashMap<ZoneName, Duration>,
    /// Whether no node was ready when we looked last.
    was_disrupted: bool,
    /// Whether any node has ever been: a cluster that begins is not disrupted.
    has_begun: bool,
    /// Nothing is tainted before this moment: after a disruption everybody has time to be heard of.
    not_before: Duration,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Nodes as they should be.
    pub changed: Vec<Value>,
    /// When to look again although nothing changes.
    pub again: Option<Duration>,
    /// The disruption of the whole cluster has begun or ended.
    pub disruption: Option<bool>,
}

/// The taint that the node's condition asks for.
fn wanted(node: &Value) -> Option<&'static str> {
    match readiness(node) {
        "False" => Some(TAINT_NOT_READY),
        "Unknown" => Some(TAINT_UNREACHABLE),
        _ => None,
    }
}

fn is_ours(taint: &Value) -> bool {
    taint["effect"] == EFFECT && (taint["key"] == TAINT_NOT_READY || taint["key"] == TAINT_UNREACHABLE)
}

/// The node with the taint called `key`, or with neither; `None` when it is so already.
fn tainted(node: &Value, key: Option<&str>, now: OffsetDateTime) -> Option<Value> {
    let old = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let mut new = old.clone();
    new.retain(|taint| !is_ours(taint) || key.is_some_and(|key| taint["key"] == key));
    if let Some(key) = key
        && !new.iter().any(is_ours)
    {
        // Who was not ready before and is unreachable now began to lose its pods then.
        let since = old.iter().find(|taint| is_ours(taint)).and_then(|taint| taint["timeAdded"].as_str());
        let since = since.map_or_else(|| clock::seconds_text(now), str::to_owned);
        new.push(json!({"key": key, "effect": EFFECT, "timeAdded": since}));
    }
    (new != old).then(|| with_taints(node, new))
}

/// What to do about all nodes at `now`, of which `wall` is the time of day.
pub fn plan(
    nodes: &[Arc<Value>],
    memory: &mut Memory,
    settings: &Settings,
    now: Duration,
    wall: OffsetDateTime,
) -> Plan {
    let counts = zones::count(nodes.iter().map(|node| &**node));
    let is_disrupted = !nodes.is_empty() && counts.values().all(|count| count.state(settings) == State::Full);
    let mut plan = Plan::default();
    if is_disrupted != memory.was_disrupted {
        memory.was_disrupted = is_disrupted;
        plan.disruption = memory.has_begun.then_some(is_disrupted);
        if !is_disrupted {
            memory.not_before = now + settings.grace;
        }
    }
    memory.has_begun |= counts.values().any(|count| count.ready > 0);
    memory.last.retain(|zone, _| counts.contains_key(zone));
    // The longest lost come first.
    let since =
        |node: &Value| ready(node).and_then(|ready| ready["lastTransitionTime"].as_str()).unwrap_or("").to_owned();
    let mut nodes: Vec<&Value> = nodes.iter().map(|node| &**node).collect();
    nodes.sort_by_cached_key(|node| (since(node), meta::name(node).to_owned()));
    for node in nodes {
        let is_tainted = node["spec"]["taints"].as_array().is_some_and(|taints| taints.iter().any(is_ours));
        let key = wanted(node).filter(|_| !is_disrupted);
        if key.is_some() && !is_tainted {
            let zone = zones::of_node(node);
            let Some(interval) = counts.get(&zone).and_then(|count| count.interval(settings)) else { continue };
            let due = memory
                .last
                .get(&zone)
                .map_or(Duration::ZERO, |last| last.saturating_add(interval))
                .max(memory.not_before);
            let wait = due.saturating_sub(now);
            if !wait.is_zero() {
                plan.again = Some(plan.again.map_or(wait, |again| again.min(wait)));
                continue;
            }
            memory.last.insert(zone, now);
        }
        plan.changed.extend(tainted(node, key, wall));
    }
    plan
}

struct RemovalTaints {
    context: Context,
    settings: Settings,
    memory: Mutex<Memory>,
}

impl RemovalTaints {
    /// Whether there is anything on the node that could go.
    fn has_pods(&self, node: &str) -> bool {
        self.context.caches.pods.all().iter().any(|pod| {
            let is_over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            pod["spec"]["nodeName"] == node && !is_over && !static_pods::is_mirror(pod)
        })
    }
}

#[async_trait]
impl Controller for RemovalTaints {
    /// One look at all nodes.
    type Key = ();

    async fn reconcile(&self, (): &()) -> Result<Next, ApiError> {
        let (nodes, clock) = (self.context.caches.nodes.all(), &self.context.clock);
        let Plan { changed, again, disruption } =
            plan(&nodes, &mut self.memory.lock(), &self.settings, clock.monotonic(), clock.now());
        match disruption {
            Some(true) => tracing::warn!(nodes = nodes.len(), "no node is ready: no pod is removed from any"),
            Some(false) => tracing::info!("a node is ready again: pods of those that are not may be removed"),
            None => {}
        }
        let mut failure = None;
        for node in changed {
            let (name, zone) = (meta::name(&node).to_owned(), zones::of_node(&node));
            let key = wanted(&node);
            match self.context.client.write(Write::Update(catalogue::nodes(), Part::Object, node)).await {
                Ok(node) => {
                    if let Some(key) = key
                        && self.has_pods(&name)
                    {
                        let message = format!("Pods of node {name} that do not tolerate {key} are removed");
                        self.context.recorder.record(
                            catalogue::nodes(),
                            &node,
                            EventType::Normal,
                            "RemovingPods",
                            &message,
                        );
                    }
                }
                Err(error) => {
                    // Its turn was not used; it is tried again soon.
                    self.memory.lock().last.remove(&zone);
                    failure = failure.or(Some(error));
                }
            }
        }
        failure.map_or_else(|| Ok(again.map_or(Next::Done, Next::After)), Err)
    }
}

/// Starts the controller.
pub fn start(context: &Context, settings: &Settings) -> JoinHandle<()> {
    let settings = settings.clone();
    runtime::spawn("removal taints", context, move |context| {
        let sources = vec![runtime::keys_from(&context.caches.nodes, |_, _| vec![()])];
        (RemovalTaints { context: context.clone(), settings: settings.clone(), memory: Mutex::default() }, sources)
    })
}

#[cfg(test)]
mod tests;
