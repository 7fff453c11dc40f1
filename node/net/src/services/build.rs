//! Reads services and endpoint slices into the table. Objects that make no sense are left out, never guessed at.

use super::{Door, Endpoint, Endpoints, Health, PortId, Protocol, ServicePort, Services};
use coracle_objects::{ObjectKey, meta};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// Label of a slice that names its service.
pub(crate) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is absent.
const AFFINITY_DEFAULT: Duration = Duration::from_hours(3);

/// The endpoints of one service, by the name and protocol of its ports.
type ByPort = BTreeMap<(String, Protocol), Vec<Endpoint>>;

/// What the table was read from, so that a service of which nothing changed need not be read again.
#[derive(Debug, Clone, Default)]
pub(super) struct Sources {
    node_name: String,
    by_service: BTreeMap<ObjectKey, Source>,
}

/// What the ports of one service were read from.
#[derive(Debug, Clone)]
struct Source {
    /// The service and its slices, each by uid and version.
    versions: Vec<String>,
    ports: Vec<PortId>,
}

impl Services {
    /// Builds the table as the node called `node_name` sees it.
    #[must_use]
    pub fn build<'a>(
        services: impl IntoIterator<Item = &'a Value>,
        endpoint_slices: impl IntoIterator<Item = &'a Value>,
        node_name: &str,
    ) -> Self {
        Self::default().rebuild(services, endpoint_slices, node_name)
    }

    /// Builds the table anew; service ports that are as they were in `self` stay the same [`Arc`]. Services whose objects
    /// have the versions that they had are not read again.
    #[must_use]
    pub fn rebuild<'a>(
        &self,
        services: impl IntoIterator<Item = &'a Value>,
        endpoint_slices: impl IntoIterator<Item = &'a Value>,
        node_name: &str,
    ) -> Self {
        let mut slices = slices_by_service(endpoint_slices);
        let mut table = Self::default();
        node_name.clone_into(&mut table.sources.node_name);
        // Who was first keeps an address or a port that two claim; one server's clock gave both times.
        let mut services: Vec<&Value> = services.into_iter().collect();
        services.sort_by_cached_key(|service| (service["metadata"]["creationTimestamp"].as_str(), meta::key(service)));
        let mut in_order = Vec::new();
        for service in services {
            let key = meta::key(service);
            let behind = slices.remove(&key).unwrap_or_default();
            let versions = versions(service, &behind);
            let ports = self.kept(&key, &versions, node_name).unwrap_or_else(|| self.read(service, &behind, node_name));
            let ids = ports.iter().map(|port| port.id.clone()).collect();
            for port in ports {
                in_order.push(Arc::clone(table.ports.entry(port.id.clone()).or_insert(port)));
            }
            table.sources.by_service.insert(key, Source { versions, ports: ids });
        }
        table.index(&in_order);
        table
    }

    /// The ports of a service that was read from these versions.
    fn kept(&self, service: &ObjectKey, versions: &[String], node_name: &str) -> Option<Vec<Arc<ServicePort>>> {
        let source = self.sources.by_service.get(service)?;
        let is_same = !versions.is_empty() && source.versions == versions && self.sources.node_name == node_name;
        is_same.then(|| source.ports.iter().filter_map(|id| self.ports.get(id).cloned()).collect())
    }

    fn read(&self, service: &Value, slices: &[&Value], node_name: &str) -> Vec<Arc<ServicePort>> {
        let mut behind = endpoints_by_port(slices, node_name);
        let keep = |port: ServicePort| {
            let held = self.ports.get(&port.id).filter(|held| ***held == port);
            held.map_or_else(|| Arc::new(port), Arc::clone)
        };
        ports_of(service, &mut behind).into_iter().map(keep).collect()
    }

    fn index(&mut self, in_order: &[Arc<ServicePort>]) {
        // A cluster IP belongs to its service whatever others claim as external.
        for door in [Door::Cluster, Door::External] {
            for port in in_order {
                let addresses = if door == Door::Cluster { &port.cluster_addresses } else { &port.external_addresses };
                for address in addresses {
                    let key = (*address, port.port, port.id.protocol);
                    self.by_address.entry(key).or_insert_with(|| (port.id.clone(), door));
                    self.addresses.insert(*address);
                }
            }
        }
        for port in in_order {
            if let Some(number) = port.node_port {
                self.by_node_port.entry((number, port.id.protocol)).or_insert_with(|| port.id.clone());
            }
        }
    }
}

fn ports_of(service: &Value, behind: &mut ByPort) -> Vec<ServicePort> {
    let spec = &service["spec"];
    if spec["type"] == "ExternalName" || spec["clusterIP"] == "None" {
        return Vec::new();
    }
    let cluster_addresses = match addresses(&spec["clusterIPs"]) {
        none if none.is_empty() => address(&spec["clusterIP"]).into_iter().collect(),
        some => some,
    };
    let mut external_addresses = addresses(&spec["externalIPs"]);
    external_addresses
        .extend(items(&service["status"]["loadBalancer"]["ingress"]).filter_map(|one| address(&one["ip"])));
    let affinity = (spec["sessionAffinity"] == "ClientIP").then(|| {
        let seconds = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_u64();
        seconds.map_or(AFFINITY_DEFAULT, Duration::from_secs)
    });
    let is_balanced_locally = spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
    let key = meta::key(service);
    let port_of = |port: &Value| {
        let id = PortId {
            service: key.clone(),
            name: port["name"].as_str().unwrap_or_default().to_owned(),
            protocol: Protocol::parse(port["protocol"].as_str())?,
        };
        Some(ServicePort {
            port: number(&port["port"])?,
            node_port: number(&port["nodePort"]),
            health_check_port: number(&spec["healthCheckNodePort"]).filter(|_| is_balanced_locally),
            cluster_addresses: cluster_addresses.clone(),
            external_addresses: external_addresses.clone(),
            affinity,
            internal_local: spec["internalTrafficPolicy"] == "Local",
            external_local: spec["externalTrafficPolicy"] == "Local",
            endpoints: Endpoints::new(behind.remove(&(id.name.clone(), id.protocol)).unwrap_or_default()),
            id,
        })
    };
    items(&spec["ports"]).filter_map(port_of).collect()
}

fn slices_by_service<'a>(slices: impl IntoIterator<Item = &'a Value>) -> BTreeMap<ObjectKey, Vec<&'a Value>> {
    let mut services: BTreeMap<ObjectKey, Vec<&Value>> = BTreeMap::new();
    for slice in slices {
        let Some(service) = meta::label(slice, SERVICE_NAME_LABEL) else { continue };
        services.entry(ObjectKey::namespaced(meta::namespace(slice), service)).or_default().push(slice);
    }
    services
}

/// Uid and version of a service and of its slices, those in any order; empty when one of them has none.
fn versions(service: &Value, slices: &[&Value]) -> Vec<String> {
    let version = |object: &Value| {
        let (uid, version) = (meta::uid(object), meta::resource_version(object));
        (!uid.is_empty() && !version.is_empty()).then(|| format!("{uid}/{version}"))
    };
    let all = [service].into_iter().chain(slices.iter().copied()).map(version);
    let mut all: Vec<String> = all.collect::<Option<_>>().unwrap_or_default();
    all.sort_unstable();
    all
}

fn endpoints_by_port(slices: &[&Value], node_name: &str) -> ByPort {
    let mut behind = ByPort::new();
    // `FQDN` slices are for nobody who proxies.
    for slice in slices.iter().filter(|slice| slice["addressType"] != "FQDN") {
        for port in items(&slice["ports"]) {
            let (Some(protocol), Some(number)) = (Protocol::parse(port["protocol"].as_str()), number(&port["port"]))
            else {
                continue;
            };
            let name = port["name"].as_str().unwrap_or_default().to_owned();
            let listed = items(&slice["endpoints"]).filter_map(|one| endpoint(one, number, node_name));
            behind.entry((name, protocol)).or_default().extend(listed);
        }
    }
    behind
}

/// `addresses` of an endpoint are interchangeable, and only the first one is used, as everywhere in Kubernetes.
fn endpoint(value: &Value, port: u16, node_name: &str) -> Option<Endpoint> {
    let address = items(&value["addresses"]).find_map(address)?;
    let is_local = value["nodeName"].as_str().is_some_and(|name| name == node_name);
    Some(Endpoint { address: SocketAddr::new(address, port), is_local, health: health(value) })
}

/// What `conditions` of an endpoint in a slice come to: what is not said is ready, serves as it is ready, and stays.
pub(crate) fn health(endpoint: &Value) -> Health {
    let conditions = &endpoint["conditions"];
    let is_ready = conditions["ready"].as_bool().unwrap_or(true);
    let is_serving = conditions["serving"].as_bool().unwrap_or(is_ready);
    match conditions["terminating"].as_bool().unwrap_or(false) {
        _ if is_ready => Health::Ready,
        true if is_serving => Health::Leaving,
        _ => Health::Away,
    }
}

/// A list's items; none where it is no list.
pub(crate) fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// An address, IPv4 in IPv6 clothes as IPv4.
pub(crate) fn address(value: &Value) -> Option<IpAddr> {
    Some(crate::class::normalise(value.as_str()?.parse().ok()?))
}

fn addresses(value: &Value) -> Vec<IpAddr> {
    items(value).filter_map(address).collect()
}

pub(crate) fn number(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok().filter(|number| *number != 0)
}
