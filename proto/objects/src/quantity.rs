//! Kubernetes quantities (`100m`, `1.5Gi`), exact.

use serde_json::Value;
use std::{cmp::Ordering, fmt, hash, str::FromStr};
use thiserror::Error;

/// Billionths in a unit: the finest step that Kubernetes keeps.
const NANO: i128 = 1_000_000_000;

/// Larger amounts are capped here, as Kubernetes does (`2^63 - 1` units).
const MAX_NANO: i128 = i64::MAX as i128 * NANO;

/// How an amount was written, and so how it is printed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Notation {
    /// `n u m k M G T P E`.
    #[default]
    Decimal,
    /// `Ki Mi Gi Ti Pi Ei`.
    Binary,
    /// `e3`, `E-6`.
    Exponent,
}

/// An exact amount; two are equal when the amounts are, however they were written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nano: i128,
    notation: Notation,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct QuantityError;

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl hash::Hash for Quantity {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.nano.hash(state);
    }
}

/// What stands behind the number: a power of ten or a multiple of `1024^n`.
enum Suffix {
    PowerOfTen(i64, Notation),
    PowerOf1024(u32),
}

fn suffix(text: &str) -> Result<Suffix, QuantityError> {
    let decimal = |power| Ok(Suffix::PowerOfTen(power, Notation::Decimal));
    match text {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => Ok(Suffix::PowerOf1024(1)),
        "Mi" => Ok(Suffix::PowerOf1024(2)),
        "Gi" => Ok(Suffix::PowerOf1024(3)),
        "Ti" => Ok(Suffix::PowerOf1024(4)),
        "Pi" => Ok(Suffix::PowerOf1024(5)),
        "Ei" => Ok(Suffix::PowerOf1024(6)),
        _ => {
            let exponent = text.strip_prefix(['e', 'E']).ok_or(QuantityError)?;
            let power = exponent.parse::<i32>().map_err(|_| QuantityError)?;
            Ok(Suffix::PowerOfTen(i64::from(power), Notation::Exponent))
        }
    }
}

/// A text taken apart: all digits are ASCII digits.
struct Parts<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    suffix: &'a str,
}

fn split(text: &str) -> Result<Parts<'_>, QuantityError> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(number_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(QuantityError);
    }
    Ok(Parts { negative, whole: whole.as_bytes(), fraction: fraction.as_bytes(), suffix })
}

fn digit(byte: u8) -> i128 {
    i128::from(byte - b'0')
}

/// The digits with the decimal point `point` places after their start, rounded up and capped at [`MAX_NANO`].
fn shifted(digits: impl Iterator<Item = u8> + Clone, length: usize, point: i64) -> i128 {
    let whole_digits = usize::try_from(point).unwrap_or(0);
    let mut value: i128 = 0;
    for byte in digits.clone().take(whole_digits) {
        value = (value * 10 + digit(byte)).min(MAX_NANO);
    }
    let mut missing = whole_digits.saturating_sub(length);
    while missing > 0 && value > 0 && value < MAX_NANO {
        value = (value * 10).min(MAX_NANO);
        missing -= 1;
    }
    let rest = digits.skip(whole_digits).any(|byte| byte != b'0');
    (value + i128::from(rest)).min(MAX_NANO)
}

/// `whole.fraction × 1024^power` in billionths, rounded up and capped.
fn binary(whole: &[u8], fraction: &[u8], power: u32) -> i128 {
    let unit = 1024_i128.pow(power) * NANO;
    let mut value: i128 = 0;
    for byte in whole {
        value = (value * 10 + digit(*byte)).min(MAX_NANO);
    }
    // From the last digit to the first, rounding up at each step: the sum is the exact product, rounded up once.
    let part = fraction.iter().rev().fold(0, |sum: i128, byte| (digit(*byte) * unit + sum + 9) / 10);
    value.saturating_mul(unit).saturating_add(part).min(MAX_NANO)
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let Parts { negative, whole, fraction, suffix: suffix_text } = split(text)?;
        let (magnitude, notation) = match suffix(suffix_text)? {
            Suffix::PowerOf1024(power) => (binary(whole, fraction, power), Notation::Binary),
            Suffix::PowerOfTen(power, notation) => {
                let digits = whole.iter().chain(fraction).copied();
                let point = i64::try_from(whole.len()).map_err(|_| QuantityError)? + power + 9;
                (shifted(digits, whole.len() + fraction.len(), point), notation)
            }
        };
        Ok(Self { nano: if negative { -magnitude } else { magnitude }, notation })
    }
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nano: 0, notation: Notation::Decimal };

    /// Whole units, printed with decimal suffixes.
    #[must_use]
    pub fn from_units(units: i64) -> Self {
        Self { nano: i128::from(units) * NANO, notation: Notation::Decimal }
    }

    /// Bytes, printed with binary suffixes.
    #[must_use]
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nano: i128::from(bytes) * NANO, notation: Notation::Binary }
    }

    /// Thousandths.
    #[must_use]
    pub fn from_milli(milli: i64) -> Self {
        Self { nano: i128::from(milli) * (NANO / 1000), notation: Notation::Decimal }
    }

    /// From a JSON string or number, the two forms that Kubernetes accepts.
    ///
    /// # Errors
    /// When the text is no quantity or the value is of another type.
    pub fn from_value(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::String(text) => text.parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(QuantityError),
        }
    }

    /// Whole units, rounded up (bytes of memory, number of pods).
    #[must_use]
    pub fn ceil(self) -> i64 {
        clamp(div_ceil(self.nano, NANO))
    }

    /// Thousandths, rounded up (millicores).
    #[must_use]
    pub fn milli(self) -> i64 {
        clamp(div_ceil(self.nano, NANO / 1000))
    }

    /// The amount with anything below a thousandth rounded up, as Kubernetes stores resources.
    #[must_use]
    pub fn rounded_to_milli(self) -> Self {
        let step = NANO / 1000;
        let away_from_zero = (self.nano.abs() + step - 1) / step * step;
        Self { nano: away_from_zero * self.nano.signum(), ..self }
    }

    /// Whether it is a whole number of units.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.nano % NANO == 0
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    /// Whether it is less than nothing.
    #[must_use]
    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// The sum, capped like every quantity.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        let notation = if self.is_zero() { other.notation } else { self.notation };
        Self { nano: (self.nano + other.nano).clamp(-MAX_NANO, MAX_NANO), notation }
    }

    /// The difference, capped like every quantity.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        let notation = if self.is_zero() { other.notation } else { self.notation };
        Self { nano: (self.nano - other.nano).clamp(-MAX_NANO, MAX_NANO), notation }
    }
}

fn div_ceil(value: i128, step: i128) -> i128 {
    value.div_euclid(step) + i128::from(value.rem_euclid(step) != 0)
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl fmt::Display for Quantity {
    /// The one spelling that Kubernetes prints: no fraction, the largest suffix that allows that.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return formatter.write_str("0");
        }
        let units = self.nano / NANO;
        if self.notation == Notation::Binary && self.is_whole() && units.abs() >= 1024 {
            let mut mantissa = units;
            let mut suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter();
            let mut suffix = suffixes.next().copied().unwrap_or_default();
            while mantissa % 1024 == 0 {
                let Some(next) = suffixes.next() else { break };
                (mantissa, suffix) = (mantissa / 1024, next);
            }
            return write!(formatter, "{mantissa}{suffix}");
        }
        let (mut mantissa, mut exponent) = (self.nano, -9);
        while mantissa % 1000 == 0 && exponent < 18 {
            (mantissa, exponent) = (mantissa / 1000, exponent + 3);
        }
        match (self.notation, exponent) {
            (_, 0) => write!(formatter, "{mantissa}"),
            (Notation::Exponent, _) => write!(formatter, "{mantissa}e{exponent}"),
            _ => {
                let suffixes = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
                let index = usize::try_from((exponent + 9) / 3).unwrap_or_default();
                write!(formatter, "{mantissa}{}", suffixes.get(index).copied().unwrap_or_default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Quantity;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    fn parse(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|_| panic!("{text:?} is a quantity"))
    }

    #[test]
    fn prints_as_kubernetes_does() {
        let cases = [
            ("0", "0"),
            ("0Gi", "0"),
            ("100m", "100m"),
            ("0.1", "100m"),
            (".5", "500m"),
            ("1.", "1"),
            ("1500m", "1500m"),
            ("1000m", "1"),
            ("2000m", "2"),
            ("100000", "100k"),
            ("1k", "1k"),
            ("1024", "1024"),
            ("1Ki", "1Ki"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("0.001Ki", "1024m"),
            ("1.1Ki", "1126400m"),
            ("1e3", "1e3"),
            ("12E2", "1200"),
            ("1e-3", "1e-3"),
            ("1E", "1E"),
            ("5n", "5n"),
            ("1e-10", "1e-9"),
            ("0.1n", "1n"),
            ("-1.5", "-1500m"),
            ("+3u", "3u"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("123Mi", "123Mi"),
            ("8Ei", "9223372036854775807"),
            ("1e100", "9223372036854775807"),
            ("-9999E", "-9223372036854775807"),
        ];
        for (text, printed) in cases {
            assert_eq!(parse(text).to_string(), printed, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        for text in [
            "",
            ".",
            "-",
            "a",
            "1x",
            "1 Gi",
            "1KI",
            "1ki",
            "1K",
            "1e",
            "1e1.5",
            "1.2.3",
            "--1",
            "1GiB",
            "1e99999999999",
        ] {
            assert!(text.parse::<Quantity>().is_err(), "{text:?}");
        }
        assert!(Quantity::from_value(&serde_json::json!(true)).is_err());
        assert_eq!(Quantity::from_value(&serde_json::json!(0.25)), Ok(parse("250m")));
        assert_eq!(Quantity::from_value(&serde_json::json!(2)), Ok(parse("2")));
    }

    #[test]
    fn rounds_up() {
        assert_eq!((parse("1.5").ceil(), parse("-1.5").ceil(), parse("1Ki").ceil()), (2, -1, 1024));
        assert_eq!((parse("0.0001").milli(), parse("250m").milli(), parse("2").milli()), (1, 250, 2000));
        assert_eq!(parse("1n").rounded_to_milli(), parse("1m"));
        assert_eq!(parse("-1u").rounded_to_milli(), parse("-1m"));
        assert_eq!(parse("9E").milli(), i64::MAX);
    }

    #[test]
    fn compares_and_adds_by_amount() {
        assert_eq!(parse("1Gi"), parse("1073741824"));
        assert!(parse("1G") < parse("1Gi"));
        assert_eq!(parse("100m").saturating_add(parse("0.9")).to_string(), "1");
        assert_eq!(parse("0").saturating_add(parse("1Gi")).to_string(), "1Gi");
        assert_eq!(parse("1Gi").saturating_sub(parse("512Mi")).to_string(), "512Mi");
        assert_eq!(parse("8E").saturating_add(parse("8E")).to_string(), "9223372036854775807");
        assert_eq!(Quantity::from_bytes(2048).to_string(), "2Ki");
        assert_eq!(Quantity::from_milli(1500).to_string(), "1500m");
    }

    #[test]
    fn megabytes_of_digits_cost_little() {
        let digits = "9".repeat(1 << 20);
        assert_eq!(parse(&digits).to_string(), "9223372036854775807");
        assert_eq!(parse(&format!("0.{digits}Ei")).to_string(), "1Ei");
        assert_eq!(parse(&format!("0.{}1", "0".repeat(1 << 20))).to_string(), "1n");
        assert_eq!(parse("1e-2147483648").to_string(), "1e-9");
    }

    proptest! {
        #[test]
        fn printing_keeps_the_amount(whole in any::<u32>(), fraction in 0u32..1_000_000, suffix in "(|n|u|m|k|M|G|Ki|Mi|Gi|e3|e-2)") {
            let quantity = parse(&format!("{whole}.{fraction:06}{suffix}"));
            prop_assert_eq!(parse(&quantity.to_string()), quantity);
        }

        #[test]
        fn no_text_panics(text in "[-+0-9.eEinumkKMGTP ]{0,40}") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                prop_assert!(quantity.ceil() >= -i64::MAX);
                prop_assert_eq!(parse(&quantity.to_string()), quantity);
            }
        }
    }
}
