//! Endpoints: defaults, preparation, validation and columns.

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
use std::net::{IpAddr, SocketAddr};

/// What `kubectl get` prints.
pub const COLUMNS: &[Column] = &[
    Column { name: "Name", value_type: "string", format: "name", priority: 0 },
    Column { name: "Endpoints", value_type: "string", format: "", priority: 0 },
    Column { name: "Age", value_type: "string", format: "", priority: 0 },
];

/// Fields besides name and namespace that a field selector may name.
pub const SELECTABLE: &[&str] = &[];

/// Cells in the order of [`COLUMNS`].
#[must_use]
pub fn cells(object: &Value, now_seconds: i64) -> Vec<Value> {
    let pairs = list(object, "subsets").iter().flat_map(|subset| {
        let (addresses, ports) = (list(subset, "addresses"), list(subset, "ports"));
        let with_ports = ports.iter().flat_map(move |port| addresses.iter().map(move |one| with_port(one, port)));
        let bare = if ports.is_empty() { addresses } else { &[] };
        with_ports.chain(bare.iter().map(|one| text(one, "ip").to_owned()))
    });
    vec![meta::name(object).into(), shortened(pairs, "<none>"), age::age(object, now_seconds).into()]
}

fn with_port(address: &Value, port: &Value) -> String {
    let number = port["port"].as_u64().and_then(|number| u16::try_from(number).ok()).unwrap_or_default();
    match text(address, "ip").parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, number).to_string(),
        Err(_) => format!("{}:{number}", text(address, "ip")),
    }
}

/// Fills in Kubernetes' defaults: ports are TCP.
pub fn default(object: &mut Value) {
    for port in items_at(object, "subsets").flat_map(|subset| items_at(subset, "ports")) {
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
    check_subsets(object, &mut causes);
    causes.into_vec()
}

/// Everything wrong with a change.
#[must_use]
pub fn validate_update(new: &Value, old: &Value, _subresource: &str) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_changed(new, old, &mut causes);
    check_subsets(new, &mut causes);
    causes.into_vec()
}

fn check_subsets(object: &Value, causes: &mut Causes) {
    let loopback_is_fine = network::is_control_plane(object);
    for (index, subset) in list(object, "subsets").iter().enumerate() {
        if causes.is_full() {
            return;
        }
        let path = Path::new("subsets").index(index);
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            causes.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for field in ["addresses", "notReadyAddresses"] {
            for (index, address) in list(subset, field).iter().enumerate() {
                check_address(&path.child(field).index(index), address, loopback_is_fine, causes);
            }
        }
        network::check_endpoint_ports(&path.child("ports"), list(subset, "ports"), true, causes);
    }
}

fn check_address(path: &Path, address: &Value, loopback_is_fine: bool, causes: &mut Causes) {
    if let Some(ip) = network::check_ip(&path.child("ip"), text(address, "ip"), causes) {
        network::check_not_special(&path.child("ip"), ip, loopback_is_fine, causes);
    }
    if !text(address, "hostname").is_empty() {
        causes.spelled(&path.child("hostname"), text(address, "hostname"), Spelling::DnsLabel);
    }
    if !text(address, "nodeName").is_empty() {
        causes.spelled(&path.child("nodeName"), text(address, "nodeName"), Spelling::DnsSubdomain);
    }
}
