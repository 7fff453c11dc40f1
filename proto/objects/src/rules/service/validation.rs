//! What a Service must be, in Kubernetes' words.

use super::super::{
    Causes, Path,
    access::{given, integer, list, text},
    metadata::{self, Scope},
    network::{self, PROTOCOLS},
};
use crate::{Cause, names::Spelling};
use serde_json::{Value, json};
use std::collections::HashSet;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const TRAFFIC_POLICIES: [&str; 2] = ["Cluster", "Local"];

/// Longest session affinity: a day.
const AFFINITY_SECONDS_MAX: i64 = 86_400;

/// More ports than this are a mistake or an attack; Kubernetes has no bound but the size of the object.
const MAX_PORTS: usize = 1000;

pub(super) fn new(object: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_new(object, Scope::Namespaced, Spelling::Rfc1035Label, &mut causes);
    check_spec(&object["spec"], &mut causes);
    causes.into_vec()
}

pub(super) fn changed(object: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_changed(object, old, &mut causes);
    check_cluster_ip_kept(&object["spec"], &old["spec"], &mut causes);
    check_health_port_kept(&object["spec"], &old["spec"], &mut causes);
    check_spec(&object["spec"], &mut causes);
    causes.into_vec()
}

pub(super) fn changed_status(object: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::check_changed(object, old, &mut causes);
    let path = Path::new("status").child("loadBalancer").child("ingress");
    for (index, ingress) in list(&object["status"]["loadBalancer"], "ingress").iter().enumerate() {
        if !text(ingress, "ip").is_empty() {
            network::check_ip(&path.index(index).child("ip"), text(ingress, "ip"), &mut causes);
        }
    }
    causes.into_vec()
}

/// The first cluster IP never changes, except from and to `ExternalName`, which has none.
fn check_cluster_ip_kept(spec: &Value, old: &Value, causes: &mut Causes) {
    let (is, was) = (text(spec, "clusterIP"), text(old, "clusterIP"));
    let external = text(spec, "type") == "ExternalName" || text(old, "type") == "ExternalName";
    if !external && !was.is_empty() && is != was {
        let path = Path::new("spec").child("clusterIPs").index(0);
        causes.invalid(&path, json!([is]), "may not change once set");
    }
}

/// Load balancers were told of the port: it stays while it is needed.
fn check_health_port_kept(spec: &Value, old: &Value, causes: &mut Causes) {
    let (is, was) = (integer(spec, "healthCheckNodePort"), integer(old, "healthCheckNodePort"));
    let was_given = was.is_some_and(|number| number != 0);
    if super::has_health_port(spec) && super::has_health_port(old) && was_given && is != was {
        let path = Path::new("spec").child("healthCheckNodePort");
        causes.invalid(&path, is.unwrap_or_default(), "field is immutable");
    }
}

fn check_spec(spec: &Value, causes: &mut Causes) {
    let path = Path::new("spec");
    let headless = text(spec, "clusterIP") == "None";
    let service_type = text(spec, "type");
    let ports = list(spec, "ports");
    if ports.is_empty() && !headless && service_type != "ExternalName" {
        causes.required(&path.child("ports"), "");
    }
    match service_type {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {service_type} services");
            causes.invalid(&path.child("clusterIPs").index(0), "None", &detail);
        }
        "ExternalName" => check_external_name(spec, &path, causes),
        _ => {}
    }
    if ports.len() > MAX_PORTS {
        causes.too_many(&path.child("ports"), ports.len(), MAX_PORTS);
        return;
    }
    check_ports(ports, &path.child("ports"), causes);
    causes.labels(&path.child("selector"), &spec["selector"]);
    check_affinity(spec, &path, causes);
    check_cluster_ip(spec, &path, causes);
    for (index, address) in list(spec, "externalIPs").iter().filter_map(Value::as_str).enumerate() {
        let path = path.child("externalIPs").index(index);
        if let Some(ip) = network::check_ip(&path, address, causes) {
            network::check_not_special(&path, ip, false, causes);
        }
    }
    causes.one_of(&path.child("type"), service_type, &TYPES);
    check_node_ports(spec, &path.child("ports"), causes);
    check_unique_ports(ports, &path.child("ports"), causes);
    check_traffic(spec, &path, causes);
}

fn check_external_name(spec: &Value, path: &Path, causes: &mut Causes) {
    const DETAIL: &str = "may not be set for ExternalName services";
    if !list(spec, "clusterIPs").is_empty() || !text(spec, "clusterIP").is_empty() {
        causes.forbidden(&path.child("clusterIPs"), DETAIL);
    }
    for field in ["ipFamilies", "ipFamilyPolicy"] {
        if given(spec, field).is_some() {
            causes.forbidden(&path.child(field), DETAIL);
        }
    }
    // The name may end with a dot to say that it is complete.
    let name = text(spec, "externalName");
    causes.required_spelled(
        &path.child("externalName"),
        name.strip_suffix('.').unwrap_or(name),
        Spelling::DnsSubdomain,
    );
}

fn check_ports(ports: &[Value], path: &Path, causes: &mut Causes) {
    let mut names = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let (path, name) = (path.index(index), text(port, "name"));
        if !name.is_empty() {
            causes.spelled(&path.child("name"), name, Spelling::DnsLabel);
            if !names.insert(name) {
                causes.duplicate(&path.child("name"), name);
            }
        } else if ports.len() > 1 {
            causes.required(&path.child("name"), "");
        }
        network::check_port(&path.child("port"), integer(port, "port").unwrap_or_default(), causes);
        causes.one_of(&path.child("protocol"), text(port, "protocol"), &PROTOCOLS);
        network::check_port_or_name(&path.child("targetPort"), &port["targetPort"], causes);
        if !text(port, "appProtocol").is_empty() {
            causes.spelled(&path.child("appProtocol"), text(port, "appProtocol"), Spelling::QualifiedName);
        }
    }
}

fn check_affinity(spec: &Value, path: &Path, causes: &mut Causes) {
    let affinity = text(spec, "sessionAffinity");
    causes.one_of(&path.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    let (config, config_path) = (&spec["sessionAffinityConfig"], path.child("sessionAffinityConfig"));
    if affinity == "None" && !config.is_null() {
        causes.forbidden(&config_path, "must not be set when session affinity is None");
    }
    if affinity == "ClientIP" {
        let path = config_path.child("clientIP").child("timeoutSeconds");
        match integer(&config["clientIP"], "timeoutSeconds") {
            None => causes.required(&path, "when session affinity type is ClientIP"),
            Some(seconds) if seconds <= 0 || seconds > AFFINITY_SECONDS_MAX => {
                causes.invalid(&path, seconds, &format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}"));
            }
            Some(_) => {}
        }
    }
}

fn check_cluster_ip(spec: &Value, path: &Path, causes: &mut Causes) {
    let cluster_ip = text(spec, "clusterIP");
    let all = list(spec, "clusterIPs");
    if let Some(first) = all.first().filter(|first| **first != cluster_ip) {
        causes.invalid(&path.child("clusterIPs"), json!([first]), "first value must match `clusterIP`");
    }
    let addresses: Vec<&str> = if all.is_empty() && !cluster_ip.is_empty() {
        vec![cluster_ip]
    } else {
        all.iter().filter_map(Value::as_str).collect()
    };
    if addresses.len() > 1 {
        causes.invalid(
            &path.child("clusterIPs"),
            json!(addresses),
            "may only hold up to 1 value: the cluster is IPv4 only",
        );
        return;
    }
    for address in addresses.iter().filter(|address| **address != "None") {
        let path = path.child("clusterIPs").index(0);
        if let Some(std::net::IpAddr::V6(_)) = network::check_ip(&path, address, causes) {
            causes.invalid(&path, *address, "must be an IPv4 address: the cluster is IPv4 only");
        }
    }
    let policy = text(spec, "ipFamilyPolicy");
    if !policy.is_empty() {
        // Which families the cluster has is known to the door alone.
        let known = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        causes.one_of(&path.child("ipFamilyPolicy"), policy, &known);
    }
}

fn check_node_ports(spec: &Value, path: &Path, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for (index, port) in list(spec, "ports").iter().enumerate() {
        let Some(number) = integer(port, "nodePort").filter(|number| *number != 0) else { continue };
        let path = path.index(index).child("nodePort");
        if text(spec, "type") == "ClusterIP" {
            causes.forbidden(&path, "may not be used when `type` is 'ClusterIP'");
        }
        network::check_port(&path, number, causes);
        if !seen.insert((text(port, "protocol"), number)) {
            causes.duplicate(&path, number);
        }
    }
}

fn check_unique_ports(ports: &[Value], path: &Path, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let (protocol, number) = (text(port, "protocol"), integer(port, "port").unwrap_or_default());
        if !seen.insert((protocol, number)) {
            causes.duplicate(&path.index(index), json!({"protocol": protocol, "port": number}));
        }
    }
}

fn check_traffic(spec: &Value, path: &Path, causes: &mut Causes) {
    let service_type = text(spec, "type");
    let reachable = matches!(service_type, "NodePort" | "LoadBalancer") || !list(spec, "externalIPs").is_empty();
    let external = text(spec, "externalTrafficPolicy");
    let external_path = path.child("externalTrafficPolicy");
    if !reachable && !external.is_empty() {
        causes.invalid(&external_path, external, "may only be set for externally-accessible services");
    } else if reachable && !external.is_empty() {
        causes.one_of(&external_path, external, &TRAFFIC_POLICIES);
    }
    let internal = text(spec, "internalTrafficPolicy");
    if !internal.is_empty() || matches!(service_type, "ClusterIP" | "NodePort" | "LoadBalancer") {
        causes.one_of(&path.child("internalTrafficPolicy"), internal, &TRAFFIC_POLICIES);
    }
    let health_port = integer(spec, "healthCheckNodePort").unwrap_or_default();
    if health_port != 0 && !super::has_health_port(spec) {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        causes.invalid(&path.child("healthCheckNodePort"), health_port, detail);
    }
    if given(spec, "allocateLoadBalancerNodePorts").is_some() && service_type != "LoadBalancer" {
        causes
            .forbidden(&path.child("allocateLoadBalancerNodePorts"), "may only be used when `type` is 'LoadBalancer'");
    }
    let distribution = text(spec, "trafficDistribution");
    if !distribution.is_empty() && distribution != "PreferClose" {
        causes.not_supported(&path.child("trafficDistribution"), distribution, &["PreferClose"]);
    }
}
