//! Exponential back-off with jitter.

use rand::Rng;
use std::time::Duration;

/// How long to wait between attempts: doubling from `first` to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// Before the second attempt.
    pub first: Duration,
    /// Never longer than this.
    pub max: Duration,
}

impl BackoffPolicy {
    /// The wait after `failures` failures in a row (0: none), without jitter.
    #[must_use]
    pub fn delay(self, failures: u32) -> Duration {
        if failures == 0 {
            return Duration::ZERO;
        }
        let factor = 2_u32.saturating_pow(failures - 1);
        self.first.saturating_mul(factor).min(self.max)
    }
}

/// Counts failures in a row and says how long to wait.
#[derive(Debug, Clone)]
pub struct Backoff {
    policy: BackoffPolicy,
    failures: u32,
}

impl Backoff {
    /// No failure yet.
    #[must_use]
    pub const fn new(policy: BackoffPolicy) -> Self {
        Self { policy, failures: 0 }
    }

    /// Notes a failure and answers how long to wait: between half of the delay and all of it, so that many that failed
    /// together do not come back together.
    pub fn fail(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let full = self.policy.delay(self.failures);
        full.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Notes a success.
    pub fn succeed(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BackoffPolicy = BackoffPolicy { first: Duration::from_secs(1), max: Duration::from_secs(10) };

    #[test]
    fn doubles_up_to_the_maximum() {
        for (failures, seconds) in [(0, 0), (1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (40, 10), (u32::MAX, 10)] {
            assert_eq!(POLICY.delay(failures), Duration::from_secs(seconds), "after {failures} failures");
        }
    }

    #[test]
    fn jitter_stays_within_half_and_whole() {
        let mut backoff = Backoff::new(POLICY);
        for failures in 1..50 {
            let (wait, full) = (backoff.fail(), POLICY.delay(failures));
            assert!(wait >= full / 2 && wait <= full, "{wait:?} of {full:?}");
        }
        backoff.succeed();
        assert!(backoff.fail() <= POLICY.first);
    }
}
