//! Taints of nodes, tolerations of pods, and the taints that a node's conditions stand for.

use coracle_objects::nodes;
use serde_json::Value;
use std::{fmt, sync::Arc};

/// What an intolerant pod meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Is not placed there.
    NoSchedule,
    /// Is placed there only when nothing else fits.
    PreferNoSchedule,
    /// Is not placed there, and is removed.
    NoExecute,
}

impl Effect {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "NoSchedule" => Some(Self::NoSchedule),
            "PreferNoSchedule" => Some(Self::PreferNoSchedule),
            "NoExecute" => Some(Self::NoExecute),
            _ => None,
        }
    }
}

/// A taint of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    /// E.g. `node.kubernetes.io/not-ready`.
    pub key: Box<str>,
    /// Often empty.
    pub value: Box<str>,
    /// What it does.
    pub effect: Effect,
}

impl fmt::Display for Taint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{{{}: {}}}", self.key, self.value)
    }
}

/// Conditions that keep pods away: the status that does, and the taint that says so. kube-controller-manager's node
/// lifecycle controller writes these taints; here the condition itself counts, so that no write stands between.
const OF_CONDITIONS: [(&str, &str, &str); 6] = [
    ("Ready", "False", nodes::TAINT_NOT_READY),
    ("Ready", "Unknown", nodes::TAINT_UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

/// All taints of a node, those of its conditions included. A node that has not said whether it is ready is not.
#[must_use]
pub fn of_node(node: &Value) -> Vec<Arc<Taint>> {
    let mut taints: Vec<Taint> = node["spec"]["taints"].as_array().into_iter().flatten().filter_map(parse).collect();
    let conditions = node["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let status = |kind: &str| {
        let condition = conditions.iter().find(|condition| condition["type"] == kind);
        condition.and_then(|condition| condition["status"].as_str())
    };
    for (condition, bad, key) in OF_CONDITIONS {
        let status = status(condition).or((condition == "Ready").then_some("False"));
        let is_new = || !taints.iter().any(|taint| &*taint.key == key && taint.effect != Effect::PreferNoSchedule);
        if status == Some(bad) && is_new() {
            taints.push(Taint { key: key.into(), value: "".into(), effect: Effect::NoSchedule });
        }
    }
    taints.into_iter().map(Arc::new).collect()
}

fn parse(taint: &Value) -> Option<Taint> {
    let text = |field: &str| taint[field].as_str().unwrap_or_default();
    Some(Taint { key: text("key").into(), value: text("value").into(), effect: Effect::parse(text("effect"))? })
}

/// A toleration of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toleration {
    /// Empty: any key.
    key: Box<str>,
    /// `None`: any value (operator `Exists`).
    value: Option<Box<str>>,
    /// `None`: any effect.
    effect: Option<Effect>,
}

impl Toleration {
    fn parse(toleration: &Value) -> Option<Self> {
        let text = |field: &str| toleration[field].as_str().unwrap_or_default();
        let effect = match text("effect") {
            "" => None,
            effect => Some(Effect::parse(effect)?),
        };
        let value = (text("operator") != "Exists").then(|| text("value").into());
        Some(Self { key: text("key").into(), value, effect })
    }

    fn tolerates(&self, taint: &Taint) -> bool {
        self.effect.is_none_or(|effect| effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && self.value.as_ref().is_none_or(|value| *value == taint.value)
    }
}

/// The tolerations of a pod.
#[must_use]
pub fn of_pod(spec: &Value) -> Vec<Toleration> {
    spec["tolerations"].as_array().into_iter().flatten().filter_map(Toleration::parse).collect()
}

/// Whether one of the tolerations covers the taint.
#[must_use]
pub fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| toleration.tolerates(taint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn keys(node: &Value) -> Vec<String> {
        of_node(node).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn conditions_count_as_taints() {
        let with = |kind: &str, status: &str| json!({"type": kind, "status": status});
        let ready = with("Ready", "True");
        let table = [
            (json!({}), vec!["{node.kubernetes.io/not-ready: }"]),
            (json!({"status": {"conditions": [ready]}}), vec![]),
            (json!({"status": {"conditions": [with("Ready", "False")]}}), vec!["{node.kubernetes.io/not-ready: }"]),
            (json!({"status": {"conditions": [with("Ready", "Unknown")]}}), vec!["{node.kubernetes.io/unreachable: }"]),
            (
                json!({"status": {"conditions": [ready, with("DiskPressure", "True"), with("PIDPressure", "False")]}}),
                vec!["{node.kubernetes.io/disk-pressure: }"],
            ),
            (
                json!({
                    "spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]},
                    "status": {"conditions": [with("Ready", "False")]},
                }),
                vec!["{node.kubernetes.io/not-ready: }"],
            ),
        ];
        for (node, expected) in table {
            assert_eq!(keys(&node), expected, "{node}");
        }
    }

    #[test]
    fn tolerations_cover_taints_as_documented() {
        let taint = Taint { key: "k".into(), value: "v".into(), effect: Effect::NoSchedule };
        let table = [
            (json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}), true),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "value": "w"}), false),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"operator": "Exists"}), true),
            (json!({"key": "other", "operator": "Exists"}), false),
        ];
        for (toleration, expected) in table {
            let tolerations = of_pod(&json!({"tolerations": [toleration]}));
            assert_eq!(is_tolerated(&taint, &tolerations), expected, "{toleration}");
        }
    }
}
