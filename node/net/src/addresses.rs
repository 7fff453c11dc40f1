//! The pod addresses of one node: which are taken, which rest, which may be given out.
//!
//! An address never goes from one pod to the next at once: a client may still hold the old pod's address from a name
//! it looked up or from an endpoint slice that is on its way. So the one that was freed longest ago is given out first,
//! and none before [`REST_MIN`] has passed. The node's ledger is the memory: after a restart it says which are taken.

use crate::range::Ipv4Range;
use std::{
    collections::{BTreeSet, VecDeque},
    net::Ipv4Addr,
    time::{Duration, Instant},
};
use thiserror::Error;

/// How long a freed address rests: longer than cluster names live in caches, and than slices take to follow.
pub const REST_MIN: Duration = Duration::from_secs(30);

/// The widest range that a pool manages, by its prefix length: 65,536 addresses.
pub const PREFIX_LENGTH_MIN: u8 = 16;

/// Addresses at the start of a range that no pod gets: the network's own, and the one that a gateway usually has.
const KEPT_AT_START: u32 = 2;

/// Why a pool does not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PoolError {
    /// Every address is taken or rests.
    #[error("no free pod address in {range}: {taken} are taken and {resting} were freed a moment ago")]
    Exhausted {
        /// The node's range.
        range: Ipv4Range,
        /// Addresses that pods have.
        taken: usize,
        /// Addresses that become free within [`REST_MIN`].
        resting: usize,
    },
    /// It is no address that a pod of this node can have.
    #[error("{address} is no pod address of {range}")]
    NotInRange {
        /// The address.
        address: Ipv4Addr,
        /// The node's range.
        range: Ipv4Range,
    },
    /// Somebody has it.
    #[error("{0} is taken already")]
    Taken(Ipv4Addr),
}

/// The addresses of one node's pods.
#[derive(Debug)]
pub struct AddressPool {
    range: Ipv4Range,
    taken: BTreeSet<Ipv4Addr>,
    /// Never given out since the pool was made, in the order in which they will be.
    fresh: VecDeque<Ipv4Addr>,
    /// Freed, the one that was freed longest ago first.
    resting: VecDeque<(Ipv4Addr, Instant)>,
}

impl AddressPool {
    /// A pool of all pod addresses of `range`: without the network's own, the following and the broadcast address. Of a range
    /// wider than [`PREFIX_LENGTH_MIN`] only so much of the start is used.
    #[must_use]
    pub fn new(range: Ipv4Range) -> Self {
        let first = u32::from(range.first());
        let last = u32::from(range.last()).min(first | (u32::MAX >> PREFIX_LENGTH_MIN));
        let fresh = (first.saturating_add(KEPT_AT_START)..last).map(Ipv4Addr::from).collect();
        Self { range, taken: BTreeSet::new(), fresh, resting: VecDeque::new() }
    }

    /// The range that the addresses are from.
    #[must_use]
    pub fn range(&self) -> Ipv4Range {
        self.range
    }

    /// Takes an address: one that was never given out, or else the one that has rested longest.
    ///
    /// # Errors
    /// [`PoolError::Exhausted`]; asking again later may help.
    pub fn allocate(&mut self, now: Instant) -> Result<Ipv4Addr, PoolError> {
        let rested = |(_, since): &mut (Ipv4Addr, Instant)| now.saturating_duration_since(*since) >= REST_MIN;
        let address = self.fresh.pop_front().or_else(|| Some(self.resting.pop_front_if(rested)?.0));
        let Some(address) = address else {
            let (taken, resting) = (self.taken.len(), self.resting.len());
            return Err(PoolError::Exhausted { range: self.range, taken, resting });
        };
        self.taken.insert(address);
        Ok(address)
    }

    /// Takes the address that a pod had before the agent restarted, whether it rests or not. What was given out after
    /// it is not known any more, so fresh ones are taken from those behind it.
    ///
    /// # Errors
    /// [`PoolError::NotInRange`] and [`PoolError::Taken`]: the pod needs another one.
    pub fn reserve(&mut self, address: Ipv4Addr) -> Result<(), PoolError> {
        if self.taken.contains(&address) {
            return Err(PoolError::Taken(address));
        }
        if let Some(place) = self.fresh.iter().position(|one| *one == address) {
            self.fresh.rotate_left(place);
            self.fresh.pop_front();
        } else if let Some(place) = self.resting.iter().position(|(one, _)| *one == address) {
            self.resting.remove(place);
        } else {
            return Err(PoolError::NotInRange { address, range: self.range });
        }
        self.taken.insert(address);
        Ok(())
    }

    /// Gives an address back. One that nobody has is left as it is.
    pub fn release(&mut self, address: Ipv4Addr, now: Instant) {
        if self.taken.remove(&address) {
            self.resting.push_back((address, now));
        }
    }

    /// How many addresses pods have.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(range: &str) -> AddressPool {
        AddressPool::new(range.parse().unwrap())
    }

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn every_usable_address_is_given_out_once() {
        let now = Instant::now();
        for (range, count) in
            [("10.244.4.0/22", 1021), ("10.244.4.0/30", 1), ("10.244.4.0/31", 0), ("10.244.4.0/32", 0)]
        {
            let mut pool = pool(range);
            let all: BTreeSet<_> = std::iter::from_fn(|| pool.allocate(now).ok()).collect();
            assert_eq!((all.len(), pool.taken()), (count, count), "{range}");
            let kept = [pool.range.first(), Ipv4Addr::from(u32::from(pool.range.first()) + 1), pool.range.last()];
            assert!(all.iter().all(|one| pool.range.contains(*one) && !kept.contains(one)), "{range}");
            let error = pool.allocate(now).unwrap_err();
            assert_eq!(error, PoolError::Exhausted { range: pool.range, taken: count, resting: 0 });
        }
    }

    #[test]
    fn the_widest_range_is_bounded() {
        let wide = pool("10.0.0.0/8");
        assert_eq!(wide.fresh.len(), 65_533);
        assert_eq!(wide.fresh.back(), Some(&address("10.0.255.254")));
        assert_eq!(pool("255.255.255.254/31").fresh.len(), 0);
    }

    #[test]
    fn a_freed_address_rests_and_the_one_freed_first_comes_back_first() {
        let start = Instant::now();
        let mut pool = pool("10.0.0.0/29");
        let all: Vec<_> = std::iter::from_fn(|| pool.allocate(start).ok()).collect();
        assert_eq!(all.len(), 5);
        pool.release(all[3], start);
        pool.release(all[1], start + Duration::from_secs(1));
        let almost = start + REST_MIN.saturating_sub(Duration::from_millis(1));
        let error = pool.allocate(almost).unwrap_err();
        assert_eq!(error, PoolError::Exhausted { range: pool.range, taken: 3, resting: 2 });
        assert_eq!(error.to_string(), "no free pod address in 10.0.0.0/29: 3 are taken and 2 were freed a moment ago");
        assert_eq!(pool.allocate(start + REST_MIN), Ok(all[3]));
        assert!(pool.allocate(start + REST_MIN).is_err(), "the other one rests still");
        assert_eq!(pool.allocate(start + REST_MIN + Duration::from_secs(1)), Ok(all[1]));
    }

    #[test]
    fn fresh_addresses_come_before_rested_ones() {
        let start = Instant::now();
        let mut pool = pool("10.0.0.0/29");
        let first = pool.allocate(start).unwrap();
        pool.release(first, start);
        let later = start + REST_MIN * 2;
        let rest: Vec<_> = std::iter::from_fn(|| pool.allocate(later).ok()).collect();
        assert_eq!(rest.last(), Some(&first));
        assert_eq!(rest.len(), 5);
    }

    #[test]
    fn what_the_ledger_says_is_taken_and_what_follows_it_comes_next() {
        let now = Instant::now();
        let mut pool = pool("10.0.0.0/29");
        pool.reserve(address("10.0.0.3")).unwrap();
        pool.reserve(address("10.0.0.4")).unwrap();
        assert_eq!(pool.reserve(address("10.0.0.4")), Err(PoolError::Taken(address("10.0.0.4"))));
        for outside in ["10.0.0.0", "10.0.0.1", "10.0.0.7", "10.0.0.8", "10.1.0.2"] {
            let error = PoolError::NotInRange { address: address(outside), range: pool.range };
            assert_eq!(pool.reserve(address(outside)), Err(error));
        }
        let rest: Vec<_> = std::iter::from_fn(|| pool.allocate(now).ok()).collect();
        assert_eq!(rest, ["10.0.0.5", "10.0.0.6", "10.0.0.2"].map(address));
    }

    #[test]
    fn a_resting_address_can_be_reserved_and_a_foreign_one_not_released() {
        let now = Instant::now();
        let mut pool = pool("10.0.0.0/30");
        let only = pool.allocate(now).unwrap();
        pool.release(only, now);
        pool.release(only, now);
        pool.release(address("10.9.9.9"), now);
        assert_eq!(pool.resting.len(), 1);
        pool.reserve(only).unwrap();
        assert_eq!((pool.taken(), pool.resting.len()), (1, 0));
    }

    /// What happens to a pool.
    #[derive(Debug, Clone)]
    enum Step {
        Allocate,
        Reserve(u32),
        Release(prop::sample::Index),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Allocate),
            1 => (0..20_u32).prop_map(Step::Reserve),
            3 => any::<prop::sample::Index>().prop_map(Step::Release),
            2 => (0..40_u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn nobody_ever_gets_what_another_has_or_had_a_moment_ago(steps in proptest::collection::vec(step(), 1..200)) {
            let mut pool = pool("10.0.0.0/28");
            let mut now = Instant::now();
            let (mut held, mut freed) = (Vec::<Ipv4Addr>::new(), Vec::<(Ipv4Addr, Instant)>::new());
            for step in steps {
                match step {
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                    Step::Allocate => match pool.allocate(now) {
                        Ok(one) => {
                            prop_assert!(!held.contains(&one), "{one} is taken");
                            let last = freed.iter().rev().find(|(address, _)| *address == one);
                            prop_assert!(last.is_none_or(|(_, since)| now.duration_since(*since) >= REST_MIN));
                            held.push(one);
                        }
                        Err(PoolError::Exhausted { taken, resting, .. }) => {
                            prop_assert_eq!((taken, taken + resting), (held.len(), 13));
                        }
                        Err(other) => panic!("{other}"),
                    },
                    Step::Reserve(offset) => {
                        let one = Ipv4Addr::from(u32::from(pool.range.first()) + offset);
                        if pool.reserve(one).is_ok() {
                            prop_assert!(!held.contains(&one) && (2..15).contains(&offset));
                            held.push(one);
                        }
                    }
                    Step::Release(which) if !held.is_empty() => {
                        let one = held.swap_remove(which.index(held.len()));
                        pool.release(one, now);
                        freed.push((one, now));
                    }
                    Step::Release(_) => {}
                }
                prop_assert_eq!(pool.taken(), held.len());
            }
        }
    }
}
