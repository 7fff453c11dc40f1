//! What the door writes into `metadata`: names, uids, times, generations. Everything random or clocked about an
//! object is decided here, before the command is proposed, so that applying it is deterministic.

use super::target::Target;
use coracle_objects::{ApiError, Cause, meta};
use rand::Rng;
use serde_json::{Map, Value};
use time::{OffsetDateTime, UtcDateTime, format_description::well_known::Rfc3339};

/// Letters of generated suffixes: no vowels, nothing that reads like another letter.
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// What of `generateName` is kept, so that the whole stays a label.
const GENERATE_NAME_KEPT: usize = 63 - SUFFIX_LENGTH;

/// What only the system writes and a change therefore carries over.
const SYSTEM_FIELDS: [&str; 6] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName"];

/// The moment, as Unix seconds.
pub(crate) fn now_seconds() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// A time as objects carry it: RFC 3339, whole seconds, UTC.
pub(crate) fn timestamp(unix_seconds: i64) -> String {
    let last = UtcDateTime::MAX.unix_timestamp();
    let moment = UtcDateTime::from_unix_timestamp(unix_seconds.min(last)).unwrap_or(UtcDateTime::UNIX_EPOCH);
    moment.format(&Rfc3339).unwrap_or_default()
}

/// The Unix seconds of a time in an object.
pub(crate) fn parse_timestamp(text: &str) -> Option<i64> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

/// `metadata`, made if need be.
pub(crate) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    let slot = &mut object["metadata"];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("just made an object"),
    }
}

/// Checks name and namespace against the URL and fills them in where they are missing. `target.name` is the name on
/// the URL, "" when there is none.
pub(crate) fn place(target: &Target, object: &mut Value) -> Result<(), ApiError> {
    let (name, namespace) = (meta::name(object), meta::namespace(object));
    if !target.name.is_empty() && !name.is_empty() && name != target.name {
        let message = format!("the name of the object ({name}) does not match the name on the URL ({})", target.name);
        return Err(ApiError::bad_request(message));
    }
    if !namespace.is_empty() && namespace != target.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let api_version = target.kind.api_version();
    if object["apiVersion"] != api_version || object["kind"] != target.kind.kind {
        object["apiVersion"] = Value::from(api_version);
        object["kind"] = Value::from(target.kind.kind);
    }
    let metadata = metadata(object);
    if !target.name.is_empty() {
        metadata.insert("name".to_owned(), Value::from(target.name.as_str()));
    }
    if target.kind.namespaced {
        metadata.insert("namespace".to_owned(), Value::from(target.namespace.as_str()));
    }
    for unwanted in ["selfLink", "managedFields"] {
        metadata.shift_remove(unwanted);
    }
    Ok(())
}

/// Gives a new object its name (when it asked for one), uid, time and generation.
pub(crate) fn created(target: &Target, object: &mut Value, now_seconds: i64) -> Result<(), ApiError> {
    let has_generation = object.get("spec").is_some() && target.kind.subresource("status").is_some();
    let metadata = metadata(object);
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() {
        let base = metadata.get("generateName").and_then(Value::as_str).unwrap_or_default();
        if base.is_empty() {
            let cause = Cause::required("metadata.name", "name or generateName is required");
            return Err(target.kind.invalid("", vec![cause]));
        }
        let name = generated_name(base);
        metadata.insert("name".to_owned(), Value::from(name));
    }
    for unwanted in ["deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "generation"] {
        metadata.shift_remove(unwanted);
    }
    metadata.insert("uid".to_owned(), Value::from(uuid::Uuid::new_v4().to_string()));
    metadata.insert("creationTimestamp".to_owned(), Value::from(timestamp(now_seconds)));
    if has_generation {
        metadata.insert("generation".to_owned(), Value::from(1));
    }
    Ok(())
}

/// `base` with a random suffix.
fn generated_name(base: &str) -> String {
    let mut end = base.len().min(GENERATE_NAME_KEPT);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut random = rand::rng();
    let suffix = (0..SUFFIX_LENGTH).map(|_| char::from(SUFFIX_LETTERS[random.random_range(0..SUFFIX_LETTERS.len())]));
    let mut name = base[..end].to_owned();
    name.extend(suffix);
    name
}

/// Restores in `new` what only the system writes.
pub(crate) fn carry_over(new: &mut Value, old: &Value) {
    let metadata = metadata(new);
    for field in SYSTEM_FIELDS {
        match old["metadata"].get(field) {
            Some(value) => {
                metadata.insert(field.to_owned(), value.clone());
            }
            None => {
                metadata.shift_remove(field);
            }
        }
    }
}

/// Counts a change of what is desired.
pub(crate) fn bump_generation(object: &mut Value) {
    if let Some(generation) = object["metadata"].get("generation").and_then(Value::as_i64) {
        object["metadata"]["generation"] = Value::from(generation + 1);
    }
}

/// Whether a deletion waits for somebody to take a name off `metadata.finalizers`.
pub(crate) fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_objects::catalogue;
    use serde_json::json;

    #[test]
    fn generated_names_are_labels_with_a_suffix() {
        let name = generated_name("web-");
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert!(name.bytes().skip(4).all(|byte| SUFFIX_LETTERS.contains(&byte)));
        assert_eq!(generated_name(&"a".repeat(200)).len(), 63);
        assert_ne!(generated_name("x"), generated_name("x"));
    }

    #[test]
    fn times_are_whole_seconds_in_utc() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(parse_timestamp("1970-01-01T01:00:10+01:00"), Some(10));
        assert_eq!(parse_timestamp("yesterday"), None);
        assert_eq!(timestamp(i64::MAX), "9999-12-31T23:59:59Z", "a grace without end is not one that is over");
    }

    #[test]
    fn placing_checks_the_url() {
        let target = Target::object(catalogue::pods(), "here", "x");
        let mut object = json!({"metadata": {"managedFields": []}});
        place(&target, &mut object).unwrap();
        assert_eq!(object, json!({"metadata": {"name": "x", "namespace": "here"}, "apiVersion": "v1", "kind": "Pod"}));
        for wrong in [json!({"metadata": {"name": "y"}}), json!({"metadata": {"namespace": "there"}})] {
            assert_eq!(place(&target, &mut wrong.clone()).unwrap_err().code(), 400, "{wrong}");
        }
    }

    #[test]
    fn the_client_cannot_choose_system_fields() {
        let target = Target::collection(catalogue::pods(), "here");
        let mut object = json!({"spec": {}, "metadata": {"generateName": "a-", "uid": "mine", "deletionTimestamp": "now", "generation": 7}});
        created(&target, &mut object, 60).unwrap();
        let metadata = &object["metadata"];
        assert_ne!(metadata["uid"], "mine");
        assert_eq!(metadata["generation"], 1);
        assert_eq!(metadata["creationTimestamp"], "1970-01-01T00:01:00Z");
        assert!(metadata.get("deletionTimestamp").is_none());

        let mut changed = json!({"metadata": {"name": "a", "uid": "other", "deletionTimestamp": "x"}});
        carry_over(&mut changed, &object);
        assert_eq!(changed["metadata"]["uid"], metadata["uid"]);
        assert!(changed["metadata"].get("deletionTimestamp").is_none());
        assert_eq!(created(&target, &mut json!({"metadata": {}}), 0).unwrap_err().code(), 422);
    }
}
