//! `apply`: a three-way merge of what was last applied, what is wanted now, and what is there.

use crate::{ApiError, Kind};
use serde_json::Value;

/// Annotation in which `kubectl apply` and we keep what was last applied.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The object to create for a first apply: `wanted` with the annotation.
#[must_use]
pub fn first(_wanted: &Value) -> Value {
    unimplemented!("owner: objects-fields")
}

/// `live` as it should be after `wanted` is applied; equal to `live` when nothing changes.
///
/// # Errors
/// 400 or 422 when the merge is impossible.
pub fn three_way(_kind: &Kind, _live: &Value, _wanted: &Value) -> Result<Value, ApiError> {
    unimplemented!("owner: objects-fields")
}
