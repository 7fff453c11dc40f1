//! Times and ages as `kubectl` prints them.

use super::access::text;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Unix time of an RFC 3339 timestamp.
#[must_use]
pub fn unix_seconds(timestamp: &str) -> Option<i64> {
    OffsetDateTime::parse(timestamp, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

/// Two or three figures of a duration: `45s`, `3m20s`, `2d4h`, as Kubernetes' `HumanDuration`.
#[must_use]
pub fn human_duration(seconds: i64) -> String {
    // A clock may be a little behind; two seconds or more is no age.
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    let pair = |large: i64, large_unit, small: i64, small_unit| {
        if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit}{small}{small_unit}") }
    };
    match () {
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => pair(days, "d", hours % 24, "h"),
        () if days < 365 * 2 => format!("{days}d"),
        () if days < 365 * 8 => pair(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

/// The time since a timestamp; `<unknown>` when there is none.
#[must_use]
pub fn since(timestamp: &str, now_seconds: i64) -> String {
    unix_seconds(timestamp)
        .map_or_else(|| "<unknown>".to_owned(), |then| human_duration(now_seconds.saturating_sub(then)))
}

/// The age of an object.
#[must_use]
pub fn age(object: &Value, now_seconds: i64) -> String {
    since(text(&object["metadata"], "creationTimestamp"), now_seconds)
}

#[cfg(test)]
mod tests {
    use super::{human_duration, since, unix_seconds};

    #[test]
    fn durations_have_two_or_three_figures() {
        const MINUTE: i64 = 60;
        const HOUR: i64 = 60 * MINUTE;
        const DAY: i64 = 24 * HOUR;
        const YEAR: i64 = 365 * DAY;
        let cases = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (2 * MINUTE, "2m"),
            (2 * MINUTE + 5, "2m5s"),
            (10 * MINUTE + 59, "10m"),
            (179 * MINUTE, "179m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + 5 * MINUTE, "3h5m"),
            (8 * HOUR + 59 * MINUTE, "8h"),
            (47 * HOUR, "47h"),
            (2 * DAY, "2d"),
            (2 * DAY + 3 * HOUR, "2d3h"),
            (8 * DAY + 3 * HOUR, "8d"),
            (2 * YEAR - DAY, "729d"),
            (2 * YEAR + 5 * DAY, "2y5d"),
            (3 * YEAR, "3y"),
            (9 * YEAR + 5 * DAY, "9y"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn timestamps_may_have_fractions() {
        assert_eq!(unix_seconds("1970-01-01T00:01:00Z"), Some(60));
        assert_eq!(since("1970-01-01T00:01:00.000001Z", 65), "5s");
        assert_eq!(since("", 65), "<unknown>");
        assert_eq!(since("yesterday", 65), "<unknown>");
    }
}
