//! Objects and lists in the form that the client asked for.

use super::{accept::Accept, answer, query::Query};
use crate::door::{encode, read::Listed, stamp};
use axum::{body::Body, response::Response};
use bytes::{BufMut, Bytes, BytesMut};
use coracle_objects::{
    ApiError, Kind,
    table::{self, IncludeObject},
};
use futures::stream;
use http::StatusCode;
use serde_json::{Value, json};
use std::convert::Infallible;

/// Lists are sent in pieces of about this size, so that a large one is never in memory twice.
const CHUNK_BYTES: usize = 64 * 1024;

/// How objects are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) kind: &'static Kind,
    pub(super) accept: Accept,
    pub(super) include: IncludeObject,
    pub(super) pretty: bool,
}

impl View {
    /// From what the request says.
    pub(super) fn new(kind: &'static Kind, accept: Accept, query: &Query) -> Result<Self, ApiError> {
        let include = match query.text("includeObject") {
            "" | "Metadata" => IncludeObject::Metadata,
            "None" => IncludeObject::None,
            "Object" => IncludeObject::Object,
            other => return Err(ApiError::bad_request(format!("includeObject: unknown value \"{other}\""))),
        };
        Ok(Self { kind, accept, include, pretty: query.flag("pretty")? })
    }

    fn finish(&self, status: StatusCode, json: Bytes) -> Response {
        answer::bytes(status, if self.pretty { answer::pretty(&json) } else { json })
    }

    /// One object.
    pub(super) fn object(&self, status: StatusCode, object: Bytes) -> Result<Response, ApiError> {
        let shown = match self.accept {
            Accept::Plain | Accept::AggregatedDiscovery => object,
            Accept::Table => Bytes::from(self.table_of(&object)?.to_string()),
            Accept::PartialMetadata => Bytes::from(partial(&encode::decode(&object)?).to_string()),
        };
        Ok(self.finish(status, shown))
    }

    /// The table of one object.
    pub(super) fn table_of(&self, object: &[u8]) -> Result<Value, ApiError> {
        let object = encode::decode(object)?;
        let list_meta = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
        Ok(table::table(self.kind, &[object], &list_meta, self.include, stamp::now_seconds()))
    }

    /// One object as an item of a watch: like [`Self::object`], without tables.
    pub(super) fn watched(&self, object: Bytes) -> Result<Bytes, ApiError> {
        match self.accept {
            Accept::PartialMetadata => Ok(Bytes::from(partial(&encode::decode(&object)?).to_string())),
            _ => Ok(object),
        }
    }

    /// A list, or a page of one.
    pub(super) fn list(&self, listed: Listed) -> Result<Response, ApiError> {
        let mut list_meta = json!({"resourceVersion": listed.revision.0.to_string()});
        if !listed.continue_token.is_empty() {
            list_meta["continue"] = Value::from(listed.continue_token.as_str());
        }
        let objects = || listed.entries.iter().map(|entry| encode::decode(&entry.value));
        match self.accept {
            Accept::Table => {
                let objects = objects().collect::<Result<Vec<_>, _>>()?;
                let table = table::table(self.kind, &objects, &list_meta, self.include, stamp::now_seconds());
                Ok(self.finish(StatusCode::OK, Bytes::from(table.to_string())))
            }
            Accept::PartialMetadata => {
                let objects = objects().collect::<Result<Vec<_>, _>>()?;
                Ok(self.partial_list(&objects, &list_meta))
            }
            Accept::Plain | Accept::AggregatedDiscovery => {
                Ok(self.plain_list(&list_meta, listed.entries.into_iter().map(|entry| entry.value).collect()))
            }
        }
    }

    /// A list of objects that are not stored.
    pub(super) fn computed_list(&self, items: Vec<Bytes>) -> Result<Response, ApiError> {
        let list_meta = json!({});
        let objects = || items.iter().map(|item| encode::decode(item)).collect::<Result<Vec<_>, _>>();
        match self.accept {
            Accept::Table => {
                let table = table::table(self.kind, &objects()?, &list_meta, self.include, stamp::now_seconds());
                Ok(self.finish(StatusCode::OK, Bytes::from(table.to_string())))
            }
            Accept::PartialMetadata => Ok(self.partial_list(&objects()?, &list_meta)),
            Accept::Plain | Accept::AggregatedDiscovery => Ok(self.plain_list(&list_meta, items)),
        }
    }

    fn partial_list(&self, objects: &[Value], list_meta: &Value) -> Response {
        let items: Vec<Value> = objects.iter().map(partial).collect();
        let list = json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": list_meta, "items": items,
        });
        self.finish(StatusCode::OK, Bytes::from(list.to_string()))
    }

    /// A list of encoded objects, unchanged.
    pub(super) fn plain_list(&self, list_meta: &Value, items: Vec<Bytes>) -> Response {
        let (kind, api_version) = (self.kind.kind, self.kind.api_version());
        let head = format!(r#"{{"kind":"{kind}List","apiVersion":"{api_version}","metadata":{list_meta},"items":["#);
        let total: usize = items.iter().map(|item| item.len() + 1).sum();
        if self.pretty || total <= CHUNK_BYTES {
            let mut whole = BytesMut::with_capacity(head.len() + total + 2);
            whole.put_slice(head.as_bytes());
            fill(&mut whole, &mut items.into_iter(), true);
            whole.put_slice(b"]}\n");
            return self.finish(StatusCode::OK, whole.freeze());
        }
        let chunks = Chunks { head: Some(head), items: items.into_iter(), done: false };
        answer::bytes(StatusCode::OK, Body::from_stream(stream::iter(chunks.map(Ok::<_, Infallible>))))
    }
}

/// Appends items until the buffer is about full; `all` ignores its size. Leaves a comma where more follow.
fn fill(buffer: &mut BytesMut, items: &mut std::vec::IntoIter<Bytes>, all: bool) {
    while all || buffer.len() < CHUNK_BYTES {
        let Some(item) = items.next() else { return };
        buffer.put_slice(&item);
        if items.len() > 0 {
            buffer.put_u8(b',');
        }
    }
}

struct Chunks {
    head: Option<String>,
    items: std::vec::IntoIter<Bytes>,
    done: bool,
}

impl Iterator for Chunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
        if let Some(head) = self.head.take() {
            buffer.put_slice(head.as_bytes());
        }
        fill(&mut buffer, &mut self.items, false);
        if self.items.len() == 0 {
            self.done = true;
            buffer.put_slice(b"]}\n");
        }
        Some(buffer.freeze())
    }
}

fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_make_one_valid_list_whatever_the_sizes() {
        for (count, size) in [(0, 0), (1, 10), (3, CHUNK_BYTES), (5000, 100)] {
            let item = Bytes::from(format!("\"{}\"", "x".repeat(size)));
            let chunks =
                Chunks { head: Some("{\"items\":[".to_owned()), items: vec![item; count].into_iter(), done: false };
            let all: Vec<u8> = chunks.flat_map(|chunk| chunk.to_vec()).collect();
            let value: Value = serde_json::from_slice(&all).unwrap();
            assert_eq!(value["items"].as_array().map(Vec::len), Some(count));
        }
    }
}
