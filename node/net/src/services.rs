//! The service table: which service port an address and port mean, and which endpoints are behind it.
//!
//! Built from `v1` Services and `discovery.k8s.io/v1` `EndpointSlices`, as kube-proxy reads them. Immutable: a change makes
//! a new table, in which every service port that did not change is the same [`Arc`] as before.

pub(crate) mod build;
mod endpoints;

#[cfg(test)]
mod published;
#[cfg(test)]
mod tests;

pub use endpoints::{Endpoint, Endpoints, Health};

use crate::class;
use build::Sources;
use coracle_objects::ObjectKey;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// What a port carries. A service's SCTP ports are not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// From a manifest's `protocol`; absent means TCP.
    #[must_use]
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or_default() {
            "" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// Which service port something is about: what is remembered of connections is kept by this, not by addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId {
    /// The service.
    pub service: ObjectKey,
    /// The port's name, "" where it has none.
    pub name: String,
    /// What it carries.
    pub protocol: Protocol,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Which one it is.
    pub id: PortId,
    /// `spec.ports[].port`.
    pub port: u16,
    /// `spec.ports[].nodePort`.
    pub node_port: Option<u16>,
    /// `spec.healthCheckNodePort`, the same for all ports of a service.
    pub health_check_port: Option<u16>,
    /// The cluster IPs.
    pub cluster_addresses: Vec<IpAddr>,
    /// External IPs, and those of its load balancer.
    pub external_addresses: Vec<IpAddr>,
    /// Under `sessionAffinity: ClientIP`: for how long a client stays with its endpoint.
    pub affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`: from inside only to this node's endpoints.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`: from outside only to this node's endpoints.
    pub external_local: bool,
    /// Who is behind it.
    pub endpoints: Endpoints,
}

/// By which of its doors a service port is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// A cluster IP.
    Cluster,
    /// An external or load balancer's IP.
    External,
    /// A port of the node.
    Node,
}

/// Where a connection comes from, as far as traffic policies care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From a pod of this cluster.
    Inside,
    /// From anywhere else.
    Outside,
}

/// What an address and a port mean: a service port, and how it was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The service port.
    pub port: Arc<ServicePort>,
    /// By which door.
    pub door: Door,
    /// Whether endpoints must have IPv6 addresses; `None` where any will do.
    pub is_v6: Option<bool>,
}

impl Target {
    /// The endpoints that may get a connection: ready ones; when there are none, those that are on their way out and serve
    /// still (KEP-1669); on this node alone where the policy says so. Empty means refused.
    #[must_use]
    pub fn eligible(&self, origin: Origin) -> &[SocketAddr] {
        let local_only = match (self.door, origin) {
            (Door::Cluster, _) => self.port.internal_local,
            // A pod that takes the outer door is inside all the same: it may go to any node's endpoint.
            (_, Origin::Inside) => false,
            (_, Origin::Outside) => self.port.external_local,
        };
        let all = self.port.endpoints.eligible(local_only);
        // They are ordered by address, and IPv4 comes first.
        let (v4, v6) = all.split_at(all.partition_point(SocketAddr::is_ipv4));
        match self.is_v6 {
            None => all,
            Some(false) => v4,
            Some(true) => v6,
        }
    }
}

/// Every service port of the cluster at one moment.
#[derive(Debug, Clone, Default)]
pub struct Services {
    ports: BTreeMap<PortId, Arc<ServicePort>>,
    by_address: BTreeMap<(IpAddr, u16, Protocol), (PortId, Door)>,
    by_node_port: BTreeMap<(u16, Protocol), PortId>,
    addresses: BTreeSet<IpAddr>,
    sources: Sources,
}

/// Tables are equal when they say the same, whatever versions of objects it was read from.
impl PartialEq for Services {
    fn eq(&self, other: &Self) -> bool {
        self.ports == other.ports && self.by_address == other.by_address && self.by_node_port == other.by_node_port
    }
}

impl Eq for Services {}

/// What a new table no longer has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gone {
    /// Service ports.
    pub ports: BTreeSet<PortId>,
    /// Endpoints that are not behind a service port any more in any state; those of [`Gone::ports`] are among them. Flows of
    /// datagrams to them must be forgotten; connections may go on, they end with their endpoint.
    pub endpoints: BTreeSet<(PortId, SocketAddr)>,
}

impl Services {
    /// What a connection to this address and port means; `None` where no service has that port. The address of a pod is for
    /// the caller to recognise first: a service may claim any external IP.
    #[must_use]
    pub fn target(&self, address: IpAddr, port: u16, protocol: Protocol) -> Option<Target> {
        let address = class::normalise(address);
        let (id, door) = self.by_address.get(&(address, port, protocol))?;
        let port = Arc::clone(self.ports.get(id)?);
        Some(Target { port, door: *door, is_v6: Some(address.is_ipv6()) })
    }

    /// Whether some service has this address: then a port that no service has there is refused, never looked for outside.
    #[must_use]
    pub fn knows_address(&self, address: IpAddr) -> bool {
        self.addresses.contains(&class::normalise(address))
    }

    /// What a connection to this port of the node means.
    #[must_use]
    pub fn node_port(&self, port: u16, protocol: Protocol) -> Option<Target> {
        let port = Arc::clone(self.ports.get(self.by_node_port.get(&(port, protocol))?)?);
        Some(Target { port, door: Door::Node, is_v6: None })
    }

    /// The node ports that should be open, with who wants them.
    pub fn node_ports(&self) -> impl Iterator<Item = (u16, Protocol, &Arc<ServicePort>)> {
        self.by_node_port.iter().filter_map(|((port, protocol), id)| Some((*port, *protocol, self.ports.get(id)?)))
    }

    /// The external addresses of services, with port and protocol, and who has them.
    pub fn external_addresses(&self) -> impl Iterator<Item = (IpAddr, u16, Protocol, &Arc<ServicePort>)> {
        self.by_address
            .iter()
            .filter(|(_, (_, door))| *door == Door::External)
            .filter_map(|((address, port, protocol), (id, _))| Some((*address, *port, *protocol, self.ports.get(id)?)))
    }

    /// The ports at which load balancers ask for a service's health, and whose they are.
    pub fn health_check_ports(&self) -> impl Iterator<Item = (u16, &ObjectKey)> {
        self.ports.values().filter_map(|port| Some((port.health_check_port?, &port.id.service)))
    }

    /// How many ready endpoints (by address) a service has on this node.
    #[must_use]
    pub fn local_endpoints(&self, service: &ObjectKey) -> usize {
        let ports = self.ports.values().filter(|port| port.id.service == *service);
        let ready = ports.flat_map(|port| port.endpoints.all());
        let ready = ready.filter(|one| one.is_local && one.health == Health::Ready);
        ready.map(|one| one.address.ip()).collect::<BTreeSet<_>>().len()
    }

    /// A service port by its id.
    #[must_use]
    pub fn port(&self, id: &PortId) -> Option<&Arc<ServicePort>> {
        self.ports.get(id)
    }

    /// All service ports, in the order of their ids.
    pub fn ports(&self) -> impl Iterator<Item = &Arc<ServicePort>> {
        self.ports.values()
    }

    /// What `before` had and this table has not.
    #[must_use]
    pub fn gone_since(&self, before: &Self) -> Gone {
        let mut gone = Gone::default();
        for (id, old) in &before.ports {
            let new = self.ports.get(id);
            if new.is_some_and(|new| Arc::ptr_eq(new, old)) {
                continue;
            }
            if new.is_none() {
                gone.ports.insert(id.clone());
            }
            let lost = old.endpoints.all().iter().map(|one| one.address);
            let lost = lost.filter(|address| !new.is_some_and(|new| new.endpoints.contains(*address)));
            gone.endpoints.extend(lost.map(|address| (id.clone(), address)));
        }
        gone
    }
}
