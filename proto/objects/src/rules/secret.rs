//! Secrets: defaults, preparation, validation and columns.

use super::{
    Causes, Path,
    access::{map_len, object_at, pairs, remove, set_default, text},
    age, config_map,
    config_map::MAX_BYTES,
    metadata::{self, Scope},
};
use crate::{Cause, kind::Column, meta, names::Spelling};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

/// What `kubectl get` prints.
pub const COLUMNS: &[Column] = &[
    Column { name: "Name", value_type: "string", format: "name", priority: 0 },
    Column { name: "Type", value_type: "string", format: "", priority: 0 },
    Column { name: "Data", value_type: "string", format: "", priority: 0 },
    Column { name: "Age", value_type: "string", format: "", priority: 0 },
];

/// Fields besides name and namespace that a field selector may name.
pub const SELECTABLE: &[&str] = &["type"];

/// Cells in the order of [`COLUMNS`].
#[must_use]
pub fn cells(object: &Value, now_seconds: i64) -> Vec<Value> {
    vec![
        meta::name(object).into(),
        text(object, "type").into(),
        map_len(object, "data").into(),
        age::age(object, now_seconds).into(),
    ]
}

/// Fills in Kubernetes' defaults: the type, and `stringData` goes into `data`.
pub fn default(object: &mut Value) {
    set_default(object, "type", "Opaque");
    let plain: Vec<(String, Value)> = pairs(object, "stringData")
        .map(|(key, value)| (key.to_owned(), STANDARD.encode(value.as_str().unwrap_or_default()).into()))
        .collect();
    remove(object, "stringData");
    if !plain.is_empty()
        && let Some(data) = object_at(object, "data").and_then(Value::as_object_mut)
    {
        data.extend(plain);
    }
}

/// Resets what a creator may not decide: nothing.
pub fn prepare_create(_object: &mut Value) {}

/// Carries over from `old` what this path may not change: nothing.
pub fn prepare_update(_new: &mut Value, _old: &Value, _subresource: &str) {}

/// Everything wrong with a new, defaulted object.
#[must_use]
pub fn validate_create(object: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_new(object, Scope::Namespaced, Spelling::DnsSubdomain, &mut causes);
    check_content(object, &mut causes);
    causes.into_vec()
}

/// Everything wrong with a change.
#[must_use]
pub fn validate_update(new: &Value, old: &Value, _subresource: &str) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_changed(new, old, &mut causes);
    causes.immutable(&Path::new("type"), &new["type"], &old["type"]);
    config_map::check_immutable(new, old, &["data"], &mut causes);
    check_content(new, &mut causes);
    causes.into_vec()
}

fn check_content(object: &Value, causes: &mut Causes) {
    let data = Path::new("data");
    let mut total_bytes = 0_usize;
    for (key, value) in pairs(object, "data") {
        total_bytes += config_map::decoded_len(&data, key, value, causes);
        config_map::check_key(&data, key, causes);
    }
    if total_bytes > MAX_BYTES {
        causes.too_long(&data, MAX_BYTES);
    }
    check_type(object, &data, causes);
}

/// The keys that each of Kubernetes' secret types must have.
fn check_type(object: &Value, data: &Path, causes: &mut Causes) {
    let has = |key: &str| object["data"].get(key).is_some();
    let wanted: &[&str] = match text(object, "type") {
        "kubernetes.io/service-account-token" => {
            let annotation = "kubernetes.io/service-account.name";
            if meta::annotation(object, annotation).unwrap_or_default().is_empty() {
                causes.required(&Path::new("metadata").child("annotations").key(annotation), "");
            }
            &[]
        }
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => &["username", "password"],
        _ => &[],
    };
    for key in wanted.iter().filter(|key| !has(key)) {
        causes.required(&data.key(key), "");
    }
    for key in wanted.iter().filter(|key| key.starts_with(".docker")) {
        let Some(value) = object["data"].get(*key).and_then(Value::as_str) else { continue };
        let content = STANDARD.decode(value).unwrap_or_default();
        if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&content) {
            causes.invalid(&data.key(key), "<secret contents redacted>", &error.to_string());
        }
    }
}
