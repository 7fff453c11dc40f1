//! What the way between two nodes costs: a connection between pods over the tunnel, beside one over the kernel's TCP with TLS
//! (both sides show certificates) in the same run on the same machine. Figures are printed, never asserted.
//!
//! Once over loopback, whose packets are long, and once between two network namespaces, whose packets are as long as Ethernet
//! has them (as root; one kernel does the work of both). Pods' ends are Unix sockets, as a runner's are, the other ones plain TCP
//! sockets, as a native program has them. `CORACLE_BENCH_SHORT=1` only sees that it works.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and stops at the first failure")]

mod wire;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_net::{
    fabric::DialFailure,
    tunnel::{Arrivals, Credentials, Elsewhere, Peer, Tunnel, TunnelConfig, TunnelLimits},
};
use nix::sys::resource::{UsageWho, getrusage};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::{
    env,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use wire::Host;

/// How a service answers: it counts what comes, or sends it back.
const SINK: u16 = 1;
const ECHO: u16 = 2;
/// Bytes that are written at once.
const CHUNK: usize = 256 * 1024;
/// Bytes of a question and its answer.
const QUESTION: usize = 64;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// How long each figure is measured, and how many questions are asked.
#[derive(Clone, Copy)]
struct Effort {
    time: Duration,
    questions: usize,
}

fn main() {
    let is_short = env::var_os("CORACLE_BENCH_SHORT").is_some();
    let effort = if is_short {
        Effort { time: Duration::from_millis(200), questions: 100 }
    } else {
        Effort { time: Duration::from_secs(4), questions: 20_000 }
    };
    let authority = Authority::new();
    let here = Host::here().unwrap();
    println!("over loopback");
    here.runtime.block_on(here.runtime.spawn(compare(start(&authority, &here, &here), effort))).unwrap();
    match wire::hosts() {
        Ok([near, far]) => {
            println!("packets of 1500 bytes");
            near.runtime.block_on(near.runtime.spawn(compare(start(&authority, &near, &far), effort))).unwrap();
        }
        Err(error) => println!("packets of 1500 bytes: not measured: {error}"),
    }
}

/// Both ways to the other side. The tunnel there is kept beside them.
fn start(authority: &Authority, near: &Host, far: &Host) -> ([Way; 2], Tunnel) {
    let (tunnel, other) = tunnels(authority, near, far);
    ([Way::Tunnel(tunnel), Way::Native(Native::start(authority, far))], other)
}

async fn compare((ways, _other): ([Way; 2], Tunnel), effort: Effort) {
    // The first connection is made before anything is measured.
    for way in &ways {
        questions(way, 100).await;
    }
    for streams in [1, 8] {
        let mut rates = Vec::new();
        for way in &ways {
            rates.push(throughput(way, streams, effort.time).await);
        }
        for (way, rate) in ways.iter().zip(&rates) {
            println!(
                "{} streams {streams}: {:.2} Gbit/s, {:.2} s of processor time per GB",
                way.name(),
                rate.0,
                rate.1
            );
        }
        println!(
            "  ratio: {:.2} of the throughput, {:.2} of the processor time",
            rates[0].0 / rates[1].0,
            rates[0].1 / rates[1].1
        );
    }
    let mut times = Vec::new();
    for way in &ways {
        times.push(questions(way, effort.questions).await);
    }
    for (way, time) in ways.iter().zip(&times) {
        println!("{} round trip of {QUESTION} bytes: p50 {:.0} us, p99 {:.0} us", way.name(), time.0, time.1);
    }
    println!("  ratio: p50 {:.2}, p99 {:.2}", times[0].0 / times[1].0, times[0].1 / times[1].1);
    for at_once in [1, 32] {
        let mut rates = Vec::new();
        for way in &ways {
            rates.push(connects(way, at_once, effort.time).await);
        }
        for (way, rate) in ways.iter().zip(&rates) {
            println!("{} connections, {at_once} at a time, a question each: {:.0} per second", way.name(), rate);
        }
        println!("  ratio: {:.2}", rates[0] / rates[1]);
    }
}

/// One of the two ways that are compared.
#[derive(Clone)]
enum Way {
    Tunnel(Tunnel),
    Native(Native),
}

impl Way {
    fn name(&self) -> &'static str {
        match self {
            Self::Tunnel(_) => "tunnel  ",
            Self::Native(_) => "TCP, TLS",
        }
    }

    async fn connect(&self, service: u16) -> Box<dyn Stream> {
        match self {
            Self::Tunnel(tunnel) => {
                let (from, to) = (SocketAddr::from(([10, 244, 1, 2], 9)), SocketAddr::from(([10, 244, 2, 2], service)));
                let carrier = tunnel.connect("two", from, to).await.unwrap();
                Box::new(UnixStream::from_std(StdStream::from(carrier.stream().unwrap())).unwrap())
            }
            Self::Native(native) => {
                let socket = TcpStream::connect(native.address).await.unwrap();
                socket.set_nodelay(true).unwrap();
                let mut stream = native.connector.connect(ServerName::try_from("node").unwrap(), socket).await.unwrap();
                stream.write_all(&service.to_be_bytes()).await.unwrap();
                Box::new(stream)
            }
        }
    }
}

/// Gbit/s, and seconds of processor time per 10^9 bytes.
async fn throughput(way: &Way, streams: usize, time: Duration) -> (f64, f64) {
    let before = processor_seconds();
    let start = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..streams {
        let way = way.clone();
        writers.spawn(async move {
            let mut stream = way.connect(SINK).await;
            let chunk = vec![7; CHUNK];
            while start.elapsed() < time {
                stream.write_all(&chunk).await.unwrap();
            }
            stream.shutdown().await.unwrap();
            let mut count = [0; 8];
            stream.read_exact(&mut count).await.unwrap();
            u64::from_be_bytes(count)
        });
    }
    let bytes: u64 = writers.join_all().await.into_iter().sum();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let bytes = bytes as f64;
    (bytes * 8e-9 / start.elapsed().as_secs_f64(), (processor_seconds() - before) / (bytes * 1e-9))
}

/// Median and 99th percentile in microseconds.
async fn questions(way: &Way, count: usize) -> (f64, f64) {
    let mut stream = way.connect(ECHO).await;
    let mut times = Vec::with_capacity(count);
    let mut question = [1; QUESTION];
    for _ in 0..count {
        let start = Instant::now();
        stream.write_all(&question).await.unwrap();
        stream.flush().await.unwrap();
        stream.read_exact(&mut question).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1e6;
    (at(50), at(99))
}

/// Connections per second that were made, asked one question, and closed.
async fn connects(way: &Way, at_once: usize, time: Duration) -> f64 {
    let start = Instant::now();
    let mut makers = tokio::task::JoinSet::new();
    for _ in 0..at_once {
        let way = way.clone();
        makers.spawn(async move {
            let mut made = 0_u32;
            while start.elapsed() < time {
                let mut stream = way.connect(ECHO).await;
                stream.write_all(&[1]).await.unwrap();
                stream.flush().await.unwrap();
                stream.read_exact(&mut [0]).await.unwrap();
                made += 1;
            }
            made
        });
    }
    f64::from(makers.join_all().await.into_iter().sum::<u32>()) / start.elapsed().as_secs_f64()
}

fn processor_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let both = [usage.user_time(), usage.system_time()];
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    both.iter().map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 * 1e-6).sum()
}

async fn serve(service: u16, mut stream: impl Stream) {
    let mut buffer = vec![0; CHUNK];
    let mut count = 0_u64;
    while let Ok(length) = stream.read(&mut buffer).await
        && length > 0
    {
        count += u64::try_from(length).unwrap();
        if service == ECHO && (stream.write_all(&buffer[..length]).await.is_err() || stream.flush().await.is_err()) {
            return;
        }
    }
    if service == SINK {
        stream.write_all(&count.to_be_bytes()).await.ok();
    }
    stream.shutdown().await.ok();
}

/// The pods of both nodes.
struct Pods;

#[async_trait]
impl Arrivals for Pods {
    async fn connect(&self, _: &str, _: SocketAddr, to: SocketAddr, stream: OwnedFd) -> Result<(), DialFailure> {
        let stream = UnixStream::from_std(StdStream::from(stream)).map_err(|_| DialFailure::TooMany)?;
        tokio::spawn(serve(to.port(), stream));
        Ok(())
    }

    fn datagram(&self, _: &str, _: SocketAddr, _: SocketAddr, _: Bytes) {}

    fn datagram_refused(&self, _: &str, _: SocketAddr, _: SocketAddr) {}
}

fn tunnels(authority: &Authority, near: &Host, far: &Host) -> (Tunnel, Tunnel) {
    let open = |name: &str, host: &Host| {
        let listen = SocketAddr::new(host.address, 0);
        let config = TunnelConfig { node_name: name.to_owned(), listen, limits: TunnelLimits::default() };
        let (ca, chain, key) = authority.issue(name);
        let open = async move { Tunnel::open(config, Credentials { ca: vec![ca], chain, key }, Arc::new(Pods), None) };
        host.runtime.block_on(host.runtime.spawn(open)).unwrap().unwrap().0
    };
    let (one, two) = (open("one", near), open("two", far));
    let peer = |name: &str, tunnel: &Tunnel, range: &str| Peer {
        node: name.to_owned(),
        addresses: vec![tunnel.local_address().unwrap()],
        ranges: vec![range.parse().unwrap()],
        credentials_since: 0,
    };
    let peers = vec![peer("one", &one, "10.244.1.0/24"), peer("two", &two, "10.244.2.0/24")];
    one.set_peers(peers.clone());
    two.set_peers(peers);
    (one, two)
}

/// A server of the kernel's TCP with TLS, and how it is reached.
#[derive(Clone)]
struct Native {
    address: SocketAddr,
    connector: TlsConnector,
}

impl Native {
    fn start(authority: &Authority, host: &Host) -> Self {
        let (ca, chain, key) = authority.issue("server");
        let mut roots = RootCertStore::empty();
        roots.add(ca).unwrap();
        let roots = Arc::new(roots);
        // The tunnel's cipher comes first here too.
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        let provider = Arc::new(provider);
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(chain, key)
            .unwrap();
        let (_, chain, key) = authority.issue("client");
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        client.resumption = rustls::client::Resumption::disabled();
        let listen = TcpListener::bind((host.address, 0));
        let listener = host.runtime.block_on(host.runtime.spawn(listen)).unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(server));
        host.runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    socket.set_nodelay(true).unwrap();
                    let Ok(mut stream) = acceptor.accept(socket).await else { return };
                    if let Ok(service) = stream.read_u16().await {
                        serve(service, stream).await;
                    }
                });
            }
        });
        Self { address, connector: TlsConnector::from(Arc::new(client)) }
    }
}

struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, name: &str) -> (CertificateDer<'static>, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["node".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{name}"));
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (self.certificate.clone(), vec![certificate.der().clone()], key)
    }
}
