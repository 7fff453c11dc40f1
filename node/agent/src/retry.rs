//! How long to wait before trying again.

use rand::Rng;
use std::{collections::VecDeque, fmt, time::Duration};
use tokio::time::Instant;

/// Waiting times towards the control plane: they double up to a bound, with jitter so that the nodes of a
/// restarted server do not all come back in the same instant.
#[derive(Debug, Clone)]
pub(crate) struct Reconnect {
    next: Duration,
    /// What has been said since it last worked, the newest last.
    said: VecDeque<String>,
}

impl Reconnect {
    const FIRST: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(10);
    /// How many errors that take turns are told apart.
    const SAID_MAX: usize = 4;

    pub(crate) fn new() -> Self {
        Self { next: Self::FIRST, said: VecDeque::new() }
    }

    /// It worked: start over.
    pub(crate) fn reset(&mut self) {
        self.next = Self::FIRST;
        self.said.clear();
    }

    /// Whether an error with these words has not been said since it last worked: what is worth a warning once is noise the
    /// tenth time, but another error is not, and the first one seldom is the reason. From now on it has been said.
    pub(crate) fn is_news(&mut self, error: &(impl fmt::Display + ?Sized)) -> bool {
        let words = error.to_string();
        if self.said.contains(&words) {
            return false;
        }
        if self.said.len() == Self::SAID_MAX {
            self.said.pop_front();
        }
        self.said.push_back(words);
        true
    }

    /// Whether nothing failed since it last worked.
    pub(crate) fn is_first(&self) -> bool {
        self.next == Self::FIRST
    }

    /// The next waiting time: between half of the bound reached and all of it.
    pub(crate) fn delay(&mut self) -> Duration {
        let bound = self.next;
        self.next = (bound * 2).min(Self::MAX);
        bound.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// A kubelet's back-off for containers and images: 10 s, doubling to 5 minutes, forgotten when nothing happened for
/// ten minutes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    current: Duration,
    updated: Option<Instant>,
}

impl Backoff {
    pub(crate) const FIRST: Duration = Duration::from_secs(10);
    pub(crate) const MAX: Duration = Duration::from_mins(5);
    /// As long a container must run, or an image be left alone, to start from the beginning.
    pub(crate) const FORGET_AFTER: Duration = Duration::from_mins(10);

    fn is_forgotten(&self, at: Instant) -> bool {
        self.updated.is_none_or(|updated| at.saturating_duration_since(updated) > Self::FORGET_AFTER)
    }

    /// Counts one more try and says how long to wait after it.
    pub(crate) fn next(&mut self, now: Instant) -> Duration {
        self.current = if self.is_forgotten(now) { Self::FIRST } else { (self.current * 2).min(Self::MAX) };
        self.updated = Some(now);
        self.current
    }

    /// Until when something that failed at `failed` has to wait; `None`: it may be tried at once.
    pub(crate) fn until(&self, failed: Instant) -> Option<Instant> {
        (!self.is_forgotten(failed)).then(|| failed + self.current)
    }

    /// The waiting time that counts now.
    pub(crate) fn current(&self) -> Duration {
        self.current
    }
}

/// A duration as Go prints it, e.g. `10s`, `1m20s`, `5m0s`: kubelet's messages carry it.
pub(crate) fn go_duration(duration: Duration) -> String {
    let (minutes, seconds) = (duration.as_secs() / 60, duration.as_secs() % 60);
    if minutes > 0 { format!("{minutes}m{seconds}s") } else { format!("{seconds}s") }
}

/// A measured time as kubelet's `Pulled` event has it: milliseconds below a second, `1.234s` above.
pub(crate) fn measured(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 { format!("{millis}ms") } else { format!("{}.{:03}s", millis / 1000, millis % 1000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn crashes_wait_longer_each_time_and_are_forgotten() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.until(start), None, "the first restart is immediate");
        let mut now = start;
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            let delay = backoff.next(now);
            assert_eq!(delay, Duration::from_secs(expected));
            assert_eq!(backoff.until(now), Some(now + delay));
            now += delay;
        }
        let later = now + Backoff::FORGET_AFTER + Duration::from_secs(1);
        assert_eq!(backoff.until(later), None);
        assert_eq!(backoff.next(later), Backoff::FIRST);
    }

    #[test]
    fn reconnecting_is_bounded_and_jittered() {
        let mut reconnect = Reconnect::new();
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            last = reconnect.delay();
            assert!(last >= Reconnect::FIRST / 2 && last <= Reconnect::MAX);
        }
        assert!(last >= Reconnect::MAX / 2);
        reconnect.reset();
        assert!(reconnect.delay() <= Reconnect::FIRST);
    }

    #[test]
    fn an_error_is_said_until_it_repeats_itself() {
        let mut reconnect = Reconnect::new();
        let mut said = |words: &[&str]| -> Vec<bool> { words.iter().map(|one| reconnect.is_news(*one)).collect() };
        assert_eq!(said(&["cut", "refused", "refused", "cut", "refused"]), [true, true, false, false, false]);
        assert_eq!(said(&["c", "d", "e", "refused", "cut"]), [true, true, true, false, true], "few are remembered");
        reconnect.delay();
        reconnect.reset();
        assert!(reconnect.is_news("cut") && !reconnect.is_news("cut"), "it worked in between");
    }

    #[test]
    fn durations_read_as_kubelets() {
        for (seconds, text) in [(10, "10s"), (80, "1m20s"), (300, "5m0s"), (0, "0s")] {
            assert_eq!(go_duration(Duration::from_secs(seconds)), text);
        }
        assert_eq!(measured(Duration::from_millis(12)), "12ms");
        assert_eq!(measured(Duration::from_millis(1034)), "1.034s");
    }
}
