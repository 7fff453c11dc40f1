//! Reading and completing JSON fields. A field that is missing, null or of another type reads as empty: shapes are checked
//! before rules run.

use serde_json::{Map, Value};

/// The field's string, or "".
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// The field's list, or an empty one.
pub(super) fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

/// Keys and values of the field's map, if any.
pub(super) fn pairs<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    value[field].as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

/// How many entries the field's map has.
pub(super) fn map_len(value: &Value, field: &str) -> usize {
    value[field].as_object().map_or(0, Map::len)
}

/// The field's integer.
pub(super) fn integer(value: &Value, field: &str) -> Option<i64> {
    value[field].as_i64()
}

/// The field's boolean, or false.
pub(super) fn flag(value: &Value, field: &str) -> bool {
    value[field].as_bool().unwrap_or_default()
}

/// The field, unless it is missing or null.
pub(super) fn given<'a>(value: &'a Value, field: &str) -> Option<&'a Value> {
    value.get(field).filter(|value| !value.is_null())
}

/// Sets the field unless it has a value; null and "" count as none, as in Kubernetes' defaulting.
pub(super) fn set_default(value: &mut Value, field: &str, default: impl Into<Value>) {
    let empty = match &value[field] {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    if empty && let Some(map) = value.as_object_mut() {
        map.insert(field.to_owned(), default.into());
    }
}

/// The field's object, made when it is missing; `None` when there is something else.
pub(super) fn object_at<'a>(value: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    let entry = value.as_object_mut()?.entry(field).or_insert(Value::Null);
    if entry.is_null() {
        *entry = Value::Object(Map::new());
    }
    entry.is_object().then_some(entry)
}

/// The items of the field's list, for change.
pub(super) fn items_at<'a>(value: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Removes a field.
pub(super) fn remove(value: &mut Value, field: &str) {
    if let Some(map) = value.as_object_mut() {
        map.shift_remove(field);
    }
}

/// Gives `field` the value that it has in `old`, which may be none.
pub(super) fn keep(new: &mut Value, old: &Value, field: &str) {
    if let Some(map) = new.as_object_mut() {
        put(map, field, given(old, field).cloned());
    }
}

/// Makes `new` equal to `old` but for `field`, and for the resource version, which is the writer's precondition.
pub(super) fn keep_all_but(new: &mut Value, old: &Value, field: &str) {
    let wanted = new.get_mut(field).map(Value::take).filter(|value| !value.is_null());
    let version = new["metadata"].get("resourceVersion").cloned();
    new.clone_from(old);
    if let Some(map) = new.as_object_mut() {
        put(map, field, wanted);
    }
    if let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) {
        put(metadata, "resourceVersion", version);
    }
}

fn put(map: &mut Map<String, Value>, field: &str, value: Option<Value>) {
    match value {
        Some(value) => {
            map.insert(field.to_owned(), value);
        }
        None => {
            map.shift_remove(field);
        }
    }
}

/// Whether two fields say the same; a missing one is like null, "", an empty list or an empty map.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.iter().all(|(key, value)| same(value, other.get(key).unwrap_or(&Value::Null)))
                && other.iter().all(|(key, value)| one.contains_key(key) || is_empty(value))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        _ => one == other || (is_empty(one) && is_empty(other)),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) => false,
    }
}
