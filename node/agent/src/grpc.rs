//! The connection to a server: one mutually authenticated HTTP/2 channel for everything. It connects when used and
//! reconnects by itself; who calls decides how long to wait between tries. When the node has new credentials, new calls go
//! over a connection with these, and those under way end on the old one.

use crate::{
    AgentError,
    credentials::Credentials,
    link::{
        CONFIG_MAPS, Change, ENDPOINT_SLICES, Link, NAMESPACES, NODES, PODS, Position, Resource, SECRETS, SERVICES,
        Update, Updates,
    },
    server_place::ServerPlace,
};
use async_trait::async_trait;
use coracle_objects::{ApiError, ObjectKey, Reason};
use coracle_wire::{STATUS_TRAILER, v1};
use futures::StreamExt;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Map, Value};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::watch;
use tonic::{
    Code, Status,
    body::Body,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tower::Service;
use tracing::warn;
use v1::{ViewKind, node_link_client::NodeLinkClient, objects_client::ObjectsClient, view_change};

/// Largest message that is taken: the server cuts views into smaller ones, but for an object that is larger by itself.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a server's machine may take to answer, and how long all of it until there is a connection that can be used. A
/// server that takes the connection and says nothing would else hold up every call for ever.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A call that is no stream gets this long.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// What the server may send into one stream, and into all of them, before it is read here. The sessions whose guests do
/// not read must leave room for the control stream, watches and lists.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024 + SESSIONS_AT_ONCE * STREAM_WINDOW_BYTES;
/// What a server opens at most: logs and commands, and forwarded connections.
const SESSIONS_AT_ONCE: u32 = 64 + 128;
/// At the latest, a connection that was silent for so long is tried, and left when it stays silent for so long then.
const KEEP_ALIVE_MAX: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(10));
/// A busy server may take so long to answer in any case.
const ANSWER_MIN: Duration = Duration::from_secs(3);

type Request = http::Request<Body>;

/// What calls go over. Clones share the connection.
#[derive(Clone)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    /// What this clone's next call takes, and what it shows.
    own: (Arc<Credentials>, Channel),
}

struct Shared {
    server: String,
    patience: Patience,
    place: ServerPlace,
    credentials: watch::Receiver<Arc<Credentials>>,
    /// The channel, and what it shows.
    current: Mutex<(Arc<Credentials>, Channel)>,
}

impl Connection {
    /// To `server` (`https://HOST:PORT`), with whatever the credentials are; it does not connect yet. Something is to pass
    /// over it each `interval`, so that it is known to be dead, or not, within some of them.
    ///
    /// # Errors
    /// When address or certificates cannot be used.
    pub(crate) fn new(
        server: &str,
        credentials: watch::Receiver<Arc<Credentials>>,
        interval: Duration,
    ) -> Result<Self, AgentError> {
        let (shown, patience) = (credentials.borrow().clone(), Patience::of(interval));
        let place = ServerPlace::new(server);
        let channel = channel(server, &place, &shown, patience)?;
        let own = (shown, channel);
        let current = Mutex::new(own.clone());
        let server = server.to_owned();
        Ok(Self { shared: Arc::new(Shared { server, patience, place, credentials, current }), own })
    }

    /// Where the server is, as far as that is known.
    pub(crate) fn server_addresses(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.shared.place.watch()
    }

    /// The channel that shows `latest`.
    fn channel_with(&self, latest: Arc<Credentials>) -> Channel {
        let Shared { server, patience, place, current, .. } = &*self.shared;
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&current.0, &latest) {
            match channel(server, place, &latest, *patience) {
                Ok(channel) => *current = (latest, channel),
                Err(error) => {
                    warn!(%error, "the new credentials cannot be used; the old ones are");
                    current.0 = latest;
                }
            }
        }
        current.1.clone()
    }
}

impl Service<Request> for Connection {
    type Response = <Channel as Service<Request>>::Response;
    type Error = <Channel as Service<Request>>::Error;
    type Future = <Channel as Service<Request>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let latest = self.shared.credentials.borrow().clone();
        if !Arc::ptr_eq(&latest, &self.own.0) {
            self.own = (latest.clone(), self.channel_with(latest));
        }
        self.own.1.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.own.1.call(request)
    }
}

/// How long a connection is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// Until there is one that can be used.
    handshake: Duration,
    /// One that is silent for so long is tried.
    silent: Duration,
    /// And may stay silent for so long then.
    answer: Duration,
}

impl Patience {
    /// Of a connection over which something comes each `interval`: while all is well, it is never tried.
    pub(crate) fn of(interval: Duration) -> Self {
        let (silent_max, answer_max) = KEEP_ALIVE_MAX;
        Self {
            handshake: HANDSHAKE_TIMEOUT,
            silent: (interval + interval / 2).min(silent_max),
            answer: (interval * 2).max(ANSWER_MIN).min(answer_max),
        }
    }
}

impl Default for Patience {
    fn default() -> Self {
        let (silent, answer) = KEEP_ALIVE_MAX;
        Self { handshake: HANDSHAKE_TIMEOUT, silent, answer }
    }
}

/// A channel that shows `credentials`; it does not connect yet.
pub(crate) fn channel(
    server: &str,
    place: &ServerPlace,
    credentials: &Credentials,
    patience: Patience,
) -> Result<Channel, AgentError> {
    let identity = Identity::from_pem(credentials.certificate_pem(), credentials.key_pem());
    channel_as(server, place, credentials.ca_pem(), Some(identity), patience)
}

/// A channel to a server with a certificate of that CA; it does not connect yet. Without an identity it shows none.
pub(crate) fn channel_as(
    server: &str,
    place: &ServerPlace,
    ca_pem: &str,
    identity: Option<Identity>,
    patience: Patience,
) -> Result<Channel, AgentError> {
    let bad = |error: tonic::transport::Error| AgentError::Connection(chain(&error));
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca_pem));
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    let endpoint = Endpoint::from_shared(server.to_owned()).map_err(bad)?;
    let endpoint = endpoint
        .tls_config(tls)
        .map_err(bad)?
        .connect_timeout(patience.handshake)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(patience.silent)
        .keep_alive_timeout(patience.answer)
        .keep_alive_while_idle(true);
    // The endpoint's own connector would give its time to TCP alone, and none to TLS.
    let mut connector = HttpConnector::new_with_resolver(place.finder());
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// [`Link`] over the `Objects` service.
#[derive(Clone)]
pub(crate) struct GrpcLink {
    client: ObjectsClient<Connection>,
    view: NodeLinkClient<Connection>,
}

impl GrpcLink {
    pub(crate) fn new(connection: Connection) -> Self {
        let view = NodeLinkClient::new(connection.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Self { client: ObjectsClient::new(connection).max_decoding_message_size(MESSAGE_BYTES_MAX), view }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "message fields are optional in generated code")]
pub(crate) fn wire(resource: Resource) -> Option<v1::Resource> {
    Some(v1::Resource {
        group: resource.group.to_owned(),
        version: resource.version.to_owned(),
        plural: resource.plural.to_owned(),
    })
}

/// An error and what caused it, as one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// What a refusal over gRPC means: the `Status` it carries, or else what its code says.
pub(crate) fn refusal(status: &Status) -> ApiError {
    let carried = status.metadata().get_bin(STATUS_TRAILER).and_then(|value| value.to_bytes().ok());
    if let Some(status) = carried.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) {
        return ApiError::from_status(&status);
    }
    let reason = match status.code() {
        Code::NotFound => Reason::NotFound,
        Code::AlreadyExists => Reason::AlreadyExists,
        Code::Aborted | Code::FailedPrecondition => Reason::Conflict,
        Code::InvalidArgument => Reason::BadRequest,
        Code::OutOfRange => Reason::Expired,
        Code::PermissionDenied => Reason::Forbidden,
        Code::Unauthenticated => Reason::Unauthorized,
        Code::ResourceExhausted => Reason::TooManyRequests,
        Code::DeadlineExceeded => Reason::Timeout,
        Code::Internal => Reason::InternalError,
        _ => Reason::ServiceUnavailable,
    };
    let message = match status.message() {
        "" => format!("the server refused with {:?}", status.code()),
        message => message.to_owned(),
    };
    ApiError::new(reason, message)
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes)
        .map(fitted)
        .map_err(|error| ApiError::internal(format!("the server sent no JSON: {error}")))
}

/// The same in as little memory as it needs, since much of it is kept: what is read grows by doubling, and objects are
/// made of short lists and maps. Recursion is bounded by the reader's.
fn fitted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut fitting = Map::with_capacity(map.len());
            fitting.extend(map.into_iter().map(|(key, value)| (key, fitted(value))));
            Value::Object(fitting)
        }
        Value::Array(items) => {
            let mut fitting: Vec<Value> = items.into_iter().map(fitted).collect();
            fitting.shrink_to_fit();
            Value::Array(fitting)
        }
        scalar => scalar,
    }
}

pub(crate) fn encode(object: &Value) -> Result<bytes::Bytes, ApiError> {
    let bytes = serde_json::to_vec(object).map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(bytes.into())
}

fn update(update: v1::ViewUpdate) -> Result<Update, ApiError> {
    let v1::ViewUpdate { whole, changes, revision, history, all_pods } = update;
    // A kind that this agent does not know is none of its business.
    let changes = changes.into_iter().filter_map(|one| Some((resource(one.kind())?, one.change?)));
    let changes = changes.map(|(resource, change)| match change {
        view_change::Change::Object(object) => Ok(Change::Applied(resource, decode(&object)?)),
        view_change::Change::Gone(v1::ViewGone { namespace, name, uid }) => {
            Ok(Change::Gone(resource, ObjectKey { namespace, name }, uid))
        }
    });
    Ok(Update { whole, all_pods, changes: changes.collect::<Result<_, ApiError>>()?, revision, history })
}

fn resource(kind: ViewKind) -> Option<Resource> {
    match kind {
        ViewKind::Unspecified => None,
        ViewKind::Namespace => Some(NAMESPACES),
        ViewKind::Node => Some(NODES),
        ViewKind::ConfigMap => Some(CONFIG_MAPS),
        ViewKind::Secret => Some(SECRETS),
        ViewKind::Service => Some(SERVICES),
        ViewKind::EndpointSlice => Some(ENDPOINT_SLICES),
        ViewKind::Pod => Some(PODS),
    }
}

pub(crate) async fn timed<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, ApiError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refusal(&status)),
        Err(_) => Err(ApiError::new(Reason::Timeout, "the server did not answer in time")),
    }
}

#[async_trait]
impl Link for GrpcLink {
    async fn get(&self, resource: Resource, key: &ObjectKey) -> Result<Value, ApiError> {
        let mut client = self.client.clone();
        let request =
            v1::GetRequest { resource: wire(resource), namespace: key.namespace.clone(), name: key.name.clone() };
        decode(&timed(client.get(request)).await?.json)
    }

    async fn follow(&self, position: &Position) -> Result<Updates, ApiError> {
        let mut client = self.view.clone();
        let request = v1::FollowRequest {
            revision: position.revision,
            history: position.history.clone(),
            without_pods: !position.has_pods,
        };
        let stream = timed(client.follow(request)).await?;
        Ok(stream.map(|one| one.map_err(|status| refusal(&status)).and_then(update)).boxed())
    }

    async fn create(&self, resource: Resource, object: &Value) -> Result<Value, ApiError> {
        let mut client = self.client.clone();
        let request = v1::CreateRequest {
            resource: wire(resource),
            namespace: coracle_objects::meta::namespace(object).to_owned(),
            json: encode(object)?,
            ..v1::CreateRequest::default()
        };
        decode(&timed(client.create(request)).await?.json)
    }

    async fn update(&self, resource: Resource, subresource: &str, object: &Value) -> Result<Value, ApiError> {
        let mut client = self.client.clone();
        let request = v1::UpdateRequest {
            resource: wire(resource),
            namespace: coracle_objects::meta::namespace(object).to_owned(),
            name: coracle_objects::meta::name(object).to_owned(),
            subresource: subresource.to_owned(),
            json: encode(object)?,
            ..v1::UpdateRequest::default()
        };
        decode(&timed(client.update(request)).await?.json)
    }

    async fn delete(&self, resource: Resource, key: &ObjectKey, grace_seconds: i64, uid: &str) -> Result<(), ApiError> {
        let mut client = self.client.clone();
        let request = v1::DeleteRequest {
            resource: wire(resource),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            grace_period_seconds: grace_seconds,
            uid: uid.to_owned(),
            ..v1::DeleteRequest::default()
        };
        timed(client.delete(request)).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::metadata::{MetadataMap, MetadataValue};

    #[test]
    fn a_refusal_keeps_what_the_server_said() {
        let status = ApiError::not_found("", "pods", "x").to_status().to_string();
        let mut metadata = MetadataMap::new();
        metadata.insert_bin(STATUS_TRAILER, MetadataValue::from_bytes(status.as_bytes()));
        let refused = refusal(&Status::with_metadata(Code::Unknown, "whatever", metadata));
        assert_eq!((refused.reason, refused.message.as_str()), (Reason::NotFound, "pods \"x\" not found"));
        let plain = refusal(&Status::unavailable("connection refused"));
        assert_eq!(plain, ApiError::new(Reason::ServiceUnavailable, "connection refused"));
    }

    #[test]
    fn a_dead_connection_is_noticed_within_some_intervals() {
        for (interval, silent, answer) in
            [(1, 1_500, 3_000), (2, 3_000, 4_000), (10, 15_000, 10_000), (60, 15_000, 10_000)]
        {
            let (silent, answer) = (Duration::from_millis(silent), Duration::from_millis(answer));
            let expected = Patience { handshake: HANDSHAKE_TIMEOUT, silent, answer };
            assert_eq!(Patience::of(Duration::from_secs(interval)), expected, "{interval} s");
        }
    }

    #[tokio::test]
    async fn a_server_that_takes_a_connection_and_says_nothing_is_dialled_again() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("https://{}", listener.local_addr().unwrap());
        let ca = crate::credentials::tests::Cluster::new().ca_pem();
        let patience = Patience { handshake: Duration::from_millis(500), ..Patience::default() };
        let mut client =
            ObjectsClient::new(channel_as(&server, &ServerPlace::new(&server), &ca, None, patience).unwrap());
        let mut ports = Vec::new();
        for _ in 0..2 {
            let (taken, answer) = tokio::join!(listener.accept(), timed(client.get(v1::GetRequest::default())));
            assert_eq!(answer.unwrap_err().reason, Reason::ServiceUnavailable);
            ports.push(taken.unwrap());
        }
        assert_ne!(ports[0].1, ports[1].1);
    }

    #[test]
    fn what_is_kept_is_what_was_sent_without_room_to_grow() {
        let text = r#"{"z":[{"b":1,"a":[[],{}]}],"a":{"text":"t","none":null,"yes":true,"number":1.5}}"#;
        let read = decode(text.as_bytes()).unwrap();
        assert_eq!(read.to_string(), text, "also in order");
        assert_eq!(read["z"].as_array().map(Vec::capacity), Some(1));
    }

    #[test]
    fn what_a_view_says_is_told_apart() {
        let told = |kind: ViewKind, change| v1::ViewChange { kind: kind.into(), change: Some(change) };
        let object = |text: &str| view_change::Change::Object(text.to_owned().into());
        let gone = v1::ViewGone { namespace: "a".to_owned(), name: "b".to_owned(), uid: "u".to_owned() };
        let changes = vec![
            told(ViewKind::Service, object("{}")),
            told(ViewKind::Unspecified, object("{}")),
            told(ViewKind::Pod, view_change::Change::Gone(gone)),
        ];
        let read = update(v1::ViewUpdate { whole: true, changes, revision: 7, ..v1::ViewUpdate::default() }).unwrap();
        let expected = vec![
            Change::Applied(SERVICES, serde_json::json!({})),
            Change::Gone(PODS, ObjectKey::namespaced("a", "b"), "u".to_owned()),
        ];
        assert_eq!((read.whole, read.revision, read.changes), (true, 7, expected));
        let broken = v1::ViewUpdate { changes: vec![told(ViewKind::Pod, object("{"))], ..v1::ViewUpdate::default() };
        assert!(update(broken).is_err());
    }
}
