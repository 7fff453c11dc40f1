//! A CPU limit as a bucket of time. Pure: the time comes from outside.
//!
//! The bucket fills at the rate of the limit and holds what the limit allows in one period, so that after idleness no
//! more than that is spent at once, as with CFS bandwidth control. What is taken beyond its content is owed: nothing is
//! spent again before the debt is paid and half a period's worth is there. Half, because then a pause that lasts
//! somewhat longer than it should loses nothing, and pauses are few.

use std::time::{Duration, Instant};

/// As with CFS bandwidth control.
const PERIOD: Duration = Duration::from_millis(100);
/// Contents are counted in nanoseconds of CPU times this, so that thousandths of a core add up exactly.
const UNIT: i128 = 1000;

/// See the module.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Thousandths of a core.
    limit_millis: i128,
    content: i128,
    /// Up to when it was filled.
    filled: Instant,
    paused: bool,
}

impl Bucket {
    /// A full one. A limit of nothing is one of a thousandth: a guest that could never run could not be stopped nicely.
    pub(super) fn new(limit_millis: u32, now: Instant) -> Self {
        let mut bucket = Self { limit_millis: i128::from(limit_millis.max(1)), content: 0, filled: now, paused: false };
        bucket.content = bucket.capacity();
        bucket
    }

    /// What one period brings.
    fn capacity(&self) -> i128 {
        nanos(PERIOD) * self.limit_millis
    }

    /// Counts what was used.
    pub(super) fn take(&mut self, used_nanos: u64) {
        self.content -= i128::from(used_nanos) * UNIT;
    }

    /// The same, but no more is owed than one period brings: for what may be spent all the same.
    pub(super) fn take_forgiving(&mut self, used_nanos: u64) {
        self.take(used_nanos);
        self.content = self.content.max(-self.capacity());
    }

    /// How long nothing may be spent; `None` when something may be now.
    pub(super) fn pause(&mut self, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.filled);
        self.filled = self.filled.max(now);
        self.content = (self.content + nanos(since) * self.limit_millis).min(self.capacity());
        let enough = if self.paused { self.capacity() / 2 } else { 1 };
        let missing = if self.content < enough { (self.capacity() / 2 - self.content).max(1) } else { 0 };
        self.paused = missing > 0;
        self.paused.then(|| {
            let nanos = (missing + self.limit_millis - 1) / self.limit_millis;
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        })
    }
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX / (UNIT * UNIT * UNIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn what_one_period_allows_is_there_at_once_and_no_more_after_idleness() {
        let start = Instant::now();
        let mut bucket = Bucket::new(200, start);
        bucket.take(20 * MS - 1);
        assert_eq!(bucket.pause(start), None);
        bucket.take(1);
        assert_eq!(bucket.pause(start), Some(ms(50)), "half a period's worth must be there again");
        let later = start + Duration::from_hours(10);
        assert_eq!(bucket.pause(later), None);
        bucket.take(20 * MS);
        assert!(bucket.pause(later).is_some(), "ten hours brought no more than a period does");
    }

    #[test]
    fn a_pause_lasts_until_half_is_there() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100, start);
        bucket.take(10 * MS);
        assert_eq!(bucket.pause(start), Some(ms(50)));
        assert_eq!(bucket.pause(start + ms(30)), Some(ms(20)));
        assert_eq!(bucket.pause(start + ms(50)), None);
        bucket.take(MS);
        assert_eq!(bucket.pause(start + ms(50)), None, "what is there may be spent to the end");
    }

    #[test]
    fn debts_are_paid() {
        let start = Instant::now();
        let mut bucket = Bucket::new(500, start);
        bucket.take(1050 * MS);
        assert_eq!(bucket.pause(start), Some(ms(2050)), "a second owed at half a core, and then some");
        assert_eq!(bucket.pause(start + ms(2050)), None);
    }

    #[test]
    fn what_may_be_spent_all_the_same_is_not_owed_for_long() {
        let start = Instant::now();
        let mut bucket = Bucket::new(500, start);
        bucket.take_forgiving(3_600_000 * MS);
        assert_eq!(bucket.pause(start), Some(ms(150)));
        assert_eq!(bucket.pause(start + ms(150)), None);
    }

    #[test]
    fn whoever_spends_what_it_can_gets_its_limit() {
        for (limit, step) in [(1, 2), (10, 2), (200, 2), (333, 1), (1000, 2), (1900, 7)] {
            let start = Instant::now();
            let (mut bucket, mut now, mut used) = (Bucket::new(limit, start), start, 0);
            while now < start + Duration::from_secs(100) {
                if let Some(pause) = bucket.pause(now) {
                    // As with a timer that counts in milliseconds, and is late.
                    now += pause + ms(2);
                    continue;
                }
                // On two processors, say.
                bucket.take(2 * step * MS);
                used += 2 * step * MS;
                now += ms(step);
            }
            let allowed = u64::from(limit) * 100 * MS;
            let spare = u64::from(limit) * MS / 10 + 14 * MS;
            assert!(used <= allowed + spare, "{limit}: {used} of {allowed}");
            assert!(limit < 50 || used >= allowed / 100 * 98, "{limit}: {used} of {allowed}");
        }
    }

    #[test]
    fn time_that_stands_still_or_goes_back_brings_nothing() {
        let now = Instant::now() + ms(1000);
        let mut bucket = Bucket::new(100, now);
        bucket.take(10 * MS);
        assert_eq!(bucket.pause(now.checked_sub(ms(500)).unwrap()), Some(ms(50)));
        assert_eq!(bucket.pause(now), Some(ms(50)));
    }
}
