//! Pods: defaults, preparation, validation and columns.

mod affinity;
mod cells;
mod container;
mod defaults;
mod env;
mod probe;
mod reference;
mod resources;
mod spec;
mod update;
mod volume;

use super::access::{keep, keep_all_but, object_at, set_default};
use crate::{Cause, kind::Column};
use serde_json::{Value, json};

pub use resources::{QosClass, Resources, limits, qos_class, requests};

/// What `kubectl get` prints.
pub const COLUMNS: &[Column] = &[
    Column { name: "Name", value_type: "string", format: "name", priority: 0 },
    Column { name: "Ready", value_type: "string", format: "", priority: 0 },
    Column { name: "Status", value_type: "string", format: "", priority: 0 },
    Column { name: "Restarts", value_type: "string", format: "", priority: 0 },
    Column { name: "Age", value_type: "string", format: "", priority: 0 },
    Column { name: "IP", value_type: "string", format: "", priority: 1 },
    Column { name: "Node", value_type: "string", format: "", priority: 1 },
    Column { name: "Nominated Node", value_type: "string", format: "", priority: 1 },
    Column { name: "Readiness Gates", value_type: "string", format: "", priority: 1 },
];

/// Fields besides name and namespace that a field selector may name.
pub const SELECTABLE: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
];

/// Cells in the order of [`COLUMNS`].
#[must_use]
pub fn cells(object: &Value, now_seconds: i64) -> Vec<Value> {
    cells::cells(object, now_seconds)
}

/// What `kubectl get` prints as STATUS: one word for where the pod is in its life, or for what holds it up.
#[must_use]
pub fn status_text(object: &Value) -> String {
    cells::summary(object).status
}

/// Fills in Kubernetes' defaults.
pub fn default(object: &mut Value) {
    defaults::pod(object);
}

/// Resets what a creator may not decide: the status.
pub fn prepare_create(object: &mut Value) {
    let class = qos_class(object).as_str();
    if let Some(map) = object.as_object_mut() {
        map.insert("status".to_owned(), json!({"phase": "Pending", "qosClass": class}));
    }
}

/// Carries over from `old` what this path may not change.
pub fn prepare_update(new: &mut Value, old: &Value, subresource: &str) {
    if subresource == "status" {
        keep_all_but(new, old, "status");
        let class = &old["status"]["qosClass"];
        if !class.is_null()
            && let Some(status) = object_at(new, "status")
        {
            set_default(status, "qosClass", class.clone());
        }
    } else {
        keep(new, old, "status");
    }
}

/// Everything wrong with a new, defaulted object.
#[must_use]
pub fn validate_create(object: &Value) -> Vec<Cause> {
    spec::new_pod(object)
}

/// Everything wrong with a change.
#[must_use]
pub fn validate_update(new: &Value, old: &Value, subresource: &str) -> Vec<Cause> {
    if subresource == "status" { update::status(new, old) } else { update::pod(new, old) }
}

#[cfg(test)]
mod tests;
