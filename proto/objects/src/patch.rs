//! Patch types: JSON patch, merge patch, strategic merge patch (driven by the field table's merge keys).
//!
//! A patch only rearranges JSON here. Whether the result is an object of its kind is for [`crate::fields::check`]
//! and the kind's rules to say.

mod json;
pub(crate) mod order;
mod strategic;

use crate::{ApiError, Kind, fields};
use serde_json::{Map, Value};

/// How a patch body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// `application/json-patch+json` (RFC 6902).
    Json,
    /// `application/merge-patch+json` (RFC 7396).
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
}

impl PatchType {
    /// From a `Content-Type`; parameters are ignored.
    #[must_use]
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let known = [
            ("application/json-patch+json", Self::Json),
            ("application/merge-patch+json", Self::Merge),
            ("application/strategic-merge-patch+json", Self::Strategic),
        ];
        known.into_iter().find(|(name, _)| media_type.eq_ignore_ascii_case(name)).map(|(_, patch_type)| patch_type)
    }
}

/// `original` with `patch` applied; shape checks come afterwards.
///
/// # Errors
/// 400 for what is no patch, 413 for a JSON patch that is too long or copies too much, 422 that says which part of
/// the patch cannot be applied.
pub fn apply(kind: &Kind, original: &Value, patch: &Value, patch_type: PatchType) -> Result<Value, ApiError> {
    match patch_type {
        PatchType::Json => json::apply(kind, original, patch),
        PatchType::Merge | PatchType::Strategic if !patch.is_object() => {
            Err(ApiError::bad_request("the patch must be a JSON object"))
        }
        PatchType::Merge => {
            let mut result = original.clone();
            merge(&mut result, patch);
            Ok(result)
        }
        PatchType::Strategic => strategic::apply(fields::shape_of(kind), original, patch),
    }
}

/// RFC 7396: objects are merged, null removes, anything else replaces.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (name, change) in changes {
        if change.is_null() {
            fields.shift_remove(name);
        } else {
            merge(fields.entry(name).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests;
