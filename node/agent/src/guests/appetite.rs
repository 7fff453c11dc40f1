//! How much memory all runners take together, and who goes when it is too much.
//!
//! ```text
//!   up to three quarters of the machine   nobody is disturbed
//!   beyond                                the container of the highest rank ends, OOMKilled; then the next
//!   beyond seven eighths                  the largest runner goes: its containers do not, or not soon enough
//! ```
//!
//! The ranks are those that kubelet gives the kernel: who was promised nothing goes before who was promised something,
//! and who was promised all that it may have goes last. Each runner has a ceiling of its own between the two, which acts
//! sooner than anybody who looks from outside. (Should all that come too late, the kernel takes runners before the
//! agent: see their `oom_score_adj`.)
//!
//! What must never happen here: a runner that lies about its guests has others end for it.

mod ranks;

use super::{Runner, Runners};
use crate::machine::memory;
use coracle_runner::protocol::{RunId, ToRunner};
pub(crate) use ranks::Promise;
use ranks::{Candidate, Household};
use std::{
    fs,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tracing::{debug, warn};

/// How often the runners are looked at, which is reading a page of procfs each; and how often when they take more than
/// half of what they may.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const CLOSE_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long a runner may take to say what its guests use.
const ANSWER_PATIENCE: Duration = Duration::from_millis(500);
/// How long a container that was ended is waited for before another one is.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// What all runners of a node may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// What the machine has, or the part of it that is this agent's.
    whole_bytes: u64,
    /// What of it their guests may have.
    guests_bytes: u64,
}

impl Allowance {
    /// Three quarters of the machine, but nothing of what is reserved for others; `None` where nobody knows what it has.
    pub(crate) fn of_this_machine(reserved_bytes: u64) -> Option<Self> {
        Some(Self::of(memory::now()?.total_bytes, reserved_bytes))
    }

    /// The same for a machine of that size.
    pub(crate) fn of(whole_bytes: u64, reserved_bytes: u64) -> Self {
        Self { whole_bytes, guests_bytes: (whole_bytes / 4 * 3).min(whole_bytes.saturating_sub(reserved_bytes)) }
    }

    /// Where a runner ends containers by itself.
    pub(super) fn runner_bytes(self) -> u64 {
        self.guests_bytes + (self.whole_bytes - self.guests_bytes) / 4
    }

    /// Where a runner ends.
    fn fatal_bytes(self) -> u64 {
        self.guests_bytes + (self.whole_bytes - self.guests_bytes) / 2
    }
}

/// A container that was told to end.
struct Ended {
    runner: Weak<Runner>,
    run: RunId,
    at: Instant,
}

impl Ended {
    /// Whether it still may give back what it had.
    fn is_awaited(&self) -> bool {
        let there = self.runner.upgrade().is_some_and(|runner| runner.runs().by_id.contains_key(&self.run));
        there && self.at.elapsed() < END_PATIENCE
    }
}

/// Looks at all runners for as long as somebody has them, and sleeps while there are none.
pub(super) async fn watch(runners: Weak<Runners>, allowance: Allowance) {
    let mut ended: Option<Ended> = None;
    let mut pause = LOOK_INTERVAL;
    loop {
        let Some(started) = runners.upgrade().map(|runners| runners.started.clone()) else { return };
        if runners.upgrade().is_some_and(|runners| runners.all().is_empty()) {
            started.notified().await;
        }
        tokio::time::sleep(pause).await;
        let Some(runners) = runners.upgrade() else { return };
        let mut all: Vec<(Arc<Runner>, u64)> = runners
            .all()
            .into_iter()
            .filter_map(|runner| taken(runner.process.pid()).map(|bytes| (runner, bytes)))
            .collect();
        let used_bytes = all.iter().map(|(_, bytes)| bytes).sum::<u64>();
        pause = if used_bytes > allowance.guests_bytes / 2 { CLOSE_LOOK_INTERVAL } else { LOOK_INTERVAL };
        if used_bytes <= allowance.guests_bytes {
            continue;
        }
        all.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        if used_bytes > allowance.fatal_bytes() {
            kill(&all, used_bytes, allowance.fatal_bytes());
        } else if ended.as_ref().is_none_or(|ended| !ended.is_awaited()) {
            ended = end_one(&all, used_bytes, allowance).await;
        }
    }
}

/// Kills the first, which takes most.
fn kill(all: &[(Arc<Runner>, u64)], used_bytes: u64, ceiling_bytes: u64) {
    let Some((runner, bytes)) = all.first() else { return };
    warn!(namespace = runner.namespace, bytes, used_bytes, ceiling_bytes, "the runners take too much memory");
    runner.kill_because(format!(
        "all runners of the node took {used_bytes} bytes of memory, of at most {ceiling_bytes}, and this one most of it, \
         {bytes} bytes"
    ));
}

/// Ends the container whose turn it is.
async fn end_one(all: &[(Arc<Runner>, u64)], used_bytes: u64, allowance: Allowance) -> Option<Ended> {
    let ceiling_bytes = allowance.guests_bytes;
    let asked = all.iter().map(|(runner, bytes)| async move {
        let samples = tokio::time::timeout(ANSWER_PATIENCE, runner.sample()).await.ok().flatten().unwrap_or_default();
        let runs = runner.runs();
        let known = samples.into_iter().filter_map(|sample| {
            let promise = runs.by_id.get(&sample.run)?.promise;
            Some(Candidate { run: sample.run, counted_bytes: sample.memory_bytes, promise })
        });
        Household { taken_bytes: *bytes, candidates: known.collect() }
    });
    let households = futures::future::join_all(asked).await;
    if let Some(index) = ranks::unaccounted(&households, ceiling_bytes) {
        let (runner, bytes) = &all[index];
        warn!(namespace = runner.namespace, bytes, "a runner takes much more memory than its guests");
        runner.kill_because(format!(
            "all runners of the node took {used_bytes} bytes of memory, of at most {ceiling_bytes}, and most of the \
             {bytes} of this one are no guest's"
        ));
        return None;
    }
    let (index, run) = ranks::first(&households, allowance.whole_bytes)?;
    let runner = &all[index].0;
    warn!(namespace = runner.namespace, run = run.0, used_bytes, ceiling_bytes, "a container goes for its memory");
    let frame = ToRunner::EndForMemory { run: run.clone(), used_bytes, ceiling_bytes };
    // A runner that does not read must not keep this from looking.
    if let Err(error) = tokio::time::timeout(ANSWER_PATIENCE, runner.process.send(frame)).await {
        debug!(%error, "the runner is not there to be told");
    }
    Some(Ended { runner: Arc::downgrade(runner), run, at: Instant::now() })
}

/// Memory of a process that is nobody else's, resident or swapped, and the tables that describe it. Files that are mapped,
/// as the program and compiled code are, belong to all who map them, and are given up when memory is short.
fn taken(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    sum(&status)
}

fn sum(status: &str) -> Option<u64> {
    let optional = |key| kibibytes(status, key).unwrap_or(0);
    Some((kibibytes(status, "RssAnon")? + optional("RssShmem") + optional("VmSwap") + optional("VmPTE")) << 10)
}

fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    rest.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_all_that_is_its_own() {
        let status = "VmRSS:\t  900 kB\nRssAnon:\t  100 kB\nRssFile:\t  790 kB\nRssShmem:\t 10 kB\nVmPTE:\t 20 kB\nVmSwap:\t 3 kB\n";
        assert_eq!(sum(status), Some(133 << 10));
        assert_eq!(sum("RssAnon:\t  100 kB\n"), Some(100 << 10));
        assert_eq!(sum("Name:\tzombie\n"), None, "a process that is dead takes nothing");
        assert!(taken(std::process::id()).unwrap() < Allowance::of_this_machine(0).unwrap().whole_bytes);
    }

    #[test]
    fn the_steps_are_in_order() {
        let plain = Allowance::of(1600, 0);
        assert_eq!((plain.guests_bytes, plain.runner_bytes(), plain.fatal_bytes()), (1200, 1300, 1400));
        let reserved = Allowance::of(1600, 800);
        assert_eq!((reserved.guests_bytes, reserved.runner_bytes(), reserved.fatal_bytes()), (800, 1000, 1200));
        assert_eq!(Allowance::of(1600, u64::MAX).guests_bytes, 0);
    }
}
