//! Taints with the effect `NoSchedule` that say what a node's conditions, and its being cordoned, mean for new pods. The
//! scheduler goes by the conditions themselves; the taints are for people, and for schedulers of their own.

use crate::{
    Context,
    runtime::{self, Controller, Next},
};
use async_trait::async_trait;
use coracle_client::{Part, Write, clock};
use coracle_objects::{ApiError, ObjectKey, catalogue, nodes::TAINT_UNSCHEDULABLE, taints};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::task::JoinHandle;

const EFFECT: &str = "NoSchedule";

/// The node as it should be, if its taints are not what its conditions say.
#[must_use]
pub fn plan(node: &Value, now: OffsetDateTime) -> Option<Value> {
    let mut wanted = taints::of_conditions(node);
    if node["spec"]["unschedulable"] == true {
        wanted.push(TAINT_UNSCHEDULABLE);
    }
    let is_ours = |taint: &Value| {
        let key = taint["key"].as_str().unwrap_or_default();
        let known = key == TAINT_UNSCHEDULABLE || taints::OF_CONDITIONS.iter().any(|(_, _, ours)| *ours == key);
        known && taint["effect"] == EFFECT
    };
    let old = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let mut new = old.clone();
    new.retain(|taint| !is_ours(taint) || wanted.iter().any(|key| taint["key"] == *key));
    for key in wanted {
        if !new.iter().any(|taint| taint["key"] == key && taint["effect"] == EFFECT) {
            new.push(json!({"key": key, "effect": EFFECT, "timeAdded": clock::seconds_text(now)}));
        }
    }
    (new != old).then(|| with_taints(node, new))
}

/// The node with these taints.
pub(super) fn with_taints(node: &Value, taints: Vec<Value>) -> Value {
    let mut node = node.clone();
    if !node["spec"].is_object() {
        node["spec"] = json!({});
    }
    node["spec"]["taints"] = taints.into();
    node
}

struct ConditionTaints {
    context: Context,
}

#[async_trait]
impl Controller for ConditionTaints {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ApiError> {
        let node = self.context.caches.nodes.get(key);
        if let Some(changed) = node.and_then(|node| plan(&node, self.context.clock.now())) {
            self.context.client.write(Write::Update(catalogue::nodes(), Part::Object, changed)).await?;
        }
        Ok(Next::Done)
    }
}

/// Starts the controller.
pub fn start(context: &Context) -> JoinHandle<()> {
    runtime::spawn("condition taints", context, |context| {
        let sources = vec![runtime::same_keys(&context.caches.nodes)];
        (ConditionTaints { context: context.clone() }, sources)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    type Row = (Value, Vec<Value>, Option<Vec<&'static str>>);

    fn keys(node: &Value) -> Vec<String> {
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        taints
            .iter()
            .map(|taint| format!("{}:{}", taint["key"].as_str().unwrap(), taint["effect"].as_str().unwrap()))
            .collect()
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
        let taint = |key: &str, effect: &str| json!({"key": key, "effect": effect});
        let (unreachable, not_ready) = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready");
        let table: Vec<Row> = vec![
            (json!({}), vec![condition("Ready", "True")], None),
            (json!({}), vec![], Some(vec!["node.kubernetes.io/not-ready:NoSchedule"])),
            (json!({}), vec![condition("Ready", "Unknown")], Some(vec!["node.kubernetes.io/unreachable:NoSchedule"])),
            (
                json!({"taints": [taint(unreachable, "NoSchedule"), taint("own", "NoSchedule"), taint(unreachable, "NoExecute")]}),
                vec![condition("Ready", "True"), condition("DiskPressure", "True")],
                Some(vec![
                    "own:NoSchedule",
                    "node.kubernetes.io/unreachable:NoExecute",
                    "node.kubernetes.io/disk-pressure:NoSchedule",
                ]),
            ),
            (json!({"taints": [taint(not_ready, "NoSchedule")]}), vec![condition("Ready", "False")], None),
            (
                json!({"unschedulable": true}),
                vec![condition("Ready", "True")],
                Some(vec!["node.kubernetes.io/unschedulable:NoSchedule"]),
            ),
            (
                json!({"taints": [taint(TAINT_UNSCHEDULABLE, "NoSchedule")]}),
                vec![condition("Ready", "True")],
                Some(vec![]),
            ),
        ];
        for (spec, conditions, expected) in table {
            let node = json!({"spec": spec, "status": {"conditions": conditions}});
            let planned = plan(&node, datetime!(2026-01-01 00:00:00 UTC));
            let keys = planned.as_ref().map(keys);
            assert_eq!(keys, expected.map(|keys| keys.into_iter().map(str::to_owned).collect()), "{node}");
            // Once is enough.
            assert_eq!(planned.and_then(|node| plan(&node, datetime!(2026-01-01 00:00:09 UTC))), None, "{node}");
        }
    }
}
