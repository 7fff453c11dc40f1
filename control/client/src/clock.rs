//! Time as an input. Loops wait and stamp only through a [`Clock`], so that tests turn time by hand and never sleep.

use futures::future::{BoxFuture, FutureExt};
use std::time::{Duration, Instant};
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

/// Wall time for stamps, monotonic time for waiting.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock.
    fn now(&self) -> OffsetDateTime;

    /// Time since some fixed point; never goes back.
    fn monotonic(&self) -> Duration;

    /// Resolves when [`Clock::monotonic`] has reached `moment`.
    fn sleep_until(&self, moment: Duration) -> BoxFuture<'static, ()>;

    /// Resolves `duration` from now.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.monotonic().saturating_add(duration))
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Monotonic time starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep_until(&self, moment: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(moment.saturating_sub(self.monotonic())).boxed()
    }
}

/// `2026-11-20T11:35:00Z`, the form of `metav1.Time`.
#[must_use]
pub fn seconds_text(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    at.to_offset(time::UtcOffset::UTC).format(format).unwrap_or_default()
}

/// `2026-11-20T11:35:00.000000Z`, the form of `metav1.MicroTime`.
#[must_use]
pub fn micros_text(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    at.to_offset(time::UtcOffset::UTC).format(format).unwrap_or_default()
}

/// Reads either form; `None` for anything else.
#[must_use]
pub fn parse(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_written_and_read_as_kubernetes_does() {
        let at = time::macros::datetime!(2026-11-20 13:35:07.123456789 +02:00);
        assert_eq!(seconds_text(at), "2026-11-20T11:35:07Z");
        assert_eq!(micros_text(at), "2026-11-20T11:35:07.123456Z");
        assert_eq!(parse("2026-11-20T11:35:07Z").map(OffsetDateTime::unix_timestamp), Some(at.unix_timestamp()));
        assert_eq!(parse("2026-11-20T11:35:07.5Z").map(OffsetDateTime::millisecond), Some(500));
        assert_eq!(parse("yesterday"), None);
    }
}
