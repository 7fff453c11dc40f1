//! Addresses and ports, as services and endpoints write them.

use super::{
    Causes, Path,
    access::{integer, text},
};
use crate::{meta, names::Spelling};
use serde_json::Value;
use std::{collections::HashSet, net::IpAddr};

/// Transport protocols, as enumerations list them.
pub(super) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// A number from 1 to 65535.
pub(super) fn check_port(path: &Path, port: i64, causes: &mut Causes) {
    causes.in_range(path, port, 1, 65_535);
}

/// A port number or the name of a container port.
pub(super) fn check_port_or_name(path: &Path, port: &Value, causes: &mut Causes) {
    match port {
        Value::String(name) => causes.spelled(path, name, Spelling::PortName),
        _ => check_port(path, port.as_i64().unwrap_or_default(), causes),
    }
}

/// An IP address of either family.
pub(super) fn check_ip(path: &Path, address: &str, causes: &mut Causes) -> Option<IpAddr> {
    let parsed = address.parse().ok();
    if parsed.is_none() {
        causes.invalid(path, address, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
    parsed
}

/// Addresses that would let an endpoint reach a machine's own services. The `kubernetes` endpoints of the control plane
/// are its to write, and in a one-machine cluster it listens on loopback only.
pub(super) fn check_not_special(path: &Path, address: IpAddr, loopback_is_fine: bool, causes: &mut Causes) {
    let text = address.to_string();
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if address.is_unspecified() {
        causes.invalid(path, text.as_str(), &format!("may not be unspecified ({text})"));
    }
    if address.is_loopback() && !loopback_is_fine {
        causes.invalid(path, text.as_str(), "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        causes.invalid(path, text.as_str(), "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if address.is_multicast() {
        causes.invalid(path, text.as_str(), "may not be in the multicast range (224.0.0.0/24, ff02::/10)");
    }
}

/// Whether the object is the control plane's own: `default/kubernetes`.
pub(super) fn is_control_plane(object: &Value) -> bool {
    (meta::namespace(object), meta::name(object)) == ("default", "kubernetes")
}

/// Ports of endpoints: unique names, a known protocol, a number where `number_required`.
pub(super) fn check_endpoint_ports(path: &Path, ports: &[Value], number_required: bool, causes: &mut Causes) {
    let mut names = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        if causes.is_full() {
            return;
        }
        let (path, name) = (path.index(index), text(port, "name"));
        if !name.is_empty() {
            causes.spelled(&path.child("name"), name, Spelling::DnsLabel);
        } else if number_required && ports.len() > 1 {
            causes.required(&path.child("name"), "");
        }
        let may_repeat = number_required && name.is_empty();
        if !may_repeat && !names.insert(name) {
            causes.duplicate(&path.child("name"), name);
        }
        if number_required || !port["port"].is_null() {
            check_port(&path.child("port"), integer(port, "port").unwrap_or_default(), causes);
        }
        causes.one_of(&path.child("protocol"), text(port, "protocol"), &PROTOCOLS);
    }
}
