//! Connections whose pod has stopped to read. What waits in them is this node's memory, and takes from what all connections with
//! a peer may have waiting: so only some may stall at a time. When there are more, one is broken: of the pod that has most of
//! them, the one that has stalled longest. So who never reads loses its own connections.

use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// All stalled connections of a tunnel.
#[derive(Debug)]
pub(super) struct Stalls {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// In the order in which they stalled; each with its pod.
    stalled: BTreeMap<u64, (IpAddr, CancellationToken)>,
}

impl State {
    /// The longest of the pod that has most; of pods that have as many, the one with the longest.
    fn take_worst(&mut self) -> Option<CancellationToken> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for (pod, _) in self.stalled.values() {
            *counts.entry(*pod).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        let number = *self.stalled.iter().find(|(_, (pod, _))| counts[pod] == most)?.0;
        self.stalled.remove(&number).map(|(_, over)| over)
    }
}

/// A connection that is stalled; it is not any more when this is dropped.
#[derive(Debug)]
pub(super) struct Stalled {
    stalls: Arc<Stalls>,
    number: u64,
    /// Cancelled when it has to go.
    pub(super) over: CancellationToken,
}

impl Drop for Stalled {
    fn drop(&mut self) {
        self.stalls.state.lock().stalled.remove(&self.number);
    }
}

impl Stalls {
    /// So many may stall at a time.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, state: Mutex::default() })
    }

    /// One more has stalled, of the pod with this address.
    pub(super) fn enter(self: &Arc<Self>, pod: IpAddr) -> Stalled {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        let over = CancellationToken::new();
        state.stalled.insert(number, (pod, over.clone()));
        if state.stalled.len() > self.max
            && let Some(worst) = state.take_worst()
        {
            worst.cancel();
        }
        Stalled { stalls: Arc::clone(self), number, over }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::Ipv4Addr;

    const fn pod(number: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 244, 0, number))
    }

    #[test]
    fn the_one_that_has_stalled_longest_goes_first() {
        let stalls = Stalls::new(2);
        let (first, second) = (stalls.enter(pod(1)), stalls.enter(pod(2)));
        assert!(!first.over.is_cancelled() && !second.over.is_cancelled());
        let third = stalls.enter(pod(3));
        assert!(first.over.is_cancelled() && !second.over.is_cancelled());
        drop(second);
        let fourth = stalls.enter(pod(4));
        assert!(!third.over.is_cancelled() && !fourth.over.is_cancelled());
        drop((first, third, fourth));
        assert!(stalls.state.lock().stalled.is_empty());
    }

    #[test]
    fn who_stalls_much_loses_its_own() {
        let stalls = Stalls::new(4);
        let other = stalls.enter(pod(2));
        let greedy: Vec<Stalled> = (0..10).map(|_| stalls.enter(pod(1))).collect();
        assert!(!other.over.is_cancelled());
        let broken: Vec<bool> = greedy.iter().map(|one| one.over.is_cancelled()).collect();
        assert_eq!(broken, [vec![true; 7], vec![false; 3]].concat(), "its longest first");
        let late = stalls.enter(pod(3));
        assert!(!other.over.is_cancelled() && !late.over.is_cancelled() && greedy[7].over.is_cancelled());
    }
}
