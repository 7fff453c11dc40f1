//! Which client stays with which endpoint of one service port. Bounded: the client that was seen longest ago is
//! forgotten first.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// Clients remembered for one service port.
pub(crate) const CLIENTS_MAX: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Stay {
    endpoint: SocketAddr,
    seen: Instant,
    /// Its place in `by_age`.
    stamp: u64,
}

/// Clients of one service port.
#[derive(Debug, Default)]
pub(crate) struct Affinities {
    by_client: HashMap<IpAddr, Stay>,
    by_age: BTreeMap<u64, IpAddr>,
    next_stamp: u64,
}

impl Affinities {
    /// Where the client belongs, unless it was seen last longer ago than `timeout`.
    pub(crate) fn get(&self, client: IpAddr, timeout: Duration, now: Instant) -> Option<SocketAddr> {
        let stay = self.by_client.get(&client)?;
        (now.saturating_duration_since(stay.seen) < timeout).then_some(stay.endpoint)
    }

    /// The client was sent to `endpoint`.
    pub(crate) fn set(&mut self, client: IpAddr, endpoint: SocketAddr, now: Instant) {
        let stamp = self.next_stamp;
        self.next_stamp += 1;
        if let Some(before) = self.by_client.insert(client, Stay { endpoint, seen: now, stamp }) {
            self.by_age.remove(&before.stamp);
        }
        self.by_age.insert(stamp, client);
        if self.by_client.len() > CLIENTS_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_client.remove(&oldest);
        }
    }

    /// Forgets the clients of endpoints that are gone.
    pub(crate) fn retain(&mut self, keep: impl Fn(SocketAddr) -> bool) {
        self.by_client.retain(|_, stay| keep(stay.endpoint));
        self.by_age.retain(|_, client| self.by_client.contains_key(client));
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        assert_eq!(self.by_client.len(), self.by_age.len());
        self.by_client.len()
    }
}
