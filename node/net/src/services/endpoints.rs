//! Who is behind a service port, sorted into who may be sent to. Knows nothing of objects.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

/// One address behind a service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it is on this node.
    pub is_local: bool,
    /// Whether new connections go there.
    pub is_ready: bool,
    /// Whether it would answer, on its way out or not.
    pub is_serving: bool,
    /// Whether it is on its way out.
    pub is_terminating: bool,
}

/// All endpoints of a service port. Each address is there once; ordered by address, so that equal things look equal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    all: Vec<Endpoint>,
    everywhere: Vec<SocketAddr>,
    here: Vec<SocketAddr>,
}

impl Endpoints {
    /// Sorts endpoints. Of one that several slices list (it moves from one to the other) the healthiest entry counts.
    #[must_use]
    pub fn new(listed: impl IntoIterator<Item = Endpoint>) -> Self {
        let mut by_address: BTreeMap<(IpAddr, u16), Endpoint> = BTreeMap::new();
        let health = |one: &Endpoint| (one.is_ready, one.is_serving, !one.is_terminating, one.is_local);
        for endpoint in listed {
            let held = by_address.entry((endpoint.address.ip(), endpoint.address.port())).or_insert(endpoint);
            if health(&endpoint) > health(held) {
                *held = endpoint;
            }
        }
        let all: Vec<Endpoint> = by_address.into_values().collect();
        let everywhere = sendable(all.iter());
        let here = sendable(all.iter().filter(|one| one.is_local));
        Self { all, everywhere, here }
    }

    /// Everyone, ready or not.
    #[must_use]
    pub fn all(&self) -> &[Endpoint] {
        &self.all
    }

    /// Those that may get a connection, on this node alone or anywhere.
    #[must_use]
    pub fn eligible(&self, local_only: bool) -> &[SocketAddr] {
        if local_only { &self.here } else { &self.everywhere }
    }

    /// Whether the address is behind the port in any state.
    #[must_use]
    pub fn contains(&self, address: SocketAddr) -> bool {
        let place = self
            .all
            .binary_search_by_key(&(address.ip(), address.port()), |one| (one.address.ip(), one.address.port()));
        place.is_ok()
    }
}

/// The ready ones; without any, those that serve on their way out.
fn sendable<'a>(endpoints: impl Iterator<Item = &'a Endpoint> + Clone) -> Vec<SocketAddr> {
    let ready: Vec<_> = endpoints.clone().filter(|one| one.is_ready).map(|one| one.address).collect();
    if !ready.is_empty() {
        return ready;
    }
    endpoints.filter(|one| one.is_serving && one.is_terminating).map(|one| one.address).collect()
}
