//! Field selectors: `metadata.name=x,status.phase!=Running`.

use crate::{ApiError, Kind};
use serde_json::Value;
use std::{borrow::Cow, fmt};

/// Boolean fields: missing means false, which is what a selector sees.
const BOOLEAN_FIELDS: [&str; 2] = ["spec.unschedulable", "spec.hostNetwork"];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: String,
    equal: bool,
    value: String,
}

/// A parsed field selector: `metadata.name=x,status.phase!=Running`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

impl FieldSelector {
    /// Parses and checks that `kind` lets these fields be selected.
    ///
    /// # Errors
    /// 400 as Kubernetes words it: `field label not supported: x`.
    pub fn parse(text: &str, kind: &Kind) -> Result<Self, ApiError> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let term = parse_term(part)
                .map_err(|problem| ApiError::bad_request(format!("invalid selector: '{text}'; {problem}")))?;
            check_field(&term.field, kind)?;
            terms.push(term);
        }
        Ok(Self { terms })
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that `field` must equal, if the selector says so.
    #[must_use]
    pub fn required(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.field == field).map(|term| term.value.as_str())
    }

    /// Whether the object matches.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|term| (field_text(object, &term.field) == term.value.as_str()) == term.equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Term { field, equal, value }) in self.terms.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let operator = if *equal { "=" } else { "!=" };
            let value = value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(formatter, "{comma}{field}{operator}{value}")?;
        }
        Ok(())
    }
}

fn check_field(field: &str, kind: &Kind) -> Result<(), ApiError> {
    if field == "metadata.name" || field == "metadata.namespace" || kind.selectable_fields.contains(&field) {
        return Ok(());
    }
    Err(ApiError::bad_request(if kind.selectable_fields.is_empty() {
        format!("\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    } else {
        format!("field label not supported: {field}")
    }))
}

/// Parts between commas that are not escaped.
fn split_unescaped(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c: char| {
        let separates = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        separates
    })
}

fn parse_term(text: &str) -> Result<Term, String> {
    let operator = text.char_indices().find_map(|(index, _)| {
        let rest = &text[index..];
        ["!=", "==", "="].into_iter().find(|operator| rest.starts_with(operator)).map(|operator| (index, operator))
    });
    let (index, operator) = operator.ok_or_else(|| format!("can't understand '{text}'"))?;
    let value = unescape(&text[index + operator.len()..])?;
    Ok(Term { field: text[..index].to_owned(), equal: operator != "!=", value })
}

fn unescape(text: &str) -> Result<String, String> {
    let mut value = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => value.push(escaped),
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return Err(format!("invalid field selector: invalid escape sequence: \\{other}"));
                }
            },
            '=' => return Err("invalid field selector: unescaped character in value: =".to_owned()),
            _ => value.push(c),
        }
    }
    Ok(value)
}

/// The field as selectors see it.
fn field_text<'a>(object: &'a Value, field: &str) -> Cow<'a, str> {
    // An event's `source` selects by the component inside it.
    let path = if field == "source" { "source.component" } else { field };
    let value = path.split('.').try_fold(object, |value, name| value.get(name));
    match value {
        Some(Value::String(text)) => Cow::Borrowed(text),
        Some(Value::Bool(flag)) => Cow::Borrowed(if *flag { "true" } else { "false" }),
        Some(Value::Number(number)) => Cow::Owned(number.to_string()),
        _ if BOOLEAN_FIELDS.contains(&field) => Cow::Borrowed("false"),
        _ => Cow::Borrowed(""),
    }
}
