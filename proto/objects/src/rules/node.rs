//! Nodes: defaults, preparation, validation and columns.

use super::{
    Causes, Path,
    access::{flag, keep, keep_all_but, list, pairs, same, set_default, text},
    age,
    metadata::{self, Scope},
    print::{condition, or_none},
    taint,
};
use crate::{Cause, kind::Column, meta, names::Spelling, quantity::Quantity, ranges};
use serde_json::Value;

/// What `kubectl get` prints.
pub const COLUMNS: &[Column] = &[
    Column { name: "Name", value_type: "string", format: "name", priority: 0 },
    Column { name: "Status", value_type: "string", format: "", priority: 0 },
    Column { name: "Roles", value_type: "string", format: "", priority: 0 },
    Column { name: "Age", value_type: "string", format: "", priority: 0 },
    Column { name: "Version", value_type: "string", format: "", priority: 0 },
    Column { name: "Internal-IP", value_type: "string", format: "", priority: 1 },
    Column { name: "External-IP", value_type: "string", format: "", priority: 1 },
    Column { name: "OS-Image", value_type: "string", format: "", priority: 1 },
    Column { name: "Kernel-Version", value_type: "string", format: "", priority: 1 },
    Column { name: "Container-Runtime", value_type: "string", format: "", priority: 1 },
];

/// Fields besides name and namespace that a field selector may name.
pub const SELECTABLE: &[&str] = &["spec.unschedulable"];

/// Cells in the order of [`COLUMNS`].
#[must_use]
pub fn cells(object: &Value, now_seconds: i64) -> Vec<Value> {
    let status = &object["status"];
    let info = |field| match text(&status["nodeInfo"], field) {
        "" => "<unknown>",
        text => text,
    };
    vec![
        meta::name(object).into(),
        readiness(object).into(),
        or_none(&roles(object)),
        age::age(object, now_seconds).into(),
        text(&status["nodeInfo"], "kubeletVersion").into(),
        or_none(address(status, "InternalIP")),
        or_none(address(status, "ExternalIP")),
        info("osImage").into(),
        info("kernelVersion").into(),
        info("containerRuntimeVersion").into(),
    ]
}

fn readiness(object: &Value) -> String {
    let ready = match condition(&object["status"], "Ready") {
        Some(ready) if ready["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if flag(&object["spec"], "unschedulable") { format!("{ready},SchedulingDisabled") } else { ready.to_owned() }
}

/// The roles that its labels name, with commas between them; empty for none.
#[must_use]
pub fn roles(object: &Value) -> String {
    let mut roles: Vec<&str> = pairs(&object["metadata"], "labels")
        .filter_map(|(key, value)| match key {
            "kubernetes.io/role" => value.as_str(),
            _ => key.strip_prefix("node-role.kubernetes.io/"),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    roles.join(",")
}

fn address<'a>(status: &'a Value, address_type: &str) -> &'a str {
    let wanted = list(status, "addresses").iter().find(|address| address["type"] == address_type);
    wanted.map_or("", |address| text(address, "address"))
}

/// Fills in Kubernetes' defaults: all of the capacity may be used.
pub fn default(object: &mut Value) {
    if let Some(status) = object.get_mut("status")
        && status["capacity"].is_object()
    {
        let capacity = status["capacity"].clone();
        set_default(status, "allocatable", capacity);
    }
}

/// Resets what a creator may not decide: nothing, since nodes create themselves with their status.
pub fn prepare_create(_object: &mut Value) {}

/// Carries over from `old` what this path may not change.
pub fn prepare_update(new: &mut Value, old: &Value, subresource: &str) {
    if subresource == "status" {
        keep_all_but(new, old, "status");
    } else {
        keep(new, old, "status");
    }
}

/// Everything wrong with a new, defaulted object.
#[must_use]
pub fn validate_create(object: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_new(object, Scope::Cluster, Spelling::DnsSubdomain, &mut causes);
    check_spec(object, &mut causes);
    check_status(object, &mut causes);
    causes.into_vec()
}

/// Everything wrong with a change.
#[must_use]
pub fn validate_update(new: &Value, old: &Value, subresource: &str) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_changed(new, old, &mut causes);
    if subresource == "status" {
        check_status(new, &mut causes);
        return causes.into_vec();
    }
    check_spec(new, &mut causes);
    let path = Path::new("spec");
    let (is, was) = (text(&new["spec"], "providerID"), text(&old["spec"], "providerID"));
    if !was.is_empty() && is != was {
        causes.forbidden(&path.child("providerID"), "node updates may not change it once it is set");
    }
    for field in ["podCIDR", "podCIDRs"] {
        let was = &old["spec"][field];
        if !same(was, &Value::Null) && !same(was, &new["spec"][field]) {
            causes.forbidden(&path.child(field), "node updates may not change podCIDR except from \"\" to valid");
        }
    }
    causes.into_vec()
}

fn check_spec(object: &Value, causes: &mut Causes) {
    let (path, spec) = (Path::new("spec"), &object["spec"]);
    taint::check_taints(&path.child("taints"), list(spec, "taints"), causes);
    let (single, all) = (text(spec, "podCIDR"), list(spec, "podCIDRs"));
    let path = path.child("podCIDRs");
    if let Some(first) = all.first().filter(|first| !single.is_empty() && **first != single) {
        causes.invalid(&path.index(0), first.clone(), "first value must match `podCIDR`");
    }
    if all.len() > 1 {
        causes.invalid(&path, all.to_vec(), "may only hold up to 1 value: the cluster is IPv4 only");
        return;
    }
    let range = all.first().and_then(Value::as_str).unwrap_or(single);
    if !range.is_empty() && ranges::parse(range).is_none() {
        causes.invalid(&path.index(0), range, "must be a valid IPv4 CIDR value, (e.g. 10.9.8.0/24)");
    }
}

fn check_status(object: &Value, causes: &mut Causes) {
    for field in ["capacity", "allocatable"] {
        let path = Path::new("status").child(field);
        for (resource, amount) in pairs(&object["status"], field) {
            if causes.is_full() {
                return;
            }
            match Quantity::from_value(amount) {
                Err(error) => causes.invalid(&path.key(resource), amount.clone(), &error.to_string()),
                Ok(quantity) if quantity.is_negative() => {
                    causes.invalid(&path.key(resource), amount.clone(), "must be greater than or equal to 0");
                }
                Ok(_) => {}
            }
        }
    }
}
