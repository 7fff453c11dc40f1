//! Who is behind a service port, sorted into who may be sent to. Knows nothing of objects.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

/// What an endpoint is good for; the better ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// For nothing now.
    Away,
    /// On its way out and still answering: for new connections when nobody is ready.
    Leaving,
    /// For new connections.
    Ready,
}

/// One address behind a service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it is on this node.
    pub is_local: bool,
    /// What it is good for.
    pub health: Health,
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
        let rank = |one: &Endpoint| (one.health, one.is_local);
        for endpoint in listed {
            let held = by_address.entry((endpoint.address.ip(), endpoint.address.port())).or_insert(endpoint);
            if rank(&endpoint) > rank(held) {
                *held = endpoint;
            }
        }
        let all: Vec<Endpoint> = by_address.into_values().collect();
        let (everywhere, here) = (sendable(&all, false), sendable(&all, true));
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

    /// The endpoint with this address, in any state.
    #[must_use]
    pub fn get(&self, address: SocketAddr) -> Option<&Endpoint> {
        let key = |address: SocketAddr| (address.ip(), address.port());
        let place = self.all.binary_search_by_key(&key(address), |one| key(one.address)).ok()?;
        self.all.get(place)
    }

    /// Whether the address is behind the port in any state.
    #[must_use]
    pub fn contains(&self, address: SocketAddr) -> bool {
        self.get(address).is_some()
    }
}

/// The ready ones; without any, those that serve on their way out.
fn sendable(endpoints: &[Endpoint], local_only: bool) -> Vec<SocketAddr> {
    let candidates = || endpoints.iter().filter(|one| one.is_local || !local_only);
    let of = |health| candidates().filter(move |one| one.health == health).map(|one| one.address).collect();
    let ready: Vec<SocketAddr> = of(Health::Ready);
    if ready.is_empty() { of(Health::Leaving) } else { ready }
}
