//! Plain values: is it one, and how Kubernetes spells it.

use crate::{fields::table::Shape, quantity::Quantity};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use time::{
    OffsetDateTime, UtcOffset,
    format_description::{BorrowedFormatItem, well_known::Rfc3339},
    macros::format_description,
};

const SECONDS: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
const MICROSECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// Longest piece of a wrong value that a message repeats, in characters.
const SHOWN_MAX: usize = 64;

/// Checks `value` and rewrites it where Kubernetes would print another spelling; `Err` says what was expected.
pub(super) fn check(value: &mut Value, shape: &Shape) -> Result<(), &'static str> {
    match shape {
        Shape::Boolean => is(value.is_boolean(), "boolean"),
        Shape::Int32 => match value.as_i64() {
            Some(number) => is(i32::try_from(number).is_ok(), "32-bit integer"),
            None => Err("integer"),
        },
        Shape::Int64 => is(value.is_i64(), if value.is_u64() { "64-bit integer" } else { "integer" }),
        Shape::Number => is(value.is_number(), "number"),
        Shape::String => is(value.is_string(), "string"),
        Shape::IntOrString => match value {
            Value::String(_) => Ok(()),
            other => is(other.as_i64().is_some_and(|number| i32::try_from(number).is_ok()), "32-bit integer or string"),
        },
        Shape::Bytes => bytes(value),
        Shape::Quantity => quantity(value),
        Shape::Time => instant(value, SECONDS, "time in RFC 3339 form such as \"2006-01-02T15:04:05Z\""),
        Shape::MicroTime => {
            instant(value, MICROSECONDS, "time in RFC 3339 form such as \"2006-01-02T15:04:05.000000Z\"")
        }
        Shape::Any | Shape::Object(_) | Shape::Map(_) | Shape::List(_) | Shape::Reference(_) => Ok(()),
    }
}

fn is(right: bool, expected: &'static str) -> Result<(), &'static str> {
    if right { Ok(()) } else { Err(expected) }
}

fn bytes(value: &mut Value) -> Result<(), &'static str> {
    const EXPECTED: &str = "base64 string";
    let text = value.as_str().ok_or(EXPECTED)?;
    if text.contains(['\r', '\n']) {
        // Go's decoder skips line breaks, and people paste the output of `base64`.
        let joined = text.replace(['\r', '\n'], "");
        *value = Value::from(joined);
        return bytes(value);
    }
    STANDARD.decode(text).map(drop).map_err(|_| EXPECTED)
}

fn quantity(value: &mut Value) -> Result<(), &'static str> {
    const EXPECTED: &str = "quantity such as \"500m\" or \"1.5Gi\"";
    let amount: Quantity = match &*value {
        Value::String(text) => text.parse().map_err(|_| EXPECTED)?,
        Value::Number(number) => number.to_string().parse().map_err(|_| EXPECTED)?,
        _ => return Err(EXPECTED),
    };
    let spelled = amount.to_string();
    if value.as_str() != Some(&spelled) {
        *value = Value::from(spelled);
    }
    Ok(())
}

fn instant(value: &mut Value, format: &[BorrowedFormatItem<'_>], expected: &'static str) -> Result<(), &'static str> {
    let text = value.as_str().ok_or(expected)?;
    let instant = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| expected)?;
    let spelled = instant.to_offset(UtcOffset::UTC).format(format).map_err(|_| expected)?;
    if text != spelled {
        *value = Value::from(spelled);
    }
    Ok(())
}

/// A value as a message shows it: its type, and a plain value itself, shortened.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => format!("boolean {flag}"),
        Value::Number(number) => format!("number {number}"),
        Value::String(text) if text.chars().nth(SHOWN_MAX).is_some() => {
            let start: String = text.chars().take(SHOWN_MAX).collect();
            format!("string {}…", Value::from(start))
        }
        Value::String(_) => format!("string {value}"),
        Value::Array(_) => "list".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}
