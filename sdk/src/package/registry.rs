//! Sending blobs and manifests to the cluster's own registry, by the OCI distribution protocol.
//!
//! Over plain `reqwest`: `oci-client` panics while it is made on a machine without installed CA certificates, and the
//! cluster's registry needs none but the cluster's own.

use crate::kubeconfig::{Credentials, Proof};
use bytes::Bytes;
use reqwest::{Client, RequestBuilder, Response, StatusCode, header};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{error::Error, time::Duration};
use thiserror::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most of an error answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Why the registry did not take something.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// The credentials cannot be used.
    #[error("cannot use these credentials: {0}")]
    Credentials(String),
    /// No answer, or it broke off.
    #[error("cannot reach the registry at {registry}: {detail}")]
    Unreachable {
        /// `HOST:PORT`.
        registry: String,
        /// What the transport says.
        detail: String,
    },
    /// It refused.
    #[error("the registry answers {status}: {detail}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its own words.
        detail: String,
    },
}

/// `sha256:…` of bytes.
pub(super) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A connection to the registry of one cluster.
pub(super) struct Registry {
    authority: String,
    client: Client,
    token: Option<String>,
}

impl Registry {
    /// Prepares a connection; nothing is sent yet.
    pub(super) fn new(credentials: &Credentials) -> Result<Self, RegistryError> {
        let unusable = |error: reqwest::Error| RegistryError::Credentials(chain(&error));
        let roots = reqwest::Certificate::from_pem_bundle(credentials.ca_pem.as_bytes()).map_err(unusable)?;
        let mut builder = Client::builder().tls_certs_only(roots).connect_timeout(CONNECT_TIMEOUT);
        if let Proof::Certificate { certificate_pem, key_pem } = &credentials.proof {
            let both = format!("{certificate_pem}\n{key_pem}");
            builder = builder.identity(reqwest::Identity::from_pem(both.as_bytes()).map_err(unusable)?);
        }
        Ok(Self {
            authority: credentials.authority().to_owned(),
            client: builder.build().map_err(unusable)?,
            token: credentials.registry_token.clone(),
        })
    }

    /// Uploads a blob unless it is there already, and answers its digest.
    pub(super) async fn blob(&self, repository: &str, bytes: Bytes) -> Result<String, RegistryError> {
        let digest = digest(&bytes);
        let url = self.url(&format!("{repository}/blobs/{digest}"));
        let there = self.send(self.client.head(url)).await?;
        if there.status() == StatusCode::OK {
            return Ok(digest);
        }
        let url = self.url(&format!("{repository}/blobs/uploads/?digest={digest}"));
        let upload = self.client.post(url).header(header::CONTENT_TYPE, "application/octet-stream").body(bytes);
        accepted(self.send(upload).await?).await?;
        Ok(digest)
    }

    /// Stores a manifest under a tag, and answers its digest.
    pub(super) async fn manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<String, RegistryError> {
        let digest = digest(&bytes);
        let url = self.url(&format!("{repository}/manifests/{tag}"));
        let put = self.client.put(url).header(header::CONTENT_TYPE, media_type).body(bytes);
        accepted(self.send(put).await?).await?;
        Ok(digest)
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}/v2/{path}", self.authority)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, RegistryError> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request
            .send()
            .await
            .map_err(|error| RegistryError::Unreachable { registry: self.authority.clone(), detail: chain(&error) })
    }
}

/// Turns every answer but 201 into an error with the registry's own words.
async fn accepted(mut response: Response) -> Result<(), RegistryError> {
    let status = response.status();
    if status == StatusCode::CREATED {
        return Ok(());
    }
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_ANSWER_BYTES - body.len())]);
        if body.len() == MAX_ANSWER_BYTES {
            break;
        }
    }
    let told = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    let words = told["errors"][0]["message"].as_str().or(told["message"].as_str());
    let detail = words.map_or_else(|| String::from_utf8_lossy(&body).into_owned(), str::to_owned);
    Err(RegistryError::Refused { status: status.as_u16(), detail })
}

/// The error and what caused it, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
