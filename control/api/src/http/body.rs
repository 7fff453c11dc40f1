//! Request bodies: bounded, in the formats that this server reads.

use super::protobuf;
use axum::body::Body;
use bytes::Bytes;
use coracle_objects::{
    ApiError, Reason,
    decode::{self, MAX_BODY_BYTES},
};
use futures::StreamExt;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::time::Duration;

/// How much of a body that is too large is read and thrown away, so that a client that is still sending sees the
/// answer instead of a broken connection.
const DRAIN_BYTES_MAX: usize = 16 * 1024 * 1024;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// A request's body that is not there after this time is given up: who sends it keeps memory for it. Streams have none.
pub(crate) const READ_TIME_MAX: Duration = Duration::from_secs(30);

/// The media type of a body, without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// Reads a whole body.
///
/// # Errors
/// 413 when it is larger than the limit, 400 when the connection breaks, 504 when it does not come in time.
pub(super) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    read_within(READ_TIME_MAX, headers, body).await
}

async fn read_within(limit: Duration, headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|bytes| bytes > MAX_BODY_BYTES) {
        // A client that waits for `100 Continue` has sent nothing yet and must not be told to.
        if !headers.contains_key(header::EXPECT) && declared.is_some_and(|bytes| bytes <= DRAIN_BYTES_MAX) {
            drain(body).await;
        }
        return Err(too_large());
    }
    let Ok(read) = tokio::time::timeout(limit, Limited::new(body, MAX_BODY_BYTES).collect()).await else {
        let message = format!("the request was not complete after {} seconds", limit.as_secs());
        return Err(ApiError::new(Reason::Timeout, message));
    };
    match read {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(ApiError::bad_request(format!("the body could not be read: {error}"))),
    }
}

async fn drain(body: Body) {
    let drained = async {
        let mut seen = 0;
        let mut data = body.into_data_stream();
        while let Some(Ok(chunk)) = data.next().await {
            seen += chunk.len();
            if seen > DRAIN_BYTES_MAX {
                break;
            }
        }
    };
    // What is still unread after that time stays unread.
    let _elapsed = tokio::time::timeout(DRAIN_TIME_MAX, drained).await;
}

fn too_large() -> ApiError {
    ApiError::new(Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {MAX_BODY_BYTES}"))
}

/// The JSON of an object body, whatever it came as.
///
/// # Errors
/// 415 for formats that this server does not read, 400 for what is no YAML or protobuf.
pub(super) fn to_json(headers: &HeaderMap, body: Bytes) -> Result<Bytes, ApiError> {
    match media_type(headers) {
        // curl's default says nothing about what it sends.
        "" | "application/json" | "text/json" | "application/x-www-form-urlencoded" => Ok(body),
        "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => {
            Ok(Bytes::from(decode::yaml(&body)?.to_string()))
        }
        "application/vnd.kubernetes.protobuf" => Ok(Bytes::from(protobuf::decode(&body)?.to_string())),
        _ => Err(unsupported(&["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"])),
    }
}

/// 415 that names what would be right.
pub(super) fn unsupported(accepted: &[&str]) -> ApiError {
    let list = accepted.join(", ");
    let message = format!("the body of the request was in an unknown format - accepted media types include: {list}");
    ApiError::new(Reason::UnsupportedMediaType, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use serde_json::{Value, json};

    fn typed(media_type: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(media_type))])
    }

    #[test]
    fn yaml_becomes_json() {
        let body = Bytes::from_static(b"kind: Pod\nmetadata: {name: x}\nspec:\n  a: [1, 'two', null, true]\n");
        let json = to_json(&typed("application/yaml; charset=utf-8"), body).unwrap();
        let value: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value, json!({"kind": "Pod", "metadata": {"name": "x"}, "spec": {"a": [1, "two", null, true]}}));
    }

    #[test]
    fn hostile_yaml_is_refused() {
        let bomb = format!(
            "a: &a [x,x,x,x,x,x,x,x]\n{}",
            (0..9).fold(String::new(), |text, level| {
                let (from, to) = (char::from(b'a' + level), char::from(b'b' + level));
                format!("{text}{to}: &{to} [{}]\n", format!("*{from},").repeat(8))
            })
        );
        for body in [bomb.into_bytes(), b"a: [".to_vec(), vec![0xff, 0xfe, 0x00], "[".repeat(5000).into_bytes()] {
            assert_eq!(to_json(&typed("application/yaml"), Bytes::from(body)).unwrap_err().code(), 400);
        }
    }

    #[test]
    fn other_formats_are_named() {
        let refused = to_json(&typed("application/cbor"), Bytes::new()).unwrap_err();
        assert_eq!(refused.code(), 415);
        assert!(refused.message.contains("application/yaml"), "{refused}");
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_given_up() {
        let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let error = read_within(Duration::from_millis(50), &HeaderMap::new(), never).await.unwrap_err();
        assert_eq!((error.reason, error.code()), (Reason::Timeout, 504));
    }

    #[tokio::test]
    async fn bodies_are_bounded() {
        let large = vec![b'['; MAX_BODY_BYTES + 1];
        let error = read(&HeaderMap::new(), Body::from(large)).await.unwrap_err();
        assert_eq!(error.code(), 413);
        let declared = HeaderMap::from_iter([(header::CONTENT_LENGTH, HeaderValue::from_static("99999999999"))]);
        assert_eq!(read(&declared, Body::from("x")).await.unwrap_err().code(), 413);
    }
}
