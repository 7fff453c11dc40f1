//! How long a pod stays on a node that is lost, where the pod does not say so itself: every pod bears the taints of such nodes
//! for a while (Kubernetes' admission plugin `DefaultTolerationSeconds`).

use coracle_objects::nodes::{TAINT_NOT_READY, TAINT_UNREACHABLE};
use serde_json::{Value, json};

const EFFECT: &str = "NoExecute";

/// For how long, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TolerationDefaults {
    /// On a node that says that it is not ready.
    pub not_ready_seconds: u32,
    /// On a node that nothing is heard of.
    pub unreachable_seconds: u32,
}

impl Default for TolerationDefaults {
    fn default() -> Self {
        Self { not_ready_seconds: 300, unreachable_seconds: 300 }
    }
}

impl TolerationDefaults {
    /// Adds to a pod what it does not say itself.
    pub(crate) fn apply(self, pod: &mut Value) {
        let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
        let mut tolerations = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
        let before = tolerations.len();
        for (key, seconds) in [(TAINT_NOT_READY, self.not_ready_seconds), (TAINT_UNREACHABLE, self.unreachable_seconds)]
        {
            let is_empty = |value: &Value| value.as_str().is_none_or(str::is_empty);
            let says = |one: &Value| {
                (is_empty(&one["key"]) || one["key"] == key) && (is_empty(&one["effect"]) || one["effect"] == EFFECT)
            };
            if !tolerations.iter().any(says) {
                tolerations
                    .push(json!({"key": key, "operator": "Exists", "effect": EFFECT, "tolerationSeconds": seconds}));
            }
        }
        if tolerations.len() != before {
            spec.insert("tolerations".to_owned(), tolerations.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_says_itself_stays() {
        let defaults = TolerationDefaults { not_ready_seconds: 3, unreachable_seconds: 4 };
        let (first, second) = (
            json!({"key": TAINT_NOT_READY, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}),
            json!({"key": TAINT_UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 4}),
        );
        let own = json!({"key": TAINT_NOT_READY, "operator": "Exists", "tolerationSeconds": 9});
        let scheduling = json!({"key": TAINT_NOT_READY, "operator": "Exists", "effect": "NoSchedule"});
        let all = json!({"operator": "Exists"});
        let table = [
            (json!({}), json!([first, second])),
            (json!({"tolerations": [own]}), json!([own, second])),
            (json!({"tolerations": [scheduling]}), json!([scheduling, first, second])),
            (json!({"tolerations": [all]}), json!([all])),
        ];
        for (spec, expected) in table {
            let mut pod = json!({"spec": spec});
            defaults.apply(&mut pod);
            assert_eq!(pod["spec"]["tolerations"], expected, "{spec}");
            let once = pod.clone();
            defaults.apply(&mut pod);
            assert_eq!(pod, once);
        }
        let mut broken = json!({});
        defaults.apply(&mut broken);
        assert_eq!(broken, json!({}));
    }
}
