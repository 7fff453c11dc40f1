//! Talking to registries: manifests with a bound, blobs as streams, anonymous tokens.
//!
//! Over plain `reqwest` rather than `oci-client`: that one reads manifests of any length into memory, and its
//! constructor panics on a machine without installed CA certificates, which a device may well be.

use crate::{ClusterRegistry, manifest, reference::Reference};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use reqwest::{Client, RequestBuilder, Response, StatusCode, header};
use serde_json::Value;
use std::{collections::HashMap, error::Error, pin::Pin, sync::Mutex, time::Duration};

/// Largest manifest that is read.
pub(crate) const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest other answer (tokens, error texts) that is read.
const TEXT_BYTES_MAX: usize = 64 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A registry that sends nothing for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Tokens kept; beyond it the cache starts anew.
const TOKENS_MAX: usize = 256;

/// A stream of a blob's bytes.
pub(crate) type Blob = Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>;

/// The registries as this node reaches them.
pub(crate) struct Registries {
    cluster: ClusterRegistry,
    scheme: &'static str,
    cluster_client: Client,
    /// Anonymous tokens by `host/repository`.
    tokens: Mutex<HashMap<String, String>>,
}

/// Where an image's manifest and blobs are.
struct Place<'a> {
    client: Client,
    host: &'a str,
    repository: String,
    token: Option<String>,
}

impl Registries {
    pub(crate) fn new(cluster: ClusterRegistry) -> Result<Self, String> {
        let certificates =
            reqwest::Certificate::from_pem_bundle(cluster.ca_pem.as_bytes()).map_err(|error| chain(&error))?;
        let client = builder().tls_certs_only(certificates).build().map_err(|error| chain(&error))?;
        Ok(Self { cluster, scheme: "https", cluster_client: client, tokens: Mutex::default() })
    }

    #[cfg(test)]
    pub(crate) fn plain_http(cluster: ClusterRegistry) -> Self {
        let client = builder().tls_certs_only([]).build().unwrap();
        Self { cluster, scheme: "http", cluster_client: client, tokens: Mutex::default() }
    }

    /// `HOST/REPOSITORY` as image ids carry it.
    pub(crate) fn full_name(&self, reference: &Reference) -> String {
        format!("{}/{}", reference.host.as_deref().unwrap_or(&self.cluster.address), reference.repository)
    }

    fn place<'a>(&'a self, reference: &'a Reference) -> Result<Place<'a>, String> {
        let host = reference.host.as_deref().unwrap_or(&self.cluster.address);
        let repository = reference.repository.clone();
        if host == self.cluster.address {
            let token = Some(self.cluster.token.clone());
            return Ok(Place { client: self.cluster_client.clone(), host, repository, token });
        }
        // Made when needed: loading the machine's certificates takes memory that most nodes never use.
        let client = builder().build().map_err(|error| chain(&error))?;
        let token = self.tokens.lock().ok().and_then(|tokens| tokens.get(&format!("{host}/{repository}")).cloned());
        Ok(Place { client, host, repository, token })
    }

    /// The manifest named by tag or digest, at most [`MANIFEST_BYTES_MAX`] long, not yet verified.
    pub(crate) async fn manifest(&self, reference: &Reference, version: &str) -> Result<Bytes, String> {
        let response = self.get(reference, &format!("manifests/{version}"), manifest::ACCEPT).await?;
        bounded(response, MANIFEST_BYTES_MAX, "the manifest").await
    }

    /// A blob's bytes, not yet verified.
    pub(crate) async fn blob(&self, reference: &Reference, digest: &str) -> Result<Blob, String> {
        let response = self.get(reference, &format!("blobs/{digest}"), "*/*").await?;
        Ok(Box::pin(response.bytes_stream().map(|part| part.map_err(|error| chain(&error)))))
    }

    async fn get(&self, reference: &Reference, path: &str, accept: &str) -> Result<Response, String> {
        let mut place = self.place(reference)?;
        let url = format!("{}://{}/v2/{}/{path}", self.scheme, place.host, place.repository);
        let request = |place: &Place<'_>| -> RequestBuilder {
            let request = place.client.get(&url).header(header::ACCEPT, accept);
            match &place.token {
                Some(token) => request.bearer_auth(token),
                None => request,
            }
        };
        let mut response = request(&place).send().await.map_err(|error| chain(&error))?;
        if response.status() == StatusCode::UNAUTHORIZED && place.host != self.cluster.address {
            let challenge = response.headers().get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
            if let Some((realm, query)) = challenge.and_then(bearer_challenge) {
                let token = anonymous_token(&place, &realm, &query).await?;
                if let Ok(mut tokens) = self.tokens.lock() {
                    if tokens.len() >= TOKENS_MAX {
                        tokens.clear();
                    }
                    tokens.insert(format!("{}/{}", place.host, place.repository), token.clone());
                }
                place.token = Some(token);
                response = request(&place).send().await.map_err(|error| chain(&error))?;
            }
        }
        check(response, &place).await
    }
}

fn builder() -> reqwest::ClientBuilder {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
}

async fn check(response: Response, place: &Place<'_>) -> Result<Response, String> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let said = registry_message(&bounded(response, TEXT_BYTES_MAX, "the answer").await.unwrap_or_default());
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    let host = place.host;
    Err(match status {
        StatusCode::NOT_FOUND => format!("not found in registry {host}{said}"),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            format!("registry {host} denies access ({}){said}", status.as_u16())
        }
        _ => format!("registry {host} answered {status}{said}"),
    })
}

/// The text of an OCI error body; only printable text of bounded length gets into events.
fn registry_message(body: &[u8]) -> String {
    let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
    let first = &parsed["errors"][0];
    let text = first["message"].as_str().or(first["code"].as_str()).unwrap_or_default();
    text.chars().filter(|character| !character.is_control()).take(256).collect()
}

async fn bounded(response: Response, max: usize, what: &str) -> Result<Bytes, String> {
    let mut stream = response.bytes_stream();
    let mut all = Vec::new();
    while let Some(part) = stream.next().await {
        let part = part.map_err(|error| chain(&error))?;
        if all.len() + part.len() > max {
            return Err(format!("{what} is longer than {max} bytes"));
        }
        all.extend_from_slice(&part);
    }
    Ok(all.into())
}

/// Reads `Bearer realm="…",service="…",scope="…"` (RFC 6750, distribution token spec).
fn bearer_challenge(text: &str) -> Option<(String, Vec<(String, String)>)> {
    let rest = text.strip_prefix("Bearer ")?;
    let mut realm = None;
    let mut query = Vec::new();
    for part in rest.split("\",") {
        let (key, value) = part.split_once('=')?;
        let (key, value) = (key.trim(), value.trim_matches('"').to_owned());
        if key == "realm" {
            realm = Some(value);
        } else if key != "error" {
            query.push((key.to_owned(), value));
        }
    }
    realm.map(|realm| (realm, query))
}

async fn anonymous_token(place: &Place<'_>, realm: &str, query: &[(String, String)]) -> Result<String, String> {
    if !realm.starts_with("https://") {
        return Err(format!("registry {} sends clients to {realm} for tokens, which is not HTTPS", place.host));
    }
    let mut url = reqwest::Url::parse(realm).map_err(|error| error.to_string())?;
    url.query_pairs_mut().extend_pairs(query);
    let response = place.client.get(url).send().await.map_err(|error| chain(&error))?;
    let response = check(response, place).await?;
    let body: Value = serde_json::from_slice(&bounded(response, TEXT_BYTES_MAX, "the token").await?)
        .map_err(|error| format!("the token of registry {} cannot be read: {error}", place.host))?;
    let token = body["token"].as_str().or(body["access_token"].as_str());
    token.map(str::to_owned).ok_or_else(|| format!("registry {} gave no token", place.host))
}

/// An error and what caused it, as one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let text = "Bearer realm=\"https://auth.io/token\",service=\"reg.io\",scope=\"repository:a/b:pull,push\"";
        let (realm, query) = bearer_challenge(text).unwrap();
        assert_eq!(realm, "https://auth.io/token");
        let expected = [("service", "reg.io"), ("scope", "repository:a/b:pull,push")];
        assert_eq!(query, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        for text in ["Basic realm=\"x\"", "Bearer", "Bearer service=\"x\"", ""] {
            assert!(bearer_challenge(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_registry_cannot_put_anything_into_an_event() {
        let long = "x".repeat(1000);
        let body = format!("{{\"errors\":[{{\"code\":\"DENIED\",\"message\":\"a\\u0007b\\n{long}\"}}]}}");
        let text = registry_message(body.as_bytes());
        assert!(text.starts_with("abxxx") && text.len() == 256, "{text}");
        assert_eq!(registry_message(b"<html>"), "");
    }
}
