//! Leases: defaults, preparation, validation and columns.

use super::{
    Causes, Path,
    access::{given, integer, text},
    age,
    metadata::{self, Scope},
};
use crate::{Cause, kind::Column, meta, names::Spelling};
use serde_json::Value;

/// What `kubectl get` prints.
pub const COLUMNS: &[Column] = &[
    Column { name: "Name", value_type: "string", format: "name", priority: 0 },
    Column { name: "Holder", value_type: "string", format: "", priority: 0 },
    Column { name: "Age", value_type: "string", format: "", priority: 0 },
];

/// Fields besides name and namespace that a field selector may name.
pub const SELECTABLE: &[&str] = &[];

/// Cells in the order of [`COLUMNS`].
#[must_use]
pub fn cells(object: &Value, now_seconds: i64) -> Vec<Value> {
    let holder = text(&object["spec"], "holderIdentity");
    vec![meta::name(object).into(), holder.into(), age::age(object, now_seconds).into()]
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
    check_spec(&object["spec"], &mut causes);
    causes.into_vec()
}

/// Everything wrong with a change.
#[must_use]
pub fn validate_update(new: &Value, old: &Value, _subresource: &str) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_changed(new, old, &mut causes);
    check_spec(&new["spec"], &mut causes);
    causes.into_vec()
}

fn check_spec(spec: &Value, causes: &mut Causes) {
    let path = Path::new("spec");
    if let Some(seconds) = integer(spec, "leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        causes.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    causes.not_negative(&path.child("leaseTransitions"), integer(spec, "leaseTransitions"));
    if given(spec, "holderIdentity").is_some_and(|holder| holder == "") {
        causes.invalid(&path.child("holderIdentity"), "", "must not be empty");
    }
}
