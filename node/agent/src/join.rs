//! How a machine becomes a node of a cluster: it learns the cluster's CA by its hash, shows a token, asks for a certificate
//! and keeps what it gets.
//!
//! ```text
//!  chain from TLS ──hash is one that was named──▶ CA ──token, request──▶ waits ──▶ certificate ──▶ DIRECTORY/
//! ```
//!
//! It must never send the token to anybody who has not proved to be of the cluster that was named.

use crate::{
    credentials::{self, Credentials, CredentialsError},
    directory::{DirectoryError, Hold},
    grpc::{self, Patience, chain, channel, channel_as},
    link::{NODES, SIGNING_REQUESTS},
    naming,
    retry::Reconnect,
    server_place::ServerPlace,
    signing_request::{Answer, SigningRequest, answer},
};
use coracle_objects::{ApiError, Reason, bootstrap};
use coracle_wire::v1::{self, objects_client::ObjectsClient};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use thiserror::Error;
use tokio::net::TcpStream;
use tonic::{
    Status,
    metadata::{Ascii, MetadataValue},
    service::interceptor::InterceptedService,
    transport::Channel,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What begins the hash of a CA's public key; 64 hexadecimal digits follow.
pub const HASH_PREFIX: &str = "sha256:";
/// Where the server's address is kept, in the directory of credentials.
const SERVER_FILE: &str = "server";
/// The key that a certificate has been asked for, in the directory of credentials, until it is there.
const PENDING_KEY_FILE: &str = "pending.key";
/// How long connecting and the handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// After this time somebody is told that the request waits for a person.
const TOLD_AFTER: Duration = Duration::from_secs(5);
/// How long a server may take to say whether credentials still count.
const ENDED_TIMEOUT: Duration = Duration::from_secs(5);

/// What is needed to join.
#[derive(Debug, Clone)]
pub struct Invitation {
    /// `https://HOST:PORT` of a server.
    pub server: String,
    /// The token, `ID.SECRET`.
    pub token: String,
    /// Hashes of the CA's public key, `sha256:…`, of which one must be it.
    pub ca_hashes: Vec<String>,
    /// The name that the node shall have.
    pub node_name: String,
}

/// Why a machine could not join.
#[derive(Debug, Error)]
pub enum JoinError {
    /// A hash, the server's address, the token or the name is no such thing.
    #[error("{0}")]
    Invitation(String),
    /// The server did not prove to be of the cluster that was named.
    #[error("{server} is not of the cluster that --ca-cert-hash names: {why}")]
    Stranger {
        /// The server.
        server: String,
        /// What it showed.
        why: String,
    },
    /// The server did not let this machine ask.
    #[error(
        "the server does not take the token: {0}; it may have expired or been deleted: `coracle token list` shows those that \
         count, `coracle token create` makes another"
    )]
    Token(String),
    /// The request was denied or failed.
    #[error("the request for a certificate was refused: {0}")]
    Refused(String),
    /// What was got or is there cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The node's directory is another node's, or cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

/// The address of the server that credentials in `directory` were got from.
///
/// # Errors
/// When it is not there.
pub fn server_of(directory: &Path) -> Result<String, CredentialsError> {
    credentials::text(&directory.join(SERVER_FILE)).map(|text| text.trim().to_owned())
}

/// What `server` says of the credentials that it once gave, if it says that they have ended. A server that cannot be reached,
/// or does not answer soon, says nothing.
pub async fn ended(server: &str, credentials: &Credentials) -> Option<String> {
    let channel = channel(server, &ServerPlace::new(server), credentials, Patience::default()).ok()?;
    let get = v1::GetRequest {
        resource: grpc::wire(NODES),
        namespace: String::new(),
        name: credentials.node_name().to_owned(),
    };
    let mut client = ObjectsClient::new(channel);
    match tokio::time::timeout(ENDED_TIMEOUT, grpc::timed(client.get(get))).await {
        Ok(Err(error)) if error.reason == Reason::Unauthorized => Some(error.message),
        _ => None,
    }
}

/// Gets credentials and writes them to the directory that is held; what an earlier node there knew of its cluster and its pods
/// is forgotten, for this is another one. A server that cannot be reached is waited for; `tell` is told what is done and
/// what is waited for. Asked again after an interruption it goes on with the same request.
///
/// # Errors
/// What no waiting helps with.
pub async fn join(
    invitation: &Invitation,
    hold: &Hold,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Credentials, JoinError> {
    let Invitation { server, node_name, .. } = invitation;
    let hashes = parse_hashes(&invitation.ca_hashes)?;
    check_token(&invitation.token)?;
    naming::check_node_name(node_name)
        .map_err(|rule| JoinError::Invitation(format!("\"{node_name}\" is no node's name: {rule}")))?;
    check_address(server)?;
    hold.check_owner(node_name)?;
    let directory = &hold.path().join(credentials::DIRECTORY);
    credentials::make_private(directory)?;
    let ca = learn_ca(server, &hashes, tell).await?;
    let ca_pem = pem(&ca);
    let request = pending(directory, node_name)?;
    let mut desk = Desk::open(invitation, &ca_pem)?;
    tell(&format!("{server} is of the cluster that was named; it is asked for a certificate of node {node_name}"));
    let granted = desk.ask(&request, tell).await;
    let pending_file = directory.join(PENDING_KEY_FILE);
    if matches!(granted, Err(JoinError::Refused(_))) {
        // The next try shall be a new one, and not hear the same answer.
        remove(&pending_file)?;
    }
    let new = Credentials::from_pem(&ca_pem, &granted?, request.key_pem())?;
    hold.begin_anew()?;
    credentials::write_private(&directory.join(SERVER_FILE), server.as_bytes())?;
    new.write(directory)?;
    remove(&pending_file)?;
    Ok(new)
}

fn parse_hashes(texts: &[String]) -> Result<Vec<[u8; 32]>, JoinError> {
    let parse = |text: &String| {
        let mut hash = [0; 32];
        hex::decode_to_slice(text.strip_prefix(HASH_PREFIX)?, &mut hash).ok()?;
        Some(hash)
    };
    let wrong = |text: &String| {
        JoinError::Invitation(format!("\"{text}\" is no hash: wanted is {HASH_PREFIX} and 64 hexadecimal digits"))
    };
    let hashes = texts.iter().map(|text| parse(text).ok_or_else(|| wrong(text))).collect::<Result<Vec<_>, _>>()?;
    if hashes.is_empty() {
        Err(JoinError::Invitation("the hash of the CA's key is missing".to_owned()))
    } else {
        Ok(hashes)
    }
}

/// Refuses what cannot be a token; it is not repeated, for it may be most of one.
fn check_token(token: &str) -> Result<(), JoinError> {
    let (id, secret) = bootstrap::LENGTHS;
    bootstrap::parts(token).map(drop).ok_or_else(|| {
        JoinError::Invitation(format!(
            "what --token names is no token: wanted is ID.SECRET as `coracle token create` prints it, {id} and {secret} lower-case letters and digits"
        ))
    })
}

/// The key that was asked with before, or a new one, which is kept.
fn pending(directory: &Path, node: &str) -> Result<SigningRequest, JoinError> {
    let unusable = |error: rcgen::Error| CredentialsError::Unusable(error.to_string());
    let path = directory.join(PENDING_KEY_FILE);
    if path.exists()
        && let Ok(request) = SigningRequest::new(node, &credentials::text(&path)?)
    {
        return Ok(request);
    }
    let request = SigningRequest::with_new_key(node).map_err(unusable)?;
    credentials::write_private(&path, request.key_pem().as_bytes())?;
    Ok(request)
}

fn remove(path: &PathBuf) -> Result<(), CredentialsError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CredentialsError::File(path.clone(), error)),
        _ => Ok(()),
    }
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(certificate);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// The CA whose hash was named, as the server's chain has it; the server has proved to have a certificate of it.
async fn learn_ca(
    server: &str,
    hashes: &[[u8; 32]],
    tell: &(dyn Fn(&str) + Sync),
) -> Result<CertificateDer<'static>, JoinError> {
    let (authority, name) = place_and_name(server)?;
    let mut reconnect = Reconnect::new();
    loop {
        let pinned = Arc::new(Pinned::new(hashes));
        let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, shake(&authority, name.clone(), pinned.clone())).await;
        let seen = pinned.seen();
        match (seen, shaken) {
            (Seen::Pinned(ca), Ok(Ok(()))) => return Ok(ca),
            (Seen::Strange(why), _) => return Err(JoinError::Stranger { server: server.to_owned(), why }),
            (_, outcome) => {
                let why = match outcome {
                    Ok(Err(error)) => error.to_string(),
                    _ => "it does not answer in time".to_owned(),
                };
                if reconnect.is_news(&why) {
                    tell(&format!("waiting for {server}: {why}"));
                }
                tokio::time::sleep(reconnect.delay()).await;
            }
        }
    }
}

/// Whether machines can join by this address of a server: `https://HOST:PORT`.
///
/// # Errors
/// [`JoinError::Invitation`] when it is none.
pub fn check_address(server: &str) -> Result<(), JoinError> {
    place_and_name(server).map(drop)
}

/// Host with port of `https://HOST:PORT`, and the host as certificates name it.
fn place_and_name(server: &str) -> Result<(String, ServerName<'static>), JoinError> {
    let (host, authority) = place(server)?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| JoinError::Invitation(format!("{server} is no server's address: {error}")))?;
    Ok((authority, name))
}

/// Host, and host with port, of `https://HOST:PORT`.
fn place(server: &str) -> Result<(&str, String), JoinError> {
    let wrong = || JoinError::Invitation(format!("{server} is no server's address: wanted is https://HOST:PORT"));
    let authority = server.strip_prefix("https://").ok_or_else(wrong)?.trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
    port.parse::<u16>().map_err(|_| wrong())?;
    Ok((host.trim_start_matches('[').trim_end_matches(']'), authority.to_owned()))
}

async fn shake(authority: &str, name: ServerName<'static>, pinned: Arc<Pinned>) -> io::Result<()> {
    let builder = ClientConfig::builder_with_provider(pinned.provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let config = builder.dangerous().with_custom_certificate_verifier(pinned).with_no_client_auth();
    let stream = TcpStream::connect(authority).await?;
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.map(drop)
}

/// What a server's chain was.
#[derive(Debug, Clone)]
enum Seen {
    Nothing,
    Strange(String),
    Pinned(CertificateDer<'static>),
}

/// Trusts the CA in the server's chain whose key has one of the hashes, and nothing else.
#[derive(Debug)]
struct Pinned {
    hashes: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Seen>,
}

impl Pinned {
    fn new(hashes: &[[u8; 32]]) -> Self {
        let provider = Arc::new(ring::default_provider());
        Self { hashes: hashes.to_vec(), provider, seen: Mutex::new(Seen::Nothing) }
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn strange(&self, why: String) -> TlsError {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::Strange(why.clone());
        TlsError::General(why)
    }

    fn verify(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, String> {
        let ca = others.iter().find(|other| hash_of(other).is_some_and(|hash| self.hashes.contains(&hash)));
        let ca = ca.ok_or_else(|| match others.last().and_then(hash_of) {
            Some(hash) => format!("its CA's key has the hash {}", spelled(&hash)),
            None => "it shows no CA".to_owned(),
        })?;
        let text = |error: TlsError| error.to_string();
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned()).map_err(text)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| error.to_string())?;
        let proof = verifier.verify_server_cert(own, others, name, ocsp, now).map_err(text)?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::Pinned(ca.clone().into_owned());
        Ok(proof)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.verify(own, others, name, ocsp, now).map_err(|why| self.strange(why))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

/// SHA-256 of a certificate's public key as it is encoded there, which is what tools for Kubernetes name a CA by.
fn hash_of(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(Sha256::digest(certificate.public_key().raw).into())
}

fn spelled(hash: &[u8; 32]) -> String {
    format!("{HASH_PREFIX}{}", hex::encode(hash))
}

/// Where a certificate is asked for.
struct Desk {
    server: String,
    client: ObjectsClient<InterceptedService<Channel, Shown>>,
}

/// Shows the token with each call.
#[derive(Clone)]
struct Shown(MetadataValue<Ascii>);

impl tonic::service::Interceptor for Shown {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

impl Desk {
    fn open(invitation: &Invitation, ca_pem: &str) -> Result<Self, JoinError> {
        let wrong = |error: &dyn std::error::Error| JoinError::Invitation(chain(error));
        let mut token: MetadataValue<Ascii> =
            format!("Bearer {}", invitation.token).parse().map_err(|error| wrong(&error))?;
        token.set_sensitive(true);
        let place = ServerPlace::new(&invitation.server);
        let channel = channel_as(&invitation.server, &place, ca_pem, None, Patience::default());
        let channel = channel.map_err(|error| wrong(&error))?;
        Ok(Self { server: invitation.server.clone(), client: ObjectsClient::with_interceptor(channel, Shown(token)) })
    }

    /// Asks until there is an answer; PEM of the certificate.
    async fn ask(&mut self, request: &SigningRequest, tell: &(dyn Fn(&str) + Sync)) -> Result<String, JoinError> {
        let (began, mut told) = (tokio::time::Instant::now(), false);
        let mut reconnect = Reconnect::new();
        loop {
            match self.look(request).await.map(|object| answer(&object)) {
                Ok(Answer::Granted(pem)) => return Ok(pem),
                Ok(Answer::Refused(why)) => return Err(JoinError::Refused(why)),
                Ok(Answer::Waiting) if !told && began.elapsed() > TOLD_AFTER => {
                    told = true;
                    tell(&format!("waits for approval: coracle certificate approve {}", request.object_key().name));
                }
                Ok(Answer::Waiting) => {}
                Err(error) if matches!(error.reason, Reason::Unauthorized | Reason::Forbidden) => {
                    return Err(JoinError::Token(error.message));
                }
                Err(error)
                    if matches!(error.reason, Reason::Invalid | Reason::BadRequest | Reason::RequestEntityTooLarge) =>
                {
                    return Err(JoinError::Refused(error.message));
                }
                Err(error) if reconnect.is_news(&error) => tell(&format!("waiting for {}: {error}", self.server)),
                Err(error) => tracing::debug!(%error, "still cannot ask for a certificate"),
            }
            tokio::time::sleep(reconnect.delay()).await;
        }
    }

    /// The request as the server has it; made if it is not there.
    async fn look(&mut self, request: &SigningRequest) -> Result<serde_json::Value, ApiError> {
        let get = v1::GetRequest {
            resource: grpc::wire(SIGNING_REQUESTS),
            namespace: String::new(),
            name: request.object_key().name,
        };
        match grpc::timed(self.client.get(get)).await {
            Ok(found) => grpc::decode(&found.json),
            Err(error) if error.reason == Reason::NotFound => {
                let create = v1::CreateRequest {
                    resource: grpc::wire(SIGNING_REQUESTS),
                    json: grpc::encode(&request.object())?,
                    ..v1::CreateRequest::default()
                };
                grpc::decode(&grpc::timed(self.client.create(create)).await?.json)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_have_one_spelling() {
        let hash = [0xab; 32];
        assert_eq!(parse_hashes(&[spelled(&hash)]).unwrap(), [hash]);
        let digits = "ab".repeat(32);
        for bad in [
            digits.clone(),
            format!("sha1:{digits}"),
            format!("sha256:{}", &digits[1..]),
            format!("sha256:{}+a", &digits[2..]),
        ] {
            assert!(parse_hashes(std::slice::from_ref(&bad)).is_err(), "{bad}");
        }
        assert!(parse_hashes(&[]).is_err(), "nobody is trusted unseen");
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_before_anything_is_asked_or_made() {
        let good = Invitation {
            server: "https://192.0.2.1:1".to_owned(),
            token: "abcdef.0123456789abcdef".to_owned(),
            ca_hashes: vec![spelled(&[1; 32])],
            node_name: "one".to_owned(),
        };
        let directory = tempfile::tempdir().unwrap();
        let hold = Hold::take(directory.path()).unwrap();
        for (bad, says) in [
            (Invitation { token: "secret-but-wrong".to_owned(), ..good.clone() }, "is no token: wanted is ID.SECRET"),
            (Invitation { node_name: "Bad_Name".to_owned(), ..good.clone() }, "\"Bad_Name\" is no node's name"),
            (Invitation { server: "192.0.2.1".to_owned(), ..good.clone() }, "https://HOST:PORT"),
            (Invitation { ca_hashes: Vec::new(), ..good.clone() }, "hash"),
        ] {
            let error = join(&bad, &hold, &|told| panic!("{told}")).await.unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("secret-but-wrong"), "{error}");
        }
        hold.belongs_to("two").unwrap();
        let error = join(&good, &hold, &|told| panic!("{told}")).await.unwrap_err().to_string();
        assert!(error.contains("is the directory of node two, not of one"), "{error}");
        assert!(!directory.path().join(credentials::DIRECTORY).exists());
    }

    #[test]
    fn a_server_is_a_url() {
        assert_eq!(place("https://a.example:6443/").unwrap(), ("a.example", "a.example:6443".to_owned()));
        assert_eq!(place("https://[::1]:1").unwrap(), ("::1", "[::1]:1".to_owned()));
        for bad in ["a.example:6443", "http://a:1", "https://a", "https://a:x"] {
            assert!(place(bad).is_err(), "{bad}");
        }
        for good in ["https://a.example:6443", "https://[::1]:1", "https://192.0.2.1:6443/"] {
            assert!(check_address(good).is_ok(), "{good}");
        }
        for bad in [
            "foo",
            "http://10.0.0.1:6443",
            "https://10.0.0.1",
            "https://10.0.0.1:6443/x",
            "https://:1",
            "https://a b:1",
        ] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_that_was_asked_with_is_asked_with_again() {
        let directory = tempfile::tempdir().unwrap();
        let first = pending(directory.path(), "one").unwrap().object_key();
        assert_eq!(pending(directory.path(), "one").unwrap().object_key(), first);
        fs::write(directory.path().join(PENDING_KEY_FILE), "half").unwrap();
        assert_ne!(pending(directory.path(), "one").unwrap().object_key(), first);
    }

    #[test]
    fn pem_is_read_again() {
        use rustls_pki_types::pem::PemObject as _;
        let der = CertificateDer::from(vec![7; 100]);
        assert_eq!(CertificateDer::from_pem_slice(pem(&der).as_bytes()).unwrap(), der);
    }
}
