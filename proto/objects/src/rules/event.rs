//! Events: defaults, preparation, validation and columns.

use super::{
    Causes, Path,
    access::{given, integer, text},
    age,
    metadata::{self, Scope},
};
use crate::{Cause, kind::Column, meta, names::Spelling};
use serde_json::Value;

/// What `kubectl get` prints.
pub const COLUMNS: &[Column] = &[
    Column { name: "Last Seen", value_type: "string", format: "", priority: 0 },
    Column { name: "Type", value_type: "string", format: "", priority: 0 },
    Column { name: "Reason", value_type: "string", format: "", priority: 0 },
    Column { name: "Object", value_type: "string", format: "", priority: 0 },
    Column { name: "Subobject", value_type: "string", format: "", priority: 1 },
    Column { name: "Source", value_type: "string", format: "", priority: 1 },
    Column { name: "Message", value_type: "string", format: "", priority: 0 },
    Column { name: "First Seen", value_type: "string", format: "", priority: 1 },
    Column { name: "Count", value_type: "string", format: "", priority: 1 },
    Column { name: "Name", value_type: "string", format: "name", priority: 1 },
];

/// Fields besides name and namespace that a field selector may name.
pub const SELECTABLE: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

/// Cells in the order of [`COLUMNS`].
#[must_use]
pub fn cells(object: &Value, now_seconds: i64) -> Vec<Value> {
    let since = |owner: &Value, field: &str| age::since(text(owner, field), now_seconds);
    let first_field = if text(object, "firstTimestamp").is_empty() { "eventTime" } else { "firstTimestamp" };
    let first = since(object, first_field);
    let (last, count) = match given(object, "series") {
        Some(series) => (since(series, "lastObservedTime"), integer(series, "count").unwrap_or_default()),
        None if text(object, "lastTimestamp").is_empty() => (first.clone(), times_seen(object)),
        None => (since(object, "lastTimestamp"), times_seen(object)),
    };
    let involved = &object["involvedObject"];
    let mut target = text(involved, "kind").to_lowercase();
    if !text(involved, "name").is_empty() {
        target = format!("{target}/{}", text(involved, "name"));
    }
    vec![
        last.into(),
        text(object, "type").into(),
        text(object, "reason").into(),
        target.into(),
        text(involved, "fieldPath").into(),
        source(object).into(),
        text(object, "message").trim().into(),
        first.into(),
        count.into(),
        meta::name(object).into(),
    ]
}

/// An event without a count happened once.
fn times_seen(object: &Value) -> i64 {
    integer(object, "count").filter(|count| *count != 0).unwrap_or(1)
}

/// Who reported it, and where.
fn source(object: &Value) -> String {
    let old_or_new = |old, new| {
        let old = text(&object["source"], old);
        if old.is_empty() { text(object, new) } else { old }
    };
    let (component, instance) =
        (old_or_new("component", "reportingComponent"), old_or_new("host", "reportingInstance"));
    if instance.is_empty() { component.to_owned() } else { format!("{component}, {instance}") }
}

/// Fills in Kubernetes' defaults: there are none.
pub fn default(_object: &mut Value) {}

/// Resets what a creator may not decide: nothing.
pub fn prepare_create(_object: &mut Value) {}

/// Carries over from `old` what this path may not change: nothing.
pub fn prepare_update(_new: &mut Value, _old: &Value, _subresource: &str) {}

/// Everything wrong with a new, defaulted object.
#[must_use]
pub fn validate_create(object: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_new(object, Scope::Namespaced, Spelling::DnsSubdomain, &mut causes);
    check_namespace(object, &mut causes);
    causes.into_vec()
}

/// Everything wrong with a change.
#[must_use]
pub fn validate_update(new: &Value, old: &Value, _subresource: &str) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_changed(new, old, &mut causes);
    check_namespace(new, &mut causes);
    causes.into_vec()
}

/// An event lives beside the object that it is about; those of cluster-scoped objects live in `default`.
fn check_namespace(object: &Value, causes: &mut Causes) {
    let involved = text(&object["involvedObject"], "namespace");
    let expected = if involved.is_empty() { "default" } else { involved };
    if meta::namespace(object) != expected {
        causes.invalid(&Path::new("involvedObject").child("namespace"), involved, "does not match event.namespace");
    }
}
