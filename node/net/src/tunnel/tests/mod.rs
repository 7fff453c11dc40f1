//! Tunnels between nodes in one process, over loopback and over paths that a test makes bad.

mod bad_path;
mod datagrams;
mod life;
mod relay;
mod strangers;
mod streams;

use super::*;
use crate::fabric::DialFailure;
use async_trait::async_trait;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use rustls_pki_types::PrivateKeyDer;
use std::{
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    time::{Instant, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// Everything here happens within this time or never.
pub(super) const LIMIT: Duration = Duration::from_mins(2);
/// Port of a pod that sends back what it gets.
pub(super) const ECHO: u16 = 80;
/// Port that refuses.
pub(super) const REFUSES: u16 = 81;
/// Port that takes its time for ever.
pub(super) const HANGS: u16 = 82;
/// Port whose connections the test gets.
pub(super) const TAKEN: u16 = 83;

/// A cluster's CA.
pub(crate) struct Authority {
    certificate: rustls_pki_types::CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// A certificate for any user and group.
    pub(super) fn issue(&self, user: &str, group: &str, revision: u64, usage: ExtendedKeyUsagePurpose) -> Credentials {
        self.issue_until(user, group, revision, usage, None)
    }

    fn issue_until(
        &self,
        user: &str,
        group: &str,
        revision: u64,
        usage: ExtendedKeyUsagePurpose,
        until: Option<SystemTime>,
    ) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![usage];
        if let Some(until) = until {
            params.not_after = until.into();
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let serial = [revision.to_be_bytes(), rand::random::<[u8; 8]>()].concat();
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Credentials {
            ca: vec![self.certificate.clone()],
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }

    /// A node's that soon expires.
    pub(super) fn node_until(&self, name: &str, until: SystemTime) -> Credentials {
        let user = format!("system:node:{name}");
        self.issue_until(&user, "system:nodes", 0, ExtendedKeyUsagePurpose::ClientAuth, Some(until))
    }

    pub(crate) fn node(&self, name: &str, revision: u64) -> Credentials {
        self.issue(&format!("system:node:{name}"), "system:nodes", revision, ExtendedKeyUsagePurpose::ClientAuth)
    }
}

/// A datagram as a pod got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    /// Nothing: somebody refused.
    pub(super) bytes: Option<Bytes>,
}

/// The pods of a node.
pub(super) struct Pods {
    taken: mpsc::UnboundedSender<StdStream>,
    datagrams: mpsc::UnboundedSender<Got>,
    /// Every connection that was asked for.
    pub(super) asked: Mutex<Vec<(String, SocketAddr, SocketAddr)>>,
}

#[async_trait]
impl Arrivals for Pods {
    async fn connect(&self, node: &str, from: SocketAddr, to: SocketAddr, stream: OwnedFd) -> Result<(), DialFailure> {
        self.asked.lock().push((node.to_owned(), from, to));
        let stream = StdStream::from(stream);
        match to.port() {
            ECHO => {
                let mut stream = UnixStream::from_std(stream).unwrap();
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    tokio::io::copy(&mut reader, &mut writer).await.ok();
                    writer.shutdown().await.ok();
                });
                Ok(())
            }
            TAKEN => {
                self.taken.send(stream).ok();
                Ok(())
            }
            HANGS => std::future::pending().await,
            _ => Err(DialFailure::Refused),
        }
    }

    fn datagram(&self, _: &str, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        self.datagrams.send(Got { from, to, bytes: Some(bytes) }).ok();
    }

    fn datagram_refused(&self, _: &str, from: SocketAddr, to: SocketAddr) {
        self.datagrams.send(Got { from, to, bytes: None }).ok();
    }
}

/// A node: its tunnel and what comes out of it.
pub(super) struct Node {
    pub(super) tunnel: Tunnel,
    pub(super) notices: mpsc::Receiver<Notice>,
    pub(super) pods: Arc<Pods>,
    pub(super) taken: mpsc::UnboundedReceiver<StdStream>,
    pub(super) datagrams: mpsc::UnboundedReceiver<Got>,
    /// As others should know it.
    pub(super) peer: Peer,
}

/// Limits with which little is waited for, but what comes has the time that a busy machine takes.
pub(super) fn limits() -> TunnelLimits {
    TunnelLimits {
        direct_timeout: Duration::from_secs(5),
        relay_delay: Duration::from_millis(200),
        direct_retry: Duration::from_millis(200),
        ..TunnelLimits::default()
    }
}

pub(super) fn address(number: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 244, number, 5], port))
}

impl Node {
    pub(super) fn start(authority: &Authority, name: &str, number: u8) -> Self {
        Self::with(name, number, "127.0.0.1:0".parse().unwrap(), authority.node(name, 0), limits(), None)
    }

    pub(super) fn with(
        name: &str,
        number: u8,
        listen: SocketAddr,
        credentials: Credentials,
        limits: TunnelLimits,
        relay: Option<Arc<dyn Relay>>,
    ) -> Self {
        let (taken_sender, taken) = mpsc::unbounded_channel();
        let (datagram_sender, datagrams) = mpsc::unbounded_channel();
        let pods = Arc::new(Pods { taken: taken_sender, datagrams: datagram_sender, asked: Mutex::default() });
        let config = TunnelConfig { node_name: name.to_owned(), listen, limits };
        let arrivals = Arc::clone(&pods) as Arc<dyn Arrivals>;
        let (tunnel, notices) = Tunnel::open(config, credentials, arrivals, relay).unwrap();
        let peer = Peer {
            node: name.to_owned(),
            addresses: vec![tunnel.local_address().unwrap()],
            ranges: vec![format!("10.244.{number}.0/24").parse().unwrap()],
            credentials_since: 0,
        };
        Self { tunnel, notices, pods, taken, datagrams, peer }
    }

    pub(super) async fn connect(
        &self,
        to: &str,
        from: SocketAddr,
        to_pod: SocketAddr,
    ) -> Result<UnixStream, DialFailure> {
        let dialled = tokio::time::timeout(LIMIT, self.tunnel.connect(to, from, to_pod)).await.unwrap();
        let stream = StdStream::from(dialled?.stream().unwrap());
        Ok(UnixStream::from_std(stream).unwrap())
    }

    pub(super) async fn next_taken(&mut self) -> UnixStream {
        let stream = tokio::time::timeout(LIMIT, self.taken.recv()).await.unwrap().unwrap();
        UnixStream::from_std(stream).unwrap()
    }

    pub(super) async fn next_datagram(&mut self) -> Got {
        tokio::time::timeout(LIMIT, self.datagrams.recv()).await.unwrap().unwrap()
    }

    pub(super) fn path_to(&self, node: &str) -> Path {
        self.tunnel.states().into_iter().find(|state| state.node == node).unwrap().path
    }

    /// The next notice that is wanted.
    pub(super) async fn hears<T>(&mut self, wanted: impl Fn(&Notice) -> Option<T>) -> T {
        let next = async {
            loop {
                if let Some(found) = wanted(&self.notices.recv().await.unwrap()) {
                    return found;
                }
            }
        };
        tokio::time::timeout(LIMIT, next).await.unwrap()
    }
}

/// Everybody knows everybody.
pub(super) fn introduce(nodes: &[&Node]) {
    let peers: Vec<_> = nodes.iter().map(|node| node.peer.clone()).collect();
    for node in nodes {
        node.tunnel.set_peers(peers.clone());
    }
}

/// Two nodes that know each other, with pods 10.244.1.5 and 10.244.2.5.
pub(super) fn two() -> (Node, Node) {
    let authority = Authority::new();
    let nodes = (Node::start(&authority, "one", 1), Node::start(&authority, "two", 2));
    introduce(&[&nodes.0, &nodes.1]);
    nodes
}

/// Waits until it holds.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sends text to an echo and reads it back.
pub(super) async fn echoes(stream: &mut UnixStream, text: &[u8]) {
    let exchange = async {
        stream.write_all(text).await.unwrap();
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await.unwrap();
        assert!(answer == text);
    };
    tokio::time::timeout(LIMIT, exchange).await.unwrap();
}
