//! Services: defaults, preparation, validation and columns.

mod validation;

use super::{
    access::{given, integer, items_at, keep, keep_all_but, list, object_at, remove, set_default, text},
    age,
    print::{labels, or_none},
};
use crate::{Cause, kind::Column, meta};
use serde_json::{Value, json};

/// How long a client stays with its endpoint under `sessionAffinity: ClientIP`: three hours.
const AFFINITY_SECONDS_DEFAULT: i64 = 10_800;

/// What `kubectl get` prints.
pub const COLUMNS: &[Column] = &[
    Column { name: "Name", value_type: "string", format: "name", priority: 0 },
    Column { name: "Type", value_type: "string", format: "", priority: 0 },
    Column { name: "Cluster-IP", value_type: "string", format: "", priority: 0 },
    Column { name: "External-IP", value_type: "string", format: "", priority: 0 },
    Column { name: "Port(s)", value_type: "string", format: "", priority: 0 },
    Column { name: "Age", value_type: "string", format: "", priority: 0 },
    Column { name: "Selector", value_type: "string", format: "", priority: 1 },
];

/// Fields besides name and namespace that a field selector may name.
pub const SELECTABLE: &[&str] = &["spec.clusterIP", "spec.type"];

/// Cells in the order of [`COLUMNS`].
#[must_use]
pub fn cells(object: &Value, now_seconds: i64) -> Vec<Value> {
    let spec = &object["spec"];
    vec![
        meta::name(object).into(),
        text(spec, "type").into(),
        or_none(text(spec, "clusterIP")),
        or_none(&external_ip(object)),
        or_none(&ports(spec)),
        age::age(object, now_seconds).into(),
        labels(spec, "selector"),
    ]
}

fn external_ip(object: &Value) -> String {
    let spec = &object["spec"];
    let mut addresses: Vec<&str> = Vec::new();
    match text(spec, "type") {
        "ExternalName" => return text(spec, "externalName").to_owned(),
        "LoadBalancer" => {
            let ingress = list(&object["status"]["loadBalancer"], "ingress").iter();
            addresses.extend(ingress.map(|one| match text(one, "ip") {
                "" => text(one, "hostname"),
                ip => ip,
            }));
        }
        _ => {}
    }
    addresses.extend(list(spec, "externalIPs").iter().filter_map(Value::as_str));
    match (addresses.is_empty(), text(spec, "type")) {
        (true, "LoadBalancer") => "<pending>".to_owned(),
        _ => addresses.join(","),
    }
}

fn ports(spec: &Value) -> String {
    let port = |port: &Value| {
        let (number, protocol) = (integer(port, "port").unwrap_or_default(), text(port, "protocol"));
        match integer(port, "nodePort").unwrap_or_default() {
            0 => format!("{number}/{protocol}"),
            node_port => format!("{number}:{node_port}/{protocol}"),
        }
    };
    list(spec, "ports").iter().map(port).collect::<Vec<_>>().join(",")
}

/// Fills in Kubernetes' defaults. Cluster IPs, node ports and IP families are allocated at the door.
pub fn default(object: &mut Value) {
    let Some(spec) = object_at(object, "spec") else { return };
    set_default(spec, "sessionAffinity", "None");
    if text(spec, "sessionAffinity") == "None" {
        remove(spec, "sessionAffinityConfig");
    } else if let Some(client) =
        object_at(spec, "sessionAffinityConfig").and_then(|config| object_at(config, "clientIP"))
    {
        set_default(client, "timeoutSeconds", AFFINITY_SECONDS_DEFAULT);
    }
    set_default(spec, "type", "ClusterIP");
    for port in items_at(spec, "ports") {
        set_default(port, "protocol", "TCP");
        let target_unset = port["targetPort"].is_null() || port["targetPort"] == 0 || port["targetPort"] == "";
        if target_unset && let Some(number) = given(port, "port").cloned() {
            port["targetPort"] = number;
        }
    }
    let service_type = text(spec, "type").to_owned();
    if matches!(service_type.as_str(), "NodePort" | "LoadBalancer") {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(service_type.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        set_default(spec, "internalTrafficPolicy", "Cluster");
    }
    if service_type == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// Resets what a creator may not decide: the status.
pub fn prepare_create(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert("status".to_owned(), json!({"loadBalancer": {}}));
    }
}

/// Carries over from `old` what this path may not change. Addresses and node ports are carried over at the door, which
/// allocates them.
pub fn prepare_update(new: &mut Value, old: &Value, subresource: &str) {
    if subresource == "status" {
        keep_all_but(new, old, "status");
        return;
    }
    keep(new, old, "status");
    if let Some(spec) = object_at(new, "spec") {
        drop_what_the_type_lost(spec, &old["spec"]);
    }
}

/// What only the old type needed goes with it, unless the writer set it anew.
fn drop_what_the_type_lost(spec: &mut Value, old_spec: &Value) {
    let was_reachable = matches!(text(old_spec, "type"), "NodePort" | "LoadBalancer");
    let is_reachable =
        matches!(text(spec, "type"), "NodePort" | "LoadBalancer") || !list(spec, "externalIPs").is_empty();
    if was_reachable && !is_reachable {
        remove_unchanged(spec, old_spec, "externalTrafficPolicy");
    }
    if has_health_port(old_spec) && !has_health_port(spec) {
        remove_unchanged(spec, old_spec, "healthCheckNodePort");
    }
    if text(old_spec, "type") == "LoadBalancer" && text(spec, "type") != "LoadBalancer" {
        remove_unchanged(spec, old_spec, "allocateLoadBalancerNodePorts");
    }
}

/// Whether load balancers ask each node for endpoints of its own.
fn has_health_port(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn remove_unchanged(spec: &mut Value, old_spec: &Value, field: &str) {
    if given(spec, field).is_some() && spec[field] == old_spec[field] {
        remove(spec, field);
    }
}

/// Everything wrong with a new, defaulted object.
#[must_use]
pub fn validate_create(object: &Value) -> Vec<Cause> {
    validation::new(object)
}

/// Everything wrong with a change.
#[must_use]
pub fn validate_update(new: &Value, old: &Value, subresource: &str) -> Vec<Cause> {
    if subresource == "status" { validation::changed_status(new, old) } else { validation::changed(new, old) }
}

#[cfg(test)]
mod tests;
