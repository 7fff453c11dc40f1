//! Which nodes a pod wants.

use super::super::{
    Causes, Path,
    access::{given, integer, list, text},
};
use crate::names::Spelling;
use serde_json::Value;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `spec.affinity`: of nodes; between pods it is not known yet.
pub(super) fn check(affinity: &Value, path: &Path, causes: &mut Causes) {
    for field in ["podAffinity", "podAntiAffinity"] {
        if affinity[field].as_object().is_some_and(|terms| !terms.is_empty()) {
            causes.forbidden(&path.child(field), "affinity between pods is not supported yet; nodeAffinity is");
        }
    }
    let (nodes, path) = (&affinity["nodeAffinity"], path.child("nodeAffinity"));
    if let Some(required) = given(nodes, REQUIRED) {
        let (path, terms) = (path.child(REQUIRED).child("nodeSelectorTerms"), list(required, "nodeSelectorTerms"));
        if terms.is_empty() {
            causes.required(&path, "must have at least one node selector term");
        }
        for (index, term) in terms.iter().enumerate() {
            check_term(term, &path.index(index), causes);
        }
    }
    for (index, preferred) in list(nodes, PREFERRED).iter().enumerate() {
        if causes.is_full() {
            return;
        }
        let path = path.child(PREFERRED).index(index);
        let weight = integer(preferred, "weight").unwrap_or_default();
        if !(1..=100).contains(&weight) {
            causes.invalid(&path.child("weight"), weight, "must be in the range 1-100");
        }
        check_term(&preferred["preference"], &path.child("preference"), causes);
    }
}

fn check_term(term: &Value, path: &Path, causes: &mut Causes) {
    for (index, expression) in list(term, "matchExpressions").iter().enumerate() {
        if causes.is_full() {
            return;
        }
        check_expression(expression, &path.child("matchExpressions").index(index), causes);
    }
    for (index, requirement) in list(term, "matchFields").iter().enumerate() {
        if causes.is_full() {
            return;
        }
        check_field(requirement, &path.child("matchFields").index(index), causes);
    }
}

fn check_expression(expression: &Value, path: &Path, causes: &mut Causes) {
    let (operator, values) = (text(expression, "operator"), list(expression, "values"));
    let values_path = path.child("values");
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            causes.required(&values_path, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            causes.forbidden(&values_path, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if values.len() != 1 => {
            causes.required(&values_path, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        _ => causes.invalid(&path.child("operator"), operator, "not a valid selector operator"),
    }
    causes.spelled(&path.child("key"), text(expression, "key"), Spelling::QualifiedName);
    for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
        if causes.is_full() {
            return;
        }
        causes.spelled(&values_path.index(index), value, Spelling::LabelValue);
    }
}

/// The one field that nodes may be chosen by is their name.
fn check_field(requirement: &Value, path: &Path, causes: &mut Causes) {
    let (key, operator, values) =
        (text(requirement, "key"), text(requirement, "operator"), list(requirement, "values"));
    if !matches!(operator, "In" | "NotIn") {
        causes.invalid(&path.child("operator"), operator, "not a valid selector operator");
    } else if values.len() != 1 {
        let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
        causes.required(&path.child("values"), detail);
    }
    if key != "metadata.name" {
        causes.invalid(&path.child("key"), key, "not a valid field selector key");
        return;
    }
    for (index, value) in values.iter().filter_map(Value::as_str).enumerate().take(1) {
        causes.spelled(&path.child("values").index(index), value, Spelling::DnsSubdomain);
    }
}
