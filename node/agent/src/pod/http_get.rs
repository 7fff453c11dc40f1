//! An HTTP GET to a pod, as probes and hooks make it: over a connection of its own, redirects followed on the same host.
//!
//! It must never read more of an answer than a bound, check a certificate (a pod signs its own), or follow a redirect to
//! another host.

use crate::{
    context::Context,
    network::into_pod::Stream,
    pod::{probes::OUTPUT_BYTES_MAX, reach, spec, subject::Subject},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{sync::Arc, time::Duration};

mod location;
mod tls;

/// Requests that one GET may come to by redirects.
const REQUESTS_MAX: usize = 10;
/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// How to speak to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    scheme: Scheme,
    /// Empty for the pod itself.
    host: String,
    port: u16,
    path: PathAndQuery,
}

/// A GET to be made.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    target: Target,
    /// The `Host` header that the manifest names.
    host: Option<HeaderValue>,
    headers: HeaderMap,
}

/// What came back: the beginning of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Request {
    /// An `httpGet` action of a subject's container. `user_agent` is used where the action names none; a header that it
    /// sets to nothing is not sent.
    ///
    /// # Errors
    /// What people read when such a request cannot be made.
    pub(crate) fn of(subject: &Subject, action: &Value, user_agent: &'static str) -> Result<Self, String> {
        let scheme = if spec::text(action, "scheme") == "HTTPS" { Scheme::Https } else { Scheme::Http };
        let path = location::path(spec::text(action, "path"));
        let target = Target {
            scheme,
            host: spec::text(action, "host").to_owned(),
            port: subject.port(&action["port"])?,
            path: path.parse().map_err(|error| format!("the path {path:?} cannot be asked for: {error}"))?,
        };
        let (mut host, mut headers) = (None, HeaderMap::new());
        for one in spec::items(action, "httpHeaders") {
            let name = spec::text(one, "name");
            let unusable = |error: &dyn std::fmt::Display| format!("the header {name:?} cannot be sent: {error}");
            let value = HeaderValue::from_str(spec::text(one, "value")).map_err(|error| unusable(&error))?;
            let name: HeaderName = name.parse().map_err(|error| unusable(&error))?;
            if name == header::HOST {
                host = Some(value);
            } else {
                headers.append(name, value);
            }
        }
        for (name, default) in [(header::USER_AGENT, user_agent), (header::ACCEPT, "*/*")] {
            match headers.get(&name) {
                None => drop(headers.insert(name, HeaderValue::from_static(default))),
                Some(value) if value.is_empty() => drop(headers.remove(name)),
                Some(_) => {}
            }
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        Ok(Self { target, host, headers })
    }

    fn url(&self, subject: &Subject) -> String {
        let Target { scheme, host, port, path } = &self.target;
        format!("{}://{}{path}", scheme.name(), reach::authority(subject, host, *port))
    }
}

/// Makes the request and follows where it leads, all within `limit`.
///
/// # Errors
/// What people read when there was no answer: `Get "http://10.244.0.7:8080/": dial tcp …: connect: connection refused`.
pub(crate) async fn get(
    context: &Arc<Context>,
    subject: &Subject,
    request: &Request,
    limit: Duration,
) -> Result<Answer, String> {
    let mut request = request.clone();
    let late = context.pace.sleep(limit);
    tokio::pin!(late);
    for _ in 0..REQUESTS_MAX {
        let asked = tokio::select! {
            biased;
            asked = once(context, subject, &request) => asked,
            () = &mut late => Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned()),
        };
        let (answer, location) = asked.map_err(|error| format!("Get {:?}: {error}", request.url(subject)))?;
        match location.and_then(|location| location::next(&request.target, &location)) {
            Some(next) if reach::is_same_host(subject, &next.host, &request.target.host) => {
                if location::names_host(&next, &request.target) {
                    request.host = None;
                }
                request.target = next;
            }
            _ => return Ok(answer),
        }
    }
    Err(format!("Get {:?}: stopped after {REQUESTS_MAX} redirects", request.url(subject)))
}

/// One request and its answer, with where a redirect leads.
async fn once(
    context: &Arc<Context>,
    subject: &Subject,
    request: &Request,
) -> Result<(Answer, Option<String>), String> {
    let Target { scheme, host, port, path } = &request.target;
    let stream = reach::connect(context, subject, host, *port).await?;
    let stream: Box<dyn Stream> = match scheme {
        Scheme::Http => stream,
        Scheme::Https => {
            tls::open(stream, if host.is_empty() { subject.address.to_string() } else { host.clone() }).await?
        }
    };
    let text = |error: hyper::Error| cause(&error);
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await.map_err(text)?;
    let mut sent = http::Request::new(Empty::<Bytes>::new());
    *sent.uri_mut() = Uri::from(path.clone());
    sent.headers_mut().clone_from(&request.headers);
    let default = || HeaderValue::try_from(host_header(subject, &request.target)).map_err(|error| error.to_string());
    sent.headers_mut().insert(header::HOST, request.host.clone().map_or_else(default, Ok)?);
    let exchange = async {
        let answer = sender.send_request(sent).await.map_err(text)?;
        let (head, mut body) = answer.into_parts();
        let mut read = Vec::new();
        while read.len() < OUTPUT_BYTES_MAX
            && let Some(frame) = body.frame().await
        {
            if let Ok(data) = frame.map_err(text)?.into_data() {
                read.extend_from_slice(&data[..data.len().min(OUTPUT_BYTES_MAX - read.len())]);
            }
        }
        let location = matches!(head.status.as_u16(), 301 | 302 | 303 | 307 | 308)
            .then(|| head.headers.get(header::LOCATION)?.to_str().ok().map(str::to_owned));
        Ok((Answer { status: head.status.as_u16(), body: read }, location.flatten()))
    };
    tokio::pin!(exchange);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        done = &mut exchange => return done,
        // What it has read before it ended is still to be had.
        _ = &mut connection => {}
    }
    exchange.await
}

/// A port that everybody expects is not named.
fn host_header(subject: &Subject, target: &Target) -> String {
    let authority = reach::authority(subject, &target.host, target.port);
    let usual = match target.scheme {
        Scheme::Http => ":80",
        Scheme::Https => ":443",
    };
    authority.strip_suffix(usual).map(str::to_owned).unwrap_or(authority)
}

/// The words that people know from other systems, and otherwise hyper's with its cause.
fn cause(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return "EOF".to_owned();
    }
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
