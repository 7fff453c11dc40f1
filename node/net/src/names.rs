//! Cluster DNS as a pure table: built from services and endpoint slices, asked with the names that guests write.
//!
//! Rules: Kubernetes' "DNS for Services and Pods". A query walks the search list of the pod's namespace
//! (`NS.svc.cluster.local`, `svc.cluster.local`, `cluster.local`) as a resolver with `ndots:5` does.

use coracle_objects::{ObjectKey, meta};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};
use thiserror::Error;

/// Domain below which all of the cluster's names are.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// Longest name (RFC 1035), the final dot not counted.
const NAME_LENGTH_MAX: usize = 253;
/// Longest label (RFC 1035).
const LABEL_LENGTH_MAX: usize = 63;
/// A name with so many dots is first looked up as it is (`ndots:5`).
const DOTS_OF_AN_ABSOLUTE_NAME: usize = 5;
/// Most `ExternalName` services that one query follows.
const ALIASES_MAX: usize = 8;
/// Most addresses in one answer.
const ADDRESSES_MAX: usize = 1024;
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nobody has that name, or nobody who is ready.
    #[error("no such name")]
    NotFound,
    /// It is not a name.
    #[error("not a name")]
    Invalid,
}

/// What a service's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Record {
    /// Its virtual addresses.
    Addresses(Vec<IpAddr>),
    /// Headless: whoever is ready behind it.
    Headless,
    /// Another name.
    Alias(String),
}

/// Ready endpoints of a headless service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Endpoints {
    all: BTreeSet<IpAddr>,
    by_hostname: BTreeMap<String, BTreeSet<IpAddr>>,
}

/// All names of the cluster at one moment. Immutable: a change makes a new one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    records: BTreeMap<ObjectKey, Record>,
    endpoints: BTreeMap<ObjectKey, Endpoints>,
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
            if let Some(record) = record_of(service) {
                names.records.insert(meta::key(service), record);
            }
        }
        for slice in endpoint_slices {
            let Some(service) = meta::label(slice, SERVICE_NAME_LABEL) else { continue };
            let key = ObjectKey::namespaced(meta::namespace(slice), service);
            if names.records.get(&key) == Some(&Record::Headless) {
                add_endpoints(names.endpoints.entry(key).or_default(), slice);
            }
        }
        names
    }

    /// Looks a name up as a pod in `pod_namespace` would.
    ///
    /// # Errors
    /// See [`NameError`].
    pub fn resolve(&self, pod_namespace: &str, name: &str) -> Result<Vec<IpAddr>, NameError> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(vec![address]);
        }
        let (name, absolute) = check(name)?;
        if name == "localhost" || name.ends_with(".localhost") {
            return Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        }
        let mut candidates = Vec::new();
        if !absolute {
            candidates.push(format!("{name}.{pod_namespace}.svc.{CLUSTER_DOMAIN}"));
            candidates.push(format!("{name}.svc.{CLUSTER_DOMAIN}"));
            candidates.push(format!("{name}.{CLUSTER_DOMAIN}"));
        }
        let literal_first = name.matches('.').count() >= DOTS_OF_AN_ABSOLUTE_NAME;
        candidates.insert(if literal_first { 0 } else { candidates.len() }, name);
        candidates.iter().find_map(|candidate| self.absolute(candidate)).ok_or(NameError::NotFound)
    }

    /// The addresses of a complete, lower-case name; follows aliases within the cluster.
    fn absolute(&self, name: &str) -> Option<Vec<IpAddr>> {
        let mut name = name.to_owned();
        for _ in 0..ALIASES_MAX {
            let labels: Vec<&str> = name.strip_suffix(&format!(".svc.{CLUSTER_DOMAIN}"))?.split('.').collect();
            let (hostname, service, namespace) = match labels[..] {
                [service, namespace] => (None, service, namespace),
                [hostname, service, namespace] => (Some(hostname), service, namespace),
                _ => return None,
            };
            let key = ObjectKey::namespaced(namespace, service);
            match (self.records.get(&key)?, hostname) {
                (Record::Addresses(addresses), None) => return Some(addresses.clone()),
                (Record::Headless, hostname) => return self.headless(&key, hostname),
                (Record::Alias(target), None) => {
                    if let Ok(address) = target.parse() {
                        return Some(vec![address]);
                    }
                    name.clone_from(target);
                }
                (Record::Addresses(_) | Record::Alias(_), Some(_)) => return None,
            }
        }
        None
    }

    fn headless(&self, service: &ObjectKey, hostname: Option<&str>) -> Option<Vec<IpAddr>> {
        let endpoints = self.endpoints.get(service)?;
        let addresses = match hostname {
            Some(hostname) => endpoints.by_hostname.get(hostname)?,
            None => &endpoints.all,
        };
        let some: Vec<IpAddr> = addresses.iter().take(ADDRESSES_MAX).copied().collect();
        (!some.is_empty()).then_some(some)
    }
}

/// Lower-cases, takes off the final dot (the name is then complete), and checks lengths and letters.
fn check(name: &str) -> Result<(String, bool), NameError> {
    let (name, absolute) = match name.strip_suffix('.') {
        Some(name) => (name, true),
        None => (name, false),
    };
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| (1..=LABEL_LENGTH_MAX).contains(&label.len()) && label.bytes().all(is_letter);
    if name.len() > NAME_LENGTH_MAX || !name.split('.').all(is_label) {
        return Err(NameError::Invalid);
    }
    Ok((name.to_ascii_lowercase(), absolute))
}

fn record_of(service: &Value) -> Option<Record> {
    let spec = &service["spec"];
    if spec["type"] == "ExternalName" {
        let target = spec["externalName"].as_str()?;
        if target.parse::<IpAddr>().is_ok() {
            return Some(Record::Alias(target.to_owned()));
        }
        return check(target).ok().map(|(target, _)| Record::Alias(target));
    }
    if spec["clusterIP"] == "None" {
        return Some(Record::Headless);
    }
    let listed = spec["clusterIPs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut addresses: Vec<IpAddr> = listed.iter().filter_map(address).collect();
    if addresses.is_empty() {
        addresses.extend(address(&spec["clusterIP"]));
    }
    (!addresses.is_empty()).then_some(Record::Addresses(addresses))
}

fn address(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

fn add_endpoints(endpoints: &mut Endpoints, slice: &Value) {
    for endpoint in slice["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default() {
        // Absent means ready: EndpointConditions.ready.
        if endpoint["conditions"]["ready"] == false {
            continue;
        }
        let addresses = endpoint["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
        let addresses: Vec<IpAddr> = addresses.iter().filter_map(address).collect();
        if let Some(hostname) = endpoint["hostname"].as_str() {
            endpoints.by_hostname.entry(hostname.to_ascii_lowercase()).or_default().extend(&addresses);
        }
        endpoints.all.extend(addresses);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(namespace: &str, name: &str, spec: Value) -> Value {
        let mut service = json!({"metadata": {"namespace": namespace, "name": name}});
        service["spec"] = spec;
        service
    }

    fn table() -> Names {
        let services = [
            service("default", "web", json!({"clusterIP": "10.96.0.10"})),
            service("default", "dual", json!({"clusterIP": "10.96.0.11", "clusterIPs": ["10.96.0.11", "fd00::b"]})),
            service("prod", "web", json!({"clusterIP": "10.96.0.20"})),
            service("default", "db", json!({"clusterIP": "None"})),
            service("default", "empty", json!({"clusterIP": "None"})),
            service("default", "pending", json!({})),
            service("default", "ext", json!({"type": "ExternalName", "externalName": "example.com"})),
            service("default", "ext-ip", json!({"type": "ExternalName", "externalName": "192.0.2.7"})),
            service("default", "alias", json!({"type": "ExternalName", "externalName": "Web.prod.svc.cluster.local."})),
            service(
                "default",
                "loop",
                json!({"type": "ExternalName", "externalName": "loop.default.svc.cluster.local"}),
            ),
            // A namespace called like a part of the domain must not confuse anything.
            service("svc", "web", json!({"clusterIP": "10.96.0.30"})),
        ];
        let slices = [
            json!({
                "metadata": {"namespace": "default", "name": "db-1", "labels": {SERVICE_NAME_LABEL: "db"}},
                "endpoints": [
                    {"addresses": ["10.244.0.5"], "conditions": {"ready": true}, "hostname": "db-0"},
                    {"addresses": ["10.244.0.6"], "conditions": {"ready": false}, "hostname": "db-1"},
                ],
            }),
            json!({
                "metadata": {"namespace": "default", "name": "db-2", "labels": {SERVICE_NAME_LABEL: "db"}},
                "endpoints": [{"addresses": ["10.244.0.4", "not an address"], "conditions": {}}],
            }),
            json!({"metadata": {"namespace": "default", "name": "stray"}, "endpoints": [{"addresses": ["10.244.0.9"]}]}),
        ];
        Names::build(&services, &slices)
    }

    #[test]
    fn names_resolve_as_in_cluster_dns() {
        let rows: &[(&str, &str, &[&str])] = &[
            ("default", "web", &["10.96.0.10"]),
            ("prod", "web", &["10.96.0.20"]),
            ("other", "web", &[]),
            ("default", "WEB", &["10.96.0.10"]),
            ("default", "web.prod", &["10.96.0.20"]),
            ("default", "web.prod.svc", &["10.96.0.20"]),
            ("other", "web.prod.svc.cluster.local", &["10.96.0.20"]),
            ("other", "Web.Prod.SVC.Cluster.Local.", &["10.96.0.20"]),
            ("default", "web.", &[]),
            ("default", "web.default.", &[]),
            ("default", "web.svc", &["10.96.0.30"]),
            ("default", "dual", &["10.96.0.11", "fd00::b"]),
            ("default", "db", &["10.244.0.4", "10.244.0.5"]),
            ("default", "db-0.db", &["10.244.0.5"]),
            ("prod", "db-0.db.default.svc.cluster.local", &["10.244.0.5"]),
            ("default", "db-1.db", &[]),
            ("default", "x.web", &[]),
            ("default", "empty", &[]),
            ("default", "pending", &[]),
            ("default", "stray", &[]),
            ("default", "ext", &[]),
            ("default", "ext-ip", &["192.0.2.7"]),
            ("default", "alias", &["10.96.0.20"]),
            ("default", "loop", &[]),
            ("default", "localhost", &["127.0.0.1"]),
            ("default", "api.localhost.", &["127.0.0.1"]),
            ("default", "10.1.2.3", &["10.1.2.3"]),
            ("default", "::1", &["::1"]),
            ("default", "example.com", &[]),
            ("default", "cluster.local", &[]),
        ];
        let names = table();
        for (namespace, name, expected) in rows {
            let expected: Vec<IpAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
            let expected = if expected.is_empty() { Err(NameError::NotFound) } else { Ok(expected) };
            assert_eq!(names.resolve(namespace, name), expected, "{name} in {namespace}");
        }
    }

    #[test]
    fn what_is_no_name_is_invalid() {
        let long_label = "a".repeat(64);
        let long_name = ["a".repeat(62).as_str(); 5].join(".");
        for name in ["", ".", "..", "a..b", ".a", "a b", "a\0", "ä", "a/b", &long_label, &long_name] {
            assert_eq!(table().resolve("default", name), Err(NameError::Invalid), "{name:?}");
        }
    }

    #[test]
    fn a_name_that_goes_away_is_gone() {
        let service = service("default", "web", json!({"clusterIP": "10.96.0.10"}));
        assert!(Names::build([&service], []).resolve("default", "web").is_ok());
        assert_eq!(Names::build([], []).resolve("default", "web"), Err(NameError::NotFound));
    }
}
