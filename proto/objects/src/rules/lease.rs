//! Leases: defaults, preparation, validation and columns.

use crate::{Cause, kind::Column};
use serde_json::Value;

/// What `kubectl get` prints.
pub const COLUMNS: &[Column] = &[
    Column { name: "Name", value_type: "string", format: "name", priority: 0 },
    Column { name: "Holder", value_type: "string", format: "", priority: 0 },
    Column { name: "Age", value_type: "string", format: "", priority: 0 },
];

/// Fields besides name and namespace that a field selector may name.
pub const SELECTABLE: &[&str] = &[];

/// Cells in the order of [`COLUMNS`].
#[must_use]
pub fn cells(_object: &Value, _now_seconds: i64) -> Vec<Value> {
    COLUMNS.iter().map(|_| Value::Null).collect()
}

/// Fills in Kubernetes' defaults.
pub fn default(_object: &mut Value) {}

/// Resets what a creator may not decide.
pub fn prepare_create(_object: &mut Value) {}

/// Carries over from `old` what this path may not change.
pub fn prepare_update(_new: &mut Value, _old: &Value, _subresource: &str) {}

/// Everything wrong with a new, defaulted object.
#[must_use]
pub fn validate_create(_object: &Value) -> Vec<Cause> {
    Vec::new()
}

/// Everything wrong with a change.
#[must_use]
pub fn validate_update(_new: &Value, _old: &Value, _subresource: &str) -> Vec<Cause> {
    Vec::new()
}
