//! Small forms that several tables share.

use super::access::{list, pairs};
use serde_json::Value;

/// How many items a cell names before it says how many more there are.
const SHOWN: usize = 3;

/// The text, or `<none>`.
pub(super) fn or_none(text: &str) -> Value {
    Value::from(if text.is_empty() { "<none>" } else { text })
}

/// `a=b,c=d` in the order of keys, or `<none>`.
pub(super) fn labels(object: &Value, field: &str) -> Value {
    let mut parts: Vec<String> =
        pairs(object, field).map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    parts.sort();
    or_none(&parts.join(","))
}

/// `a,b,c + 2 more...`, or `empty` when there is nothing.
pub(super) fn shortened(items: impl Iterator<Item = String>, empty: &str) -> Value {
    let (mut shown, mut more) = (Vec::with_capacity(SHOWN), 0_usize);
    for item in items {
        if shown.len() < SHOWN {
            shown.push(item);
        } else {
            more += 1;
        }
    }
    let text = shown.join(",");
    Value::from(match (text.is_empty(), more) {
        (true, _) => empty.to_owned(),
        (false, 0) => text,
        (false, more) => format!("{text} + {more} more..."),
    })
}

/// The condition of this type.
pub(super) fn condition<'a>(status: &'a Value, condition_type: &str) -> Option<&'a Value> {
    list(status, "conditions").iter().find(|condition| condition["type"] == condition_type)
}
