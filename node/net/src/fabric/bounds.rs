//! Bounds: how much one pod may ask of its node's network at a time and per second. Nothing here waits: who is over a
//! bound is refused, counted and reported, and other pods do not notice.

use parking_lot::Mutex;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Dials of one pod under way.
pub const DIALS_MAX: usize = 256;
/// Dials of one pod per second, whatever becomes of them.
pub const DIALS_PER_SECOND: u32 = 20_000;
/// Connections that the node itself is making into one pod, for its probes and for people.
pub const NODE_DIALS_MAX: usize = 64;
/// Dials of one pod to addresses outside the cluster under way.
pub const OUTSIDE_DIALS_MAX: usize = 128;
/// Dials of one pod to addresses outside the cluster per second.
pub const OUTSIDE_DIALS_PER_SECOND: u32 = 500;
/// Connections of one pod to addresses outside the cluster.
pub const OUTSIDE_STREAMS_MAX: usize = 2048;
/// Datagram flows of one pod to services, or from outside to one node port.
pub const FLOWS_MAX: usize = 1024;
/// Datagram flows of the node.
pub const ALL_FLOWS_MAX: usize = 65_536;
/// A flow that carried nothing for so long is forgotten.
pub const FLOW_IDLE: Duration = Duration::from_mins(1);
/// Real datagram sockets of one pod for addresses outside the cluster: one for each of its ports. The one that was
/// silent for longest makes room.
pub const OUTSIDE_SOCKETS_MAX: usize = 256;
/// Real datagram sockets of all pods.
pub const ALL_OUTSIDE_SOCKETS_MAX: usize = 4096;
/// Peers outside from which one real datagram socket takes answers.
pub const OUTSIDE_PEERS_MAX: usize = 256;
/// Datagrams of one pod to peers outside that are new to its socket, per second.
pub const OUTSIDE_PEERS_PER_SECOND: u32 = 500;
/// DNS queries of one pod under way.
pub const DNS_QUERIES_MAX: usize = 64;
/// DNS queries of one pod per second.
pub const DNS_QUERIES_PER_SECOND: u32 = 2_000;
/// DNS connections of one pod.
pub const DNS_CONNECTIONS_MAX: usize = 32;
/// Outside names that one pod has looked up at one time.
pub const LOOK_UPS_MAX: usize = 8;
/// A DNS connection on which nothing is asked for so long is closed.
pub const DNS_IDLE: Duration = Duration::from_secs(20);
/// Longest time in which a pod takes or refuses a connection that is offered to it.
pub const OFFER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time for a connection to an address outside the cluster.
pub const OUTSIDE_DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one endpoint on another node is waited for while others are left.
pub const FAR_DIAL_PATIENCE: Duration = Duration::from_secs(2);
/// Longest time for a connection to a pod of another node.
pub const FAR_DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections from other nodes that no pod has taken yet. Each node may have as many as it leaves to the others.
pub const ARRIVALS_MAX: usize = 4096;
/// Connections that one node port has accepted and not yet given to a pod. The kernel's backlog holds the rest.
pub const NODE_PORT_OFFERS_MAX: usize = 256;

/// The bounds of a fabric; [`Default`] is the constants of this module, tests make them small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// [`DIALS_MAX`]
    pub dials: usize,
    /// [`DIALS_PER_SECOND`]
    pub dials_per_second: u32,
    /// [`NODE_DIALS_MAX`]
    pub node_dials: usize,
    /// [`OUTSIDE_DIALS_MAX`]
    pub outside_dials: usize,
    /// [`OUTSIDE_DIALS_PER_SECOND`]
    pub outside_dials_per_second: u32,
    /// [`OUTSIDE_STREAMS_MAX`]
    pub outside_streams: usize,
    /// [`FLOWS_MAX`]
    pub flows: usize,
    /// [`FLOW_IDLE`]
    pub flow_idle: Duration,
    /// [`OUTSIDE_SOCKETS_MAX`]
    pub outside_sockets: usize,
    /// [`OUTSIDE_PEERS_MAX`]
    pub outside_peers: usize,
    /// [`OUTSIDE_PEERS_PER_SECOND`]
    pub outside_peers_per_second: u32,
    /// [`DNS_QUERIES_MAX`]
    pub dns_queries: usize,
    /// [`DNS_QUERIES_PER_SECOND`]
    pub dns_queries_per_second: u32,
    /// [`DNS_CONNECTIONS_MAX`]
    pub dns_connections: usize,
    /// [`LOOK_UPS_MAX`]
    pub look_ups: usize,
    /// [`DNS_IDLE`]
    pub dns_idle: Duration,
    /// [`OFFER_TIMEOUT`]
    pub offer_timeout: Duration,
    /// [`OUTSIDE_DIAL_TIMEOUT`]
    pub outside_dial_timeout: Duration,
    /// [`FAR_DIAL_PATIENCE`]
    pub far_dial_patience: Duration,
    /// [`FAR_DIAL_TIMEOUT`]
    pub far_dial_timeout: Duration,
    /// [`ARRIVALS_MAX`]
    pub arrivals: usize,
    /// [`NODE_PORT_OFFERS_MAX`]
    pub node_port_offers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            dials: DIALS_MAX,
            dials_per_second: DIALS_PER_SECOND,
            node_dials: NODE_DIALS_MAX,
            outside_dials: OUTSIDE_DIALS_MAX,
            outside_dials_per_second: OUTSIDE_DIALS_PER_SECOND,
            outside_streams: OUTSIDE_STREAMS_MAX,
            flows: FLOWS_MAX,
            flow_idle: FLOW_IDLE,
            outside_sockets: OUTSIDE_SOCKETS_MAX,
            outside_peers: OUTSIDE_PEERS_MAX,
            outside_peers_per_second: OUTSIDE_PEERS_PER_SECOND,
            dns_queries: DNS_QUERIES_MAX,
            dns_queries_per_second: DNS_QUERIES_PER_SECOND,
            dns_connections: DNS_CONNECTIONS_MAX,
            look_ups: LOOK_UPS_MAX,
            dns_idle: DNS_IDLE,
            offer_timeout: OFFER_TIMEOUT,
            outside_dial_timeout: OUTSIDE_DIAL_TIMEOUT,
            far_dial_patience: FAR_DIAL_PATIENCE,
            far_dial_timeout: FAR_DIAL_TIMEOUT,
            arrivals: ARRIVALS_MAX,
            node_port_offers: NODE_PORT_OFFERS_MAX,
        }
    }
}

/// A bound that was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// [`Limits::dials`]
    Dials,
    /// [`Limits::dials_per_second`]
    DialRate,
    /// [`Limits::node_dials`]
    NodeDials,
    /// [`Limits::outside_dials`]
    OutsideDials,
    /// [`Limits::outside_dials_per_second`]
    OutsideDialRate,
    /// [`Limits::outside_streams`]
    OutsideStreams,
    /// [`Limits::flows`] or [`ALL_FLOWS_MAX`]
    Flows,
    /// [`ALL_OUTSIDE_SOCKETS_MAX`], or the process has no descriptor left
    OutsideSockets,
    /// [`Limits::outside_peers`] or [`Limits::outside_peers_per_second`]
    OutsidePeers,
    /// A datagram longer than UDP allows
    DatagramSize,
    /// [`Limits::dns_queries`]
    DnsQueries,
    /// [`Limits::dns_queries_per_second`]
    DnsRate,
    /// [`Limits::dns_connections`]
    DnsConnections,
    /// [`Limits::look_ups`]
    LookUps,
    /// [`Limits::arrivals`]
    Arrivals,
}

impl Bound {
    /// All bounds; a bound's place here is its place in the counters.
    pub const ALL: [Self; 15] = [
        Self::Dials,
        Self::DialRate,
        Self::NodeDials,
        Self::OutsideDials,
        Self::OutsideDialRate,
        Self::OutsideStreams,
        Self::Flows,
        Self::OutsideSockets,
        Self::OutsidePeers,
        Self::DatagramSize,
        Self::DnsQueries,
        Self::DnsRate,
        Self::DnsConnections,
        Self::LookUps,
        Self::Arrivals,
    ];

    /// What a person reads: `refused: too many …`.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Dials => "too many connections being made at one time",
            Self::DialRate => "too many connections per second",
            Self::NodeDials => "too many connections from the node being made at one time",
            Self::OutsideDials => "too many connections to outside being made at one time",
            Self::OutsideDialRate => "too many connections to outside per second",
            Self::OutsideStreams => "too many connections to outside",
            Self::Flows => "too many datagram flows",
            Self::OutsideSockets => "too many datagram sockets to outside",
            Self::OutsidePeers => "too many peers of a datagram socket to outside",
            Self::DatagramSize => "a datagram is too long",
            Self::DnsQueries => "too many DNS queries at one time",
            Self::DnsRate => "too many DNS queries per second",
            Self::DnsConnections => "too many DNS connections",
            Self::LookUps => "too many outside names being looked up at one time",
            Self::Arrivals => "too many connections from another node being made at one time",
        }
    }
}

/// So many events per second, and as many at once after a second of silence.
#[derive(Debug)]
struct TokenBucket {
    per_second: f64,
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, tokens: per_second, filled: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = since.mul_add(self.per_second, self.tokens).min(self.per_second);
        self.filled = now.max(self.filled);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

/// What is left to one pod. Permits give back what they took when they are dropped.
#[derive(Debug)]
pub(crate) struct Budget {
    dials: Arc<Semaphore>,
    dial_rate: Mutex<TokenBucket>,
    node_dials: Arc<Semaphore>,
    outside_dials: Arc<Semaphore>,
    outside_dial_rate: Mutex<TokenBucket>,
    outside_peer_rate: Mutex<TokenBucket>,
    dns_queries: Arc<Semaphore>,
    dns_rate: Mutex<TokenBucket>,
    dns_connections: Arc<Semaphore>,
    look_ups: Arc<Semaphore>,
}

impl Budget {
    pub(crate) fn new(limits: &Limits, now: Instant) -> Self {
        let rate = |per_second| Mutex::new(TokenBucket::new(per_second, now));
        let count = |permits| Arc::new(Semaphore::new(permits));
        Self {
            dials: count(limits.dials),
            dial_rate: rate(limits.dials_per_second),
            node_dials: count(limits.node_dials),
            outside_dials: count(limits.outside_dials),
            outside_dial_rate: rate(limits.outside_dials_per_second),
            outside_peer_rate: rate(limits.outside_peers_per_second),
            dns_queries: count(limits.dns_queries),
            dns_rate: rate(limits.dns_queries_per_second),
            dns_connections: count(limits.dns_connections),
            look_ups: count(limits.look_ups),
        }
    }

    /// Permission for a dial, held until it is decided.
    pub(crate) fn dial(&self, now: Instant) -> Result<OwnedSemaphorePermit, Bound> {
        both(&self.dials, Bound::Dials, &self.dial_rate, Bound::DialRate, now)
    }

    /// Permission for a connection from the node into the pod, held until it is decided. What the pod itself dials takes
    /// nothing of it.
    pub(crate) fn node_dial(&self) -> Result<OwnedSemaphorePermit, Bound> {
        one(&self.node_dials, Bound::NodeDials)
    }

    /// Permission for a dial to outside, held until it is decided.
    pub(crate) fn outside_dial(&self, now: Instant) -> Result<OwnedSemaphorePermit, Bound> {
        both(&self.outside_dials, Bound::OutsideDials, &self.outside_dial_rate, Bound::OutsideDialRate, now)
    }

    /// Permission to send to a peer outside that the socket does not know yet.
    pub(crate) fn outside_peer(&self, now: Instant) -> Result<(), Bound> {
        if self.outside_peer_rate.lock().take(now) { Ok(()) } else { Err(Bound::OutsidePeers) }
    }

    /// Permission for a DNS query, held until it is answered.
    pub(crate) fn dns_query(&self, now: Instant) -> Result<OwnedSemaphorePermit, Bound> {
        both(&self.dns_queries, Bound::DnsQueries, &self.dns_rate, Bound::DnsRate, now)
    }

    /// Permission for a DNS connection, held until it ends.
    pub(crate) fn dns_connection(&self) -> Result<OwnedSemaphorePermit, Bound> {
        one(&self.dns_connections, Bound::DnsConnections)
    }

    /// Permission to have an outside name looked up, held until the machine has answered.
    pub(crate) fn look_up(&self) -> Result<OwnedSemaphorePermit, Bound> {
        one(&self.look_ups, Bound::LookUps)
    }
}

fn one(count: &Arc<Semaphore>, bound: Bound) -> Result<OwnedSemaphorePermit, Bound> {
    Arc::clone(count).try_acquire_owned().map_err(|_| bound)
}

fn both(
    count: &Arc<Semaphore>,
    too_many: Bound,
    rate: &Mutex<TokenBucket>,
    too_fast: Bound,
    now: Instant,
) -> Result<OwnedSemaphorePermit, Bound> {
    let permit = one(count, too_many)?;
    if rate.lock().take(now) { Ok(permit) } else { Err(too_fast) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_a_second_at_once_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10, start);
        assert_eq!((0..20).filter(|_| bucket.take(start)).count(), 10);
        let later = start + Duration::from_millis(350);
        assert_eq!((0..20).filter(|_| bucket.take(later)).count(), 3);
        assert!(!bucket.take(start), "a clock read earlier gives nothing");
        let much_later = start + Duration::from_hours(1);
        assert_eq!((0..20).filter(|_| bucket.take(much_later)).count(), 10);
    }

    #[test]
    fn permits_give_back_what_they_took() {
        let now = Instant::now();
        let budget = Budget::new(&Limits { dials: 2, ..Limits::default() }, now);
        let first = budget.dial(now).unwrap();
        let _second = budget.dial(now).unwrap();
        assert_eq!(budget.dial(now).unwrap_err(), Bound::Dials);
        drop(first);
        assert!(budget.dial(now).is_ok());
    }

    #[test]
    fn every_bound_has_its_own_place_among_the_counters() {
        for (place, bound) in Bound::ALL.into_iter().enumerate() {
            assert_eq!(bound as usize, place, "{bound:?}");
        }
    }
}
