//! Namespaces: defaults, preparation, validation and columns.

use super::{
    Causes, Path,
    access::{keep, keep_all_but, list, object_at, set_default, text},
    age,
    metadata::{self, Scope},
};
use crate::{Cause, kind::Column, meta, names::Spelling};
use serde_json::{Value, json};

/// The finalizer that keeps a namespace until its content is gone.
pub const FINALIZER: &str = "kubernetes";

/// The label by which selectors name a namespace.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// What `kubectl get` prints.
pub const COLUMNS: &[Column] = &[
    Column { name: "Name", value_type: "string", format: "name", priority: 0 },
    Column { name: "Status", value_type: "string", format: "", priority: 0 },
    Column { name: "Age", value_type: "string", format: "", priority: 0 },
];

/// Fields besides name and namespace that a field selector may name.
pub const SELECTABLE: &[&str] = &["status.phase"];

/// Cells in the order of [`COLUMNS`].
#[must_use]
pub fn cells(object: &Value, now_seconds: i64) -> Vec<Value> {
    let phase = text(&object["status"], "phase");
    vec![meta::name(object).into(), phase.into(), age::age(object, now_seconds).into()]
}

/// Fills in Kubernetes' defaults: the label with its name, and the phase.
pub fn default(object: &mut Value) {
    let name = meta::name(object).to_owned();
    if !name.is_empty()
        && let Some(labels) = object_at(object, "metadata").and_then(|metadata| object_at(metadata, "labels"))
        && let Some(labels) = labels.as_object_mut()
    {
        labels.insert(NAME_LABEL.to_owned(), name.into());
    }
    if let Some(status) = object_at(object, "status") {
        set_default(status, "phase", "Active");
    }
}

/// Resets what a creator may not decide: the status; and adds the finalizer.
pub fn prepare_create(object: &mut Value) {
    if let Some(spec) = object_at(object, "spec") {
        let mut finalizers = list(spec, "finalizers").to_vec();
        if !finalizers.iter().any(|one| one == FINALIZER) {
            finalizers.push(FINALIZER.into());
        }
        spec["finalizers"] = finalizers.into();
    }
    if let Some(map) = object.as_object_mut() {
        map.insert("status".to_owned(), json!({"phase": "Active"}));
    }
}

/// Carries over from `old` what this path may not change: `finalize` writes the spec, `status` the status, and the
/// object's own path neither.
pub fn prepare_update(new: &mut Value, old: &Value, subresource: &str) {
    match subresource {
        "status" => keep_all_but(new, old, "status"),
        "finalize" => keep_all_but(new, old, "spec"),
        _ => {
            keep(new, old, "spec");
            keep(new, old, "status");
        }
    }
}

/// Everything wrong with a new, defaulted object.
#[must_use]
pub fn validate_create(object: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_new(object, Scope::Cluster, Spelling::DnsLabel, &mut causes);
    check_finalizers(object, &mut causes);
    causes.into_vec()
}

/// Everything wrong with a change.
#[must_use]
pub fn validate_update(new: &Value, old: &Value, subresource: &str) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_changed(new, old, &mut causes);
    match subresource {
        "status" => check_phase(new, &mut causes),
        "finalize" => check_finalizers(new, &mut causes),
        _ => {}
    }
    causes.into_vec()
}

fn check_finalizers(object: &Value, causes: &mut Causes) {
    let path = Path::new("spec").child("finalizers");
    for finalizer in list(&object["spec"], "finalizers").iter().filter_map(Value::as_str) {
        causes.spelled(&path, finalizer, Spelling::QualifiedName);
    }
}

fn check_phase(object: &Value, causes: &mut Causes) {
    let (path, phase) = (Path::new("status").child("phase"), text(&object["status"], "phase"));
    match (meta::is_terminating(object), phase) {
        (false, "Active") | (true, "Terminating") => {}
        (false, _) => causes.invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty"),
        (true, _) => causes.invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty"),
    }
}
