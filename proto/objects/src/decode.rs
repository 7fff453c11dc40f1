//! Bytes to objects, with bounds: size, nesting, number of values, duplicate keys, invalid UTF-8.

use crate::{
    ApiError, Kind, Reason,
    fields::{self, Checked, Document, FieldValidation, path::Path},
};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::{cell::RefCell, fmt};

/// Largest request body, as kube-apiserver's.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// A value takes up to 100 bytes in memory however short it is written (`[[],[],…`), so their number is bounded too.
const VALUES_MAX: usize = 300_000;

/// Deepest nesting of a YAML document, as for JSON.
const YAML_DEPTH_MAX: usize = 128;

/// Most values in a YAML document, those that aliases repeat included.
const YAML_VALUES_MAX: usize = 100_000;

/// Duplicates beyond this many are not listed.
const DUPLICATES_MAX: usize = 100;

/// Decodes any JSON document with bounded nesting; the last of duplicate keys wins and every duplicate is reported by path.
///
/// # Errors
/// 400 that says where (line, column) and what; 413 for a document beyond [`MAX_BODY_BYTES`].
pub fn json(bytes: &[u8]) -> Result<(Value, Vec<String>), ApiError> {
    if bytes.len() > MAX_BODY_BYTES {
        return Err(ApiError::new(
            Reason::RequestEntityTooLarge,
            format!("the document has {} bytes, the limit is {MAX_BODY_BYTES}", bytes.len()),
        ));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        ApiError::bad_request(format!("not JSON: invalid UTF-8 at byte offset {}", error.valid_up_to()))
    })?;
    if text.trim_ascii().is_empty() {
        return Err(ApiError::bad_request("not JSON: the document is empty"));
    }
    let state = RefCell::new(State::default());
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Seed { path: &Path::Root, state: &state }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| ApiError::bad_request(format!("not JSON: {}", reason(&error))))?;
    Ok((value, state.into_inner().duplicates))
}

/// Decodes one YAML (or JSON) document with bounded nesting and number of values, aliases multiplied out.
///
/// # Errors
/// 400 that says where and what.
pub fn yaml(bytes: &[u8]) -> Result<Value, ApiError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| ApiError::bad_request(format!("not YAML: invalid UTF-8 at byte {}", error.valid_up_to())))?;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: YAML_DEPTH_MAX,
            max_documents: 1,
            max_events: YAML_VALUES_MAX * 2,
            max_nodes: YAML_VALUES_MAX,
            max_recorded_anchor_events: YAML_VALUES_MAX,
            max_total_scalar_bytes: MAX_BODY_BYTES,
        },
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| ApiError::bad_request(format!("not YAML: {error}")))
}

/// Decodes a request body that must be an object of `kind` and checks it against the field table.
///
/// # Errors
/// 400 for what is not JSON, is of another kind, or breaks the shape; see [`crate::fields::check`].
pub fn object(kind: &Kind, bytes: &[u8], validation: FieldValidation) -> Result<Checked, ApiError> {
    document(&Document::from(kind), bytes, validation)
}

/// As [`object`], for bodies that are not stored: [`Document::BINDING`], [`Document::DELETE_OPTIONS`].
///
/// # Errors
/// As [`object`].
pub fn document(document: &Document<'_>, bytes: &[u8], validation: FieldValidation) -> Result<Checked, ApiError> {
    let (value, duplicates) = json(bytes).map_err(|error| ApiError {
        message: format!("the object provided is unrecognized (must be of type {}): {}", document.kind, error.message),
        ..error
    })?;
    fields::check_document(document, value, validation, &duplicates)
}

/// `serde_json`'s words, but its name for too deep nesting says nothing to the sender.
fn reason(error: &serde_json::Error) -> String {
    error.to_string().replace("recursion limit exceeded", "more than 127 levels of nesting")
}

#[derive(Default)]
struct State {
    values: usize,
    duplicates: Vec<String>,
}

/// Builds one [`Value`], knowing where in the document it stands.
struct Seed<'a> {
    path: &'a Path<'a>,
    state: &'a RefCell<State>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let count = {
            let mut state = self.state.borrow_mut();
            state.values += 1;
            state.values
        };
        if count > VALUES_MAX {
            return Err(D::Error::custom(format_args!("more than {VALUES_MAX} values")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        loop {
            let path = Path::Index(self.path, elements.len());
            match access.next_element_seed(Seed { path: &path, state: self.state })? {
                Some(element) => elements.push(element),
                None => return Ok(Value::Array(elements)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let path = Path::Field(self.path, &key);
            let value = access.next_value_seed(Seed { path: &path, state: self.state })?;
            let duplicate = fields.contains_key(&key).then(|| path.to_string());
            if let Some(duplicate) = duplicate {
                let mut state = self.state.borrow_mut();
                if state.duplicates.len() < DUPLICATES_MAX {
                    state.duplicates.push(duplicate);
                }
            }
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests;
