//! Taints of nodes, tolerations of pods, the taints that a node's conditions stand for, and how long a pod bears which. Pure:
//! the scheduler, the controllers that write taints and remove pods, and nodes that are cut off all go by it.

use crate::nodes;
use serde_json::Value;
use std::{fmt, sync::Arc, time::Duration};

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
    /// As Kubernetes spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }

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

/// Conditions that keep pods away: the status that does, and the taint that says so. The node lifecycle controller writes
/// these taints; for the scheduler the condition itself counts, so that no write stands between.
pub const OF_CONDITIONS: [(&str, &str, &str); 6] = [
    ("Ready", "False", nodes::TAINT_NOT_READY),
    ("Ready", "Unknown", nodes::TAINT_UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

/// The keys of the taints that the node's conditions stand for. A node that has not said whether it is ready is not.
#[must_use]
pub fn of_conditions(node: &Value) -> Vec<&'static str> {
    let conditions = node["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let status = |kind: &str| {
        let condition = conditions.iter().find(|condition| condition["type"] == kind);
        condition.and_then(|condition| condition["status"].as_str()).or((kind == "Ready").then_some("False"))
    };
    let meant = OF_CONDITIONS.iter().filter(|(condition, bad, _)| status(condition) == Some(bad));
    meant.map(|(_, _, key)| *key).collect()
}

/// All taints of a node, those of its conditions included.
#[must_use]
pub fn of_node(node: &Value) -> Vec<Arc<Taint>> {
    let mut taints: Vec<Taint> = listed(node).filter_map(parse).collect();
    for key in of_conditions(node) {
        if !taints.iter().any(|taint| &*taint.key == key && taint.effect != Effect::PreferNoSchedule) {
            taints.push(Taint { key: key.into(), value: "".into(), effect: Effect::NoSchedule });
        }
    }
    taints.into_iter().map(Arc::new).collect()
}

/// The node's taints that remove pods, each with the time at which it was put there (`timeAdded`, RFC 3339) where that is
/// written.
pub fn removing(node: &Value) -> impl Iterator<Item = (Taint, Option<&str>)> {
    let taints = listed(node).filter_map(|taint| Some((parse(taint)?, taint["timeAdded"].as_str())));
    taints.filter(|(taint, _)| taint.effect == Effect::NoExecute)
}

fn listed(node: &Value) -> impl Iterator<Item = &Value> {
    node["spec"]["taints"].as_array().into_iter().flatten()
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
    /// `None`: for ever. Not below 0.
    seconds: Option<u64>,
}

/// How long a pod stays on a node with a taint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It goes at once.
    None,
    /// It goes this long after the taint came.
    For(Duration),
    /// It stays.
    Forever,
}

impl Toleration {
    fn parse(toleration: &Value) -> Option<Self> {
        let text = |field: &str| toleration[field].as_str().unwrap_or_default();
        let effect = match text("effect") {
            "" => None,
            effect => Some(Effect::parse(effect)?),
        };
        let value = (text("operator") != "Exists").then(|| text("value").into());
        let seconds = toleration["tolerationSeconds"].as_i64().map(|seconds| u64::try_from(seconds).unwrap_or(0));
        Some(Self { key: text("key").into(), value, effect, seconds })
    }

    /// Whether it covers the taint.
    #[must_use]
    pub fn tolerates(&self, taint: &Taint) -> bool {
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

/// How long a pod with these tolerations bears the taint: as its first toleration of it says.
#[must_use]
pub fn patience(taint: &Taint, tolerations: &[Toleration]) -> Patience {
    match tolerations.iter().find(|toleration| toleration.tolerates(taint)) {
        None | Some(Toleration { seconds: Some(0), .. }) => Patience::None,
        Some(Toleration { seconds: None, .. }) => Patience::Forever,
        Some(Toleration { seconds: Some(seconds), .. }) => Patience::For(Duration::from_secs(*seconds)),
    }
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

    #[test]
    fn the_first_toleration_of_a_taint_says_for_how_long() {
        let taint = Taint { key: "k".into(), value: "".into(), effect: Effect::NoExecute };
        let bears = |seconds: i64| json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let forever = json!({"operator": "Exists"});
        let table = [
            (json!([]), Patience::None),
            (json!([bears(5)]), Patience::For(Duration::from_secs(5))),
            (json!([bears(0)]), Patience::None),
            (json!([bears(-1)]), Patience::None),
            (json!([forever]), Patience::Forever),
            (json!([bears(5), forever]), Patience::For(Duration::from_secs(5))),
            (json!([forever, bears(5)]), Patience::Forever),
            (json!([{"key": "other", "operator": "Exists"}, bears(7)]), Patience::For(Duration::from_secs(7))),
        ];
        for (tolerations, expected) in table {
            assert_eq!(patience(&taint, &of_pod(&json!({"tolerations": tolerations}))), expected, "{tolerations}");
        }
    }

    #[test]
    fn only_no_execute_removes() {
        let node = json!({"spec": {"taints": [
            {"key": "a", "effect": "NoSchedule"},
            {"key": "b", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"},
            {"key": "c", "effect": "NoExecute"},
        ]}});
        let found: Vec<_> = removing(&node).map(|(taint, since)| (taint.key.to_string(), since)).collect();
        assert_eq!(found, [("b".to_owned(), Some("2026-01-01T00:00:00Z")), ("c".to_owned(), None)]);
    }
}
