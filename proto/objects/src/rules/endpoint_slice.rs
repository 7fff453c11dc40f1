//! Endpoint slices: defaults, preparation, validation and columns.

use super::{
    Causes, Path,
    access::{items_at, list, set_default, text},
    age,
    metadata::{self, Scope},
    network,
    print::shortened,
};
use crate::{Cause, kind::Column, meta, names::Spelling};
use serde_json::Value;
use std::net::IpAddr;

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;

/// What `kubectl get` prints.
pub const COLUMNS: &[Column] = &[
    Column { name: "Name", value_type: "string", format: "name", priority: 0 },
    Column { name: "AddressType", value_type: "string", format: "", priority: 0 },
    Column { name: "Ports", value_type: "string", format: "", priority: 0 },
    Column { name: "Endpoints", value_type: "string", format: "", priority: 0 },
    Column { name: "Age", value_type: "string", format: "", priority: 0 },
];

/// Fields besides name and namespace that a field selector may name.
pub const SELECTABLE: &[&str] = &[];

/// Cells in the order of [`COLUMNS`].
#[must_use]
pub fn cells(object: &Value, now_seconds: i64) -> Vec<Value> {
    let ports = list(object, "ports").iter().map(|port| match (port["port"].as_i64(), text(port, "name")) {
        (Some(number), _) => number.to_string(),
        (None, "") => "*".to_owned(),
        (None, name) => name.to_owned(),
    });
    let addresses = list(object, "endpoints").iter().flat_map(|endpoint| list(endpoint, "addresses"));
    vec![
        meta::name(object).into(),
        text(object, "addressType").into(),
        shortened(ports, "<unset>"),
        shortened(addresses.filter_map(Value::as_str).map(str::to_owned), "<unset>"),
        age::age(object, now_seconds).into(),
    ]
}

/// Fills in Kubernetes' defaults: ports have the name "" and are TCP.
pub fn default(object: &mut Value) {
    for port in items_at(object, "ports") {
        set_default(port, "name", "");
        set_default(port, "protocol", "TCP");
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
    check_content(new, &mut causes);
    causes.immutable(&Path::new("addressType"), &new["addressType"], &old["addressType"]);
    causes.into_vec()
}

fn check_content(object: &Value, causes: &mut Causes) {
    causes.one_of(&Path::new("addressType"), text(object, "addressType"), &["FQDN", "IPv4", "IPv6"]);
    let (path, endpoints) = (Path::new("endpoints"), list(object, "endpoints"));
    if endpoints.len() > MAX_ENDPOINTS {
        causes.too_many(&path, endpoints.len(), MAX_ENDPOINTS);
    } else {
        for (index, endpoint) in endpoints.iter().enumerate() {
            check_endpoint(object, &path.index(index), endpoint, causes);
        }
    }
    let (path, ports) = (Path::new("ports"), list(object, "ports"));
    if ports.len() > MAX_PORTS {
        causes.too_many(&path, ports.len(), MAX_PORTS);
    } else {
        network::check_endpoint_ports(&path, ports, false, causes);
    }
}

fn check_endpoint(object: &Value, path: &Path, endpoint: &Value, causes: &mut Causes) {
    let (addresses, addresses_path) = (list(endpoint, "addresses"), path.child("addresses"));
    if addresses.is_empty() {
        causes.required(&addresses_path, "must contain at least 1 address");
    } else if addresses.len() > MAX_ADDRESSES {
        causes.too_many(&addresses_path, addresses.len(), MAX_ADDRESSES);
    } else {
        for (index, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
            check_address(object, &addresses_path.index(index), address, causes);
        }
    }
    if !text(endpoint, "hostname").is_empty() {
        causes.spelled(&path.child("hostname"), text(endpoint, "hostname"), Spelling::DnsLabel);
    }
    if !text(endpoint, "nodeName").is_empty() {
        causes.spelled(&path.child("nodeName"), text(endpoint, "nodeName"), Spelling::DnsSubdomain);
    }
}

fn check_address(object: &Value, path: &Path, address: &str, causes: &mut Causes) {
    let family = text(object, "addressType");
    if family == "FQDN" {
        causes.spelled(path, address, Spelling::DnsSubdomain);
        return;
    }
    let Some(ip) = network::check_ip(path, address, causes) else { return };
    match (family, ip) {
        ("IPv4", IpAddr::V6(_)) => causes.invalid(path, address, "must be an IPv4 address"),
        ("IPv6", IpAddr::V4(_)) => causes.invalid(path, address, "must be an IPv6 address"),
        _ => network::check_not_special(path, ip, network::is_control_plane(object), causes),
    }
}
