//! Long datagrams from their parts. What one peer can make this node keep is bounded in number, bytes and time: the oldest
//! goes first. Pure: time is handed in.

use super::frames::{ADDRESSES_BYTES_MAX, Part};
use crate::fabric::DATAGRAM_BYTES_MAX;
use bytes::{Bytes, BytesMut};
use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

/// Datagrams of one peer that wait for parts.
const WAITING_MAX: usize = 128;
/// Bytes of those.
const WAITING_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How long a datagram waits for its parts.
pub(super) const WAIT: Duration = Duration::from_secs(3);

/// Bytes of one: a datagram and its addresses.
const CONTENT_BYTES_MAX: usize = DATAGRAM_BYTES_MAX + ADDRESSES_BYTES_MAX;

/// A datagram some of whose parts are there.
#[derive(Debug)]
struct Waiting {
    parts: Vec<Option<Bytes>>,
    missing: usize,
    bytes: usize,
    since: Instant,
}

/// The unfinished datagrams of one peer.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    waiting: HashMap<u32, Waiting>,
    /// In the order of their first parts.
    order: VecDeque<u32>,
    bytes: usize,
}

impl Reassembly {
    /// Takes a part; gives the whole when it was the last.
    pub(super) fn add(&mut self, part: Part, now: Instant) -> Option<Bytes> {
        self.expire(now);
        let Part { number, index, count, bytes } = part;
        let waiting = self.waiting.entry(number).or_insert_with(|| {
            self.order.push_back(number);
            Waiting { parts: vec![None; usize::from(count)], missing: usize::from(count), bytes: 0, since: now }
        });
        if waiting.parts.len() != usize::from(count) {
            // Two datagrams of one number: neither can be had.
            self.forget(number);
            return None;
        }
        let slot = waiting.parts.get_mut(usize::from(index))?;
        if slot.is_none() {
            waiting.missing -= 1;
            waiting.bytes += bytes.len();
            self.bytes += bytes.len();
            // A copy: the part itself keeps all of the buffer that it was received in.
            *slot = Some(Bytes::copy_from_slice(&bytes));
        }
        if waiting.bytes > CONTENT_BYTES_MAX {
            self.forget(number);
            return None;
        }
        if waiting.missing > 0 {
            while self.waiting.len() > WAITING_MAX || self.bytes > WAITING_BYTES_MAX {
                let oldest = *self.order.front()?;
                self.forget(oldest);
            }
            return None;
        }
        let done = self.forget(number)?;
        let mut whole = BytesMut::with_capacity(done.bytes);
        done.parts.iter().flatten().for_each(|part| whole.extend_from_slice(part));
        Some(whole.freeze())
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Forgets what has waited for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.order.front().copied() {
            let is_old = |waiting: &Waiting| now.saturating_duration_since(waiting.since) >= WAIT;
            if self.waiting.get(&oldest).is_some_and(|waiting| !is_old(waiting)) {
                return;
            }
            self.forget(oldest);
        }
    }

    fn forget(&mut self, number: u32) -> Option<Waiting> {
        if let Some(at) = self.order.iter().position(|one| *one == number) {
            self.order.remove(at);
        }
        let gone = self.waiting.remove(&number)?;
        self.bytes -= gone.bytes;
        Some(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(number: u32, index: u8, count: u8, bytes: &[u8]) -> Part {
        Part { number, index, count, bytes: Bytes::copy_from_slice(bytes) }
    }

    #[test]
    fn parts_come_in_any_order_and_twice() {
        let (mut all, now) = (Reassembly::default(), Instant::now());
        assert_eq!(all.add(part(1, 2, 3, b"c"), now), None);
        assert_eq!(all.add(part(2, 0, 2, b"x"), now), None);
        assert_eq!(all.add(part(1, 0, 3, b"a"), now), None);
        assert_eq!(all.add(part(1, 0, 3, b"other"), now), None);
        assert_eq!(all.add(part(1, 1, 3, b"b"), now).as_deref(), Some(&b"abc"[..]));
        assert_eq!(all.add(part(2, 1, 2, b"y"), now).as_deref(), Some(&b"xy"[..]));
        assert_eq!((all.bytes, all.waiting.len(), all.order.len()), (0, 0, 0));
    }

    #[test]
    fn what_misses_a_part_for_long_is_forgotten() {
        let (mut all, now) = (Reassembly::default(), Instant::now());
        all.add(part(1, 0, 2, b"a"), now);
        assert_eq!(all.add(part(1, 1, 2, b"b"), now + WAIT), None);
        assert_eq!(all.waiting.len(), 1);
    }

    #[test]
    fn parts_of_more_than_a_datagram_are_forgotten() {
        let (mut all, now) = (Reassembly::default(), Instant::now());
        all.add(part(1, 0, 3, &vec![0; CONTENT_BYTES_MAX]), now);
        assert!(!all.is_empty());
        assert_eq!(all.add(part(1, 1, 3, b"x"), now), None);
        assert!(all.is_empty());
        // Nor is the last part taken.
        all.add(part(2, 0, 2, &vec![0; CONTENT_BYTES_MAX]), now);
        assert_eq!(all.add(part(2, 1, 2, b"x"), now), None);
        assert_eq!((all.bytes, all.waiting.len()), (0, 0));
    }

    #[test]
    fn a_part_keeps_nothing_of_what_it_came_in() {
        let (mut all, now) = (Reassembly::default(), Instant::now());
        let packet = Bytes::from(vec![7; 1_400]);
        all.add(Part { number: 1, index: 0, count: 2, bytes: packet.slice(..1) }, now);
        assert!(packet.is_unique(), "the packet's buffer is free again");
    }

    #[test]
    fn a_flood_pushes_out_its_own_and_stays_small() {
        let (mut all, now) = (Reassembly::default(), Instant::now());
        for number in 0..10_000 {
            all.add(part(number, 0, 255, &vec![0; 60_000]), now);
            assert!(all.bytes <= WAITING_BYTES_MAX && all.waiting.len() <= WAITING_MAX);
        }
        assert_eq!(all.order.len(), all.waiting.len());
        // Disagreeing parts leave nothing behind.
        all.add(part(9_999, 0, 3, b"a"), now);
        assert!(!all.waiting.contains_key(&9_999));
    }

    proptest! {
        #[test]
        fn whatever_comes_the_sums_are_right(
            parts in proptest::collection::vec((0..8_u32, 0..4_u8, 1..5_u8, 0..50_usize, 0..4_u64), 0..200),
        ) {
            let (mut all, mut now) = (Reassembly::default(), Instant::now());
            for (number, index, count, length, seconds) in parts {
                now += Duration::from_secs(seconds / 3);
                if index < count {
                    all.add(part(number, index, count, &vec![0; length]), now);
                }
                prop_assert_eq!(all.bytes, all.waiting.values().map(|one| one.bytes).sum::<usize>());
                prop_assert_eq!(all.order.len(), all.waiting.len());
            }
        }
    }
}
