//! Responses.

use axum::{body::Body, response::Response};
use bytes::Bytes;
use coracle_objects::ApiError;
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// All `Warning` headers of an answer together; what is beyond is dropped.
const WARNING_BYTES_MAX: usize = 4096;

/// JSON that is encoded already.
pub(super) fn bytes(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// JSON.
pub(super) fn json(status: StatusCode, value: &Value) -> Response {
    bytes(status, value.to_string())
}

/// A body of another type.
pub(super) fn typed(content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A refusal as a `Status`.
pub(super) fn refusal(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, &error.to_status());
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"coracle\""));
    }
    let retry = error.details.as_ref().and_then(|details| details.retry_after_seconds);
    if let Some(seconds) = retry {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds `Warning: 299 - "…"` headers.
pub(super) fn warn(mut response: Response, warnings: &[String]) -> Response {
    let mut left = WARNING_BYTES_MAX;
    for warning in warnings {
        let text: String = warning.chars().filter(|letter| !letter.is_control()).collect();
        let quoted = format!("299 - \"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let Some(rest) = left.checked_sub(quoted.len()) else { break };
        left = rest;
        if let Ok(value) = HeaderValue::from_bytes(quoted.as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// Indents JSON for people.
pub(super) fn pretty(json: &[u8]) -> Bytes {
    let value = serde_json::from_slice::<Value>(json).ok();
    let text = value.and_then(|value| serde_json::to_string_pretty(&value).ok());
    text.map_or_else(|| Bytes::copy_from_slice(json), |text| Bytes::from(text + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_quoted_and_bounded() {
        let warnings = vec!["unknown field \"spec.foo\"\n".to_owned(), "x".repeat(5000)];
        let response = warn(json(StatusCode::OK, &Value::Null), &warnings);
        let seen: Vec<_> = response.headers().get_all(header::WARNING).iter().collect();
        assert_eq!(seen, [r#"299 - "unknown field \"spec.foo\"""#]);
    }
}
