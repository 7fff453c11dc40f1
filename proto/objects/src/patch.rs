//! Patch types: JSON patch, merge patch, strategic merge patch (driven by the field table's merge keys).

use crate::{ApiError, Kind};
use serde_json::Value;

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
    pub fn from_content_type(_content_type: &str) -> Option<Self> {
        unimplemented!("owner: objects-fields")
    }
}

/// `original` with `patch` applied; shape checks come afterwards.
///
/// # Errors
/// 400 or 422 that says which part of the patch cannot be applied.
pub fn apply(_kind: &Kind, _original: &Value, _patch: &Value, _patch_type: PatchType) -> Result<Value, ApiError> {
    unimplemented!("owner: objects-fields")
}
