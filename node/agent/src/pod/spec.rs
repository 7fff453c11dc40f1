//! What the agent reads from a pod's spec, with Kubernetes' defaults for what an old object may lack.

use coracle_images::{PullPolicy, Reference};
use coracle_objects::meta;
use serde_json::Value;
use std::time::Duration;

/// `spec.restartPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// Grace of a pod that names none.
const GRACE_DEFAULT_SECONDS: u64 = 30;

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Items of an array field; none where there is no array.
pub(crate) fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    list(value, field)
}

/// A string field; "" where there is none.
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

pub(crate) fn init_containers(pod: &Value) -> &[Value] {
    list(&pod["spec"], "initContainers")
}

pub(crate) fn app_containers(pod: &Value) -> &[Value] {
    list(&pod["spec"], "containers")
}

/// Init containers, then app containers: the order of every per-container list in the agent.
pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    init_containers(pod).iter().chain(app_containers(pod))
}

pub(crate) fn restart_policy(pod: &Value) -> RestartPolicy {
    match text(&pod["spec"], "restartPolicy") {
        "Never" => RestartPolicy::Never,
        "OnFailure" => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

/// How long containers get between being asked to stop and being ended.
pub(crate) fn grace(pod: &Value) -> Duration {
    let asked = pod["metadata"]["deletionGracePeriodSeconds"].as_u64();
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_u64();
    Duration::from_secs(asked.or(own).unwrap_or(GRACE_DEFAULT_SECONDS))
}

pub(crate) fn pull_policy(container: &Value) -> PullPolicy {
    match text(container, "imagePullPolicy") {
        "Always" => PullPolicy::Always,
        "Never" => PullPolicy::Never,
        "IfNotPresent" => PullPolicy::IfNotPresent,
        _ if Reference::parse(text(container, "image")).is_ok_and(|name| name.is_latest()) => PullPolicy::Always,
        _ => PullPolicy::IfNotPresent,
    }
}

/// Where events about a container point.
pub(crate) fn field_path(container: &str, init: bool) -> String {
    let list = if init { "initContainers" } else { "containers" };
    format!("spec.{list}{{{container}}}")
}

/// `name_namespace(uid)`, as kubelet's messages name a pod.
pub(crate) fn describe(pod: &Value) -> String {
    format!("{}_{}({})", meta::name(pod), meta::namespace(pod), meta::uid(pod))
}

/// Whether the pod ended for good, by what its status says.
pub(crate) fn is_finished(pod: &Value) -> bool {
    matches!(text(&pod["status"], "phase"), "Succeeded" | "Failed")
}

/// What containers ask for and nobody does yet: a reason and a message for each, said once per pod.
pub(crate) fn unsupported(pod: &Value) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for container in containers(pod) {
        let name = text(container, "name");
        let probes: Vec<&str> = ["startupProbe", "livenessProbe", "readinessProbe"]
            .into_iter()
            .filter(|probe| container[*probe].is_object())
            .collect();
        if !probes.is_empty() {
            let message = format!(
                "This node does not run probes yet: container {name} counts as ready while it runs ({} ignored)",
                probes.join(", ")
            );
            found.push(("ProbesNotSupported", message));
        }
        if container["lifecycle"].as_object().is_some_and(|hooks| !hooks.is_empty()) {
            found.push(("HooksNotSupported", format!("This node does not run hooks yet: lifecycle of {name} ignored")));
        }
        if let Some(limit) = container["resources"]["limits"]["cpu"].as_str() {
            let message = format!("This node does not enforce CPU limits yet: {name} may use more than {limit}");
            found.push(("CPULimitNotSupported", message));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_are_those_of_kubernetes() {
        assert_eq!(restart_policy(&json!({})), RestartPolicy::Always);
        assert_eq!(grace(&json!({})), Duration::from_secs(30));
        let pod = json!({"metadata": {"deletionGracePeriodSeconds": 1}, "spec": {"terminationGracePeriodSeconds": 9}});
        assert_eq!(grace(&pod), Duration::from_secs(1));
        for (container, policy) in [
            (json!({"image": "a"}), PullPolicy::Always),
            (json!({"image": "a:v1"}), PullPolicy::IfNotPresent),
            (json!({"image": "a", "imagePullPolicy": "Never"}), PullPolicy::Never),
        ] {
            assert_eq!(pull_policy(&container), policy, "{container}");
        }
    }

    #[test]
    fn what_is_not_run_is_told() {
        let pod = json!({"spec": {
            "initContainers": [{"name": "i", "resources": {"limits": {"cpu": "1"}}}],
            "containers": [{"name": "a", "livenessProbe": {}, "readinessProbe": {}}, {"name": "b", "lifecycle": {"preStop": {}}}],
        }});
        let reasons: Vec<&str> = unsupported(&pod).iter().map(|row| row.0).collect();
        assert_eq!(reasons, ["CPULimitNotSupported", "ProbesNotSupported", "HooksNotSupported"]);
        assert!(unsupported(&json!({"spec": {"containers": [{"name": "a"}]}})).is_empty());
    }
}
