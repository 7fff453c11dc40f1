//! The field table: the shape of every kind, and the checks that need only the shape.
//!
//! Missing required fields are not looked for here: Kubernetes reports them as 422 with a field path, and so do the
//! rules of each kind.

mod check;
pub(crate) mod path;
pub mod table;

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

/// What a document is: a kind of the catalogue, or one of the bodies that are never stored.
#[derive(Debug, Clone, Copy)]
pub struct Document<'a> {
    /// What `kind` says, e.g. `Pod`.
    pub kind: &'a str,
    /// Group and version that `apiVersion` must say; `None` when any will do.
    pub group_version: Option<(&'a str, &'a str)>,
    type_name: Option<&'a str>,
}

impl Document<'static> {
    /// Body of `pods/x/binding`.
    pub const BINDING: Self = Self { kind: "Binding", group_version: Some(("", "v1")), type_name: None };
    /// Body of `pods/x/eviction`; older clients send an older version of the group `policy`.
    pub const EVICTION: Self =
        Self { kind: "Eviction", group_version: None, type_name: Some("io.k8s.api.policy.v1.Eviction") };
    /// Body of a DELETE; every group version of Kubernetes has it.
    pub const DELETE_OPTIONS: Self = Self {
        kind: "DeleteOptions",
        group_version: None,
        type_name: Some("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"),
    };
}

impl From<&Kind> for Document<'static> {
    fn from(kind: &Kind) -> Self {
        Self { kind: kind.kind, group_version: Some((kind.group, kind.version)), type_name: None }
    }
}

impl Document<'_> {
    /// Its row in the field table.
    #[must_use]
    pub fn table_type(&self) -> Option<&'static table::Type> {
        match (self.type_name, self.group_version) {
            (Some(name), _) => table::type_named(name),
            (None, Some((group, version))) => table::type_named(&table::type_name(group, version, self.kind)),
            (None, None) => None,
        }
    }
}

/// Checks types and unknown fields of an already decoded object of `kind` and prunes it.
///
/// `apiVersion` and `kind` are filled in where they are missing, as kube-apiserver does; quantities and times are
/// brought to the one spelling that Kubernetes prints.
///
/// # Errors
/// 400 for a wrong type (with the field path), for another kind, or for unknown fields under
/// [`FieldValidation::Strict`].
pub fn check(kind: &Kind, object: Value, validation: FieldValidation) -> Result<Checked, ApiError> {
    check::document(&Document::from(kind), object, validation, &[])
}

/// As [`check`], for any document and with the duplicate fields that decoding found.
///
/// # Errors
/// As [`check`].
pub fn check_document(
    document: &Document<'_>,
    object: Value,
    validation: FieldValidation,
    duplicates: &[String],
) -> Result<Checked, ApiError> {
    check::document(document, object, validation, duplicates)
}

/// The shape of objects of `kind`.
#[must_use]
pub fn shape_of(kind: &Kind) -> &'static table::Shape {
    Document::from(kind).table_type().map_or(&table::Shape::Any, |row| &row.shape)
}

/// A plain `value` in the one spelling that Kubernetes prints; anything that is not of the shape stays as it is.
pub(crate) fn normal(value: &Value, shape: &'static table::Shape) -> Value {
    check::normal(value, shape)
}
