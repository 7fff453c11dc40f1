//! Which endpoint gets a connection. Remembers what was learnt from earlier dials; asks no clock and opens nothing.
//!
//! One dial goes like this:
//!
//! ```text
//! order() ──▶ first candidate ── dialling() ──┬─▶ connected(): the client stays with it, if the service wants that
//!                 ▲                           ├─▶ failed(): avoided for a while, longer each time ──┐
//!                 │                           └─▶ withdrawn(): nothing was learnt                   │
//!                 └──────────────────────── next candidate ◀────────────────────────────────────────┘
//! ```

mod affinity;

#[cfg(test)]
mod tests;

use crate::services::{Health, Origin, PortId, Services, Target};
use affinity::Affinities;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// Most endpoints that one connection is tried with.
pub const CANDIDATES_MAX: usize = 4;

/// How long an endpoint is avoided after its first failed dial.
pub const AVOIDED_FIRST: Duration = Duration::from_secs(1);

/// The longest that an endpoint is avoided: the time doubles with each failure in a row up to this.
pub const AVOIDED_MAX: Duration = Duration::from_secs(30);

/// What was learnt of one endpoint behind one service port.
#[derive(Debug, Clone, Copy, Default)]
struct Experience {
    /// Dials that have begun and not ended.
    dialling: u32,
    /// Failures since the last success.
    failures: u32,
    /// Until when others come first.
    avoided_until: Option<Instant>,
}

impl Experience {
    fn is_avoided(&self, now: Instant) -> bool {
        self.avoided_until.is_some_and(|until| now < until)
    }
}

#[derive(Debug, Default)]
struct PortState {
    /// Whose turn it is, counted without end.
    turn: usize,
    endpoints: BTreeMap<SocketAddr, Experience>,
    clients: Affinities,
}

impl PortState {
    fn known(&self, endpoint: &SocketAddr) -> Experience {
        self.endpoints.get(endpoint).copied().unwrap_or_default()
    }
}

/// Chooses endpoints for all service ports. Its owner calls [`Balancer::follow`] with each new table, so that it never
/// remembers more than the cluster has.
#[derive(Debug)]
pub struct Balancer {
    ports: BTreeMap<PortId, PortState>,
    random: StdRng,
}

impl Balancer {
    /// A balancer that has learnt nothing. The same seed makes the same choices.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { ports: BTreeMap::new(), random: StdRng::seed_from_u64(seed) }
    }

    /// The endpoints to try for a connection of `client`, in this order, at most [`CANDIDATES_MAX`]; none means refused.
    ///
    /// First the one that the client belongs to. Otherwise they take turns, but one that has more dials under way than
    /// another picked at random lets that one go first. Those that failed a moment ago come last: they are tried only when
    /// nobody else answers.
    pub fn order(&mut self, target: &Target, client: IpAddr, origin: Origin, now: Instant) -> Vec<SocketAddr> {
        self.order_with(target, client, origin, now, |_| None)
    }

    /// The same, where `put_off` knows more of some endpoints: those for which it gives a time later than `now` are tried
    /// last as well, however well they did before.
    pub fn order_with(
        &mut self,
        target: &Target,
        client: IpAddr,
        origin: Origin,
        now: Instant,
        put_off: impl Fn(SocketAddr) -> Option<Instant>,
    ) -> Vec<SocketAddr> {
        let eligible = target.eligible(origin);
        if eligible.is_empty() {
            return Vec::new();
        }
        let state = self.ports.entry(target.port.id.clone()).or_default();
        let avoided_until = |state: &PortState, endpoint: &SocketAddr| {
            state.known(endpoint).avoided_until.max(put_off(*endpoint)).filter(|until| now < *until)
        };
        let own = target.port.affinity.and_then(|timeout| state.clients.get(client, timeout, now));
        let own = own.filter(|own| eligible.contains(own) && avoided_until(state, own).is_none());
        // A dial of a client that stays with its endpoint is nobody's turn.
        let first = if own.is_some() {
            self.random.random_range(0..eligible.len())
        } else {
            state.turn = state.turn.wrapping_add(1);
            state.turn % eligible.len()
        };
        let in_turn = eligible[first..].iter().chain(&eligible[..first]).copied().filter(|one| Some(*one) != own);
        let mut order: Vec<SocketAddr> = own.into_iter().collect();
        let mut avoided = Vec::new();
        for endpoint in in_turn {
            match avoided_until(state, &endpoint) {
                None => order.push(endpoint),
                Some(until) => avoided.push((until, endpoint)),
            }
            if order.len() == CANDIDATES_MAX {
                break;
            }
        }
        if own.is_none()
            && let Some(other) = Self::less_busy(&mut self.random, state, &order, eligible)
            && avoided_until(state, &other).is_none()
        {
            order.retain(|one| *one != other);
            order.insert(0, other);
        }
        avoided.sort_unstable_by_key(|(until, endpoint)| (*until, endpoint.ip(), endpoint.port()));
        order.extend(avoided.into_iter().map(|(_, endpoint)| endpoint));
        order.truncate(CANDIDATES_MAX);
        order
    }

    /// An endpoint picked at random that has fewer dials under way than the first one.
    fn less_busy(
        random: &mut StdRng,
        state: &PortState,
        order: &[SocketAddr],
        eligible: &[SocketAddr],
    ) -> Option<SocketAddr> {
        let first = order.first()?;
        let busy = state.known(first).dialling;
        if busy == 0 || eligible.len() == 1 {
            return None;
        }
        // Any but the first one itself.
        let place = eligible.iter().position(|one| one == first).unwrap_or(0);
        let other = eligible[(place + random.random_range(1..eligible.len())) % eligible.len()];
        (state.known(&other).dialling < busy).then_some(other)
    }

    /// A dial begins. One of [`Balancer::connected`], [`Balancer::failed`] and [`Balancer::withdrawn`] must follow.
    pub fn dialling(&mut self, id: &PortId, endpoint: SocketAddr) {
        let state = self.ports.entry(id.clone()).or_default();
        let known = state.endpoints.entry(endpoint).or_default();
        known.dialling = known.dialling.saturating_add(1);
    }

    /// The endpoint took the connection: its failures are forgotten, and where the service wants that, the client stays
    /// with it.
    pub fn connected(&mut self, target: &Target, client: IpAddr, endpoint: SocketAddr, now: Instant) {
        let Some(state) = self.ports.get_mut(&target.port.id) else { return };
        settle(state, endpoint, |known| *known = Experience { dialling: known.dialling, ..Experience::default() });
        if target.port.affinity.is_some() {
            state.clients.set(client, endpoint, now);
        }
    }

    /// The endpoint did not take it: others come first for a while.
    pub fn failed(&mut self, id: &PortId, endpoint: SocketAddr, now: Instant) {
        let Some(state) = self.ports.get_mut(id) else { return };
        settle(state, endpoint, |known| {
            // Many dials that were under way together and fail together are one failure.
            if !known.is_avoided(now) {
                let doubled = AVOIDED_FIRST.saturating_mul(2_u32.saturating_pow(known.failures));
                known.failures = known.failures.saturating_add(1);
                known.avoided_until = now.checked_add(doubled.min(AVOIDED_MAX));
            }
        });
    }

    /// The dial was given up by whoever wanted it.
    pub fn withdrawn(&mut self, id: &PortId, endpoint: SocketAddr) {
        if let Some(state) = self.ports.get_mut(id) {
            settle(state, endpoint, |_| {});
        }
    }

    /// Forgets what the cluster no longer has; keeps all of what did not change.
    pub fn follow(&mut self, services: &Services) {
        self.ports.retain(|id, state| {
            let Some(port) = services.port(id) else { return false };
            // Who was away and comes back starts afresh: its pod says that it is ready now.
            let may_be_sent_to = |endpoint: &SocketAddr| {
                port.endpoints.get(*endpoint).is_some_and(|endpoint| endpoint.health != Health::Away)
            };
            state.endpoints.retain(|endpoint, _| may_be_sent_to(endpoint));
            state.clients.retain(|endpoint| port.affinity.is_some() && port.endpoints.contains(endpoint));
            true
        });
    }
}

/// One dial less, and what was learnt from it. What is as if never seen is not kept.
fn settle(state: &mut PortState, endpoint: SocketAddr, learn: impl FnOnce(&mut Experience)) {
    let Some(known) = state.endpoints.get_mut(&endpoint) else { return };
    known.dialling = known.dialling.saturating_sub(1);
    learn(known);
    if known.dialling == 0 && known.failures == 0 {
        state.endpoints.remove(&endpoint);
    }
}
