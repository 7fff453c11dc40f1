//! Cluster DNS as a pure table: built from services and endpoint slices, asked with the names that guests write.
//!
//! Rules: "Kubernetes DNS-Based Service Discovery", schema 1.1.0, and Kubernetes' "DNS for Services and Pods". What is no
//! name of the cluster is never guessed at: the answer then is to ask outside.

mod pod_dns;
mod spelling;
mod table;

#[cfg(test)]
mod tests;

pub use pod_dns::{Asks, HostResolver, PodDns, hostname};

use crate::{class::Ranges, services::Protocol};
use coracle_objects::ObjectKey;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use table::{Headless, Service};
use thiserror::Error;

/// Domain below which all of the cluster's names are.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// The schema's version, as `dns-version.cluster.local` tells it.
pub const SCHEMA_VERSION: &str = "1.1.0";
/// How long the cluster's own answers may be kept: short, since services and endpoints come and go.
pub const TTL_SECONDS: u32 = 5;
/// How long the schema's version may be kept.
const VERSION_TTL_SECONDS: u32 = 28_800;
/// Most `ExternalName` services that one query follows.
const ALIASES_MAX: usize = 8;
/// Most records in one answer.
pub const RECORDS_MAX: usize = 1024;
/// Hosts of SRV records whose addresses are sent along: more are asked for when they are needed.
const HOSTS_SENT_ALONG_MAX: usize = 64;
/// Priority of every SRV record: all are equal.
const SRV_PRIORITY: u16 = 0;
/// Weight of every SRV record.
const SRV_WEIGHT: u16 = 100;

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nobody has that name, or nobody who is ready.
    #[error("no such name")]
    NotFound,
    /// It is not a name.
    #[error("not a name")]
    Invalid,
    /// It cannot be said now; asking again later may help.
    #[error("names cannot be looked up at the moment")]
    Temporary,
}

/// What is asked about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Hosts and ports of a service.
    Srv,
    /// The name of an address.
    Ptr,
    /// Text.
    Txt,
    /// The name that this one stands for.
    Cname,
    /// Anything else: a name of the cluster has none of it.
    Other,
}

/// A record of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose it is: complete, lower case, without the final dot.
    pub name: String,
    /// How long it may be kept.
    pub ttl_seconds: u32,
    /// What it says.
    pub data: Data,
}

/// What a record says. Names are complete, lower case, without the final dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An IPv4 or IPv6 address.
    Address(IpAddr),
    /// A host and port of a service.
    Srv {
        /// Lower ones first.
        priority: u16,
        /// Share among those of the same priority.
        weight: u16,
        /// Where it listens.
        port: u16,
        /// The host.
        target: String,
    },
    /// The name of an address.
    Ptr(String),
    /// Text.
    Txt(String),
    /// The name stands for another one.
    Cname(String),
}

/// How an answer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With records of the kind that was asked for.
    Answered,
    /// The name is there and has none of that kind.
    NoData,
    /// There is no such name.
    NoName,
    /// This name is none of the cluster: ask outside.
    Outside(String),
}

/// An answer: the aliases that were followed, then what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The records, aliases first.
    pub records: Vec<Record>,
    /// How it ends.
    pub end: End,
}

/// What a pod's question for addresses comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Its addresses, in no order that would favour one.
    Found(Vec<IpAddr>),
    /// The cluster cannot say.
    Outside(AskOutside),
}

/// Names to ask the outside for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskOutside {
    /// One after the other, until one has addresses.
    pub names: Vec<String>,
    /// The answer when none has; empty means that the name is not found.
    pub otherwise: Vec<IpAddr>,
}

/// All names of the cluster at one moment. Immutable: a change makes a new one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    services: BTreeMap<ObjectKey, Service>,
    namespaces: BTreeSet<String>,
    by_address: BTreeMap<IpAddr, BTreeSet<String>>,
    ranges: Option<Ranges>,
}

/// What one name says to a question, aliases not followed.
enum Step {
    Records(Vec<Data>),
    Alias(String),
    NoData,
    NoName,
    Outside,
}

impl Names {
    /// The same names, knowing which addresses are the cluster's: of those, no one outside is asked for the name.
    #[must_use]
    pub fn with_ranges(mut self, ranges: &Ranges) -> Self {
        self.ranges = Some(ranges.clone());
        self
    }

    /// Looks a name up as a pod in `pod_namespace` would, in the cluster alone.
    ///
    /// # Errors
    /// See [`NameError`].
    pub fn resolve(&self, pod_namespace: &str, name: &str) -> Result<Vec<IpAddr>, NameError> {
        match self.look_up(&PodDns::cluster_first(pod_namespace), name)? {
            Lookup::Found(addresses) => Ok(addresses),
            Lookup::Outside(ask) if ask.otherwise.is_empty() => Err(NameError::NotFound),
            Lookup::Outside(ask) => Ok(ask.otherwise),
        }
    }

    /// Looks up the addresses of a name as a pod's resolver would: its hosts file, then its search list.
    ///
    /// # Errors
    /// [`NameError::Invalid`] for what is no name; [`NameError::NotFound`] when the cluster says no and nobody else is to be
    /// asked.
    pub fn look_up(&self, pod: &PodDns, name: &str) -> Result<Lookup, NameError> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(Lookup::Found(vec![address]));
        }
        let (name, is_complete) = spelling::check(name)?;
        if let Some(addresses) = pod.host(&name) {
            return Ok(Lookup::Found(addresses.to_vec()));
        }
        if is_localhost(&name) {
            return Ok(Lookup::Found(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]));
        }
        let mut outside = Vec::new();
        for candidate in pod.candidates(&name, is_complete) {
            if pod.asks() != Asks::Cluster {
                outside.push(candidate);
                continue;
            }
            match self.addresses(&candidate) {
                Ok(addresses) if addresses.is_empty() => {}
                Ok(addresses) if outside.is_empty() => return Ok(Lookup::Found(addresses)),
                Ok(otherwise) => return Ok(Lookup::Outside(AskOutside { names: outside, otherwise })),
                // An alias is an answer: the search ends with it, whatever it leads to.
                Err(target) if target != candidate => {
                    outside.push(target);
                    break;
                }
                Err(target) => outside.push(target),
            }
        }
        if outside.is_empty() {
            return Err(NameError::NotFound);
        }
        Ok(Lookup::Outside(AskOutside { names: outside, otherwise: Vec::new() }))
    }

    /// The addresses of a complete name; none where the cluster says so, the name to ask outside as the error.
    fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let mut addresses = Vec::new();
        for kind in [Kind::A, Kind::Aaaa] {
            let outcome = self.query(name, kind);
            if let End::Outside(target) = outcome.end {
                return Err(target);
            }
            addresses.extend(outcome.records.into_iter().filter_map(|record| match record.data {
                Data::Address(address) => Some(address),
                _ => None,
            }));
        }
        addresses.truncate(RECORDS_MAX);
        Ok(addresses)
    }

    /// Answers one question about a complete name (with or without the final dot, in any case).
    #[must_use]
    pub fn query(&self, name: &str, kind: Kind) -> Outcome {
        let mut records = Vec::new();
        let Ok((mut name, _)) = spelling::check(name) else { return Outcome { records, end: End::NoName } };
        for _ in 0..=ALIASES_MAX {
            let end = match self.step(&name, kind) {
                Step::Alias(target) => {
                    records.push(record(&name, Data::Cname(target.clone())));
                    if kind == Kind::Cname {
                        return Outcome { records, end: End::Answered };
                    }
                    name = target;
                    continue;
                }
                Step::Records(data) => {
                    records.extend(data.into_iter().take(RECORDS_MAX).map(|data| record(&name, data)));
                    End::Answered
                }
                Step::NoData => End::NoData,
                Step::NoName => End::NoName,
                Step::Outside => End::Outside(name),
            };
            return Outcome { records, end };
        }
        Outcome { records: Vec::new(), end: End::NoName }
    }

    /// The addresses of the hosts that SRV records name, of so many of them as are sent along.
    #[must_use]
    pub fn additional(&self, records: &[Record]) -> Vec<Record> {
        let targets: BTreeSet<&str> = records
            .iter()
            .take(HOSTS_SENT_ALONG_MAX)
            .filter_map(|record| match &record.data {
                Data::Srv { target, .. } => Some(target.as_str()),
                _ => None,
            })
            .collect();
        let of = |target| [Kind::A, Kind::Aaaa].into_iter().flat_map(move |kind| self.query(target, kind).records);
        targets.into_iter().flat_map(of).take(RECORDS_MAX).collect()
    }

    fn step(&self, name: &str, kind: Kind) -> Step {
        if is_localhost(name) {
            let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            return addresses_of_kind(loopback.iter(), kind);
        }
        if let Some(address) = spelling::address_of_reverse_name(name) {
            return self.reverse(address, kind);
        }
        if name == CLUSTER_DOMAIN {
            return Step::NoData;
        }
        let below = name.strip_suffix(CLUSTER_DOMAIN).and_then(|below| below.strip_suffix('.'));
        let Some(below) = below else { return Step::Outside };
        let labels: Vec<&str> = below.split('.').collect();
        match labels[..] {
            ["dns-version"] if kind == Kind::Txt => Step::Records(vec![Data::Txt(SCHEMA_VERSION.to_owned())]),
            ["dns-version" | "svc" | "pod"] | [_, "pod"] => Step::NoData,
            [namespace, "svc"] => exists(self.namespaces.contains(namespace)),
            [service, namespace, "svc"] => self.service(service, namespace, kind),
            [address, _, "pod"] => spelling::address_of_pod_label(address)
                .map_or(Step::NoName, |address| addresses_of_kind([address].iter(), kind)),
            [protocol, service, namespace, "svc"] if protocol.starts_with('_') => {
                exists(self.has_port(service, namespace, None, protocol))
            }
            [hostname, service, namespace, "svc"] => self.endpoint(hostname, service, namespace, kind),
            [port, protocol, service, namespace, "svc"] => self.port(port, protocol, service, namespace, kind),
            _ => Step::NoName,
        }
    }

    fn find(&self, service: &str, namespace: &str) -> Option<&Service> {
        self.services.get(&ObjectKey::namespaced(namespace, service))
    }

    fn service(&self, service: &str, namespace: &str, kind: Kind) -> Step {
        match self.find(service, namespace) {
            None => Step::NoName,
            Some(Service::Cluster { addresses, .. }) => addresses_of_kind(addresses.iter(), kind),
            // The specification: without ready endpoints the name is not there.
            Some(Service::Headless(headless)) if headless.addresses.is_empty() => Step::NoName,
            Some(Service::Headless(headless)) => addresses_of_kind(headless.addresses.iter(), kind),
            Some(Service::Address(address)) => addresses_of_kind([*address].iter(), kind),
            Some(Service::Alias(target)) => Step::Alias(target.clone()),
        }
    }

    fn endpoint(&self, hostname: &str, service: &str, namespace: &str, kind: Kind) -> Step {
        let Some(Service::Headless(headless)) = self.find(service, namespace) else { return Step::NoName };
        headless.by_hostname.get(hostname).map_or(Step::NoName, |some| addresses_of_kind(some.iter(), kind))
    }

    fn has_port(&self, service: &str, namespace: &str, port: Option<&str>, protocol: &str) -> bool {
        let is_it = |name: &str, of: Protocol| {
            protocol_label(of) == protocol && port.is_none_or(|port| port.strip_prefix('_') == Some(name))
        };
        match self.find(service, namespace) {
            Some(Service::Cluster { ports, .. }) => ports.keys().any(|(name, of)| is_it(name, *of)),
            Some(Service::Headless(Headless { ports, .. })) => ports.keys().any(|(name, of)| is_it(name, *of)),
            _ => false,
        }
    }

    fn port(&self, port: &str, protocol: &str, service: &str, namespace: &str, kind: Kind) -> Step {
        if !self.has_port(service, namespace, Some(port), protocol) {
            return Step::NoName;
        }
        if kind != Kind::Srv {
            return Step::NoData;
        }
        let protocol = if protocol == protocol_label(Protocol::Udp) { Protocol::Udp } else { Protocol::Tcp };
        let key = (port.trim_start_matches('_').to_owned(), protocol);
        let domain = format!("{service}.{namespace}.svc.{CLUSTER_DOMAIN}");
        let srv = |port, target| Data::Srv { priority: SRV_PRIORITY, weight: SRV_WEIGHT, port, target };
        match self.find(service, namespace) {
            Some(Service::Cluster { ports, .. }) => {
                Step::Records(ports.get(&key).into_iter().map(|number| srv(*number, domain.clone())).collect())
            }
            Some(Service::Headless(headless)) => {
                let hosts = headless.ports.get(&key).into_iter().flatten().take(RECORDS_MAX);
                Step::Records(hosts.map(|(host, number)| srv(*number, format!("{host}.{domain}"))).collect())
            }
            _ => Step::NoName,
        }
    }

    fn reverse(&self, address: IpAddr, kind: Kind) -> Step {
        let names = self.by_address.get(&address);
        let is_ours = match (address, &self.ranges) {
            (IpAddr::V4(address), Some(ranges)) => ranges.pods.contains(address) || ranges.services.contains(address),
            _ => false,
        };
        match names {
            Some(names) if kind == Kind::Ptr => Step::Records(names.iter().cloned().map(Data::Ptr).collect()),
            Some(_) => Step::NoData,
            None if is_ours => Step::NoName,
            None => Step::Outside,
        }
    }
}

fn record(name: &str, data: Data) -> Record {
    let ttl_seconds = if matches!(data, Data::Txt(_)) { VERSION_TTL_SECONDS } else { TTL_SECONDS };
    Record { name: name.to_owned(), ttl_seconds, data }
}

fn exists(does: bool) -> Step {
    if does { Step::NoData } else { Step::NoName }
}

/// `localhost` and all below it are loopback everywhere (RFC 6761).
fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

fn protocol_label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "_tcp",
        Protocol::Udp => "_udp",
    }
}

fn addresses_of_kind<'a>(addresses: impl Iterator<Item = &'a IpAddr>, kind: Kind) -> Step {
    let is_wanted = |address: &&IpAddr| match kind {
        Kind::A => address.is_ipv4(),
        Kind::Aaaa => address.is_ipv6(),
        _ => false,
    };
    let some: Vec<Data> = addresses.filter(is_wanted).take(RECORDS_MAX).map(|one| Data::Address(*one)).collect();
    if some.is_empty() { Step::NoData } else { Step::Records(some) }
}
