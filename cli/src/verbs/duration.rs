//! Durations as people of `kubectl` write them: `90s`, `1h30m`, `1.5h`.

/// Units, and how many seconds each is.
const UNITS: [(&str, f64); 7] =
    [("ns", 1e-9), ("us", 1e-6), ("\u{b5}s", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
/// Longer ago than anything has a log: a hundred years.
const SECONDS_MAX: f64 = 100.0 * 365.0 * 86_400.0;

/// Whole seconds, rounded up.
///
/// # Errors
/// For people.
pub(super) fn seconds(text: &str) -> Result<i64, String> {
    let seconds = seconds_or_none(text)?;
    if seconds > 0 { Ok(seconds) } else { Err("it must be greater than 0".to_owned()) }
}

/// Longest time to wait, in whole seconds, rounded up; 0, with or without a unit, is for ever. Seconds alone are read too.
///
/// # Errors
/// For people.
pub(super) fn patience(text: &str) -> Result<u64, String> {
    let is_number = !text.is_empty() && text.chars().all(|character| character.is_ascii_digit());
    let seconds = if is_number { seconds_or_none(&format!("{text}s")) } else { seconds_or_none(text) }?;
    Ok(seconds.unsigned_abs())
}

fn seconds_or_none(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no duration: it must be such as 5s, 2m or 1h30m");
    if text.is_empty() {
        return Err(wrong());
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit() && character != '.').ok_or_else(wrong)?;
        let (number, unit) = rest.split_at(digits);
        let length = unit.find(|character: char| character.is_ascii_digit() || character == '.').unwrap_or(unit.len());
        let (unit, behind) = unit.split_at(length);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        total += number * seconds;
        rest = behind;
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and has a bound")]
    let seconds = total.min(SECONDS_MAX).ceil() as i64;
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_kubectl_reads_them() {
        for (text, expected) in [
            ("5s", Some(5)),
            ("2m", Some(120)),
            ("1h30m", Some(5400)),
            ("1.5h", Some(5400)),
            ("1h0m0.5s", Some(3601)),
            ("1ms", Some(1)),
            ("\u{b5}s", None),
            ("1\u{b5}s", Some(1)),
            ("999999999h", Some(3_153_600_000)),
            ("0s", None),
            ("-5s", None),
            ("5", None),
            ("", None),
            ("s", None),
            ("5d", None),
            ("1..5s", None),
            ("5s ", None),
        ] {
            assert_eq!(seconds(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn patience_may_be_endless() {
        for (text, expected) in [
            ("10s", Some(10)),
            ("1m30s", Some(90)),
            ("60", Some(60)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("-10s", None),
            ("10x", None),
            ("", None),
        ] {
            assert_eq!(patience(text).ok(), expected, "{text:?}");
        }
    }
}
