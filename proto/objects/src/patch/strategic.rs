//! Strategic merge patch: as RFC 7396, but lists whose elements have a name are merged element by element, and
//! directives in the patch (`$patch`, `$retainKeys`, `$setElementOrder/…`, `$deleteFromPrimitiveList/…`) say more.
//!
//! Follows Kubernetes' "Update API objects in place" and its design document on strategic merge patch.

use super::order::{Counter, Occurrences, arrange, identity};
use crate::{
    ApiError,
    fields::{
        path::Path,
        table::{ListRules, PatchStrategy, Shape},
    },
};
use serde_json::{Map, Value};
use std::collections::HashSet;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_VALUES: &str = "$deleteFromPrimitiveList/";

type Fields = Map<String, Value>;
/// `None` where the field table knows nothing: free JSON, or a field that pruning will drop.
type Known = Option<&'static Shape>;

pub(super) fn apply(shape: &'static Shape, original: &Value, patch: &Value) -> Result<Value, ApiError> {
    let mut result = original.as_object().cloned().unwrap_or_default();
    if let Value::Object(changes) = patch {
        merge_object(&mut result, changes, Some(shape), &Path::Root)?;
    }
    Ok(Value::Object(result))
}

fn merge_object(target: &mut Fields, changes: &Fields, shape: Known, path: &Path<'_>) -> Result<(), ApiError> {
    match changes.get(PATCH).map(Value::as_str) {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => {
            *target = plain_fields(changes);
            return Ok(());
        }
        Some(Some("delete")) => {
            target.clear();
            return Ok(());
        }
        Some(_) => return Err(refuse(path, "$patch must be \"merge\", \"replace\" or \"delete\"")),
    }
    if let Some(retained) = changes.get(RETAIN_KEYS) {
        retain_keys(target, changes, retained, path)?;
    }
    for (name, order) in changes {
        if let Some(field) = name.strip_prefix(SET_ORDER) {
            let order = list(order, &Path::Field(path, name))?;
            ordered_list(target, field, changes.get(field), order, shape, path)?;
        }
    }
    for (name, change) in changes {
        let here = Path::Field(path, name);
        if let Some(field) = name.strip_prefix(DELETE_VALUES) {
            let gone: HashSet<String> = list(change, &here)?.iter().map(Value::to_string).collect();
            if let Some(Value::Array(values)) = target.get_mut(field) {
                values.retain(|value| !gone.contains(&value.to_string()));
            }
        } else if !is_directive(name) && !has_order(changes, name) {
            merge_field(target, name, change, shape, &here)?;
        }
    }
    Ok(())
}

/// Whether the patch gives `name` an element order, so that the list is merged already.
fn has_order(patch: &Fields, name: &str) -> bool {
    patch.get(name).is_some_and(Value::is_array) && patch.contains_key(&format!("{SET_ORDER}{name}"))
}

fn merge_field(target: &mut Fields, name: &str, change: &Value, shape: Known, path: &Path<'_>) -> Result<(), ApiError> {
    let (inner, rules) = look_up(shape, name);
    if change.is_null() {
        target.shift_remove(name);
        return Ok(());
    }
    match (target.get_mut(name), change) {
        (Some(Value::Object(fields)), Value::Object(changes)) => merge_object(fields, changes, inner, path),
        (Some(Value::Array(elements)), Value::Array(changes)) => {
            let live = std::mem::take(elements);
            *elements = merge_list(live, changes, None, inner, rules, path)?;
            Ok(())
        }
        _ => {
            match plain_field(change) {
                Some(value) => target.insert(name.to_owned(), value),
                None => target.shift_remove(name),
            };
            Ok(())
        }
    }
}

/// Merges the list `field`, for which the patch says in which order its elements must be.
fn ordered_list(
    target: &mut Fields,
    field: &str,
    changes: Option<&Value>,
    order: &[Value],
    shape: Known,
    path: &Path<'_>,
) -> Result<(), ApiError> {
    let here = Path::Field(path, field);
    let (inner, rules) = look_up(shape, field);
    let changes: &[Value] = match changes {
        None => &[],
        Some(Value::Null) => return Ok(()),
        Some(given) => list(given, &here)?,
    };
    let live = match target.get_mut(field) {
        Some(Value::Array(elements)) => std::mem::take(elements),
        _ if changes.is_empty() => return Ok(()),
        _ => Vec::new(),
    };
    let merged = merge_list(live, changes, Some(order), inner, rules, &here)?;
    target.insert(field.to_owned(), Value::Array(merged));
    Ok(())
}

fn merge_list(
    live: Vec<Value>,
    changes: &[Value],
    order: Option<&[Value]>,
    shape: Known,
    rules: ListRules,
    path: &Path<'_>,
) -> Result<Vec<Value>, ApiError> {
    let element = shape.and_then(Shape::element);
    match rules.patch {
        PatchStrategy::Replace if changes.is_empty() && order.is_some() => Ok(live),
        PatchStrategy::Replace => Ok(changes.iter().filter_map(plain_element).collect()),
        PatchStrategy::MergeValues => {
            let mut seen: HashSet<String> = HashSet::new();
            let both = live.iter().chain(changes);
            let merged: Vec<Value> = both.filter(|value| seen.insert(value.to_string())).cloned().collect();
            Ok(arrange(merged, order.unwrap_or(changes), &live, None))
        }
        PatchStrategy::MergeByKey(key) => merge_elements(live, changes, order, element, key, path),
    }
}

fn merge_elements(
    mut live: Vec<Value>,
    changes: &[Value],
    order: Option<&[Value]>,
    shape: Known,
    key: &str,
    path: &Path<'_>,
) -> Result<Vec<Value>, ApiError> {
    let mut named = Vec::with_capacity(changes.len());
    let mut gone: HashSet<String> = HashSet::new();
    let mut replace = false;
    for (index, change) in changes.iter().enumerate() {
        let here = Path::Index(path, index);
        let directive = change.get(PATCH).map(Value::as_str);
        if directive == Some(Some("replace")) {
            replace = true;
            continue;
        }
        let identity = identity(change, Some(key))
            .ok_or_else(|| refuse(&here, &format!("does not contain the declared merge key \"{key}\"")))?;
        match directive {
            None => named.push((index, identity, change)),
            Some(Some("delete")) => {
                gone.insert(identity);
            }
            Some(_) => return Err(refuse(&here, "$patch must be \"replace\" or \"delete\" in an element of a list")),
        }
    }
    if replace {
        return Ok(named.into_iter().filter_map(|(_, _, change)| plain_element(change)).collect());
    }
    live.retain(|element| identity(element, Some(key)).is_none_or(|identity| !gone.contains(&identity)));
    let places = Occurrences::new(&live, Some(key));
    let mut merged = live.clone();
    let mut counter = Counter::default();
    for (index, identity, change) in named {
        let place = places.nth(&identity, counter.next(&identity));
        match (place.and_then(|place| merged.get_mut(place)), change) {
            (Some(Value::Object(fields)), Value::Object(changes)) => {
                merge_object(fields, changes, shape, &Path::Index(path, index))?;
            }
            _ => merged.extend(plain_element(change)),
        }
    }
    Ok(arrange(merged, order.unwrap_or(changes), &live, Some(key)))
}

/// Drops from `target` what the patch does not list in `$retainKeys`: how one-of fields change sides.
fn retain_keys(target: &mut Fields, changes: &Fields, retained: &Value, path: &Path<'_>) -> Result<(), ApiError> {
    let here = Path::Field(path, RETAIN_KEYS);
    let names: HashSet<&str> = list(retained, &here)?.iter().filter_map(Value::as_str).collect();
    if let Some((stray, _)) =
        changes.iter().find(|(name, change)| !is_directive(name) && !change.is_null() && !names.contains(name.as_str()))
    {
        return Err(refuse(&here, &format!("must list every field of the patch, \"{stray}\" is missing")));
    }
    target.retain(|name, _| names.contains(name.as_str()));
    Ok(())
}

fn look_up(shape: Known, name: &str) -> (Known, ListRules) {
    match shape.and_then(|shape| shape.child(name)) {
        Some((inner, rules)) => (Some(inner), rules),
        None => (None, ListRules::UNSPECIFIED),
    }
}

fn is_directive(name: &str) -> bool {
    name == PATCH || name == RETAIN_KEYS || name.starts_with(SET_ORDER) || name.starts_with(DELETE_VALUES)
}

/// A field of the patch as it stands where the original has none: without directives and nulls; `None` when the patch
/// only says that it must not be there.
fn plain_field(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(fields) if fields.get(PATCH).is_some_and(|directive| directive == "delete") => None,
        Value::Object(fields) => Some(Value::Object(plain_fields(fields))),
        Value::Array(elements) => Some(Value::Array(elements.iter().filter_map(plain_element).collect())),
        plain => Some(plain.clone()),
    }
}

/// As [`plain_field`] for an element of a list, where `{"$patch": "replace"}` is an instruction about the list.
fn plain_element(value: &Value) -> Option<Value> {
    match value {
        Value::Null => Some(Value::Null),
        Value::Object(fields) if fields.len() == 1 && fields.contains_key(PATCH) => None,
        other => plain_field(other),
    }
}

fn plain_fields(fields: &Fields) -> Fields {
    fields
        .iter()
        .filter(|(name, _)| !is_directive(name))
        .filter_map(|(name, value)| Some((name.clone(), plain_field(value)?)))
        .collect()
}

fn list<'a>(value: &'a Value, path: &Path<'_>) -> Result<&'a [Value], ApiError> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| refuse(path, "must be a list"))
}

fn refuse(path: &Path<'_>, detail: &str) -> ApiError {
    let place = path.to_string();
    let separator = if place.is_empty() { "" } else { ": " };
    ApiError::bad_request(format!("cannot apply the strategic merge patch: {place}{separator}{detail}"))
}
