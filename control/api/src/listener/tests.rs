//! The port, over real TLS connections.

use super::*;
use crate::{auth::Authenticator, identity::Identity};
use axum::{Router, extract::Request, routing::get};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{ClientConfig, pki_types::ServerName};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::service::Routes;

type Authority = CertifiedIssuer<'static, KeyPair>;
type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issue(authority: &Authority, user: &str, usage: ExtendedKeyUsagePurpose) -> Pair {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, user);
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

struct Setting {
    authority: Authority,
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

/// A server with two paths: who asks, and an answer that never ends.
async fn setting() -> Setting {
    let authority = authority();
    let (chain, key) = issue(&authority, "server", ExtendedKeyUsagePurpose::ServerAuth);
    let tls = tls_config(chain, key, authority.der().clone()).unwrap();
    let authenticator = Arc::new(Authenticator::new().with_token("token", Identity::admin()));
    let known = Arc::clone(&authenticator);
    let who = move |request: Request| {
        let (parts, _) = request.into_parts();
        let user = known.authenticate(&parts).map_or_else(|_| "nobody".to_owned(), |identity| identity.user);
        std::future::ready(user)
    };
    let endless = || async { axum::body::Body::from_stream(futures::stream::pending::<io::Result<bytes::Bytes>>()) };
    let http = Router::new().route("/who", get(who)).route("/endless", get(endless));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let app = App::new(http, Routes::default(), authenticator);
    let serving = tokio::spawn(serve(listener, tls, app, shutdown.clone()));
    Setting { authority, address, shutdown, serving }
}

impl Setting {
    async fn connect(&self, client: Option<Pair>) -> io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await
    }

    /// The whole answer to a request over HTTP/1.1, or what broke.
    async fn ask(&self, client: Option<Pair>, head: &str) -> io::Result<String> {
        let mut stream = self.connect(client).await?;
        stream.write_all(format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

#[tokio::test]
async fn certificates_and_tokens_say_who_asks() {
    let setting = setting().await;
    let client = || issue(&setting.authority, "jane", ExtendedKeyUsagePurpose::ClientAuth);
    let cases = [
        (Some(client()), "GET /who HTTP/1.1", "jane"),
        (None, "GET /who HTTP/1.1", "nobody"),
        (None, "GET /who HTTP/1.1\r\nAuthorization: Bearer token", "admin"),
        (None, "GET /who HTTP/1.1\r\nAuthorization: Bearer other", "nobody"),
    ];
    for (client, head, user) in cases {
        let answer = setting.ask(client, head).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&format!("\r\n{user}")), "{head}: {answer}");
    }
}

#[tokio::test]
async fn certificates_that_do_not_prove_a_client_end_the_connection() {
    let setting = setting().await;
    let stranger = issue(&authority(), "jane", ExtendedKeyUsagePurpose::ClientAuth);
    let server = issue(&setting.authority, "server", ExtendedKeyUsagePurpose::ServerAuth);
    for pair in [stranger, server] {
        assert!(setting.ask(Some(pair), "GET /who HTTP/1.1").await.is_err());
    }
}

#[tokio::test]
async fn grpc_without_credentials_is_refused_in_its_own_words() {
    let setting = setting().await;
    let head = "POST /x.Y/Z HTTP/1.1\r\nContent-Type: application/grpc\r\nContent-Length: 0";
    let answer = setting.ask(None, head).await.unwrap();
    assert!(answer.contains("grpc-status: 16"), "{answer}");
    let answer = setting.ask(None, &format!("{head}\r\nAuthorization: Bearer token")).await.unwrap();
    assert!(answer.contains("grpc-status: 12"), "{answer}");
}

#[tokio::test]
async fn stopping_refuses_new_connections_and_cuts_off_endless_answers() {
    let setting = setting().await;
    let mut stream = setting.connect(None).await.unwrap();
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut head = [0_u8; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    setting.shutdown.cancel();
    setting.serving.await.unwrap();
    assert!(TcpStream::connect(setting.address).await.is_err());
}
