//! How one pod looks names up: what `dnsPolicy`, `dnsConfig`, `hostAliases`, `hostname` and `subdomain` come to. A value,
//! made once for a pod.

use super::{
    CLUSTER_DOMAIN,
    spelling::{self, LABEL_LENGTH_MAX},
};
use crate::services::build::{address, items};
use coracle_objects::meta;
use serde_json::Value;
use std::{collections::BTreeMap, net::IpAddr};

/// A name with so many dots is asked for as it is before the search list is walked.
const NDOTS_OF_CLUSTER: usize = 5;
/// What resolvers do where nobody says anything.
const NDOTS_DEFAULT: usize = 1;
/// More dots than this are counted as this, as resolvers do.
const NDOTS_MAX: usize = 15;
/// Most name servers of a pod: more are ignored, as by resolvers.
const SERVERS_MAX: usize = 3;
/// Most domains in a search list, and most letters in all of them together: Kubernetes' bounds.
const SEARCH_MAX: usize = 32;
const SEARCH_LENGTH_MAX: usize = 2048;
/// Most names that `hostAliases` give.
const HOSTS_MAX: usize = 1024;

/// How the node itself looks names up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostResolver {
    /// Its name servers.
    pub servers: Vec<IpAddr>,
    /// Its search list.
    pub search: Vec<String>,
    /// Its `ndots`.
    pub ndots: Option<usize>,
}

impl HostResolver {
    /// Reads the text of a `resolv.conf`; lines that make no sense are skipped.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut host = Self::default();
        for line in text.lines() {
            let mut words = line.split(['#', ';']).next().unwrap_or_default().split_whitespace();
            match words.next() {
                Some("nameserver") => host.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok())),
                // The last line of either counts.
                Some("search") => host.search = words.take(SEARCH_MAX).map(str::to_owned).collect(),
                Some("domain") => host.search = words.take(1).map(str::to_owned).collect(),
                Some("options") => {
                    let said = words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok()).next_back();
                    host.ndots = said.or(host.ndots);
                }
                _ => {}
            }
        }
        host.servers.truncate(SERVERS_MAX);
        host
    }
}

/// Whom a pod asks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// Cluster DNS.
    Cluster,
    /// Whomever the node asks.
    Host,
    /// The name servers of its own `dnsConfig`.
    Own,
}

/// How one pod looks names up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodDns {
    asks: Asks,
    servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
    hosts: BTreeMap<String, Vec<IpAddr>>,
}

impl PodDns {
    /// `ClusterFirst` without anything more.
    #[must_use]
    pub fn cluster_first(namespace: &str) -> Self {
        let search = vec![
            format!("{namespace}.svc.{CLUSTER_DOMAIN}"),
            format!("svc.{CLUSTER_DOMAIN}"),
            CLUSTER_DOMAIN.to_owned(),
        ];
        Self { asks: Asks::Cluster, servers: Vec::new(), search, ndots: NDOTS_OF_CLUSTER, hosts: BTreeMap::new() }
    }

    /// What a pod's manifest asks for. `addresses` are the pod's own.
    #[must_use]
    pub fn of(pod: &Value, addresses: &[IpAddr], cluster_dns: IpAddr, host: &HostResolver) -> Self {
        let spec = &pod["spec"];
        let on_host_network = spec["hostNetwork"] == true;
        let mut dns = match spec["dnsPolicy"].as_str().unwrap_or_default() {
            "None" => Self { asks: Asks::Own, ..Self::like_host(&HostResolver::default()) },
            "Default" => Self::like_host(host),
            // `ClusterFirst` means the cluster's network; a pod on the host's has to say so more clearly.
            policy if on_host_network && policy != "ClusterFirstWithHostNet" => Self::like_host(host),
            _ => {
                let mut dns = Self::cluster_first(meta::namespace(pod));
                dns.servers.push(cluster_dns);
                dns.search.extend(host.search.iter().cloned());
                dns
            }
        };
        dns.add_config(&spec["dnsConfig"]);
        if dns.asks == Asks::Own && dns.servers.first() == Some(&cluster_dns) {
            dns.asks = Asks::Cluster;
        }
        dns.add_hosts(pod, addresses);
        dns
    }

    fn like_host(host: &HostResolver) -> Self {
        Self {
            asks: Asks::Host,
            servers: host.servers.clone(),
            search: host.search.clone(),
            ndots: host.ndots.unwrap_or(NDOTS_DEFAULT).min(NDOTS_MAX),
            hosts: BTreeMap::new(),
        }
    }

    fn add_config(&mut self, config: &Value) {
        for server in items(&config["nameservers"]).filter_map(address) {
            if self.servers.len() < SERVERS_MAX && !self.servers.contains(&server) {
                self.servers.push(server);
            }
        }
        self.search.extend(items(&config["searches"]).filter_map(Value::as_str).map(str::to_owned));
        self.search = usable_domains(&self.search);
        for option in items(&config["options"]).filter(|option| option["name"] == "ndots") {
            if let Some(ndots) = option["value"].as_str().and_then(|value| value.parse::<usize>().ok()) {
                self.ndots = ndots.min(NDOTS_MAX);
            }
        }
    }

    /// What a kubelet writes into `/etc/hosts`.
    fn add_hosts(&mut self, pod: &Value, addresses: &[IpAddr]) {
        let spec = &pod["spec"];
        let hostname = hostname(pod);
        let mut own = vec![hostname.to_owned()];
        if let Some(subdomain) = spec["subdomain"].as_str().filter(|name| !name.is_empty()) {
            own.push(format!("{hostname}.{subdomain}.{}.svc.{CLUSTER_DOMAIN}", meta::namespace(pod)));
        }
        if !addresses.is_empty() {
            for name in &own {
                self.add_host(name, addresses);
            }
        }
        for alias in items(&spec["hostAliases"]) {
            let Some(address) = address(&alias["ip"]) else { continue };
            for name in items(&alias["hostnames"]).filter_map(Value::as_str) {
                self.add_host(name, &[address]);
            }
        }
    }

    fn add_host(&mut self, name: &str, addresses: &[IpAddr]) {
        let Ok((name, _)) = spelling::check(name) else { return };
        if self.hosts.len() >= HOSTS_MAX && !self.hosts.contains_key(&name) {
            return;
        }
        let held = self.hosts.entry(name).or_default();
        let new: Vec<IpAddr> = addresses.iter().filter(|one| !held.contains(one)).take(SERVERS_MAX).copied().collect();
        held.extend(new);
    }

    /// Whom the pod asks first.
    #[must_use]
    pub fn asks(&self) -> Asks {
        self.asks
    }

    /// Its name servers, at most three.
    #[must_use]
    pub fn servers(&self) -> &[IpAddr] {
        &self.servers
    }

    /// Its search list.
    #[must_use]
    pub fn search(&self) -> &[String] {
        &self.search
    }

    /// Its `ndots`.
    #[must_use]
    pub fn ndots(&self) -> usize {
        self.ndots
    }

    /// The `resolv.conf` that a container of the pod would have.
    #[must_use]
    pub fn resolv_conf(&self) -> String {
        let mut lines = Vec::new();
        if !self.search.is_empty() {
            lines.push(format!("search {}", self.search.join(" ")));
        }
        lines.extend(self.servers.iter().map(|server| format!("nameserver {server}")));
        lines.push(format!("options ndots:{}\n", self.ndots));
        lines.join("\n")
    }

    /// Addresses of a name in the pod's hosts file.
    pub(super) fn host(&self, name: &str) -> Option<&[IpAddr]> {
        self.hosts.get(name).map(Vec::as_slice)
    }

    /// The complete names to ask for, in order, for a checked name.
    pub(super) fn candidates(&self, name: &str, is_complete: bool) -> Vec<String> {
        if is_complete {
            return vec![name.to_owned()];
        }
        let within = self.search.iter().map(|domain| format!("{name}.{domain}"));
        let mut candidates: Vec<String> = within.filter(|name| spelling::check(name).is_ok()).collect();
        let literal_first = name.matches('.').count() >= self.ndots;
        candidates.insert(if literal_first { 0 } else { candidates.len() }, name.to_owned());
        candidates
    }
}

/// What a pod calls itself: `spec.hostname`, or else its name, no longer than a label may be.
#[must_use]
pub fn hostname(pod: &Value) -> &str {
    let name = pod["spec"]["hostname"].as_str().filter(|name| !name.is_empty()).unwrap_or(meta::name(pod));
    // Names of pods have ASCII letters only; one that has not is not cut.
    let cut = name.get(..LABEL_LENGTH_MAX).unwrap_or(name);
    if cut.len() < name.len() { cut.trim_end_matches(['-', '.']) } else { name }
}

/// Domains that are names, each once, as many as fit.
fn usable_domains(domains: &[String]) -> Vec<String> {
    let mut usable: Vec<String> = Vec::new();
    let mut length = 0;
    for domain in domains {
        let Ok((domain, _)) = spelling::check(domain) else { continue };
        length += domain.len() + 1;
        if usable.len() >= SEARCH_MAX || length > SEARCH_LENGTH_MAX {
            break;
        }
        if !usable.contains(&domain) {
            usable.push(domain);
        }
    }
    usable
}
