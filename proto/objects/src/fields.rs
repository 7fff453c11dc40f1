//! The field table: the shape of every kind, and the checks that need only the shape.

use crate::{ApiError, Kind};
use serde_json::Value;

/// `fieldValidation` of a request: what happens to unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and say so in `Warning` headers; Kubernetes' default.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

/// An object whose shape has been checked and pruned, with what was dropped.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The object, unknown fields pruned, nulls dropped.
    pub object: Value,
    /// Messages such as `unknown field "spec.foo"`, for `Warning` headers.
    pub warnings: Vec<String>,
}

/// Checks types and unknown fields of an already decoded object of `kind` and prunes it.
///
/// # Errors
/// 400 for a wrong type (with the field path), or for unknown fields under [`FieldValidation::Strict`].
pub fn check(_kind: &Kind, _object: Value, _validation: FieldValidation) -> Result<Checked, ApiError> {
    unimplemented!("owner: objects-fields")
}
