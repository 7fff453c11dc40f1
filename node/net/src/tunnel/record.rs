//! What is known and kept of one peer: its connections, and how attempts to reach it went. One lock; nothing waits in it.
//!
//! ```text
//! no link ──wanted──▶ connecting ──▶ direct link ◀── tried again now and then ── relayed link
//!    ▲                    │                                                          ▲
//!    └── pause, dials fail at once ◀── neither works ── directly not, relay works ───┘
//! ```

use super::{
    limits::{DIRECT_RETRY_MAX, LINKS_MAX, PAUSE, PENDING},
    link::Link,
    peers::Path,
};
use crate::fabric::shares::Shares;
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// A peer as the tunnel deals with it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) node: Arc<str>,
    /// Of two connections made at the same time, the one that this side dialled stays.
    pub(super) is_our_dial_preferred: bool,
    /// Streams to its pods, by the address of who has them.
    pub(super) shares: Arc<Shares>,
    pub(super) state: Mutex<State>,
    /// A connection has come or gone, or an attempt has ended.
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) links: Vec<Arc<Link>>,
    pub(super) is_connecting: bool,
    failures: u32,
    pub(super) pause_until: Option<Instant>,
    /// Why there is no direct connection, and since when that is known.
    pub(super) why: Option<(String, Instant)>,
    direct_retry: Option<(Instant, Duration)>,
    pub(super) pending: VecDeque<Bytes>,
    pending_bytes: usize,
    /// What people were told last.
    pub(super) told: Option<Path>,
    /// Why traffic goes through the control plane, as people were told, until it goes directly again.
    pub(super) detour: Option<String>,
}

impl Record {
    pub(super) fn new(own_name: &str, node: Arc<str>, streams: usize) -> Self {
        let is_our_dial_preferred = own_name < &*node;
        Self {
            node,
            is_our_dial_preferred,
            shares: Shares::new(streams),
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// The connection to use: one that is not silent, a direct one, of those that both sides agree on, the newest.
    pub(super) fn best(&self, state: &State) -> Option<Arc<Link>> {
        let usable = state.links.iter().filter(|link| link.is_open() && !link.has_expired() && !link.is_silent());
        let rank = |link: &&Arc<Link>| {
            (link.path() == Path::Direct, link.has_dialled == self.is_our_dial_preferred, link.since)
        };
        usable.max_by_key(rank).cloned()
    }
}

/// Where the least is, the first of equals.
fn least(streams: impl Iterator<Item = usize>) -> Option<usize> {
    streams.enumerate().min_by_key(|(_, streams)| *streams).map(|(index, _)| index)
}

impl State {
    /// A new connection; gives what is over with it: what carries least, and is not new.
    pub(super) fn add(&mut self, link: Arc<Link>) -> Option<Arc<Link>> {
        if link.path() == Path::Direct {
            self.why = None;
            self.direct_retry = None;
        }
        self.failures = 0;
        self.pause_until = None;
        let surplus =
            if self.links.len() < LINKS_MAX { None } else { least(self.links.iter().map(|link| link.streams())) };
        let over = surplus.map(|index| self.links.remove(index));
        self.links.push(link);
        over
    }

    /// Nothing works: dials fail at once for a while.
    pub(super) fn pause(&mut self, now: Instant) {
        let pause = PAUSE.0.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(PAUSE.1);
        self.failures = self.failures.saturating_add(1);
        self.pause_until = Some(now + pause);
        self.pending.clear();
        self.pending_bytes = 0;
    }

    /// What is known of failures is old: the peer's addresses have changed, or it was heard of.
    pub(super) fn try_anew(&mut self) {
        self.failures = 0;
        self.pause_until = None;
        self.direct_retry = None;
        self.why = None;
    }

    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.pause_until.is_some_and(|until| now < until)
    }

    /// Whether it is time to try a relayed peer directly; then the next time is later.
    pub(super) fn is_direct_retry_due(&mut self, now: Instant, first: Duration) -> bool {
        let (at, interval) = *self.direct_retry.get_or_insert((now + first, first));
        if now < at {
            return false;
        }
        let interval = (interval * 2).min(DIRECT_RETRY_MAX);
        self.direct_retry = Some((now + interval, interval));
        true
    }

    /// A datagram waits for a connection, if there is room.
    pub(super) fn keep_datagram(&mut self, frame: Bytes) {
        if self.pending.len() < PENDING.0 && self.pending_bytes + frame.len() <= PENDING.1 {
            self.pending_bytes += frame.len();
            self.pending.push_back(frame);
        }
    }

    pub(super) fn take_pending(&mut self) -> VecDeque<Bytes> {
        self.pending_bytes = 0;
        std::mem::take(&mut self.pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_carries_least_goes_first_and_of_equals_the_oldest() {
        let rows: [(&[usize], _); 4] =
            [(&[], None), (&[3, 1, 2], Some(1)), (&[0, 0, 0], Some(0)), (&[5, 2, 2], Some(1))];
        for (streams, expected) in rows {
            assert_eq!(least(streams.iter().copied()), expected, "{streams:?}");
        }
    }

    #[test]
    fn pauses_grow_and_a_connection_ends_them() {
        let (mut state, now) = (State::default(), Instant::now());
        let mut last = Duration::ZERO;
        for _ in 0..40 {
            state.pause(now);
            let pause = state.pause_until.unwrap() - now;
            assert!(pause >= last && pause <= PAUSE.1 && pause >= PAUSE.0);
            last = pause;
        }
        assert_eq!(last, PAUSE.1);
        assert!(state.is_paused(now) && !state.is_paused(now + PAUSE.1));
        state.try_anew();
        assert!(!state.is_paused(now));
        state.pause(now);
        assert_eq!(state.pause_until, Some(now + PAUSE.0));
    }

    #[test]
    fn a_relayed_peer_is_tried_directly_less_and_less_often() {
        let (mut state, start, first) = (State::default(), Instant::now(), Duration::from_secs(5));
        let mut at = start;
        let mut tries = Vec::new();
        while at < start + Duration::from_mins(5) {
            if state.is_direct_retry_due(at, first) {
                tries.push((at - start).as_secs());
            }
            at += Duration::from_secs(1);
        }
        assert_eq!(tries, [5, 15, 35, 75, 135, 195, 255]);
    }

    #[test]
    fn few_datagrams_wait() {
        let mut state = State::default();
        for _ in 0..1000 {
            state.keep_datagram(Bytes::from_static(&[0; 100]));
        }
        assert_eq!(state.take_pending().len(), PENDING.0);
        for _ in 0..1000 {
            state.keep_datagram(Bytes::from(vec![0; 60_000]));
        }
        assert!(state.take_pending().len() <= PENDING.1 / 60_000);
        assert_eq!(state.pending_bytes, 0);
    }
}
