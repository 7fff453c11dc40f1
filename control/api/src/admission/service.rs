//! Services: cluster IPs, IP families, node ports, and the ports where load balancers ask for a service's health.

use super::ranges::{AddressRange, NODE_PORTS, node_ports};
use crate::door::{Door, Target, read_error};
use coracle_objects::{ApiError, Cause, meta, ranges::CLUSTER_DNS};
use coracle_store::command::UniqueChange;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// The only address family there is.
const FAMILY: &str = "IPv4";
const HEADLESS: &str = "None";
/// The only service that may have the address of the cluster's DNS: nodes answer there, whatever the table says.
const DNS_SERVICE: &str = "kube-system/kube-dns";
/// Fields that an `ExternalName` service does not have.
const ADDRESS_FIELDS: [&str; 4] = ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];

fn type_of(spec: &Value) -> &str {
    spec["type"].as_str().filter(|text| !text.is_empty()).unwrap_or("ClusterIP")
}

fn wants_address(spec: &Value) -> bool {
    type_of(spec) != "ExternalName"
}

fn wants_node_ports(spec: &Value) -> bool {
    match type_of(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
        _ => false,
    }
}

/// Whether load balancers ask each node for endpoints of its own.
fn wants_health_port(spec: &Value) -> bool {
    type_of(spec) == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

fn health_port(spec: &Value) -> Option<i64> {
    spec["healthCheckNodePort"].as_i64().filter(|number| *number != 0)
}

/// The cluster IP asked for or held; "" when there is none.
fn address_of(spec: &Value) -> &str {
    let single = spec["clusterIP"].as_str().unwrap_or_default();
    if single.is_empty() { spec["clusterIPs"][0].as_str().unwrap_or_default() } else { single }
}

fn ports(spec: &Value) -> impl Iterator<Item = &Value> {
    spec["ports"].as_array().into_iter().flatten()
}

fn protocol(port: &Value) -> &str {
    port["protocol"].as_str().filter(|text| !text.is_empty()).unwrap_or("TCP")
}

fn node_port(port: &Value) -> Option<i64> {
    port["nodePort"].as_i64().filter(|number| *number != 0)
}

fn address_key(address: &str) -> String {
    format!("clusterip/{address}")
}

fn port_key(protocol: &str, number: impl std::fmt::Display) -> String {
    format!("nodeport/{protocol}/{number}")
}

/// Every unique key that a service holds.
fn keys(service: &Value) -> BTreeSet<String> {
    let spec = &service["spec"];
    let address = address_of(spec);
    let has_address = wants_address(spec) && !address.is_empty() && address != HEADLESS;
    let node_ports = ports(spec).filter_map(|port| Some(port_key(protocol(port), node_port(port)?)));
    let health_port = health_port(spec).map(|number| port_key("TCP", number));
    has_address.then(|| address_key(address)).into_iter().chain(node_ports).chain(health_port).collect()
}

/// What the end of a service gives back.
pub(super) fn release(service: &Value) -> Vec<UniqueChange> {
    keys(service).into_iter().map(|key| UniqueChange { key, holder: None }).collect()
}

/// Indexing instead would leave a null behind where there are no ports.
fn ports_mut(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten()
}

/// Keeps address and node ports where a change does not mention them, and drops them where the new type has none.
pub(super) fn carry_allocated(new: &mut Value, old: &Value) {
    let old_spec = &old["spec"];
    let Some(spec) = new.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    if wants_address(spec) {
        if wants_address(old_spec) && address_of(spec).is_empty() {
            for field in ["clusterIP", "clusterIPs"] {
                spec[field] = old_spec[field].clone();
            }
        } else if spec["clusterIPs"] == old_spec["clusterIPs"] && spec["clusterIP"] != old_spec["clusterIP"] {
            // Who changes only the older field means both.
            spec["clusterIPs"] = json!([spec["clusterIP"]]);
        }
    } else if address_of(spec) == address_of(old_spec) {
        drop_fields(spec, &ADDRESS_FIELDS);
    }
    if wants_health_port(spec) && health_port(spec).is_none() && health_port(old_spec).is_some() {
        spec["healthCheckNodePort"] = old_spec["healthCheckNodePort"].clone();
    }
    let keeps_ports = wants_node_ports(spec);
    let held = wants_node_ports(old_spec);
    for port in ports_mut(spec) {
        let same = |other: &&Value| other["port"] == port["port"] && protocol(other) == protocol(port);
        let before = ports(old_spec).find(same).and_then(node_port);
        match (keeps_ports, node_port(port)) {
            (true, None) if held => {
                if let Some(number) = before {
                    port["nodePort"] = Value::from(number);
                }
            }
            (false, Some(number)) if before == Some(number) => drop_fields(port, &["nodePort"]),
            _ => {}
        }
    }
}

fn drop_fields(object: &mut Value, fields: &[&str]) {
    if let Some(map) = object.as_object_mut() {
        for field in fields {
            map.shift_remove(*field);
        }
    }
}

/// Fills in addresses and ports; answers what is taken and given back. `old` is the service before a change.
pub(super) fn allocate(
    door: &Door,
    target: &Target,
    service: &mut Value,
    old: Option<&Value>,
) -> Result<Vec<UniqueChange>, ApiError> {
    let holder = format!("{}/{}", target.namespace, target.name);
    let held = old.map(keys).unwrap_or_default();
    let allocation = Allocation { door, holder: &holder, held: &held };
    let mut causes = Vec::new();
    if let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) {
        fill_families(spec, &mut causes);
        if wants_address(spec) {
            allocation.fill_address(spec, &mut causes)?;
        }
        if wants_node_ports(spec) {
            allocation.fill_node_ports(spec, &mut causes)?;
        }
        if wants_health_port(spec) {
            allocation.fill_health_port(spec, &mut causes)?;
        }
    }
    if !causes.is_empty() {
        return Err(target.kind.invalid(meta::name(service), causes));
    }
    let wanted = keys(service);
    let taken = wanted.difference(&held).map(|key| UniqueChange { key: key.clone(), holder: Some(holder.clone()) });
    let given_back = held.difference(&wanted).map(|key| UniqueChange { key: key.clone(), holder: None });
    Ok(taken.chain(given_back).collect())
}

fn fill_families(spec: &mut Value, causes: &mut Vec<Cause>) {
    if !wants_address(spec) {
        return;
    }
    let families = spec["ipFamilies"].as_array().cloned().unwrap_or_default();
    for (index, family) in families.iter().enumerate() {
        if family != FAMILY {
            let path = format!("spec.ipFamilies[{index}]");
            causes.push(Cause::invalid(path, family, "not configured on this cluster"));
        }
    }
    match spec["ipFamilyPolicy"].as_str().unwrap_or_default() {
        "" => spec["ipFamilyPolicy"] = Value::from("SingleStack"),
        "RequireDualStack" => {
            let detail = "this cluster is not configured for dual-stack services";
            causes.push(Cause::invalid("spec.ipFamilyPolicy", &spec["ipFamilyPolicy"], detail));
        }
        _ => {}
    }
    if families.is_empty() {
        spec["ipFamilies"] = json!([FAMILY]);
    }
}

struct Allocation<'a> {
    door: &'a Door,
    holder: &'a str,
    held: &'a BTreeSet<String>,
}

impl Allocation<'_> {
    fn is_free(&self, key: &str) -> Result<bool, ApiError> {
        if self.held.contains(key) {
            return Ok(true);
        }
        let holder = self.door.store().unique_holder(key).map_err(|error| read_error(&error))?;
        Ok(holder.is_none_or(|holder| holder == self.holder))
    }

    fn fill_address(&self, spec: &mut Value, causes: &mut Vec<Cause>) -> Result<(), ApiError> {
        let range = AddressRange::new(self.door.service_range());
        let asked = address_of(spec).to_owned();
        let address = if asked.is_empty() {
            self.pick_address(range)?
        } else {
            if asked != HEADLESS
                && let Some(detail) = self.address_refusal(range, &asked)?
            {
                let detail = format!("failed to allocate IP {asked}: {detail}");
                causes.push(Cause::invalid("spec.clusterIPs", &json!([asked]), &detail));
            }
            asked
        };
        if let Some(spec) = spec.as_object_mut() {
            set_address(spec, &address);
        }
        Ok(())
    }

    fn pick_address(&self, range: AddressRange) -> Result<String, ApiError> {
        for candidate in range.candidates().filter(|candidate| *candidate != CLUSTER_DNS) {
            let candidate = candidate.to_string();
            if self.is_free(&address_key(&candidate))? {
                return Ok(candidate);
            }
        }
        Err(ApiError::internal(format!("failed to allocate a serviceIP: range {range} is full")))
    }

    fn address_refusal(&self, range: AddressRange, asked: &str) -> Result<Option<String>, ApiError> {
        let Ok(address) = asked.parse::<Ipv4Addr>() else {
            return Ok(Some("it is no IPv4 address".to_owned()));
        };
        let key = address_key(asked);
        if address == CLUSTER_DNS && self.holder != DNS_SERVICE && !self.held.contains(&key) {
            return Ok(Some(format!("it is kept for the cluster's DNS, service {DNS_SERVICE}")));
        }
        if !range.allows(address) && !self.held.contains(&key) {
            let text =
                format!("the provided IP ({asked}) is not in the valid range. The range of valid IPs is {range}");
            return Ok(Some(text));
        }
        Ok((!self.is_free(&key)?).then(|| "provided IP is already allocated".to_owned()))
    }

    /// Why a service may not have a port of the nodes that it asks for.
    fn port_refusal(&self, path: String, protocol: &str, number: i64) -> Result<Option<Cause>, ApiError> {
        let key = port_key(protocol, number);
        let in_range = u16::try_from(number).is_ok_and(|number| NODE_PORTS.contains(&number));
        if !in_range && !self.held.contains(&key) {
            let (low, high) = (NODE_PORTS.start(), NODE_PORTS.end());
            let detail = format!("provided port is not in the valid range. The range of valid ports is {low}-{high}");
            return Ok(Some(Cause::invalid(path, &Value::from(number), &detail)));
        }
        let refusal = || Cause::invalid(path, &Value::from(number), "provided port is already allocated");
        Ok((!self.is_free(&key)?).then(refusal))
    }

    fn fill_health_port(&self, spec: &mut Value, causes: &mut Vec<Cause>) -> Result<(), ApiError> {
        let own: BTreeSet<String> =
            ports(spec).filter_map(|port| Some(port_key(protocol(port), node_port(port)?))).collect();
        if let Some(number) = health_port(spec) {
            let path = "spec.healthCheckNodePort".to_owned();
            if own.contains(&port_key("TCP", number)) {
                causes.push(Cause::invalid(path, &Value::from(number), "provided port is already allocated"));
            } else {
                causes.extend(self.port_refusal(path, "TCP", number)?);
            }
            return Ok(());
        }
        for number in node_ports() {
            let key = port_key("TCP", number);
            if !own.contains(&key) && self.is_free(&key)? {
                spec["healthCheckNodePort"] = Value::from(number);
                return Ok(());
            }
        }
        Err(ApiError::internal("failed to allocate a healthCheckNodePort: range is full"))
    }

    fn fill_node_ports(&self, spec: &mut Value, causes: &mut Vec<Cause>) -> Result<(), ApiError> {
        let mut own: BTreeSet<String> =
            ports(spec).filter_map(|port| Some(port_key(protocol(port), node_port(port)?))).collect();
        own.extend(health_port(spec).map(|number| port_key("TCP", number)));
        let number = |port: &Value| u16::try_from(node_port(port)?).ok().filter(|number| NODE_PORTS.contains(number));
        let mut by_port: BTreeMap<i64, u16> =
            ports(spec).filter_map(|port| Some((port["port"].as_i64()?, number(port)?))).collect();
        for (index, port) in ports_mut(spec).enumerate() {
            let protocol = protocol(port).to_owned();
            if let Some(number) = node_port(port) {
                let path = format!("spec.ports[{index}].nodePort");
                causes.extend(self.port_refusal(path, &protocol, number)?);
                continue;
            }
            let mut found = None;
            // One number for both protocols of a port, as people expect of DNS and the like.
            let twin = port["port"].as_i64().and_then(|number| by_port.get(&number).copied());
            for number in twin.into_iter().chain(node_ports()) {
                let key = port_key(&protocol, number);
                if !own.contains(&key) && self.is_free(&key)? {
                    own.insert(key);
                    found = Some(number);
                    break;
                }
            }
            let number = found.ok_or_else(|| ApiError::internal("failed to allocate a nodePort: range is full"))?;
            port["nodePort"] = Value::from(number);
            by_port.entry(port["port"].as_i64().unwrap_or_default()).or_insert(number);
        }
        Ok(())
    }
}

fn set_address(spec: &mut Map<String, Value>, address: &str) {
    spec.insert("clusterIP".to_owned(), Value::from(address));
    spec.insert("clusterIPs".to_owned(), json!([address]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_holds_its_address_and_its_ports() {
        let service = json!({"spec": {
            "type": "NodePort", "clusterIP": "10.96.0.9",
            "ports": [{"port": 1, "nodePort": 30001}, {"port": 2, "protocol": "UDP", "nodePort": 30001}, {"port": 3}],
        }});
        let expected = ["clusterip/10.96.0.9", "nodeport/TCP/30001", "nodeport/UDP/30001"].map(str::to_owned);
        assert_eq!(keys(&service), BTreeSet::from(expected));
        let balanced = json!({"spec": {"healthCheckNodePort": 30002}});
        assert_eq!(keys(&balanced), BTreeSet::from(["nodeport/TCP/30002".to_owned()]));
        for without in [json!({"clusterIP": "None"}), json!({"type": "ExternalName", "clusterIP": ""}), json!({})] {
            assert!(keys(&json!({"spec": without})).is_empty());
        }
    }

    #[test]
    fn what_was_allotted_is_kept_where_the_change_is_silent() {
        let old = json!({"spec": {
            "type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80, "nodePort": 30001}],
        }});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81}]}});
        carry_allocated(&mut new, &old);
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.9");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        assert!(new["spec"]["ports"][1].get("nodePort").is_none());

        let mut plain = old.clone();
        plain["spec"]["type"] = Value::from("ClusterIP");
        carry_allocated(&mut plain, &old);
        assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
        assert_eq!(plain["spec"]["clusterIP"], "10.96.0.9");

        let mut external = old.clone();
        external["spec"]["type"] = Value::from("ExternalName");
        drop_fields(&mut external["spec"], &["ports"]);
        carry_allocated(&mut external, &old);
        assert!(external["spec"].get("clusterIP").is_none() && external["spec"].get("clusterIPs").is_none());
        assert!(keys(&external).is_empty());
        assert!(external["spec"].get("ports").is_none(), "{external}");
    }
}
