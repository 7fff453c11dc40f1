//! When one probe of one run is due, and what its results come to. Pure: time comes in, nothing is done.
//!
//! ```text
//!  Waiting ── the container has started ──▶ Due(at) ── begin ──▶ Flying ── done ──▶ Due(next)
//!  (while there is a startup probe)                                       └──▶ Over (a verdict that ends it)
//! ```
//!
//! Until they have succeeded once, startup and readiness probes look early and often within their first period: a container
//! that is ready at once is told so at once. What fails then does not count, so that a container always has
//! `failureThreshold` whole periods. A liveness probe without a delay begins after one period for the same reason.

use super::spec::{Kind, Spec};
use std::time::Duration;
use tokio::time::Instant;

/// How long after the first early look over the network the second one comes; each next one takes twice as long.
const EARLY_FIRST: Duration = Duration::from_millis(50);
/// The same for a command.
const EARLY_COMMAND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Due(Instant),
    Flying(Instant),
    Over,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) spec: Spec,
    /// When the run began, or when probes of pods that are older than this agent may begin.
    from: Instant,
    phase: Phase,
    /// While looks are early: how long until the next one, and when the first that counts is due.
    early: Option<(Duration, Instant)>,
    /// The last result, and how many in a row were like it.
    last: Option<bool>,
    row: u32,
    told: Option<bool>,
}

impl Schedule {
    /// Of a run that begins at `from`. `waits`: until a startup probe has succeeded.
    pub(super) fn new(spec: Spec, from: Instant, waits: bool) -> Self {
        let mut schedule = Self { spec, from, phase: Phase::Waiting, early: None, last: None, row: 0, told: None };
        if !waits {
            schedule.open(from);
        }
        schedule
    }

    fn open(&mut self, now: Instant) {
        let spec = &self.spec;
        let first = (self.from + spec.initial_delay).max(now);
        if spec.kind == Kind::Liveness {
            let pause = if spec.initial_delay.is_zero() { spec.period } else { Duration::ZERO };
            self.phase = Phase::Due(first + pause);
        } else {
            let step = if spec.is_command { EARLY_COMMAND } else { EARLY_FIRST };
            self.early = Some((step, first + spec.period));
            self.phase = Phase::Due(first);
        }
    }

    /// The startup probe has succeeded: the others begin.
    pub(super) fn container_started(&mut self, now: Instant) {
        if self.phase == Phase::Waiting {
            self.open(now);
        }
    }

    /// When to probe next; `None` while a probe is under way, or none is to be made.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Due(at) => Some(at),
            Phase::Waiting | Phase::Flying(_) | Phase::Over => None,
        }
    }

    /// A probe is under way.
    pub(super) fn begin(&mut self) {
        if let Phase::Due(at) = self.phase {
            self.phase = Phase::Flying(at);
        }
    }

    /// Whether a failure of the probe under way does not count.
    pub(super) fn is_early(&self) -> bool {
        match (self.early, self.phase) {
            (Some((_, counts)), Phase::Flying(at)) => at < counts,
            _ => false,
        }
    }

    /// The probe under way has ended; `None`: it could not be made, which says nothing. Answers the verdict if it is a new
    /// one.
    pub(super) fn done(&mut self, result: Option<bool>, now: Instant) -> Option<bool> {
        let Phase::Flying(at) = self.phase else { return None };
        if self.is_early() && result != Some(true) {
            self.look_early_again(now);
            return None;
        }
        self.early = None;
        // One that took longer than a period is followed by the next at once, and no faster than that.
        self.phase = Phase::Due((at + self.spec.period).max(now));
        let healthy = result?;
        self.row = if self.last == Some(healthy) { self.row.saturating_add(1) } else { 1 };
        self.last = Some(healthy);
        let threshold = if healthy { self.spec.success_threshold } else { self.spec.failure_threshold };
        if self.row < threshold {
            return None;
        }
        let ends_it = match self.spec.kind {
            Kind::Startup => true,
            Kind::Liveness => !healthy,
            Kind::Readiness => false,
        };
        if ends_it {
            self.phase = Phase::Over;
        }
        (self.told.replace(healthy) != Some(healthy)).then_some(healthy)
    }

    fn look_early_again(&mut self, now: Instant) {
        let Some((step, counts)) = &mut self.early else { return };
        let next = now + *step;
        *step *= 2;
        // So short before the first that counts there is nothing to win.
        self.phase = Phase::Due(if next + *step > *counts { (*counts).max(now) } else { next });
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
