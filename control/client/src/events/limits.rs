//! How many events are kept and written, so that a noisy object cannot fill the store.

use std::time::Duration;

/// Occurrences waiting to be written; more are dropped.
pub const QUEUE: usize = 4096;

/// Occurrences written at once.
pub const BATCH: usize = 256;

/// Events remembered so that they can be counted up.
pub const REMEMBERED: usize = 4096;

/// Longest message, as Kubernetes' validation has it.
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// A rate: so many at once, and one more every `refill`.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// Time after which one more is allowed.
    pub refill: Duration,
}

/// About one object, the rate that client-go has.
pub const PER_OBJECT: Rate = Rate { burst: 25, refill: Duration::from_mins(5) };

/// Of one component about everything.
pub const PER_COMPONENT: Rate = Rate { burst: 2000, refill: Duration::from_millis(2) };

/// A token bucket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    tokens: f64,
    filled_at: Duration,
}

impl Bucket {
    pub(super) fn full(rate: Rate, now: Duration) -> Self {
        Self { tokens: f64::from(rate.burst), filled_at: now }
    }

    /// Takes one token if there is one.
    pub(super) fn take(&mut self, rate: Rate, now: Duration) -> bool {
        let gained = now.saturating_sub(self.filled_at).as_secs_f64() / rate.refill.as_secs_f64();
        self.tokens = (self.tokens + gained).min(f64::from(rate.burst));
        self.filled_at = now;
        let taken = self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate { burst: 2, refill: Duration::from_secs(10) };
        let mut bucket = Bucket::full(rate, Duration::ZERO);
        let table = [(0, true), (0, true), (0, false), (9, false), (10, true), (11, false), (1000, true), (1000, true)];
        for (second, expected) in table {
            assert_eq!(bucket.take(rate, Duration::from_secs(second)), expected, "at {second} s");
        }
        assert!(!bucket.take(rate, Duration::from_secs(1000)), "never more than the burst");
    }
}
