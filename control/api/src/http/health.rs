//! `/healthz`, `/livez`, `/readyz`: for load balancers and scripts, so without credentials and in plain text.

use super::{answer, path::Check};
use crate::door::Door;
use axum::response::Response;
use http::StatusCode;
use std::fmt::Write;

/// 200 `ok`, or 503 with what is missing, one per line.
pub(super) fn answer(door: &Door, check: Check) -> Response {
    let missing = match check {
        Check::Live => Vec::new(),
        Check::Ready => door.missing(),
    };
    if missing.is_empty() {
        return answer::typed("text/plain; charset=utf-8", "ok");
    }
    let text = missing.iter().fold(String::from("not ready\n"), |mut text, line| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "[-] {line}");
        text
    });
    let mut response = answer::typed("text/plain; charset=utf-8", text);
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}
