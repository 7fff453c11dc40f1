//! Sending to and fetching from registries, by the OCI distribution protocol: the cluster's own and any other.
//!
//! Over plain `reqwest`: `oci-client` panics while it is made on a machine without installed CA certificates, and the
//! cluster's registry needs none but the cluster's own. A credential goes to its own host and to the token server which
//! that host names, never along a redirect.

use crate::kubeconfig::{Credentials, Proof};
use bytes::Bytes;
use coracle_objects::registry_auth::{
    Credential, Keyring, basic,
    challenge::{self, Challenge},
    token,
};
use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode, Url,
    header::{self, HeaderValue},
    redirect::Policy,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{
    error::Error,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use thiserror::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A registry that sends nothing for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_mins(1);
/// Most of an error or token answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Longest chain of redirects.
const MAX_REDIRECTS: usize = 5;

/// Why the registry did not take or give something.
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
        /// What the transport says, and what would be right.
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
    /// It does not keep to the protocol, or leads where nobody should go.
    #[error("the registry at {registry} {detail}")]
    Wrong {
        /// `HOST:PORT`.
        registry: String,
        /// What it does.
        detail: String,
    },
}

/// How a registry other than the cluster's is reached.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// HTTP without TLS.
    pub plain_http: bool,
    /// PEM of the authorities to trust instead of the machine's.
    pub ca_pem: Option<String>,
    /// The user's credentials.
    pub keyring: Keyring,
}

/// `sha256:…` of bytes.
pub(super) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// How requests say who asks.
enum Identity {
    /// With this token, or by the client's certificate.
    Cluster(Option<HeaderValue>),
    /// As the registry wants it; the last proof that it took.
    Foreign { keyring: Keyring, known: Mutex<Option<HeaderValue>> },
}

/// A connection to one registry.
pub(super) struct Registry {
    authority: String,
    scheme: &'static str,
    client: Client,
    identity: Identity,
}

/// One request, to be made as often as it takes.
struct Call<'a> {
    method: Method,
    url: Url,
    repository: &'a str,
    headers: Vec<(header::HeaderName, &'a str)>,
    body: Bytes,
}

impl Registry {
    /// Prepares a connection to a cluster's own registry; nothing is sent yet.
    pub(super) fn of_cluster(credentials: &Credentials) -> Result<Self, RegistryError> {
        let unusable = |error: reqwest::Error| RegistryError::Credentials(chain(&error));
        let roots = reqwest::Certificate::from_pem_bundle(credentials.ca_pem.as_bytes()).map_err(unusable)?;
        let mut builder = builder().tls_certs_only(roots);
        if let Proof::Certificate { certificate_pem, key_pem } = &credentials.proof {
            let both = format!("{certificate_pem}\n{key_pem}");
            builder = builder.identity(reqwest::Identity::from_pem(both.as_bytes()).map_err(unusable)?);
        }
        let token = credentials.registry_token.as_ref().map(|token| secret(&format!("Bearer {token}"))).transpose()?;
        Ok(Self {
            authority: credentials.authority().to_owned(),
            scheme: "https",
            client: builder.build().map_err(unusable)?,
            identity: Identity::Cluster(token),
        })
    }

    /// Prepares a connection to any other registry; nothing is sent yet.
    pub(super) fn foreign(authority: &str, options: &RegistryOptions) -> Result<Self, RegistryError> {
        let builder = match (&options.ca_pem, options.plain_http) {
            (Some(pem), _) => reqwest::Certificate::from_pem_bundle(pem.as_bytes())
                .map(|certificates| builder().tls_certs_only(certificates)),
            (None, true) => Ok(builder().tls_certs_only([])),
            (None, false) => Ok(builder()),
        };
        let client = builder.and_then(reqwest::ClientBuilder::build);
        Ok(Self {
            authority: authority.to_owned(),
            scheme: if options.plain_http { "http" } else { "https" },
            client: client.map_err(|error| RegistryError::Credentials(chain(&error)))?,
            identity: Identity::Foreign { keyring: options.keyring.clone(), known: Mutex::default() },
        })
    }

    /// Uploads a blob unless it is there already, and answers its digest.
    pub(super) async fn blob(&self, repository: &str, bytes: Bytes) -> Result<String, RegistryError> {
        let digest = digest(&bytes);
        let url = self.url(&format!("{repository}/blobs/{digest}"))?;
        let there = self.send(Call::new(Method::HEAD, url, repository)).await?;
        if there.status() == StatusCode::OK {
            return Ok(digest);
        }
        let octets = (header::CONTENT_TYPE, "application/octet-stream");
        if let Identity::Cluster(_) = self.identity {
            // In one go; others need not know how.
            let url = self.url(&format!("{repository}/blobs/uploads/?digest={digest}"))?;
            accepted(self.send(Call::new(Method::POST, url, repository).with(vec![octets], bytes)).await?).await?;
            return Ok(digest);
        }
        let start = self.url(&format!("{repository}/blobs/uploads/"))?;
        let started = self.send(Call::new(Method::POST, start.clone(), repository)).await?;
        if started.status() != StatusCode::ACCEPTED {
            accepted(started).await?;
            return Ok(digest);
        }
        let mut target = self.next(&start, &started)?;
        target.query_pairs_mut().append_pair("digest", &digest);
        accepted(self.send(Call::new(Method::PUT, target, repository).with(vec![octets], bytes)).await?).await?;
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
        let url = self.url(&format!("{repository}/manifests/{tag}"))?;
        let put = Call::new(Method::PUT, url, repository).with(vec![(header::CONTENT_TYPE, media_type)], bytes);
        accepted(self.send(put).await?).await?;
        Ok(digest)
    }

    /// Fetches `manifests/…` or `blobs/…`, along redirects.
    pub(super) async fn get(&self, repository: &str, path: &str, accept: &str) -> Result<Response, RegistryError> {
        let mut url = self.url(&format!("{repository}/{path}"))?;
        for _ in 0..=MAX_REDIRECTS {
            let call =
                Call::new(Method::GET, url.clone(), repository).with(vec![(header::ACCEPT, accept)], Bytes::new());
            let response = self.send(call).await?;
            if !response.status().is_redirection() {
                return succeeded(response).await;
            }
            url = self.next(&url, &response)?;
        }
        Err(self.wrong(&format!("redirects more than {MAX_REDIRECTS} times")))
    }

    /// A transport error while a body was read.
    pub(super) fn broken(&self, error: reqwest::Error) -> RegistryError {
        let text = chain(&error.without_url());
        let advice = if text.contains("InvalidContentType") || text.contains("corrupt message") {
            "; it does not speak TLS: use --plain-http if that is meant"
        } else if text.contains("UnknownIssuer") {
            "; its certificate is signed by an unknown authority: name it with --ca"
        } else {
            ""
        };
        RegistryError::Unreachable { registry: self.authority.clone(), detail: format!("{text}{advice}") }
    }

    pub(super) fn wrong(&self, detail: &str) -> RegistryError {
        RegistryError::Wrong { registry: self.authority.clone(), detail: detail.to_owned() }
    }

    /// Where an answer leads.
    fn next(&self, from: &Url, response: &Response) -> Result<Url, RegistryError> {
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let next = location.and_then(|location| from.join(location).ok());
        let next = next.ok_or_else(|| self.wrong("leads to nowhere"))?;
        if next.scheme() != "https" && next.scheme() != self.scheme {
            return Err(self.wrong(&format!("leads to {} without TLS", next.host_str().unwrap_or_default())));
        }
        Ok(next)
    }

    fn url(&self, path: &str) -> Result<Url, RegistryError> {
        Url::parse(&format!("{}://{}/v2/{path}", self.scheme, self.authority))
            .map_err(|error| self.wrong(&format!("is no address: {error}")))
    }

    async fn send(&self, call: Call<'_>) -> Result<Response, RegistryError> {
        let is_ours = self.url("").is_ok_and(|own| own.origin() == call.url.origin());
        match &self.identity {
            _ if !is_ours => self.send_as(&call, None).await,
            Identity::Cluster(token) => self.send_as(&call, token.as_ref()).await,
            Identity::Foreign { keyring, known } => {
                let proof = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let first = self.send_as(&call, proof.as_ref()).await?;
                if first.status() != StatusCode::UNAUTHORIZED {
                    return Ok(first);
                }
                let headers = first.headers().get_all(header::WWW_AUTHENTICATE).iter();
                let challenges: Vec<&str> = headers.filter_map(|value| value.to_str().ok()).collect();
                let Some(challenge) = challenge::parse(&challenges.join(", ")) else { return Ok(first) };
                let credentials = keyring.matching(&self.authority, call.repository).into_iter().map(Some);
                let mut ways: Vec<Option<&Credential>> = credentials.collect();
                if ways.is_empty() {
                    ways.push(None);
                }
                let mut last = first;
                for credential in ways {
                    let Some(proof) = self.answer(&challenge, credential, &call).await? else { continue };
                    last = self.send_as(&call, Some(&proof)).await?;
                    if last.status() != StatusCode::UNAUTHORIZED {
                        *known.lock().unwrap_or_else(PoisonError::into_inner) = Some(proof);
                        return Ok(last);
                    }
                }
                Ok(last)
            }
        }
    }

    async fn send_as(&self, call: &Call<'_>, proof: Option<&HeaderValue>) -> Result<Response, RegistryError> {
        let mut request: RequestBuilder = self.client.request(call.method.clone(), call.url.clone());
        for (name, value) in &call.headers {
            request = request.header(name.clone(), *value);
        }
        if let Some(proof) = proof {
            request = request.header(header::AUTHORIZATION, proof.clone());
        }
        request.body(call.body.clone()).send().await.map_err(|error| self.broken(error))
    }

    /// What a challenge asks for; nothing where this credential is no answer to it.
    async fn answer(
        &self,
        challenge: &Challenge,
        credential: Option<&Credential>,
        call: &Call<'_>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let (realm, service, scope) = match (challenge, credential) {
            (_, Some(Credential::Bearer(token))) => return secret(&format!("Bearer {token}")).map(Some),
            (Challenge::Basic, Some(Credential::Password { username, password })) => {
                return secret(&basic(username, password)).map(Some);
            }
            (Challenge::Basic, _) => return Ok(None),
            (Challenge::Bearer { realm, service, scope }, _) => (realm, service, scope),
        };
        let mut url = Url::parse(realm).map_err(|_| self.wrong("names a token server that is no address"))?;
        if url.scheme() != "https" && url.scheme() != self.scheme {
            return Err(self.wrong("sends clients for tokens to a server without TLS"));
        }
        let scope = scope.clone().unwrap_or_else(|| format!("repository:{}:pull,push", call.repository));
        let question = token::question(service.as_deref(), &scope, credential);
        let mut request = if question.is_form {
            let mut form = url.clone();
            form.query_pairs_mut().clear().extend_pairs(&question.parameters);
            let body = form.query().unwrap_or_default().to_owned();
            self.client.post(url).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
        } else {
            url.query_pairs_mut().extend_pairs(&question.parameters);
            self.client.get(url)
        };
        if let Some(proof) = question.authorization {
            request = request.header(header::AUTHORIZATION, secret(&proof)?);
        }
        let response = request.send().await.map_err(|error| self.broken(error))?;
        if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Ok(None);
        }
        let body = beginning(succeeded(response).await?).await;
        let (token, _) = token::answer(&body).ok_or_else(|| self.wrong("names a token server that gives no token"))?;
        secret(&format!("Bearer {token}")).map(Some)
    }
}

impl<'a> Call<'a> {
    fn new(method: Method, url: Url, repository: &'a str) -> Self {
        Self { method, url, repository, headers: Vec::new(), body: Bytes::new() }
    }

    fn with(self, headers: Vec<(header::HeaderName, &'a str)>, body: Bytes) -> Self {
        Self { headers, body, ..self }
    }
}

fn builder() -> reqwest::ClientBuilder {
    Client::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT).redirect(Policy::none())
}

/// A header that is never printed.
fn secret(text: &str) -> Result<HeaderValue, RegistryError> {
    let unprintable = |_| RegistryError::Credentials("one has unprintable characters".to_owned());
    let mut value = HeaderValue::from_str(text).map_err(unprintable)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Turns every answer but 201 into an error with the registry's own words.
async fn accepted(response: Response) -> Result<(), RegistryError> {
    if response.status() == StatusCode::CREATED { Ok(()) } else { Err(refused(response).await) }
}

async fn succeeded(response: Response) -> Result<Response, RegistryError> {
    if response.status().is_success() { Ok(response) } else { Err(refused(response).await) }
}

async fn refused(response: Response) -> RegistryError {
    let status = response.status();
    let body = beginning(response).await;
    let told = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    let words = told["errors"][0]["message"].as_str().or(told["message"].as_str());
    let detail = words.map_or_else(|| String::from_utf8_lossy(&body).into_owned(), str::to_owned);
    let advice = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => " (credentials are read from Docker's config.json)",
        _ => "",
    };
    RegistryError::Refused { status: status.as_u16(), detail: format!("{detail}{advice}") }
}

async fn beginning(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_ANSWER_BYTES - body.len())]);
        if body.len() == MAX_ANSWER_BYTES {
            break;
        }
    }
    body
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
