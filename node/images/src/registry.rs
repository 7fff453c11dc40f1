//! Talking to registries: manifests with a bound, blobs as streams, mirrors, redirects.
//!
//! Over plain `reqwest` rather than `oci-client`: that one reads manifests of any length into memory, and its
//! constructor panics on a machine without installed CA certificates, which a device may well be. A credential goes to
//! the host that it is for and to the token server which that host names, never along a redirect.

use crate::{
    ClusterRegistry, RegistrySettings,
    failure::{Class, Failure, chain},
    manifest,
    proofs::Proofs,
    reference::Reference,
};
use bytes::Bytes;
use coracle_objects::registry_auth::{Credential, Keyring};
use futures::StreamExt;
use reqwest::{Client, Response, StatusCode, Url, header, header::HeaderValue, redirect::Policy};
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Largest manifest that is read.
pub(crate) const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest other answer (tokens, error texts) that is read.
pub(crate) const TEXT_BYTES_MAX: usize = 64 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A registry that sends nothing for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection that nothing was got over for so long is closed, or a little later: between pulls a node holds none.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Longest chain of redirects.
const REDIRECTS_MAX: usize = 5;
/// Most credentials that are tried at one registry.
const CREDENTIALS_MAX: usize = 16;

/// What was needed to get something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing that a pod brought: everyone on this node may have it.
    Open,
    /// This credential of the pod.
    By(Credential),
}

/// Something that an image is made of.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) reference: &'a Reference,
    /// The pod's own credentials.
    pub(crate) keyring: &'a Keyring,
    /// `manifests/…` or `blobs/…`.
    pub(crate) path: &'a str,
    pub(crate) accept: &'static str,
    /// First byte that is missing.
    pub(crate) from: u64,
}

/// The registries as this node reaches them.
pub(crate) struct Registries {
    cluster: ClusterRegistry,
    cluster_scheme: &'static str,
    /// The client for the cluster's registry, and what it shows.
    cluster_client: Mutex<(Option<Arc<str>>, Client)>,
    settings: RegistrySettings,
    /// Clients by what they trust: a host with its own CA, [`MACHINE`] or [`NOBODY`].
    clients: Mutex<HashMap<String, Client>>,
    proofs: Proofs,
}

/// The client that trusts the machine's authorities, and the one that never speaks TLS: no host is called so.
const MACHINE: &str = "/machine";
const NOBODY: &str = "/nobody";

impl Registries {
    pub(crate) fn new(cluster: ClusterRegistry, settings: RegistrySettings) -> Result<Self, String> {
        let shown = cluster.identity.as_ref().map(|identity| identity());
        let client = cluster_client(&cluster.ca_pem, shown.as_deref()).map_err(|error| chain(&error))?;
        Ok(Self::with_client(cluster, "https", (shown, client), settings))
    }

    #[cfg(test)]
    pub(crate) fn plain_http(cluster: ClusterRegistry, settings: RegistrySettings) -> Self {
        let client = builder().tls_certs_only([]).build().unwrap();
        Self::with_client(cluster, "http", (None, client), settings)
    }

    fn with_client(
        cluster: ClusterRegistry,
        cluster_scheme: &'static str,
        cluster_client: (Option<Arc<str>>, Client),
        settings: RegistrySettings,
    ) -> Self {
        let cluster_client = Mutex::new(cluster_client);
        Self { cluster, cluster_scheme, cluster_client, settings, clients: Mutex::default(), proofs: Proofs::default() }
    }

    /// `HOST/REPOSITORY` as image ids carry it.
    pub(crate) fn full_name(&self, reference: &Reference) -> String {
        format!("{}/{}", reference.host.as_deref().unwrap_or(&self.cluster.address), reference.repository)
    }

    /// The host behind a name, where it is not the cluster's own registry.
    fn foreign<'a>(&self, reference: &'a Reference) -> Option<&'a str> {
        reference.host.as_deref().filter(|host| *host != self.cluster.address)
    }

    /// The pod's credentials that might be used for an image.
    pub(crate) fn usable<'a>(&self, reference: &Reference, keyring: &'a Keyring) -> Vec<&'a Credential> {
        let Some(host) = self.foreign(reference) else { return Vec::new() };
        let mirrors = self.settings.host(host).mirrors;
        let hosts = mirrors.iter().map(String::as_str).chain([host]);
        hosts.flat_map(|host| keyring.matching(host, &reference.repository)).collect()
    }

    /// The manifest named by tag or digest, at most [`MANIFEST_BYTES_MAX`] long, not yet verified.
    pub(crate) async fn manifest(
        &self,
        reference: &Reference,
        keyring: &Keyring,
        version: &str,
    ) -> Result<(Bytes, Access), Failure> {
        let path = format!("manifests/{version}");
        let (response, access) =
            self.get(Wanted { reference, keyring, path: &path, accept: manifest::ACCEPT, from: 0 }).await?;
        Ok((bounded(response, MANIFEST_BYTES_MAX, "the manifest", &self.full_name(reference)).await?, access))
    }

    /// Asks the cluster's registry, or the mirrors and then the registry itself. Besides success the answer may be
    /// `416` where `from` was given.
    pub(crate) async fn get(&self, wanted: Wanted<'_>) -> Result<(Response, Access), Failure> {
        let Some(host) = self.foreign(wanted.reference) else {
            return Ok((self.ask_cluster(wanted).await?, Access::Open));
        };
        let mut missed = String::new();
        for mirror in self.settings.host(host).mirrors {
            match self.ask(&mirror, wanted).await {
                Ok(found) => return Ok(found),
                Err(failure) => missed = format!("{missed}; mirror: {}", failure.text),
            }
        }
        let asked = self.ask(host, wanted).await;
        asked.map_err(|failure| Failure { text: format!("{}{missed}", failure.text), ..failure })
    }

    async fn ask_cluster(&self, wanted: Wanted<'_>) -> Result<Response, Failure> {
        let host = self.cluster.address.as_str();
        let token = &self.cluster.token;
        let proof = if token.is_empty() { None } else { Some(bearer(token)?) };
        let url = url(self.cluster_scheme, host, wanted)?;
        // Redirects are not followed: it makes none.
        let response = request(&self.cluster_client()?, url, wanted, proof.as_ref()).send().await;
        check(response.map_err(|error| Failure::transport(host, error))?, host, wanted, "").await
    }

    /// The client that shows what is to be shown now.
    fn cluster_client(&self) -> Result<Client, Failure> {
        let mut client = self.cluster_client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = self.cluster.identity.as_ref().map(|identity| identity())
            && !client.0.as_ref().is_some_and(|shown| Arc::ptr_eq(shown, &now))
        {
            let made = cluster_client(&self.cluster.ca_pem, Some(&now));
            *client = (Some(now), made.map_err(|error| Failure::transport(&self.cluster.address, error))?);
        }
        Ok(client.1.clone())
    }

    /// Tries the pod's credentials, then the node's; without any it asks as nobody, as kubelet does.
    async fn ask(&self, host: &str, wanted: Wanted<'_>) -> Result<(Response, Access), Failure> {
        let repository = &wanted.reference.repository;
        let pods = wanted.keyring.matching(host, repository).into_iter();
        let nodes = self.settings.credentials.matching(host, repository).into_iter();
        let of_pod = pods.map(|credential| (Some(credential), Access::By(credential.clone())));
        let of_node = nodes.map(|credential| (Some(credential), Access::Open));
        let mut ways: Vec<_> = of_pod.chain(of_node).take(CREDENTIALS_MAX).collect();
        if ways.is_empty() {
            ways.push((None, Access::Open));
        }
        let mut last = Failure::last("no way to ask");
        for (credential, access) in ways {
            match self.ask_as(host, wanted, credential).await {
                Ok(response) => return Ok((response, access)),
                // Some registries deny that there is what they do not want to show.
                Err(failure) if matches!(failure.class, Class::Denied | Class::Missing) => last = failure,
                Err(failure) => return Err(failure),
            }
        }
        Err(last)
    }

    async fn ask_as(
        &self,
        host: &str,
        wanted: Wanted<'_>,
        credential: Option<&Credential>,
    ) -> Result<Response, Failure> {
        let scheme = if self.settings.host(host).plain_http { "http" } else { "https" };
        let url = url(scheme, host, wanted)?;
        let repository = &wanted.reference.repository;
        let mut proof = self.proofs.known(host, repository, credential);
        if proof.is_none()
            && let Some(Credential::Bearer(token)) = credential
        {
            proof = Some(bearer(token)?);
        }
        let advice = match credential {
            Some(_) => format!("; the credentials for {host} are not accepted for {repository}"),
            None => format!("; no pull secret of the pod and no credential of the node is for {host}/{repository}"),
        };
        let response = self.follow(host, url.clone(), wanted, proof.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return check(response, host, wanted, &advice).await;
        }
        let headers = response.headers().get_all(header::WWW_AUTHENTICATE);
        let challenges: Vec<_> = headers.iter().filter_map(|value| value.to_str().ok()).collect();
        let challenge = coracle_objects::registry_auth::challenge::parse(&challenges.join(", "));
        let Some(challenge) = challenge else { return check(response, host, wanted, &advice).await };
        let Some(proof) = self.proofs.make(self, host, repository, credential, &challenge).await? else {
            return check(response, host, wanted, &advice).await;
        };
        check(self.follow(host, url, wanted, Some(&proof)).await?, host, wanted, &advice).await
    }

    /// Follows redirects by each host's own rules. `proof` goes nowhere but to where the first request went.
    async fn follow(
        &self,
        host: &str,
        url: Url,
        wanted: Wanted<'_>,
        proof: Option<&HeaderValue>,
    ) -> Result<Response, Failure> {
        let origin = url.origin();
        let (mut at, mut name) = (url, host.to_owned());
        for _ in 0..=REDIRECTS_MAX {
            let client = self.client(&name)?;
            let proof = proof.filter(|_| at.origin() == origin);
            let sent = request(&client, at.clone(), wanted, proof).send().await;
            let response = sent.map_err(|error| Failure::transport(&name, error))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| at.join(location).ok());
            at = next.ok_or_else(|| Failure::last(format!("registry {name} redirects to nowhere")))?;
            name = authority(&at);
            self.check_scheme(&at, &format!("registry {host} redirects to"))?;
        }
        Err(Failure::last(format!("registry {host} redirects more than {REDIRECTS_MAX} times")))
    }

    /// Refuses what would go over the wire in the clear without being allowed to.
    pub(crate) fn check_scheme(&self, url: &Url, what: &str) -> Result<(), Failure> {
        let name = authority(url);
        match url.scheme() {
            "https" => Ok(()),
            "http" if self.settings.host(&name).plain_http => Ok(()),
            "http" => Err(Failure::last(format!(
                "{what} {name} without TLS; set \"plainHttp\" for it in registries.json if that is meant"
            ))),
            _ => Err(Failure::last(format!("{what} {name} by something that is not HTTP"))),
        }
    }

    /// The client for a host. Made when needed: the machine's certificates take memory that most nodes never use.
    pub(crate) fn client(&self, host: &str) -> Result<Client, Failure> {
        let settings = self.settings.host(host);
        let trust = match (&settings.ca_pem, settings.plain_http) {
            (Some(_), _) => host,
            (None, true) => NOBODY,
            (None, false) => MACHINE,
        };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(trust) {
            return Ok(client.clone());
        }
        let made = match (&settings.ca_pem, settings.plain_http) {
            (Some(pem), _) => reqwest::Certificate::from_pem_bundle(pem.as_bytes())
                .and_then(|certificates| builder().tls_certs_only(certificates).build()),
            (None, true) => builder().tls_certs_only([]).build(),
            (None, false) => builder().build(),
        };
        let client = made.map_err(|error| Failure::transport(host, error))?;
        clients.insert(trust.to_owned(), client.clone());
        Ok(client)
    }
}

/// A client that trusts nobody but `ca_pem`, and shows `identity`.
fn cluster_client(ca_pem: &str, identity: Option<&str>) -> reqwest::Result<Client> {
    let mut builder = builder().tls_certs_only(reqwest::Certificate::from_pem_bundle(ca_pem.as_bytes())?);
    if let Some(pem) = identity {
        builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes())?);
    }
    builder.build()
}

fn builder() -> reqwest::ClientBuilder {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .pool_idle_timeout(IDLE_MAX)
        .redirect(Policy::none())
        .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
}

fn request(client: &Client, url: Url, wanted: Wanted<'_>, proof: Option<&HeaderValue>) -> reqwest::RequestBuilder {
    let mut request = client.get(url).header(header::ACCEPT, wanted.accept);
    if wanted.from > 0 {
        request = request.header(header::RANGE, format!("bytes={}-", wanted.from));
    }
    match proof {
        Some(proof) => request.header(header::AUTHORIZATION, proof.clone()),
        None => request,
    }
}

fn url(scheme: &str, host: &str, wanted: Wanted<'_>) -> Result<Url, Failure> {
    let text = format!("{scheme}://{host}/v2/{}/{}", wanted.reference.repository, wanted.path);
    Url::parse(&text).map_err(|error| Failure::last(format!("{host} is no address: {error}")))
}

/// `HOST` or `HOST:PORT`, as settings name it.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// A bearer token as a header that is never printed.
pub(crate) fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    sensitive(&format!("Bearer {token}"))
}

pub(crate) fn sensitive(text: &str) -> Result<HeaderValue, Failure> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_| Failure::last("a credential has unprintable characters"))?;
    value.set_sensitive(true);
    Ok(value)
}

async fn check(response: Response, host: &str, wanted: Wanted<'_>, advice: &str) -> Result<Response, Failure> {
    let status = response.status();
    if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE && wanted.from > 0 {
        return Ok(response);
    }
    let said = said(response, host).await;
    Err(match status {
        StatusCode::NOT_FOUND => Failure::new(Class::Missing, format!("not found in registry {host}{said}")),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let text = format!("registry {host} denies access ({}){said}{advice}", status.as_u16());
            Failure::new(Class::Denied, text)
        }
        _ => Failure::new(class(status), format!("registry {host} answered {status}{said}")),
    })
}

/// Whether trying again may help.
pub(crate) fn class(status: StatusCode) -> Class {
    let passing = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    if passing { Class::Passing } else { Class::Final }
}

/// The text of an OCI error body behind a colon.
pub(crate) async fn said(response: Response, host: &str) -> String {
    let text = registry_message(&bounded(response, TEXT_BYTES_MAX, "the answer", host).await.unwrap_or_default());
    if text.is_empty() { text } else { format!(": {text}") }
}

/// The text of an OCI error body; only printable text of bounded length gets into events.
fn registry_message(body: &[u8]) -> String {
    let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
    let first = &parsed["errors"][0];
    let text = first["message"].as_str().or(first["code"].as_str()).unwrap_or_default();
    text.chars().filter(|character| !character.is_control()).take(256).collect()
}

pub(crate) async fn bounded(response: Response, max: usize, what: &str, host: &str) -> Result<Bytes, Failure> {
    let mut stream = response.bytes_stream();
    let mut all = Vec::new();
    while let Some(part) = stream.next().await {
        let part = part.map_err(|error| Failure::transport(host, error))?;
        if all.len() + part.len() > max {
            return Err(Failure::last(format!("{what} is longer than {max} bytes")));
        }
        all.extend_from_slice(&part);
    }
    Ok(all.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_cannot_put_anything_into_an_event() {
        let long = "x".repeat(1000);
        let body = format!("{{\"errors\":[{{\"code\":\"DENIED\",\"message\":\"a\\u0007b\\n{long}\"}}]}}");
        let text = registry_message(body.as_bytes());
        assert!(text.starts_with("abxxx") && text.len() == 256, "{text}");
        assert_eq!(registry_message(b"<html>"), "");
    }
}
