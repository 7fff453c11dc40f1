//! Watch framing: one JSON object per line, for as long as the watch runs.

use super::{accept::Accept, answer, views::View};
use crate::door::watch::{EventType, WatchEvent};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use coracle_objects::ApiError;
use futures::{Stream, StreamExt, future};
use http::StatusCode;
use serde_json::{Value, json};
use std::convert::Infallible;

/// A running watch as a response.
pub(super) fn answer(
    view: View,
    events: impl Stream<Item = Result<WatchEvent, ApiError>> + Send + 'static,
) -> Response {
    let frames = events.scan(Framer { view, has_columns: false, failed: false }, |framer, event| {
        future::ready(framer.frame(event).map(Ok::<_, Infallible>))
    });
    answer::bytes(StatusCode::OK, Body::from_stream(frames))
}

/// A watch that could not start: the error is its only event.
pub(super) fn failed(error: &ApiError) -> Response {
    answer::bytes(StatusCode::OK, frame("ERROR", error.to_status().to_string().as_bytes()))
}

struct Framer {
    view: View,
    /// Whether the client knows the table's columns.
    has_columns: bool,
    failed: bool,
}

impl Framer {
    fn frame(&mut self, event: Result<WatchEvent, ApiError>) -> Option<Bytes> {
        if self.failed {
            return None;
        }
        let framed = event.and_then(|event| {
            let event_type = event.event_type.as_str();
            Ok(frame(event_type, &self.object(event)?))
        });
        Some(framed.unwrap_or_else(|error| {
            self.failed = true;
            frame("ERROR", error.to_status().to_string().as_bytes())
        }))
    }

    fn object(&mut self, event: WatchEvent) -> Result<Bytes, ApiError> {
        if self.view.accept != Accept::Table {
            return self.view.watched(event.object);
        }
        let mut table = if event.event_type == EventType::Bookmark {
            let metadata = json!({"resourceVersion": event.revision.0.to_string()});
            json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": [], "rows": []})
        } else {
            self.view.table_of(&event.object)?
        };
        if event.event_type != EventType::Bookmark && std::mem::replace(&mut self.has_columns, true) {
            table["columnDefinitions"] = Value::Array(Vec::new());
        }
        Ok(Bytes::from(table.to_string()))
    }
}

fn frame(event_type: &str, object: &[u8]) -> Bytes {
    let head = format!(r#"{{"type":"{event_type}","object":"#);
    Bytes::from([head.as_bytes(), object, b"}\n"].concat())
}
