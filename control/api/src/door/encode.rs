//! Objects to the bytes that are stored, and back.
//!
//! Stored bytes carry no resource version when they are proposed: the state machine splices it in at
//! [`Encoded::splice_at`], and [`Encoded::at`] does the same for the answer, so that nobody reads back what was
//! just written.

use bytes::Bytes;
use coracle_objects::ApiError;
use coracle_store::Revision;
use serde_json::{Map, Value};

/// Fields that come first, whatever order the client used: readers that want only these stop early.
const FIRST: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// An object without resource version.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    /// JSON.
    pub(crate) bytes: Bytes,
    /// Just behind the `{` of `metadata`.
    pub(crate) splice_at: u32,
}

impl Encoded {
    /// Encodes an object; a resource version in it is left out.
    pub(crate) fn new(object: &mut Value) -> Result<Self, ApiError> {
        let object = object.as_object_mut().ok_or_else(|| ApiError::internal("the object is no JSON object"))?;
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.shift_remove("resourceVersion");
        }
        let mut out = Vec::with_capacity(1024);
        let splice_at = write_object(object, &mut out).map_err(|error| ApiError::internal(error.to_string()))?;
        let splice_at = splice_at.and_then(|at| u32::try_from(at).ok());
        let splice_at = splice_at.ok_or_else(|| ApiError::internal("the object has no metadata"))?;
        out.shrink_to_fit();
        Ok(Self { bytes: Bytes::from(out), splice_at })
    }

    /// The bytes as they are stored at `revision`.
    pub(crate) fn at(&self, revision: Revision) -> Bytes {
        let (head, tail) = self.bytes.split_at(self.splice_at as usize);
        let version = format!("\"resourceVersion\":\"{}\",", revision.0);
        Bytes::from([head, version.as_bytes(), tail].concat())
    }
}

fn write_object(object: &Map<String, Value>, out: &mut Vec<u8>) -> serde_json::Result<Option<usize>> {
    let mut splice_at = None;
    let first = FIRST.iter().filter_map(|name| object.get_key_value(*name));
    let rest = object.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()));
    for (index, (name, value)) in first.chain(rest).enumerate() {
        out.push(if index == 0 { b'{' } else { b',' });
        serde_json::to_writer(&mut *out, name)?;
        out.push(b':');
        if name == "metadata" && value.as_object().is_some_and(|metadata| !metadata.is_empty()) {
            splice_at = Some(out.len() + 1);
        }
        serde_json::to_writer(&mut *out, value)?;
    }
    out.push(b'}');
    Ok(splice_at)
}

/// A stored object.
pub(crate) fn decode(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        tracing::error!(%error, "a stored object cannot be read");
        ApiError::internal(format!("a stored object cannot be read: {error}"))
    })
}

/// `object` as of another revision.
pub(crate) fn at_revision(object: &mut Value, revision: Revision) {
    object["metadata"]["resourceVersion"] = Value::from(revision.0.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn metadata_comes_first_and_the_revision_is_spliced_in() {
        let mut object = json!({
            "spec": {"metadata": {"name": "inner"}}, "metadata": {"resourceVersion": "3", "name": "x"}, "kind": "Pod", "apiVersion": "v1",
        });
        let encoded = Encoded::new(&mut object).unwrap();
        let expected = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"9","name":"x"},"spec":{"metadata":{"name":"inner"}}}"#;
        assert_eq!(encoded.at(Revision(9)), expected);
        assert!(!String::from_utf8_lossy(&encoded.bytes).contains("resourceVersion"));
    }

    #[test]
    fn an_object_without_metadata_is_refused() {
        assert!(Encoded::new(&mut json!({"kind": "Pod"})).is_err());
        assert!(Encoded::new(&mut json!({"metadata": {"resourceVersion": "1"}})).is_err());
        assert!(Encoded::new(&mut json!([])).is_err());
    }
}
