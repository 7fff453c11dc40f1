//! Wall-clock time as the API spells it.

use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

/// Seconds, as `metav1.Time`: `2026-11-20T11:41:57Z`.
pub(crate) fn seconds(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    at.format(format).unwrap_or_default()
}

/// Microseconds, as `metav1.MicroTime`.
pub(crate) fn micros(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spelt_as_the_api_does() {
        let at = parse("2026-11-20T11:41:57.0123456789Z").unwrap();
        assert_eq!(seconds(at), "2026-11-20T11:41:57Z");
        assert_eq!(micros(at), "2026-11-20T11:41:57.012345Z");
        assert_eq!(nanos(at), "2026-11-20T11:41:57.012345678Z");
        assert_eq!(parse("2026-11-20T12:41:57+01:00").map(|at| at == at.to_offset(time::UtcOffset::UTC)), Some(true));
        assert_eq!(parse("yesterday"), None);
    }
}
