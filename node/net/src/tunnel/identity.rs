//! Who nodes are to each other: certificates of the cluster's CA, checked both ways, whoever dials.
//!
//! A peer's certificate counts when the CA signed it for clients, its name and group are a node's, the node is a known peer,
//! and it is not from before the node was removed and made anew. No session is ever resumed: that would pass all this by.

use super::{TunnelError, peers::Peer};
use coracle_objects::nodes;
use parking_lot::RwLock;
use rustls::{
    CipherSuite, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme, SupportedCipherSuite,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The protocol's name and version, as TLS negotiates it.
const PROTOCOL: &[u8] = b"coracle-tunnel/1";

/// What a node proves with who it is.
pub struct Credentials {
    /// Certificates of the cluster's CA.
    pub ca: Vec<CertificateDer<'static>>,
    /// The node's certificate, and what leads from it to the CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// What a checked certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// The node.
    pub(super) node: String,
    /// The store's revision when it was issued; 0 where its serial number does not say.
    pub(super) revision: u64,
    /// When it ends to count.
    pub(super) until: SystemTime,
}

/// What a node's certificate says. Its signature is not looked at.
pub(super) fn known(certificate: &CertificateDer<'_>) -> Result<Known, &'static str> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| "its certificate cannot be read")?;
    let subject = parsed.subject();
    let mut names = subject.iter_common_name();
    let name = names.next().filter(|_| names.next().is_none()).and_then(|name| name.as_str().ok());
    let node = name.and_then(nodes::of_user).ok_or("its certificate is no node's")?;
    if !subject.iter_organization().any(|group| group.as_str().ok() == Some(nodes::GROUP)) {
        return Err("its certificate is no node's");
    }
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    Ok(Known { node: node.to_owned(), revision: nodes::issued_at(parsed.raw_serial()), until })
}

/// Whether a certificate is good for a peer as it is known now.
pub(super) fn is_current(known: &Known, peer: Option<&Peer>) -> Result<(), &'static str> {
    let peer = peer.ok_or(UNKNOWN)?;
    if known.revision < peer.credentials_since { Err("its certificate was revoked") } else { Ok(()) }
}

/// Of a node that this one does not know, or no more.
pub(super) const UNKNOWN: &str = "it is no node that this one knows";

/// Looks peers up by name.
pub(super) type LookUp = Arc<dyn Fn(&str) -> Option<Peer> + Send + Sync>;

/// This node's credentials at the moment, and how others' are checked.
pub(super) struct Identity {
    current: RwLock<Current>,
    provider: Arc<CryptoProvider>,
    peers: LookUp,
}

struct Current {
    key: Arc<CertifiedKey>,
    authority: Arc<dyn ClientCertVerifier>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    pub(super) fn new(credentials: Credentials, peers: LookUp) -> Result<Self, TunnelError> {
        let provider = Arc::new(provider());
        let current = RwLock::new(Current::new(credentials, &provider)?);
        Ok(Self { current, provider, peers })
    }

    /// From now on; connections that are there stay.
    pub(super) fn replace(&self, credentials: Credentials) -> Result<(), TunnelError> {
        *self.current.write() = Current::new(credentials, &self.provider)?;
        Ok(())
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        expected: Option<&str>,
    ) -> Result<(), rustls::Error> {
        let refused = |why: &str| rustls::Error::General(why.to_owned());
        let authority = Arc::clone(&self.current.read().authority);
        authority.verify_client_cert(end_entity, intermediates, now)?;
        let known = known(end_entity).map_err(refused)?;
        if expected.is_some_and(|expected| expected != known.node) {
            return Err(refused(&format!("it is node \"{}\"", known.node)));
        }
        // Named, as whoever is no peer is told of by its address alone. The CA has vouched for the name.
        is_current(&known, (self.peers)(&known.node).as_ref())
            .map_err(|why| refused(&format!("its certificate is that of node \"{}\": {why}", known.node)))
    }

    /// TLS for whoever dials this node.
    pub(super) fn server(self: &Arc<Self>) -> Result<rustls::ServerConfig, TunnelError> {
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(Check { identity: Arc::clone(self), expected: None }))
            .with_cert_resolver(Arc::new(Own(Arc::clone(self))));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// TLS for a dial to the node called `expected`.
    pub(super) fn client(self: &Arc<Self>, expected: &str) -> Result<rustls::ClientConfig, TunnelError> {
        let check = Check { identity: Arc::clone(self), expected: Some(expected.to_owned()) };
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(check))
            .with_client_cert_resolver(Arc::new(Own(Arc::clone(self))));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}

impl Current {
    fn new(credentials: Credentials, provider: &Arc<CryptoProvider>) -> Result<Self, TunnelError> {
        let Credentials { ca, chain, key } = credentials;
        let mut roots = RootCertStore::empty();
        for certificate in ca {
            roots.add(certificate)?;
        }
        let authority = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|error| TunnelError::Authority(error.to_string()))?;
        Ok(Self { key: Arc::new(CertifiedKey::from_der(chain, key, provider)?), authority })
    }
}

/// Ring's, with the ciphers in the order in which this machine is fast at them.
fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    let first =
        if has_aes() { CipherSuite::TLS13_AES_128_GCM_SHA256 } else { CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 };
    provider.cipher_suites.retain(|suite| matches!(suite, SupportedCipherSuite::Tls13(_)));
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != first);
    provider
}

/// Whether the processor has instructions for AES.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Gives this node's certificate of the moment.
#[derive(Debug)]
struct Own(Arc<Identity>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.current.read().key))
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.current.read().key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Checks the other side: whoever dialled, or the one that was meant.
#[derive(Debug)]
struct Check {
    identity: Arc<Identity>,
    expected: Option<String>,
}

impl Check {
    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.identity.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.identity.provider.signature_verification_algorithms.supported_schemes()
    }
}

const NO_TLS12: &str = "TLS 1.2 is not spoken here";

impl ClientCertVerifier for Check {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.identity.check(end_entity, intermediates, now, None)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General(NO_TLS12.to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ServerCertVerifier for Check {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.identity.check(end_entity, intermediates, now, self.expected.as_deref())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General(NO_TLS12.to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
