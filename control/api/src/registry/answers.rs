//! Reading what registry requests ask for, and building what they are answered.

use super::{
    error::{Code, Refusal, range},
    path::Digest,
};
use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{HeaderName, StatusCode, Uri, header, response::Builder};
use serde_json::Value;
use std::collections::HashMap;

pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// Names in one answer to a listing that sets no smaller limit.
const MAX_LISTED: usize = 10_000;

/// Which bytes a `Range` header asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of them: there is no range, or none that is understood.
    Whole,
    /// From the first to the last, both included.
    Part(u64, u64),
    /// None that exist.
    Beyond,
}

/// Reads `bytes=A-B`, `bytes=A-` or `bytes=-N`.
pub(super) fn byte_range(text: &str, size: u64) -> Wanted {
    let parse = || {
        let (start, end) = text.strip_prefix("bytes=")?.split_once('-')?;
        if start.is_empty() {
            let suffix: u64 = end.parse().ok()?;
            return Some(if suffix == 0 { (size, u64::MAX) } else { (size.saturating_sub(suffix), u64::MAX) });
        }
        let (start, end) = (start.parse().ok()?, if end.is_empty() { u64::MAX } else { end.parse().ok()? });
        (start <= end).then_some((start, end))
    };
    match parse() {
        None => Wanted::Whole,
        Some((start, _)) if start >= size => Wanted::Beyond,
        Some((start, end)) => Wanted::Part(start, end.min(size - 1)),
    }
}

/// The part of a sorted listing that was asked for, and the query of the next part.
pub(super) fn page(names: Vec<String>, query: &Query) -> Result<(Vec<String>, Option<String>), Refusal> {
    let limit = match query.get("n").map(str::parse::<usize>) {
        None => MAX_LISTED,
        Some(Ok(limit)) => limit.min(MAX_LISTED),
        Some(Err(_)) => return Err(Refusal::new(Code::Unsupported, "n must be a number")),
    };
    let last = query.get("last").unwrap_or_default();
    let mut rest = names.into_iter().filter(|name| name.as_str() > last);
    let names: Vec<String> = rest.by_ref().take(limit).collect();
    let next = if rest.next().is_some() { names.last().map(|last| format!("n={limit}&last={last}")) } else { None };
    Ok((names, next))
}

/// Query parameters.
pub(super) struct Query(HashMap<String, String>);

impl Query {
    pub(super) fn of(uri: &Uri) -> Self {
        Self(axum::extract::Query::try_from_uri(uri).map(|query| query.0).unwrap_or_default())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn digest(&self) -> Result<Digest, Refusal> {
        let missing = || Refusal::new(Code::DigestInvalid, "the query must name the digest");
        Digest::parse(self.get("digest").ok_or_else(missing)?)
    }
}

pub(super) fn invalid(detail: &str) -> Refusal {
    Refusal::new(Code::ManifestInvalid, format!("the manifest cannot be used: {detail}"))
}

pub(super) fn manifest_unknown() -> Refusal {
    Refusal::new(Code::ManifestUnknown, "there is no such manifest")
}

pub(super) fn blob_path(repository: &str, digest: &Digest) -> String {
    format!("/v2/{repository}/blobs/{}", digest.as_str())
}

pub(super) fn finished(answer: Builder, body: Body) -> Result<Response, Refusal> {
    answer.body(body).map_err(|error| {
        tracing::error!(%error, "a registry answer could not be built");
        Refusal::new(Code::Unknown, "the answer could not be built")
    })
}

pub(super) fn empty(status: StatusCode) -> Response {
    (status, Body::empty()).into_response()
}

pub(super) fn json_answer(body: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

pub(super) fn created(location: &str, digest: &Digest) -> Response {
    let headers = [(header::LOCATION, location.to_owned()), (CONTENT_DIGEST, digest.as_str().to_owned())];
    (StatusCode::CREATED, headers).into_response()
}

pub(super) fn progress(status: StatusCode, repository: &str, id: &str, size: u64) -> Response {
    let location = format!("/v2/{repository}/blobs/uploads/{id}");
    (status, [(header::LOCATION, location), (header::RANGE, range(size)), (UPLOAD_ID, id.to_owned())]).into_response()
}

pub(super) fn linked(mut answer: Response, next: Option<String>) -> Response {
    if let Some(value) = next.and_then(|next| format!("<{next}>; rel=\"next\"").parse().ok()) {
        answer.headers_mut().insert(header::LINK, value);
    }
    answer
}
