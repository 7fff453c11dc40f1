//! Wall-clock time as the API spells it, and the time by which pods' owners wait.

use std::time::Duration;
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};
use tokio::time::Instant;

/// Seconds, as `metav1.Time`: `2026-11-20T11:41:57Z`.
pub(crate) fn seconds(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    at.format(format).unwrap_or_default()
}

/// Nanoseconds of fixed width, as a CRI log has them.
pub(crate) fn nanos(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
    at.format(format).unwrap_or_default()
}

/// Reads any RFC 3339 time.
pub(crate) fn parse(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

/// Now, in UTC.
pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// Time as a pod's owner task sees it: real, except that tests let it run faster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    origin: Instant,
    speed: u32,
}

impl Pace {
    /// A second is a second.
    pub(crate) fn real() -> Self {
        Self { origin: Instant::now(), speed: 1 }
    }

    #[cfg(test)]
    pub(crate) fn fast(speed: u32) -> Self {
        Self { origin: Instant::now(), speed }
    }

    /// Now.
    pub(crate) fn now(&self) -> Instant {
        self.origin + self.origin.elapsed() * self.speed
    }

    /// Waits until `at`, as [`Self::now`] counts.
    pub(crate) async fn sleep_until(&self, at: Instant) {
        tokio::time::sleep_until(self.origin + at.saturating_duration_since(self.origin) / self.speed).await;
    }

    /// Waits for so long.
    pub(crate) async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration / self.speed).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spelt_as_the_api_does() {
        let at = parse("2026-11-20T11:41:57.0123456789Z").unwrap();
        assert_eq!(seconds(at), "2026-11-20T11:41:57Z");
        assert_eq!(nanos(at), "2026-11-20T11:41:57.012345678Z");
        assert_eq!(parse("2026-11-20T12:41:57+01:00").map(|at| at == at.to_offset(time::UtcOffset::UTC)), Some(true));
        assert_eq!(parse("yesterday"), None);
    }
}
