//! Reads services and endpoint slices into names. Objects that make no sense are left out.

use super::{CLUSTER_DOMAIN, Names, spelling};
use crate::services::{
    Health, Protocol,
    build::{SERVICE_NAME_LABEL, address, health, items, number},
};
use coracle_objects::{ObjectKey, meta};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// A port, by its name and what it carries.
type PortName = (String, Protocol);

/// What a service's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Service {
    /// Its virtual addresses, and the numbers of its named ports.
    Cluster {
        /// Cluster IPs.
        addresses: Vec<IpAddr>,
        /// Named ports.
        ports: BTreeMap<PortName, u16>,
    },
    /// Whoever is ready behind it.
    Headless(Headless),
    /// An `ExternalName` that is an address.
    Address(IpAddr),
    /// Another name, complete.
    Alias(String),
}

/// Ready endpoints of a headless service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Headless {
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) by_hostname: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Host and number of each named port.
    pub(super) ports: BTreeMap<PortName, BTreeSet<(String, u16)>>,
}

impl Names {
    /// Builds the table from `v1` Services and `discovery.k8s.io/v1` `EndpointSlices`. Objects that make no sense are
    /// left out.
    #[must_use]
    pub fn build<'a>(
        services: impl IntoIterator<Item = &'a Value>,
        endpoint_slices: impl IntoIterator<Item = &'a Value>,
    ) -> Self {
        let mut names = Self::default();
        for service in services {
            names.namespaces.insert(meta::namespace(service).to_owned());
            if let Some(entry) = entry_of(service) {
                names.services.insert(meta::key(service), entry);
            }
        }
        for slice in endpoint_slices {
            let Some(service) = meta::label(slice, SERVICE_NAME_LABEL) else { continue };
            let key = ObjectKey::namespaced(meta::namespace(slice), service);
            if let Some(Service::Headless(headless)) = names.services.get_mut(&key) {
                add_endpoints(headless, slice);
            }
        }
        names.index_addresses();
        names
    }

    fn index_addresses(&mut self) {
        for (key, service) in &self.services {
            let domain = format!("{}.{}.svc.{CLUSTER_DOMAIN}", key.name, key.namespace);
            let named: Vec<(IpAddr, String)> = match service {
                Service::Cluster { addresses, .. } => addresses.iter().map(|one| (*one, domain.clone())).collect(),
                Service::Headless(headless) => {
                    let hosts = headless.by_hostname.iter();
                    let of = |(host, addresses): (&String, &BTreeSet<IpAddr>)| {
                        let name = format!("{host}.{domain}");
                        addresses.iter().map(move |one| (*one, name.clone())).collect::<Vec<_>>()
                    };
                    hosts.flat_map(of).collect()
                }
                Service::Address(_) | Service::Alias(_) => Vec::new(),
            };
            for (address, name) in named {
                self.by_address.entry(address).or_default().insert(name);
            }
        }
    }
}

fn entry_of(service: &Value) -> Option<Service> {
    let spec = &service["spec"];
    if spec["type"] == "ExternalName" {
        if let Some(address) = address(&spec["externalName"]) {
            return Some(Service::Address(address));
        }
        return spelling::check(spec["externalName"].as_str()?).ok().map(|(target, _)| Service::Alias(target));
    }
    if spec["clusterIP"] == "None" {
        return Some(Service::Headless(Headless::default()));
    }
    let mut addresses: Vec<IpAddr> = items(&spec["clusterIPs"]).filter_map(address).collect();
    if addresses.is_empty() {
        addresses.extend(address(&spec["clusterIP"]));
    }
    let named = items(&spec["ports"]).filter_map(|port| Some((port_name(port)?, number(&port["port"])?)));
    (!addresses.is_empty()).then(|| Service::Cluster { addresses, ports: named.collect() })
}

/// Name and protocol of a port that has a name: others have no SRV record.
fn port_name(port: &Value) -> Option<PortName> {
    let name = port["name"].as_str().filter(|name| !name.is_empty())?;
    Some((name.to_ascii_lowercase(), Protocol::parse(port["protocol"].as_str())?))
}

fn add_endpoints(headless: &mut Headless, slice: &Value) {
    let ports: Vec<(PortName, u16)> =
        items(&slice["ports"]).filter_map(|port| Some((port_name(port)?, number(&port["port"])?))).collect();
    for endpoint in items(&slice["endpoints"]).filter(|endpoint| health(endpoint) == Health::Ready) {
        for address in items(&endpoint["addresses"]).filter_map(address) {
            let hostname = match endpoint["hostname"].as_str().filter(|name| !name.is_empty()) {
                Some(hostname) => hostname.to_ascii_lowercase(),
                None => spelling::label_of_address(address),
            };
            headless.addresses.insert(address);
            for (port, number) in &ports {
                headless.ports.entry(port.clone()).or_default().insert((hostname.clone(), *number));
            }
            headless.by_hostname.entry(hostname).or_default().insert(address);
        }
    }
}
