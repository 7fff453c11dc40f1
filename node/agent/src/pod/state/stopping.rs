//! How one run is brought to its end, pure: hook, turn, being asked, being ended, being given up on.
//!
//! ```text
//!  begin ──preStop, grace > 0──▶ Hook ──done, or the grace is over──▶ Turn ──its turn, or the grace is over──▶ Asked
//!    └──────────────────────────────────────────────────────────────▲                                           │
//!                    GivenUp ◀──patience over── Killed ◀──the grace is over, but two seconds at least──────────────┘
//! ```
//!
//! A run that ends at any point leaves this machine altogether. It must never let a run outlive its grace period.

use crate::guests::KILL_PATIENCE;
use std::time::Duration;
use tokio::time::Instant;

/// However much of its grace a hook or its turn took, a container gets as long between being asked and being ended.
pub(crate) const GRACE_MIN: Duration = Duration::from_secs(2);

/// What to do about a run now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Run its `preStop` hook, for as long at most.
    PreStop(Duration),
    /// Ask it to end.
    Ask,
    /// End it.
    Kill,
    /// Its end was not even reported: take it for ended.
    GiveUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Begun,
    Hook,
    Turn,
    Asked,
    Killed,
    GivenUp,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stopping {
    step: Step,
    has_hook: bool,
    /// End of the grace period.
    until: Instant,
    /// When it is ended, or given up on.
    next: Instant,
}

impl Stopping {
    /// `has_hook`: it has a `preStop` hook to run.
    pub(crate) fn new(has_hook: bool, now: Instant, grace: Duration) -> Self {
        let has_hook = has_hook && !grace.is_zero();
        Self { step: Step::Begun, has_hook, until: now + grace, next: now }
    }

    /// Less grace than before; more is not given.
    pub(crate) fn shorten(&mut self, now: Instant, grace: Duration) {
        self.until = self.until.min(now + grace);
        if self.step == Step::Asked {
            self.next = self.next.min(self.until.max(now + GRACE_MIN));
        }
    }

    /// The hook has ended, however it did.
    pub(crate) fn hook_done(&mut self) {
        if self.step == Step::Hook {
            self.step = Step::Turn;
        }
    }

    /// Whether it was ended already: what was launched only now must not be asked first.
    pub(crate) fn is_killed(&self) -> bool {
        matches!(self.step, Step::Killed | Step::GivenUp)
    }

    /// Whether it was asked to end already.
    pub(crate) fn is_asked(&self) -> bool {
        matches!(self.step, Step::Asked | Step::Killed | Step::GivenUp)
    }

    /// What to do at `now`, if anything, and when to look again. `turn`: nothing that must end before it still runs.
    pub(crate) fn advance(&mut self, now: Instant, turn: bool) -> (Option<Act>, Instant) {
        if self.step == Step::Begun {
            if self.has_hook {
                self.step = Step::Hook;
                return (Some(Act::PreStop(self.until.saturating_duration_since(now))), self.until);
            }
            self.step = Step::Turn;
        }
        match self.step {
            Step::Begun | Step::Hook | Step::Turn => {
                let waits = self.step == Step::Hook || !turn;
                if waits && now < self.until {
                    return (None, self.until);
                }
                self.step = Step::Asked;
                self.next = self.until.max(now + GRACE_MIN);
                (Some(Act::Ask), self.next)
            }
            Step::Asked if now >= self.next => {
                self.step = Step::Killed;
                self.next = now + KILL_PATIENCE;
                (Some(Act::Kill), self.next)
            }
            Step::Killed if now >= self.next => {
                self.step = Step::GivenUp;
                (Some(Act::GiveUp), now + KILL_PATIENCE)
            }
            Step::Asked | Step::Killed => (None, self.next),
            Step::GivenUp => (None, now + KILL_PATIENCE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// What happens at which second when the hook ends at `hook_at` and the turn comes at `turn_at`.
    fn story(has_hook: bool, grace: u64, hook_at: u64, turn_at: u64) -> Vec<(u64, Act)> {
        let start = Instant::now();
        let mut stopping = Stopping::new(has_hook, start, seconds(grace));
        let mut story = Vec::new();
        for second in 0..100 {
            let now = start + seconds(second);
            if second == hook_at {
                stopping.hook_done();
            }
            while let (Some(act), _) = stopping.advance(now, second >= turn_at) {
                story.push((second, act));
                if act == Act::GiveUp {
                    return story;
                }
            }
        }
        story
    }

    #[tokio::test]
    async fn a_run_is_asked_and_then_ended() {
        use Act::{Ask, GiveUp, Kill, PreStop};
        let patience = KILL_PATIENCE.as_secs();
        // (hook?, grace, the hook ends at, its turn comes at) → what happens when
        for (has_hook, grace, hook_at, turn_at, expected) in [
            (false, 30, 0, 0, vec![(0, Ask), (30, Kill)]),
            (true, 30, 5, 0, vec![(0, PreStop(seconds(30))), (5, Ask), (30, Kill)]),
            // A hook that never ends is not waited for beyond the grace; what it left is too little.
            (true, 30, 99, 0, vec![(0, PreStop(seconds(30))), (30, Ask), (32, Kill)]),
            (true, 30, 29, 0, vec![(0, PreStop(seconds(30))), (29, Ask), (31, Kill)]),
            // Others go first, but not for ever.
            (false, 30, 0, 7, vec![(7, Ask), (30, Kill)]),
            (false, 30, 0, 99, vec![(30, Ask), (32, Kill)]),
            (true, 30, 3, 10, vec![(0, PreStop(seconds(30))), (10, Ask), (30, Kill)]),
            // No time for a hook at all.
            (true, 0, 99, 0, vec![(0, Ask), (2, Kill)]),
            (false, 1, 0, 0, vec![(0, Ask), (2, Kill)]),
        ] {
            let mut expected = expected;
            expected.push((expected.last().unwrap().0 + patience, GiveUp));
            assert_eq!(story(has_hook, grace, hook_at, turn_at), expected, "{has_hook} {grace} {hook_at} {turn_at}");
        }
    }

    #[tokio::test]
    async fn grace_is_only_ever_shortened() {
        let start = Instant::now();
        for (grace, expected) in [(3, 13), (1, 12), (500, 30)] {
            let mut stopping = Stopping::new(false, start, seconds(30));
            assert_eq!(stopping.advance(start, true).0, Some(Act::Ask));
            stopping.shorten(start + seconds(10), seconds(grace));
            let (act, next) = stopping.advance(start + seconds(10), true);
            assert_eq!((act, next), (None, start + seconds(expected)), "{grace}");
        }
        let mut in_hook = Stopping::new(true, start, seconds(30));
        assert!(matches!(in_hook.advance(start, true).0, Some(Act::PreStop(_))));
        in_hook.shorten(start + seconds(1), seconds(1));
        assert_eq!(in_hook.advance(start + seconds(2), true), (Some(Act::Ask), start + seconds(4)));
        in_hook.hook_done();
        assert!(in_hook.is_asked() && !in_hook.is_killed(), "a late end of the hook changes nothing");
    }
}
