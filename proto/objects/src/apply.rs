//! `apply`: a three-way merge of what was last applied, what is wanted now, and what is there.
//!
//! Gives what `kubectl apply` gives by computing a patch and sending it: fields that were applied and are wanted no
//! longer go away, wanted ones are set, all others stay as the cluster has them.

use crate::{
    ApiError, Kind,
    fields::{
        self,
        path::Path,
        table::{ListRules, PatchStrategy, Shape},
    },
    meta,
    patch::order::{Counter, Occurrences, arrange, identity},
};
use serde_json::{Map, Value};

/// Annotation in which `kubectl apply` and we keep what was last applied.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The object to create for a first apply: `wanted` with the annotation.
#[must_use]
pub fn first(wanted: &Value) -> Value {
    let mut object = wanted.clone();
    let applied = last_applied(wanted);
    if let Some(annotations) = annotations(&mut object) {
        annotations.insert(LAST_APPLIED.to_owned(), Value::from(applied));
    }
    object
}

/// `live` as it should be after `wanted` is applied; equal to `live` when nothing changes.
///
/// # Errors
/// 400 when an element of a merged list lacks the field that names it.
pub fn three_way(kind: &Kind, live: &Value, wanted: &Value) -> Result<Value, ApiError> {
    let mut wanted = first(wanted);
    let mut last: Value = meta::annotation(live, LAST_APPLIED)
        .and_then(|text| serde_json::from_str(text).ok())
        .filter(Value::is_object)
        .unwrap_or_else(|| Value::Object(Map::new()));
    // `kubectl create --dry-run -o yaml` writes `creationTimestamp: null`; nobody means to delete it by that.
    for object in [&mut wanted, &mut last] {
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            metadata.shift_remove("creationTimestamp");
        }
    }
    let mut result = live.clone();
    if let (Value::Object(result), Value::Object(wanted)) = (&mut result, &wanted) {
        merge_object(result, wanted, last.as_object(), Some(fields::shape_of(kind)), &Path::Root)?;
    }
    Ok(result)
}

/// The annotation's value for `wanted`, byte for byte as `kubectl` writes it: sorted keys, HTML characters escaped, a
/// line break at the end, and `annotations` present even when empty. Otherwise the next `kubectl apply` of the same
/// manifest would see a difference.
fn last_applied(wanted: &Value) -> String {
    let mut object = wanted.clone();
    if let Some(annotations) = annotations(&mut object) {
        annotations.shift_remove(LAST_APPLIED);
    }
    let mut text = String::new();
    for character in sorted(&object).to_string().chars() {
        match character {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            other => text.push(other),
        }
    }
    text.push('\n');
    text
}

/// `metadata.annotations`, made where it is missing.
fn annotations(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let metadata = object.as_object_mut()?.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    let annotations = metadata.as_object_mut()?.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    if annotations.is_null() {
        *annotations = Value::Object(Map::new());
    }
    annotations.as_object_mut()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort();
            Value::Object(names.into_iter().map(|name| (name.clone(), sorted(&fields[name]))).collect())
        }
        Value::Array(elements) => Value::Array(elements.iter().map(sorted).collect()),
        plain => plain.clone(),
    }
}

type Fields = Map<String, Value>;
type Known = Option<&'static Shape>;

fn merge_object(
    live: &mut Fields,
    wanted: &Fields,
    last: Option<&Fields>,
    shape: Known,
    path: &Path<'_>,
) -> Result<(), ApiError> {
    for name in last.into_iter().flat_map(Fields::keys).filter(|name| !wanted.contains_key(*name)) {
        live.shift_remove(name);
    }
    for (name, value) in wanted {
        if value.is_null() {
            live.shift_remove(name);
            continue;
        }
        let (inner, rules) = look_up(shape, name);
        let was = last.and_then(|last| last.get(name));
        let here = Path::Field(path, name);
        match (live.get_mut(name), value) {
            (Some(Value::Object(fields)), Value::Object(wanted)) => {
                merge_object(fields, wanted, was.and_then(Value::as_object), inner, &here)?;
            }
            (Some(Value::Array(elements)), Value::Array(wanted)) => {
                let there = std::mem::take(elements);
                let was = was.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                *elements = merge_list(&there, wanted, was, inner, rules, &here)?;
            }
            (Some(there), value) => {
                if !same(there, value, inner) {
                    *there = without_nulls(value);
                }
            }
            (None, value) => {
                live.insert(name.clone(), without_nulls(value));
            }
        }
    }
    Ok(())
}

fn merge_list(
    live: &[Value],
    wanted: &[Value],
    last: &[Value],
    shape: Known,
    rules: ListRules,
    path: &Path<'_>,
) -> Result<Vec<Value>, ApiError> {
    let key = match rules.patch {
        PatchStrategy::Replace => return Ok(wanted.iter().map(without_nulls).collect()),
        PatchStrategy::MergeValues => None,
        PatchStrategy::MergeByKey(key) => Some(key),
    };
    let element = shape.and_then(Shape::element);
    let live_places = Occurrences::new(live, key);
    let last_places = Occurrences::new(last, key);
    let mut counter = Counter::default();
    let mut merged = Vec::with_capacity(wanted.len());
    let mut taken = vec![false; live.len()];
    for (index, value) in wanted.iter().enumerate() {
        let here = Path::Index(path, index);
        let identity = identity(value, key).ok_or_else(|| {
            let key = key.unwrap_or_default();
            ApiError::bad_request(format!("cannot apply: {here} does not contain the declared merge key \"{key}\""))
        })?;
        let nth = counter.next(&identity);
        let place = live_places.nth(&identity, nth);
        let was = last_places.nth(&identity, nth).and_then(|place| last.get(place));
        let mut result = place.and_then(|place| live.get(place)).cloned().unwrap_or(Value::Null);
        match (&mut result, value) {
            (Value::Object(fields), Value::Object(wanted)) => {
                merge_object(fields, wanted, was.and_then(Value::as_object), element, &here)?;
                if rules.retain_keys {
                    // One of several kinds of volume: the other one goes when this one comes.
                    fields.retain(|name, _| wanted.contains_key(name));
                }
            }
            (result, value) => *result = without_nulls(value),
        }
        merged.push(result);
        place.and_then(|place| taken.get_mut(place)).into_iter().for_each(|taken| *taken = true);
    }
    for (element, taken) in live.iter().zip(taken) {
        let applied = identity(element, key).is_some_and(|identity| last_places.contains(&identity));
        if !taken && !applied {
            merged.push(element.clone());
        }
    }
    Ok(arrange(merged, wanted, live, key))
}

/// Whether the cluster's value is what is wanted, spelled as the cluster spells it (`0.5` is stored as `500m`).
fn same(live: &Value, wanted: &Value, shape: Known) -> bool {
    live == wanted || shape.is_some_and(|shape| fields::normal(wanted, shape) == *live)
}

fn look_up(shape: Known, name: &str) -> (Known, ListRules) {
    match shape.and_then(|shape| shape.child(name)) {
        Some((inner, rules)) => (Some(inner), rules),
        None => (None, ListRules::UNSPECIFIED),
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name.clone(), without_nulls(value)))
                .collect(),
        ),
        Value::Array(elements) => Value::Array(elements.iter().map(without_nulls).collect()),
        plain => plain.clone(),
    }
}

#[cfg(test)]
mod tests;
