//! How much each runner's guests may compute when all want to: by what was requested for the containers in it.
//!
//! Within a runner, requests are weighed by itself. Between runners the kernel weighs threads by their niceness, a quarter
//! for each step, and every runner has as many that compute; so the ratio of two runners' sums becomes a number of steps
//! between them, rounded to the nearest: at most an eighth is wrong with it, up to the 18-fold, where steps end.
//!
//! Only containers that run count, busy or idle; a runner in which nobody computes takes nothing from others.

use super::Runner;
use coracle_runner::protocol::{NICENESS_MAX, NICENESS_MIN};
use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::Notify;
use tracing::debug;

/// Between two times that runners are weighed, however often pods come and go.
const WEIGH_INTERVAL: Duration = Duration::from_millis(100);
/// A runner that does not take a frame for so long is told another time.
const TELL_PATIENCE: Duration = Duration::from_secs(2);
/// Where niceness only rises: by so many steps a ratio may be wrong before others rise to set it right. Otherwise sums that go
/// up and down would drive all of them to the end.
const SLACK_STEPS: u8 = 1;

/// What one runner has been told.
#[derive(Debug)]
pub(super) struct Told {
    niceness: AtomicU8,
    /// Its threads can be brought forward again, as far as that was tried.
    falls: AtomicBool,
    /// It has to be told once more.
    again: AtomicBool,
}

impl Default for Told {
    fn default() -> Self {
        Self { niceness: AtomicU8::new(NICENESS_MIN), falls: AtomicBool::new(true), again: AtomicBool::new(false) }
    }
}

/// All runners of the node, against each other.
#[derive(Default)]
pub(super) struct Weights {
    runners: Mutex<Vec<Weak<Runner>>>,
    changed: Notify,
    is_watched: AtomicBool,
}

impl Weights {
    /// One more, of which there is nothing to be said before something runs there.
    pub(super) fn add(self: &Arc<Self>, runner: &Arc<Runner>) {
        self.runners.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(runner));
        if !self.is_watched.swap(true, Relaxed) {
            tokio::spawn(watch(self.clone()));
        }
    }

    /// What runs somewhere has changed.
    pub(super) fn changed(&self) {
        self.changed.notify_one();
    }

    fn runners(&self) -> Vec<Arc<Runner>> {
        let mut runners = self.runners.lock().unwrap_or_else(PoisonError::into_inner);
        runners.retain(|runner| runner.strong_count() > 0);
        runners.iter().filter_map(Weak::upgrade).collect()
    }

    /// Tells every runner what it does not know yet.
    async fn weigh(&self) {
        let runners = self.runners();
        let weighed = runners.iter().map(|runner| {
            let known = runner.told.niceness.load(Relaxed);
            (runner.runs().shares, if runner.told.falls.load(Relaxed) { NICENESS_MIN } else { known })
        });
        let niceness = niceness(&weighed.collect::<Vec<_>>());
        let tell = runners.iter().zip(niceness).map(|(runner, niceness)| self.tell(runner, niceness));
        futures::future::join_all(tell).await;
    }

    async fn tell(&self, runner: &Runner, niceness: u8) {
        let told = &runner.told;
        let known = told.niceness.load(Relaxed);
        if !told.again.swap(false, Relaxed) && known == niceness {
            return;
        }
        match tokio::time::timeout(TELL_PATIENCE, runner.process.stand_back(niceness)).await {
            Ok(Ok(is_done)) => {
                debug!(namespace = runner.namespace, niceness, is_done, "a runner weighs otherwise");
                told.niceness.store(if is_done { niceness } else { niceness.max(known) }, Relaxed);
                if !is_done {
                    told.falls.store(false, Relaxed);
                    self.changed();
                } else if niceness < known {
                    // A thread may just have gone back.
                    told.again.store(true, Relaxed);
                    self.changed();
                }
            }
            // It has ended.
            Ok(Err(_)) => {}
            Err(_) => {
                told.again.store(true, Relaxed);
                self.changed();
            }
        }
    }
}

/// Ends with the runtime.
async fn watch(weights: Arc<Weights>) {
    loop {
        weights.changed.notified().await;
        weights.weigh().await;
        tokio::time::sleep(WEIGH_INTERVAL).await;
    }
}

/// The niceness of each runner, of which `runners` has the shares and the least niceness that can be had.
fn niceness(runners: &[(u64, u8)]) -> Vec<u8> {
    // Nothing runs in an empty one: nobody stands back for it.
    let most = runners.iter().map(|(shares, _)| *shares).max().unwrap_or_default();
    let behind = |shares: u64| if shares == 0 { 0 } else { steps(shares, most) };
    let in_use = runners.iter().filter(|(shares, _)| *shares > 0);
    let raised = in_use.map(|(shares, least)| least.saturating_sub(behind(*shares))).max().unwrap_or_default();
    let first = raised.saturating_sub(SLACK_STEPS).clamp(NICENESS_MIN, NICENESS_MAX);
    runners.iter().map(|(shares, least)| (first + behind(*shares)).clamp(*least, NICENESS_MAX)).collect()
}

/// How often `less` must grow by a quarter to be `more`, rounded, up to what there are steps for.
fn steps(less: u64, more: u64) -> u8 {
    // Half a step ahead, which rounds; and large, so that quarters are exact enough.
    let (mut reached, more) = (u128::from(less) * 1_118_034, u128::from(more) * 1_000_000);
    let mut steps = 0;
    while reached <= more && steps < NICENESS_MAX - NICENESS_MIN {
        reached += reached / 4;
        steps += 1;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: u8 = NICENESS_MIN;
    const MAX: u8 = NICENESS_MAX;

    #[test]
    fn ratios_become_steps() {
        for (less, more, expected) in
            [(100, 100, 0), (100, 111, 0), (100, 113, 1), (100, 400, 6), (1, 10, 10), (1, 18, 13), (1, u64::MAX, 13)]
        {
            assert_eq!(steps(less, more), expected, "{less} and {more}");
        }
    }

    #[test]
    fn the_heaviest_stands_back_least() {
        for (runners, expected) in [
            (vec![], vec![]),
            (vec![0], vec![MIN]),
            (vec![100], vec![MIN]),
            (vec![409, 102, 2], vec![MIN, MIN + 6, MAX]),
            (vec![2, 2], vec![MIN, MIN]),
            (vec![102, 0], vec![MIN, MIN]),
        ] {
            let runners = runners.into_iter().map(|shares| (shares, MIN)).collect::<Vec<_>>();
            assert_eq!(niceness(&runners), expected, "{runners:?}");
        }
    }

    #[test]
    fn what_cannot_fall_moves_the_others() {
        // Somebody heavy was there and has gone.
        assert_eq!(niceness(&[(102, MIN + 6), (102, MIN)]), [MIN + 6, MIN + 5], "less than a step is wrong");
        assert_eq!(niceness(&[(102, MIN + 6), (409, MIN)]), [MIN + 6, MIN]);
        assert_eq!(niceness(&[(2, MAX), (2, MIN)]), [MAX, MAX - 1]);
        assert_eq!(niceness(&[(0, MAX), (409, MIN), (102, MIN)]), [MAX, MIN, MIN + 6], "nothing runs in the first");
        // Sums that swing by a step do not drive them on.
        let mut known = [MIN, MIN];
        for _ in 0..50 {
            for shares in [[512, 102], [409, 102]] {
                let told = niceness(&[(shares[0], known[0]), (shares[1], known[1])]);
                known = [told[0], told[1]];
            }
        }
        assert_eq!(known, [MIN, MIN + 7]);
    }
}
