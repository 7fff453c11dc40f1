//! Config maps: defaults, preparation, validation and columns.

use super::{
    Causes, Path,
    access::{flag, map_len, pairs},
    age,
    metadata::{self, Scope},
};
use crate::{Cause, kind::Column, meta, names::Spelling};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

/// All values of one config map or secret together.
pub const MAX_BYTES: usize = 1024 * 1024;

/// What `kubectl get` prints.
pub const COLUMNS: &[Column] = &[
    Column { name: "Name", value_type: "string", format: "name", priority: 0 },
    Column { name: "Data", value_type: "string", format: "", priority: 0 },
    Column { name: "Age", value_type: "string", format: "", priority: 0 },
];

/// Fields besides name and namespace that a field selector may name.
pub const SELECTABLE: &[&str] = &[];

/// Cells in the order of [`COLUMNS`].
#[must_use]
pub fn cells(object: &Value, now_seconds: i64) -> Vec<Value> {
    let entries = map_len(object, "data") + map_len(object, "binaryData");
    vec![meta::name(object).into(), entries.into(), age::age(object, now_seconds).into()]
}

/// Fills in Kubernetes' defaults: there are none.
pub fn default(_object: &mut Value) {}

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
    check_immutable(new, old, &["data", "binaryData"], &mut causes);
    check_content(new, &mut causes);
    causes.into_vec()
}

fn check_content(object: &Value, causes: &mut Causes) {
    let (data, binary_data) = (Path::new("data"), Path::new("binaryData"));
    let mut total_bytes = 0_usize;
    for (key, value) in pairs(object, "data") {
        total_bytes += value.as_str().map_or(0, str::len);
        check_key(&data, key, causes);
        if object["binaryData"].get(key).is_some() {
            causes.invalid(&data.key(key), key, "duplicate of key present in binaryData");
        }
    }
    for (key, value) in pairs(object, "binaryData") {
        total_bytes += decoded_len(&binary_data, key, value, causes);
        check_key(&binary_data, key, causes);
    }
    if total_bytes > MAX_BYTES {
        // The whole object is too long; Kubernetes writes the empty path so.
        causes.too_long(&Path::new("[]"), MAX_BYTES);
    }
}

/// A key of a config map or secret.
pub(super) fn check_key(path: &Path, key: &str, causes: &mut Causes) {
    if !Spelling::ConfigKey.allows(key) {
        causes.spelled(&path.key(key), key, Spelling::ConfigKey);
    }
}

/// How many bytes a base64 value holds.
pub(super) fn decoded_len(path: &Path, key: &str, value: &Value, causes: &mut Causes) -> usize {
    match STANDARD.decode(value.as_str().unwrap_or_default()) {
        Ok(bytes) => bytes.len(),
        Err(error) => {
            // The value may be a secret that somebody forgot to encode: it is not repeated.
            causes.invalid(&path.key(key), "<value omitted>", &format!("must be base64: {error}"));
            0
        }
    }
}

/// Once `immutable` is set, neither it nor the content changes.
pub(super) fn check_immutable(new: &Value, old: &Value, fields: &[&str], causes: &mut Causes) {
    const DETAIL: &str = "field is immutable when `immutable` is set";
    if !flag(old, "immutable") {
        return;
    }
    if !flag(new, "immutable") {
        causes.forbidden(&Path::new("immutable"), DETAIL);
    }
    for field in fields {
        if !super::access::same(&new[*field], &old[*field]) {
            causes.forbidden(&Path::new(field), DETAIL);
        }
    }
}
