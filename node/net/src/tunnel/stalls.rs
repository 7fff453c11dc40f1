//! Connections whose pod has stopped to read. What waits in them is this node's memory, and takes from what all connections with
//! a peer may have waiting: so only some may stall at a time. When there are more, the one that has stalled longest is broken.

use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};
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
    /// In the order in which they stalled.
    stalled: BTreeMap<u64, CancellationToken>,
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

    /// One more has stalled.
    pub(super) fn enter(self: &Arc<Self>) -> Stalled {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        let over = CancellationToken::new();
        state.stalled.insert(number, over.clone());
        if state.stalled.len() > self.max
            && let Some((_, oldest)) = state.stalled.pop_first()
        {
            oldest.cancel();
        }
        Stalled { stalls: Arc::clone(self), number, over }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_has_stalled_longest_goes_first() {
        let stalls = Stalls::new(2);
        let (first, second) = (stalls.enter(), stalls.enter());
        assert!(!first.over.is_cancelled() && !second.over.is_cancelled());
        let third = stalls.enter();
        assert!(first.over.is_cancelled() && !second.over.is_cancelled());
        drop(second);
        let fourth = stalls.enter();
        assert!(!third.over.is_cancelled() && !fourth.over.is_cancelled());
        drop((first, third, fourth));
        assert!(stalls.state.lock().stalled.is_empty());
    }
}
