//! Counters of what the fabric did. They only count: no decision reads them.

use super::{bounds::Bound, pods::DialFailure};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a fabric has done since it began. All figures only grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Connections of pods to pods, directly or through services.
    pub connected: u64,
    /// Connections of pods to addresses outside the cluster.
    pub connected_outside: u64,
    /// Connections from outside through node ports.
    pub connected_node_port: u64,
    /// Connections from other nodes to pods of this one.
    pub arrived: u64,
    /// Connections that nobody took; see [`DialFailure`].
    pub refused: u64,
    /// Dials to where there is no way.
    pub unreachable: u64,
    /// Dials that took too long.
    pub timed_out: u64,
    /// Dials and datagrams that are not allowed.
    pub denied: u64,
    /// Dials beyond a bound.
    pub too_many: u64,
    /// Datagrams given to pods.
    pub datagrams_delivered: u64,
    /// Datagrams sent to outside.
    pub datagrams_outside: u64,
    /// Datagrams given to other nodes.
    pub datagrams_elsewhere: u64,
    /// Datagrams for which there was nobody.
    pub datagrams_refused: u64,
    /// DNS queries answered, also with an error code.
    pub dns_answered: u64,
    /// DNS queries that nobody could answer, or that made no sense.
    pub dns_failed: u64,
    /// How often each bound was hit.
    pub bounds: Vec<(Bound, u64)>,
}

/// One number of [`Statistics`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    Connected,
    ConnectedOutside,
    ConnectedNodePort,
    Arrived,
    Refused,
    Unreachable,
    TimedOut,
    Denied,
    TooMany,
    DatagramsDelivered,
    DatagramsOutside,
    DatagramsElsewhere,
    DatagramsRefused,
    DnsAnswered,
    DnsFailed,
}

const COUNTS: usize = Count::DnsFailed as usize + 1;

#[derive(Debug, Default)]
pub(crate) struct Counters {
    counts: [AtomicU64; COUNTS],
    bounds: [AtomicU64; Bound::ALL.len()],
}

impl From<DialFailure> for Count {
    fn from(failure: DialFailure) -> Self {
        match failure {
            DialFailure::Refused => Self::Refused,
            DialFailure::Unreachable => Self::Unreachable,
            DialFailure::TimedOut => Self::TimedOut,
            DialFailure::Denied => Self::Denied,
            DialFailure::TooMany => Self::TooMany,
        }
    }
}

impl Counters {
    pub(crate) fn add(&self, count: impl Into<Count>) {
        self.counts[count.into() as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn hit(&self, bound: Bound) {
        self.bounds[bound as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Statistics {
        let read = |count: Count| self.counts[count as usize].load(Ordering::Relaxed);
        Statistics {
            connected: read(Count::Connected),
            connected_outside: read(Count::ConnectedOutside),
            connected_node_port: read(Count::ConnectedNodePort),
            arrived: read(Count::Arrived),
            refused: read(Count::Refused),
            unreachable: read(Count::Unreachable),
            timed_out: read(Count::TimedOut),
            denied: read(Count::Denied),
            too_many: read(Count::TooMany),
            datagrams_delivered: read(Count::DatagramsDelivered),
            datagrams_outside: read(Count::DatagramsOutside),
            datagrams_elsewhere: read(Count::DatagramsElsewhere),
            datagrams_refused: read(Count::DatagramsRefused),
            dns_answered: read(Count::DnsAnswered),
            dns_failed: read(Count::DnsFailed),
            bounds: Bound::ALL
                .into_iter()
                .map(|one| (one, self.bounds[one as usize].load(Ordering::Relaxed)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_counted_where_it_is_shown() {
        let counters = Counters::default();
        counters.add(DialFailure::Denied);
        counters.add(Count::Connected);
        counters.add(Count::Connected);
        counters.hit(Bound::DnsRate);
        let seen = counters.snapshot();
        assert_eq!((seen.connected, seen.denied, seen.refused, seen.dns_failed), (2, 1, 0, 0));
        let hit: Vec<_> = seen.bounds.into_iter().filter(|(_, times)| *times > 0).collect();
        assert_eq!(hit, [(Bound::DnsRate, 1)]);
    }
}
