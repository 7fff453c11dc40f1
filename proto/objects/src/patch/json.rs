//! JSON patch (RFC 6902) with bounds on how many operations there are and how much work they make.

use crate::{ApiError, Cause, Kind, Reason, meta};
use json_patch::{PatchOperation, jsonptr::Pointer, patch as apply_operations};
use serde_json::Value;

/// As many as kube-apiserver takes.
const OPERATIONS_MAX: usize = 10_000;

/// What all `copy` operations of a patch may add together, in bytes as JSON: a few of them could otherwise double a
/// document each.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Elements that all operations of a patch may shift in lists.
const SHIFTED_ELEMENTS_MAX: usize = 20_000_000;

pub(super) fn apply(kind: &Kind, original: &Value, patch: &Value) -> Result<Value, ApiError> {
    let Value::Array(raw) = patch else {
        return Err(ApiError::bad_request("a JSON patch must be a list of operations"));
    };
    if raw.len() > OPERATIONS_MAX {
        let detail = format!("a JSON patch may have {OPERATIONS_MAX} operations, this one has {}", raw.len());
        return Err(ApiError::new(Reason::RequestEntityTooLarge, detail));
    }
    let mut operations = Vec::with_capacity(raw.len());
    for (index, operation) in raw.iter().enumerate() {
        let parsed: PatchOperation = serde_json::from_value(operation.clone())
            .map_err(|error| ApiError::bad_request(format!("operation {index} of the JSON patch: {error}")))?;
        operations.push(parsed);
    }
    let mut result = original.clone();
    let mut copied = 0;
    let mut shifted = 0;
    for (index, operation) in operations.iter().enumerate() {
        if let PatchOperation::Copy(copy) = operation {
            copied += size(result.pointer(copy.from.as_str()).unwrap_or(&Value::Null), COPIED_BYTES_MAX);
        }
        shifted += touched(&result, operation);
        if copied > COPIED_BYTES_MAX || shifted > SHIFTED_ELEMENTS_MAX {
            let detail = format!("operation {index} of the JSON patch: the patch makes too much work");
            return Err(ApiError::new(Reason::RequestEntityTooLarge, detail));
        }
        apply_operations(&mut result, std::slice::from_ref(operation)).map_err(|error| {
            // As a cause, because kubectl 1.20 shows nothing else of a 422.
            let message = format!("operation {index} of the JSON patch failed at \"{}\": {}", error.path, error.kind);
            let cause = Cause { reason: "FieldValueInvalid", field: "patch".to_owned(), message };
            kind.invalid(meta::name(original), vec![cause])
        })?;
    }
    Ok(result)
}

/// Bytes of `value` as JSON, about; counting ends beyond `limit`.
fn size(value: &Value, limit: usize) -> usize {
    let mut total = 0;
    let mut waiting = vec![value];
    while let Some(next) = waiting.pop() {
        total += 2;
        match next {
            Value::String(text) => total += text.len(),
            Value::Array(elements) => waiting.extend(elements.iter().take(limit)),
            Value::Object(fields) => {
                for (name, field) in fields {
                    total += name.len() + 3;
                    waiting.push(field);
                }
            }
            Value::Number(_) | Value::Bool(_) | Value::Null => total += 4,
        }
        if total > limit {
            break;
        }
    }
    total
}

/// Elements of the lists that an operation inserts into or removes from.
fn touched(document: &Value, operation: &PatchOperation) -> usize {
    let length = |pointer: &Pointer| {
        let parent = pointer.parent().map_or("", Pointer::as_str);
        document.pointer(parent).and_then(Value::as_array).map_or(0, Vec::len)
    };
    match operation {
        PatchOperation::Add(add) => length(&add.path),
        PatchOperation::Remove(remove) => length(&remove.path),
        PatchOperation::Move(relocate) => length(&relocate.from) + length(&relocate.path),
        PatchOperation::Copy(copy) => length(&copy.path),
        PatchOperation::Replace(_) | PatchOperation::Test(_) => 0,
    }
}
