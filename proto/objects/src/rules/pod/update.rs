//! What may change of a pod: little of its spec, and its status along its life.

use super::{
    super::{
        Causes, Path,
        access::{given, integer, list, same, text},
        metadata, network,
    },
    spec,
};
use crate::{Cause, meta, names::Spelling, static_pods::MIRROR_ANNOTATION};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// How many changed fields a refusal names.
const NAMED_CHANGES: usize = 10;

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
     `spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set \
     to 1 if it was previously negative)";

pub(super) fn pod(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_changed(new, old, &mut causes);
    let mirrored = |pod: &Value| meta::annotation(pod, MIRROR_ANNOTATION).map(str::to_owned);
    if mirrored(new) != mirrored(old) {
        let path = Path::new("metadata").child("annotations").key(MIRROR_ANNOTATION);
        causes.forbidden(&path, "may not add, remove or update the annotation of a mirror pod");
    }
    let (new_spec, old_spec, path) = (&new["spec"], &old["spec"], Path::new("spec"));
    spec::check(new_spec, &mut causes);
    for field in ["containers", "initContainers"] {
        if list(new_spec, field).len() != list(old_spec, field).len() {
            causes.forbidden(&path.child(field), "pod updates may not add or remove containers");
            return causes.into_vec();
        }
    }
    if !check_deadline(new_spec, old_spec, &path.child("activeDeadlineSeconds"), &mut causes) {
        return causes.into_vec();
    }
    check_tolerations(new_spec, old_spec, &path.child("tolerations"), &mut causes);
    let masked = with_updatable_fields_of(new_spec, old_spec);
    let mut changes = Vec::new();
    changed_paths(&masked, old_spec, &path, &mut changes);
    if !changes.is_empty() {
        let detail =
            format!("pod updates may not change fields other than {UPDATABLE}\nchanged: {}", changes.join(", "));
        causes.forbidden(&path, &detail);
    }
    causes.into_vec()
}

/// From none to some, or from some to less; whether later checks make sense.
fn check_deadline(new: &Value, old: &Value, path: &Path, causes: &mut Causes) -> bool {
    let (new, old) = (integer(new, "activeDeadlineSeconds"), integer(old, "activeDeadlineSeconds"));
    match (new, old) {
        (Some(new), Some(old)) if new > old => {
            causes.invalid(path, new, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            causes.invalid(path, Value::Null, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

/// Old tolerations stay, but for how long they tolerate.
fn check_tolerations(new_spec: &Value, old_spec: &Value, path: &Path, causes: &mut Causes) {
    let identity = |toleration| ["key", "operator", "value", "effect"].map(|field| text(toleration, field));
    let kept: HashSet<_> = list(new_spec, "tolerations").iter().map(identity).collect();
    if list(old_spec, "tolerations").iter().any(|toleration| !kept.contains(&identity(toleration))) {
        causes.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
    }
}

/// The new spec, but with the old values of everything that may change.
fn with_updatable_fields_of(new: &Value, old: &Value) -> Value {
    let mut masked = new.clone();
    let Some(map) = masked.as_object_mut() else { return masked };
    for field in ["activeDeadlineSeconds", "tolerations"] {
        put(map, field, &old[field]);
    }
    let grace = "terminationGracePeriodSeconds";
    if integer(old, grace).is_some_and(|seconds| seconds < 0) && integer(new, grace) == Some(1) {
        put(map, grace, &old[grace]);
    }
    for field in ["containers", "initContainers"] {
        let containers = map.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, old) in containers.zip(list(old, field)) {
            if let Some(container) = container.as_object_mut() {
                put(container, "image", &old["image"]);
            }
        }
    }
    masked
}

fn put(map: &mut Map<String, Value>, field: &str, value: &Value) {
    map.insert(field.to_owned(), value.clone());
}

/// Paths at which two values differ, the first [`NAMED_CHANGES`] of them.
fn changed_paths(new: &Value, old: &Value, path: &Path, changes: &mut Vec<String>) {
    if changes.len() >= NAMED_CHANGES || same(new, old) {
        return;
    }
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            for (field, value) in new {
                changed_paths(value, old.get(field).unwrap_or(&Value::Null), &path.child(field), changes);
            }
            for (field, value) in old.iter().filter(|(field, _)| !new.contains_key(*field)) {
                changed_paths(&Value::Null, value, &path.child(field), changes);
            }
        }
        (Value::Array(new), Value::Array(old)) if new.len() == old.len() => {
            for (index, (new, old)) in new.iter().zip(old).enumerate() {
                changed_paths(new, old, &path.index(index), changes);
            }
        }
        _ => changes.push(path.text().to_owned()),
    }
}

pub(super) fn status(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_changed(new, old, &mut causes);
    let (status, was, path) = (&new["status"], &old["status"], Path::new("status"));
    for (index, condition) in list(status, "conditions").iter().enumerate() {
        let path = path.child("conditions").index(index).child("type");
        causes.spelled(&path, text(condition, "type"), Spelling::QualifiedName);
    }
    let nominated = text(status, "nominatedNodeName");
    if !nominated.is_empty() && nominated != text(was, "nominatedNodeName") {
        causes.spelled(&path.child("nominatedNodeName"), nominated, Spelling::DnsSubdomain);
    }
    causes.immutable(&path.child("qosClass"), &status["qosClass"], &was["qosClass"]);
    check_transitions(new, old, &path.child("containerStatuses"), &mut causes);
    for (index, address) in list(status, "podIPs").iter().enumerate() {
        network::check_ip(&path.child("podIPs").index(index), text(address, "ip"), &mut causes);
    }
    causes.into_vec()
}

/// A container that has ended for good stays ended.
fn check_transitions(new: &Value, old: &Value, path: &Path, causes: &mut Causes) {
    let policy = text(&old["spec"], "restartPolicy");
    if policy == "Always" {
        return;
    }
    let statuses = list(&new["status"], "containerStatuses");
    let running: HashSet<&str> = statuses
        .iter()
        .filter(|status| given(&status["state"], "terminated").is_none())
        .map(|status| text(status, "name"))
        .collect();
    for (index, was) in list(&old["status"], "containerStatuses").iter().enumerate() {
        let Some(terminated) = given(&was["state"], "terminated") else { continue };
        if policy == "OnFailure" && integer(terminated, "exitCode").unwrap_or_default() != 0 {
            continue;
        }
        if running.contains(text(was, "name")) {
            causes.forbidden(&path.index(index).child("state"), "may not be transitioned to non-terminated state");
        }
    }
}
