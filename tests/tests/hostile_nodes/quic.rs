//! A program that speaks the tunnel's protocol with credentials of its choice, and says what it likes. It makes its own
//! frames, as somebody would who has read the sources.

use coracle_tests::hosts::Host;
use quinn::{ClientConfig, Connection, Endpoint, VarInt, crypto::rustls::QuicClientConfig};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::runtime::{Builder, Runtime};

/// What nodes listen on.
pub const PORT: u16 = 6444;
const PROTOCOL: &[u8] = b"coracle-tunnel/1";
/// How long an answer may take on a busy machine.
const ANSWER_WAIT: Duration = Duration::from_mins(1);
/// How long nothing has to come, that it counts as nothing.
const NOTHING_WAIT: Duration = Duration::from_millis(700);

/// What a node answers to the beginning of a stream.
pub const TAKEN: u8 = 0;
pub const DENIED: u8 = 4;

/// See the module.
pub struct Quic {
    runtime: Runtime,
    endpoint: Endpoint,
    connection: Connection,
}

impl Quic {
    /// Dials `to` from `host` with these credentials; answers why that failed, if it did.
    pub fn dial(host: &Host, to: SocketAddr, credentials: &Path) -> Result<Self, String> {
        let certificates = CertificateDer::pem_file_iter(credentials.join("client.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_file(credentials.join("client.key")).unwrap();
        Self::dial_with(host, to, certificates.map(Result::unwrap).collect(), key)
    }

    /// The same with a certificate in hand.
    pub fn dial_with(
        host: &Host,
        to: SocketAddr,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, String> {
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_auth_cert(chain, key)
            .unwrap();
        tls.alpn_protocols = vec![PROTOCOL.to_vec()];
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        // Threads of the runtime, and so their sockets, are on the host on which it was made.
        let runtime = host.namespace().run(|| Builder::new_multi_thread().worker_threads(1).enable_all().build());
        let runtime = runtime.unwrap();
        let local = SocketAddr::new(host.address().into(), 0);
        let dialled = does(&runtime, async move {
            let endpoint = Endpoint::client(local).map_err(|error| error.to_string())?;
            let connecting = endpoint.connect_with(config, to, "node").map_err(|error| error.to_string())?;
            let connection = connecting.await.map_err(|error| error.to_string())?;
            // The node looks at the certificate after it has sent its own: that it is welcome comes last.
            let mut welcome = connection.accept_uni().await.map_err(|error| error.to_string())?;
            welcome.read_exact(&mut [0]).await.map_err(|error| error.to_string())?;
            Ok::<_, String>((endpoint, connection))
        });
        dialled.map(|(endpoint, connection)| Self { runtime, endpoint, connection })
    }

    /// Begins a stream as a connection; the byte that it is answered, and what comes behind it until its end.
    pub fn connect(&self, from: SocketAddr, to: SocketAddr, request: &'static [u8]) -> Result<(u8, Vec<u8>), String> {
        self.stream([addresses(from, to).as_slice(), request].concat())
    }

    /// Begins a stream with these bytes.
    pub fn stream(&self, bytes: Vec<u8>) -> Result<(u8, Vec<u8>), String> {
        let connection = self.connection.clone();
        does(&self.runtime, async move {
            let text = |error: &dyn std::fmt::Display| error.to_string();
            let (mut sending, mut receiving) = connection.open_bi().await.map_err(|error| text(&error))?;
            sending.write_all(&bytes).await.map_err(|error| text(&error))?;
            sending.finish().map_err(|error| text(&error))?;
            let mut answer = [0];
            receiving.read_exact(&mut answer).await.map_err(|error| text(&error))?;
            let rest = receiving.read_to_end(1 << 20).await.map_err(|error| text(&error))?;
            Ok((answer[0], rest))
        })
    }

    /// Begins so many streams with half of a header each and leaves them so; how many could be begun.
    pub fn leave_half_begun(&self, count: usize) -> usize {
        let connection = self.connection.clone();
        does(&self.runtime, async move {
            let mut kept = Vec::new();
            for _ in 0..count {
                let Ok(Ok((mut sending, receiving))) = tokio::time::timeout(NOTHING_WAIT, connection.open_bi()).await
                else {
                    break;
                };
                if sending.write_all(&[4, 10, 244]).await.is_ok() {
                    kept.push((sending, receiving));
                }
            }
            let begun = kept.len();
            // Open for as long as the connection is.
            kept.into_iter().for_each(std::mem::forget);
            begun
        })
    }

    /// Sends a datagram of a pod; whether it is sent back soon. No two may have the same content: what comes back late is
    /// no answer to another one.
    pub fn is_echoed(&self, from: SocketAddr, to: SocketAddr, content: &'static [u8]) -> bool {
        let connection = self.connection.clone();
        let bytes = [&[0], addresses(from, to).as_slice(), content].concat();
        does(&self.runtime, async move {
            if connection.send_datagram(bytes.into()).is_err() {
                return false;
            }
            let echo = async {
                while let Ok(bytes) = connection.read_datagram().await {
                    if bytes.ends_with(content) {
                        return true;
                    }
                }
                false
            };
            tokio::time::timeout(NOTHING_WAIT, echo).await.unwrap_or(false)
        })
    }

    /// Sends these bytes as a datagram, as long as there is room for it.
    pub fn throw_datagram(&self, bytes: Vec<u8>) {
        // What QUIC itself does not take is no attack on anybody.
        drop(self.connection.send_datagram(bytes.into()));
    }

    /// Waits until the node ends the connection, and answers with what words.
    pub fn ended(&self) -> String {
        let connection = self.connection.clone();
        does(&self.runtime, async move { connection.closed().await.to_string() })
    }
}

impl Drop for Quic {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

fn does<T: Send + 'static>(runtime: &Runtime, work: impl Future<Output = T> + Send + 'static) -> T {
    let work = runtime.spawn(async move { tokio::time::timeout(ANSWER_WAIT, work).await });
    runtime.block_on(work).expect("it ends").expect("it ends in time")
}

/// Who talks to whom, as a stream begins and a datagram continues.
fn addresses(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut bytes = vec![4];
    for address in [from, to] {
        let IpAddr::V4(ip) = address.ip() else { panic!("{address} is not an IPv4 address") };
        bytes.extend(ip.octets());
        bytes.extend(address.port().to_be_bytes());
    }
    bytes
}

/// Takes anybody for whom it wants to talk to.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
