//! A clock that stands still until a test turns it.

use crate::clock::Clock;
use futures::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use time::{OffsetDateTime, macros::datetime};
use tokio::sync::oneshot;

/// What wall time is when monotonic time is zero.
pub const EPOCH: OffsetDateTime = datetime!(2026-01-01 00:00:00 UTC);

/// How many turns the other tasks of a single-threaded runtime get to come to rest.
const SETTLE_TURNS: usize = 300;

#[derive(Default)]
struct State {
    elapsed: Duration,
    sequence: u64,
    sleepers: BTreeMap<(Duration, u64), oneshot::Sender<()>>,
}

/// Time turned by hand; clones share it. For tests on a single-threaded runtime.
#[derive(Clone, Default)]
pub struct ManualClock {
    state: Arc<Mutex<State>>,
}

impl ManualClock {
    /// Stands at [`EPOCH`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets every other task run until all of them wait.
    pub async fn settle(&self) {
        for _ in 0..SETTLE_TURNS {
            tokio::task::yield_now().await;
        }
    }

    /// Moves on by `duration`, waking sleepers in the order of their times and letting tasks settle after each.
    pub async fn advance(&self, duration: Duration) {
        self.settle().await;
        let end = self.state.lock().elapsed + duration;
        while self.wake_next(end) {
            self.settle().await;
        }
        self.state.lock().elapsed = end;
        self.settle().await;
    }

    /// Moves on until `condition` holds.
    ///
    /// # Panics
    /// When it does not within `limit` of this clock's time.
    pub async fn run_until(&self, limit: Duration, mut condition: impl FnMut() -> bool) {
        let end = self.state.lock().elapsed + limit;
        self.settle().await;
        while !condition() {
            assert!(self.wake_next(end), "the condition did not hold within {limit:?}");
            self.settle().await;
        }
    }

    fn wake_next(&self, end: Duration) -> bool {
        let mut state = self.state.lock();
        // Sleepers whose future was dropped would only cost turns.
        state.sleepers.retain(|_, wake| !wake.is_closed());
        let Some(entry) = state.sleepers.first_entry().filter(|entry| entry.key().0 <= end) else { return false };
        let ((at, _), wake) = entry.remove_entry();
        state.elapsed = state.elapsed.max(at);
        let _ = wake.send(());
        true
    }
}

impl Clock for ManualClock {
    fn now(&self) -> OffsetDateTime {
        EPOCH + self.state.lock().elapsed
    }

    fn monotonic(&self) -> Duration {
        self.state.lock().elapsed
    }

    fn sleep_until(&self, moment: Duration) -> BoxFuture<'static, ()> {
        let mut state = self.state.lock();
        if moment <= state.elapsed {
            return futures::future::ready(()).boxed();
        }
        let (wake, woken) = oneshot::channel();
        state.sequence += 1;
        let sequence = state.sequence;
        state.sleepers.insert((moment, sequence), wake);
        woken.map(|_| ()).boxed()
    }
}
