//! Walks an object along its shape: refuses wrong types, prunes what is unknown, drops nulls.

mod scalar;

#[cfg(test)]
mod tests;

use super::{Checked, Document, FieldValidation, path::Path, table::Shape};
use crate::ApiError;
use serde_json::{Map, Value};
use std::fmt::Display;

/// Kubernetes' strict decoder stops counting here too.
const PROBLEMS_MAX: usize = 100;

/// A value of the wrong type or form.
struct Mismatch {
    field: String,
    expected: &'static str,
    found: String,
}

/// What the walk found besides mismatches.
struct Walk {
    /// Whether anybody wants to know of unknown fields.
    report: bool,
    unknown: Vec<String>,
}

/// See [`super::check_document`].
pub(super) fn document(
    document: &Document<'_>,
    mut object: Value,
    validation: FieldValidation,
    duplicates: &[String],
) -> Result<Checked, ApiError> {
    identity(document, &mut object)?;
    let version = document.group_version.map_or("v1", |(_, version)| version);
    let cannot = |detail: &dyn Display| {
        let kind = document.kind;
        ApiError::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {detail}"))
    };
    let mut walk = Walk { report: validation != FieldValidation::Ignore, unknown: Vec::new() };
    if let Some(row) = document.table_type() {
        walk.value(&mut object, &row.shape, &Path::Root).map_err(|mismatch| {
            let Mismatch { field, expected, found } = mismatch;
            cannot(&format_args!("{field}: expected {expected}, found {found}"))
        })?;
    }
    let mut problems = Vec::new();
    if walk.report {
        problems.extend(duplicates.iter().map(|field| format!("duplicate field \"{field}\"")));
        problems.extend(walk.unknown.iter().map(|field| format!("unknown field \"{field}\"")));
        problems.truncate(PROBLEMS_MAX);
    }
    if validation == FieldValidation::Strict && !problems.is_empty() {
        return Err(cannot(&format_args!("strict decoding error: {}", problems.join(", "))));
    }
    Ok(Checked { object, warnings: problems })
}

/// See [`super::normal`].
pub(super) fn normal(value: &Value, shape: &'static Shape) -> Value {
    let mut spelled = value.clone();
    match scalar::check(&mut spelled, shape.resolved()) {
        Ok(()) => spelled,
        Err(_) => value.clone(),
    }
}

/// Holds `apiVersion` and `kind` against what the document must be, and fills them in where they are missing.
fn identity(document: &Document<'_>, object: &mut Value) -> Result<(), ApiError> {
    let kind = document.kind;
    let Value::Object(fields) = object else {
        let found = scalar::describe(object);
        return Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): expected a JSON object, found {found}"
        )));
    };
    let stated = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(other) => {
            let found = scalar::describe(other);
            Err(ApiError::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind}): {name}: expected string, found {found}"
            )))
        }
    };
    let expected_version = match document.group_version {
        Some(("", version)) => Some(version.to_owned()),
        Some((group, version)) => Some(format!("{group}/{version}")),
        None => None,
    };
    let (stated_version, stated_kind) = (stated("apiVersion")?, stated("kind")?);
    if let Some(expected) = &expected_version
        && !stated_version.is_empty()
        && stated_version != expected
    {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({stated_version}) does not match the expected API version ({expected})"
        )));
    }
    if !stated_kind.is_empty() && stated_kind != kind {
        let version = stated_version.rsplit('/').next().unwrap_or_default();
        return Err(ApiError::bad_request(format!(
            "{stated_kind} in version \"{version}\" cannot be handled as a {kind}: kind: expected \"{kind}\", \
             found \"{stated_kind}\""
        )));
    }
    let (fill_kind, fill_version) = (stated_kind.is_empty(), stated_version.is_empty());
    if fill_kind {
        put_first(fields, "kind", kind);
    }
    if fill_version && let Some(expected) = &expected_version {
        put_first(fields, "apiVersion", expected);
    }
    Ok(())
}

fn put_first(fields: &mut Map<String, Value>, name: &str, text: &str) {
    fields.shift_remove(name);
    fields.shift_insert(0, name.to_owned(), Value::from(text));
}

impl Walk {
    fn value(&mut self, value: &mut Value, shape: &'static Shape, path: &Path<'_>) -> Result<(), Mismatch> {
        match shape.resolved() {
            Shape::Object(_) => self.object(value, shape.resolved(), path),
            Shape::Map(inner) => self.map(value, inner, path),
            Shape::List(inner) => self.list(value, inner, path),
            // What stands in a secret must not end up in messages and logs.
            Shape::Bytes if value.is_string() => scalar::check(value, &Shape::Bytes).map_err(|expected| Mismatch {
                field: path.to_string(),
                expected,
                found: "other text".to_owned(),
            }),
            plain => scalar::check(value, plain).map_err(|expected| mismatch(value, expected, path)),
        }
    }

    fn object(&mut self, value: &mut Value, shape: &'static Shape, path: &Path<'_>) -> Result<(), Mismatch> {
        let Value::Object(fields) = value else {
            return Err(mismatch(value, "object", path));
        };
        let mut outcome = Ok(());
        fields.retain(|name, inner| {
            if outcome.is_err() {
                return true;
            }
            let here = Path::Field(path, name);
            let Some(field) = shape.field(name) else {
                self.unknown(&here);
                return false;
            };
            if inner.is_null() {
                return false;
            }
            outcome = self.value(inner, &field.shape, &here);
            true
        });
        outcome
    }

    fn map(&mut self, value: &mut Value, inner: &'static Shape, path: &Path<'_>) -> Result<(), Mismatch> {
        let Value::Object(entries) = value else {
            return Err(mismatch(value, "object", path));
        };
        for (key, entry) in entries {
            if entry.is_null() {
                *entry = zero(inner);
            } else {
                self.value(entry, inner, &Path::Key(path, key))?;
            }
        }
        Ok(())
    }

    fn list(&mut self, value: &mut Value, inner: &'static Shape, path: &Path<'_>) -> Result<(), Mismatch> {
        let Value::Array(elements) = value else {
            return Err(mismatch(value, "list", path));
        };
        for (index, element) in elements.iter_mut().enumerate() {
            if element.is_null() {
                *element = zero(inner);
            } else {
                self.value(element, inner, &Path::Index(path, index))?;
            }
        }
        Ok(())
    }

    fn unknown(&mut self, path: &Path<'_>) {
        if self.report && self.unknown.len() < PROBLEMS_MAX {
            self.unknown.push(path.to_string());
        }
    }
}

/// What Go's decoder makes of a null where there must be a value: in a list or a map.
fn zero(shape: &'static Shape) -> Value {
    match shape.resolved() {
        Shape::Object(_) | Shape::Map(_) => Value::Object(Map::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Boolean => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Number | Shape::IntOrString => Value::from(0),
        Shape::Quantity => Value::from("0"),
        Shape::String | Shape::Bytes => Value::from(""),
        Shape::Any | Shape::Time | Shape::MicroTime | Shape::Reference(_) => Value::Null,
    }
}

fn mismatch(value: &Value, expected: &'static str, path: &Path<'_>) -> Mismatch {
    Mismatch { field: path.to_string(), expected, found: scalar::describe(value) }
}
