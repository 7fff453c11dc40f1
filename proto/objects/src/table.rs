//! `meta.k8s.io/v1` `Table`s, what `kubectl get` prints.

use crate::Kind;
use serde_json::Value;

/// What goes into `rows[].object`: `includeObject` of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

/// A table of `objects`; `list_meta` becomes its `metadata`, `now_seconds` is Unix time for ages.
#[must_use]
pub fn table(
    _kind: &Kind,
    _objects: &[Value],
    _list_meta: &Value,
    _include: IncludeObject,
    _now_seconds: i64,
) -> Value {
    unimplemented!("owner: objects-rules")
}
