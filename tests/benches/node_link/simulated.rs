//! Many nodes that do nothing but follow their views: how long a change of endpoints takes to the last of them.

use coracle_wire::v1::{
    CreateRequest, FollowRequest, Object, Resource, UpdateRequest, ViewKind, node_link_client::NodeLinkClient,
    objects_client::ObjectsClient, view_change,
};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SerialNumber};
use serde_json::{Value, json};
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, mpsc};
use tonic::{
    Request,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// Changes that are made one after the other.
const ROUNDS: u64 = 20;
/// Handshakes at a time.
const HANDSHAKES: usize = 32;
/// Longest that is waited for anything.
const WAIT_MAX: Duration = Duration::from_mins(5);
/// A store revision that certificates of these nodes say they were issued at: beyond any that there is.
const ISSUED_AT: u64 = 1 << 40;
/// Endpoints of the slice.
const ENDPOINTS: usize = 100;

/// One node has this generation of the slice, since then.
type Seen = (u64, Instant);

pub fn measure(server: SocketAddr, data: &Path, nodes: usize) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run(server, data, nodes));
}

async fn run(server: SocketAddr, data: &Path, nodes: usize) {
    let read = |path: &str| fs::read_to_string(data.join(path)).expect(path);
    let (ca, ca_key) = (read("pki/ca.crt"), read("pki/ca.key"));
    let issuer = Issuer::from_ca_cert_pem(&ca, KeyPair::from_pem(&ca_key).expect("the CA's key")).expect("the CA");
    let (seen, mut told) = mpsc::unbounded_channel::<Seen>();
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let begun = Instant::now();
    let mut objects = ObjectsClient::new(channel(server, &ca, None));
    let token = format!("Bearer {}", read("admin.token").trim());
    let mut slice = slice();
    let made = objects.create(with_token(
        &token,
        CreateRequest {
            resource: Some(resource()),
            namespace: "default".to_owned(),
            json: slice.to_string().into(),
            ..CreateRequest::default()
        },
    ));
    slice = decoded(&made.await.expect("a slice").into_inner());
    for index in 0..nodes {
        let identity = identity(&issuer, &format!("simulated-{index}"));
        let channel = channel(server, &ca, Some(identity));
        tokio::spawn(follow(channel, seen.clone(), Arc::clone(&handshakes)));
    }
    wait_for(&mut told, 0, nodes).await;
    println!("{nodes} simulated nodes, each with its whole view after {:.1?}", begun.elapsed());

    let (mut firsts, mut lasts, mut answered) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        slice["metadata"]["labels"]["round"] = round.to_string().into();
        slice["endpoints"][0]["conditions"]["ready"] = (round % 2 == 0).into();
        let at = Instant::now();
        let updated = objects.update(with_token(
            &token,
            UpdateRequest {
                resource: Some(resource()),
                namespace: "default".to_owned(),
                name: "bench".to_owned(),
                json: slice.to_string().into(),
                ..UpdateRequest::default()
            },
        ));
        slice = decoded(&updated.await.expect("an update").into_inner());
        answered.push(at.elapsed());
        let mut times = wait_for(&mut told, round, nodes).await;
        times.sort();
        firsts.push(times[0] - at);
        lasts.push(times[times.len() - 1] - at);
    }
    println!("  a change of a slice of {ENDPOINTS} endpoints, {ROUNDS} times one after the other:");
    for (what, times) in
        [("written", &mut answered), ("at the first node", &mut firsts), ("at the last node", &mut lasts)]
    {
        times.sort();
        println!("  {what}: p50 {:.1?}, worst {:.1?}", times[times.len() / 2], times[times.len() - 1]);
    }
}

/// When each node had the slice of this round.
async fn wait_for(told: &mut mpsc::UnboundedReceiver<Seen>, round: u64, nodes: usize) -> Vec<Instant> {
    let mut times = Vec::with_capacity(nodes);
    while times.len() < nodes {
        let next = tokio::time::timeout(WAIT_MAX, told.recv()).await;
        let (seen, at) = next.unwrap_or_else(|_| panic!("{} of {nodes} nodes were told", times.len())).expect("nodes");
        if seen == round {
            times.push(at);
        }
    }
    times
}

async fn follow(channel: Channel, seen: mpsc::UnboundedSender<Seen>, handshakes: Arc<Semaphore>) {
    let turn = handshakes.acquire_owned().await.expect("a turn");
    let mut client = NodeLinkClient::new(channel).max_decoding_message_size(64 * 1024 * 1024);
    let mut stream = client.follow(FollowRequest::default()).await.expect("a view").into_inner();
    let mut turn = Some(turn);
    while let Some(update) = stream.message().await.expect("an update") {
        turn.take();
        let at = Instant::now();
        for change in update.changes.iter().filter(|change| change.kind() == ViewKind::EndpointSlice) {
            let Some(view_change::Change::Object(object)) = &change.change else { continue };
            let object: Value = serde_json::from_slice(object).expect("JSON");
            if object["metadata"]["name"] == "bench" {
                let round = object["metadata"]["labels"]["round"].as_str().and_then(|round| round.parse().ok());
                seen.send((round.expect("a round"), at)).expect("the bench goes on");
            }
        }
    }
}

fn channel(server: SocketAddr, ca: &str, identity: Option<Identity>) -> Channel {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    let endpoint = Endpoint::from_shared(format!("https://{server}")).expect("an address");
    endpoint.tls_config(tls).expect("credentials").tcp_nodelay(true).connect_lazy()
}

fn identity(issuer: &Issuer<'_, KeyPair>, node: &str) -> Identity {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let mut serial = ISSUED_AT.to_be_bytes().to_vec();
    serial.extend([7; 8]);
    params.serial_number = Some(SerialNumber::from(serial));
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    Identity::from_pem(certificate.pem(), key.serialize_pem())
}

fn resource() -> Resource {
    let text = |text: &str| text.to_owned();
    Resource { group: text("discovery.k8s.io"), version: text("v1"), plural: text("endpointslices") }
}

fn slice() -> Value {
    let endpoint = |index: usize| {
        json!({"addresses": [format!("10.244.{}.{}", index / 200, index % 200 + 1)],
            "conditions": {"ready": true, "serving": true, "terminating": false}})
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "bench", "namespace": "default", "labels": {"round": "0"}},
        "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    })
}

fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", token.parse().expect("a token"));
    request
}

fn decoded(object: &Object) -> Value {
    serde_json::from_slice(&object.json).expect("JSON")
}
