//! Pods for tests: short manifests, and waiting for what becomes of them.

use crate::{Kubectl, eventually};
use serde_json::{Value, json};

/// A pod of one container, `main`, that runs the toolbox with these arguments.
#[must_use]
pub fn toolbox(name: &str, restart_policy: &str, arguments: &[&str]) -> Value {
    pod(name, restart_policy, &json!({"image": "toolbox:1", "args": arguments}))
}

/// A pod of one container, `main`; it gets one second of grace.
#[must_use]
pub fn pod(name: &str, restart_policy: &str, container: &Value) -> Value {
    let mut container = container.clone();
    container["name"] = "main".into();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "test"}},
        "spec": {"restartPolicy": restart_policy, "terminationGracePeriodSeconds": 1, "containers": [container]},
    })
}

/// The same pod on this node, whatever the scheduler thinks.
#[must_use]
pub fn on(node: &str, mut pod: Value) -> Value {
    pod["spec"]["nodeName"] = node.into();
    pod
}

/// Applies many objects at once.
///
/// # Panics
/// When one is refused.
pub fn apply(kubectl: &Kubectl, namespace: &str, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    let applied = kubectl.run_with_input(&format!("apply -n {namespace} -f -"), &list);
    applied.unwrap_or_else(|error| panic!("apply: {error}"));
}

/// The status of a pod's first container.
pub fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

/// A condition of a pod or a node; null while it has none of this type.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|one| one["type"] == kind).unwrap_or(&Value::Null)
}

/// Waits until a pod, given as `NAME` or `NAME -n NAMESPACE`, is as wanted.
pub fn until(kubectl: &Kubectl, pod: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("{pod}: {what}"), || {
        let object = kubectl.json(&format!("get pod {pod}"))?;
        if wanted(&object) { Ok(object) } else { Err(object["status"].to_string()) }
    })
}

/// Waits until a pod's first container runs.
pub fn running(kubectl: &Kubectl, pod: &str) -> Value {
    until(kubectl, pod, "running", |object| container(object)["state"]["running"].is_object())
}

/// Waits until a pod has this phase.
pub fn phase(kubectl: &Kubectl, pod: &str, phase: &str) -> Value {
    until(kubectl, pod, phase, |object| object["status"]["phase"] == phase)
}
