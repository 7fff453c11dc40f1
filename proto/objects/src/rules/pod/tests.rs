//! Every rule of pods, as tables of what goes in and what comes out.

mod cells;
mod defaults;
mod resources;
mod update;
mod validation;
mod validation_containers;

use super::{default, prepare_create, validate_create};
use crate::Cause;
use serde_json::{Value, json};

/// A small good pod, changed by a merge patch, with its defaults.
fn pod(patch: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "a", "image": "app:1"}]},
    });
    json_patch::merge(&mut object, patch);
    default(&mut object);
    prepare_create(&mut object);
    object
}

/// As a `Status` message names them.
fn lines(causes: &[Cause]) -> Vec<String> {
    causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
}

/// Checks what creating the pod with each `spec` patch is refused for.
fn expect_create(cases: &[(Value, &[&str])]) {
    for (spec, expected) in cases {
        let found = lines(&validate_create(&pod(&json!({"spec": spec}))));
        assert_eq!(found, *expected, "{spec}");
    }
}

/// As [`expect_create`], for one app container.
fn expect_container(cases: &[(Value, &[&str])]) {
    for (container, expected) in cases {
        let mut whole = json!({"name": "a", "image": "app:1"});
        json_patch::merge(&mut whole, container);
        let spec = json!({"containers": [whole], "volumes": [{"name": "v"}, {"name": "w"}]});
        let found = lines(&validate_create(&pod(&json!({"spec": spec}))));
        assert_eq!(found, *expected, "{container}");
    }
}
