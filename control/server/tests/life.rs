//! A server's life through its public doors: start, what it leaves on disk, refusals, stop, start again.

#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

use coracle_server::{RunningServer, ServerConfig, ServerError, start};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

fn config(data_dir: &Path, listen: SocketAddr) -> ServerConfig {
    let nodes = vec!["one".to_owned()];
    ServerConfig { nodes, ..ServerConfig::new(data_dir.to_owned(), listen) }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn started(data_dir: &Path) -> (RunningServer, CancellationToken) {
    let stop = CancellationToken::new();
    (start(config(data_dir, any_port()), stop.clone()).await.unwrap(), stop)
}

/// The answer to a GET over HTTP/1.1, with the certificate `NAME.crt` of `directory`.
async fn get(address: SocketAddr, data_dir: &Path, client: &str, path: &str) -> String {
    let file = |name: String| data_dir.join(name);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("pki/ca.crt".to_owned())).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_file(file(format!("{client}.crt"))).unwrap()];
    let key = PrivateKeyDer::from_pem_file(file(format!("{client}.key"))).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_serves_stops_and_starts_again() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("below/data");
    let (server, stop) = started(&data_dir).await;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let answer = get(server.address, &data_dir, "pki/admin", &format!("/api/v1/namespaces/{name}")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let kubernetes = "/api/v1/namespaces/default/services/kubernetes";
    let answer = get(server.address, &data_dir, "pki/admin", kubernetes).await;
    assert!(answer.contains("\"clusterIP\":\"10.96.0.1\""), "{answer}");
    let answer = get(server.address, &data_dir, "pki/admin", "/api/v1/namespaces/kube-system/services/kube-dns").await;
    assert!(answer.contains("\"clusterIP\":\"10.96.0.10\""), "{answer}");
    let answer = get(server.address, &data_dir, "nodes/one/client", "/api/v1/secrets").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let answer = get(server.address, &data_dir, "pki/admin", "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "no node is there: {answer}");
    let kubeconfig = || fs::read_to_string(data_dir.join("kubeconfig")).unwrap();
    assert!(kubeconfig().contains(&format!("server: https://{}\n", server.address)));
    for name in ["kubeconfig", "admin.token", "pki/ca.key", "pki/admin.key", "pki/server.key", "nodes/one/client.key"] {
        let mode = fs::metadata(data_dir.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let first = server.address;
    stop.cancel();
    server.stopped().await.unwrap();
    assert!(TcpStream::connect(first).await.is_err());

    let token = fs::read_to_string(data_dir.join("admin.token")).unwrap();
    let (server, stop) = started(&data_dir).await;
    assert_eq!(fs::read_to_string(data_dir.join("admin.token")).unwrap(), token);
    assert!(kubeconfig().contains(&format!("server: https://{}\n", server.address)));
    let answer = get(server.address, &data_dir, "pki/admin", kubernetes).await;
    assert!(answer.contains(&format!("\"targetPort\":{}", server.address.port())), "{answer}");
    stop.cancel();
    server.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_and_its_reflection_are_on_the_same_port() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let directory = tempfile::tempdir().unwrap();
    let (server, stop) = started(directory.path()).await;
    let read = |name: &str| fs::read(directory.path().join(name)).unwrap();
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("pki/ca.crt")));
    let known = tls.clone().identity(Identity::from_pem(read("pki/admin.crt"), read("pki/admin.key")));
    let ask = async |tls: ClientTlsConfig| {
        let endpoint = Endpoint::from_shared(format!("https://{}", server.address)).unwrap().tls_config(tls).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let requests = tokio_stream::once(request);
        ServerReflectionClient::new(channel).server_reflection_info(requests).await?.into_inner().message().await
    };
    assert_eq!(ask(tls).await.unwrap_err().code(), tonic::Code::Unauthenticated);
    let answer = ask(known).await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("no list: {answer:?}") };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["coracle.v1.Objects", "coracle.v1.NodeLink", "coracle.v1.PodLogs"] {
        assert!(names.contains(&name), "{names:?}");
    }
    stop.cancel();
    server.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_or_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let (server, stop) = started(&data_dir).await;
    let refusal = async |data_dir: &Path, listen| {
        start(config(data_dir, listen), CancellationToken::new()).await.map(|_| ()).unwrap_err()
    };
    let error = refusal(&data_dir, any_port()).await;
    assert!(matches!(error, ServerError::Locked { .. }), "{error}");
    let error = refusal(&directory.path().join("other"), server.address).await;
    assert!(matches!(error, ServerError::Listen { .. }), "{error}");
    assert!(error.to_string().contains(&server.address.to_string()), "{error}");
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = refusal(&file, any_port()).await;
    assert!(matches!(error, ServerError::DataDir { .. }) && error.to_string().contains("/file"), "{error}");
    stop.cancel();
    server.stopped().await.unwrap();
}
