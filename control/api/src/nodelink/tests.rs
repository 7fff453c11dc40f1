//! Control streams and sessions between a server and nodes.

use super::*;
use crate::{Door, auth::Authenticator, door::Target, identity::Identity};
use coracle_objects::{Reason, catalogue};
use coracle_wire::v1::{
    ChannelFrame, ExecRequest, FollowRequest, NodeHello, NodePing, NodeSignal, OpenSession, PortForwardRequest,
    ServerPong, ServerSignal, SessionEnd, SessionFrame, node_link_client::NodeLinkClient,
    node_link_server::NodeLinkServer, node_signal, open_session::Purpose, server_signal, session_frame::Frame,
};
use futures::StreamExt;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{io, sync::Arc};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};

/// Pings at once that no server takes all of.
const PINGS_TOO_MANY: usize = 1000;

/// Nodes that there are.
const NODES: [&str; 3] = ["one", "two", "three"];
/// One that has credentials and no Node yet.
pub(super) const NEW: &str = "new";

pub(crate) struct Setting {
    pub(crate) links: Arc<NodeLinks>,
    pub(crate) channel: Channel,
    pub(crate) closing: CancellationToken,
    pub(crate) door: Arc<Door>,
}

pub(crate) async fn setting() -> Setting {
    setting_of(crate::testing::door().await.0).await
}

/// A server before that door.
pub(super) async fn setting_of(door: Arc<Door>) -> Setting {
    let closing = CancellationToken::new();
    let links = NodeLinks::new(closing.clone());
    let mut authenticator = Authenticator::new().with_token("admin", Identity::admin());
    for node in NODES.into_iter().chain([NEW]) {
        authenticator = authenticator.with_token(node, Identity::node(node));
    }
    let namespace = json!({"metadata": {"name": "kube-node-lease"}});
    crate::testing::create(&door, &Target::collection(catalogue::namespaces(), ""), namespace).await.unwrap();
    for node in NODES {
        register(&door, node).await;
    }
    let bounds = NodeBounds::new(&door);
    let service = NodeLinkService::new(Arc::clone(&links), Arc::new(authenticator), Arc::clone(&door), bounds);
    let service = NodeLinkServer::new(service);
    let (client, server) = tokio::io::duplex(1 << 16);
    let incoming = futures::stream::iter([Ok::<_, io::Error>(server)]);
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    let mut client = Some(TokioIo::new(client));
    let connector = tower::service_fn(move |_| {
        std::future::ready(client.take().ok_or_else(|| io::Error::other("there is one connection only")))
    });
    let channel = Endpoint::from_static("http://server").connect_with_connector(connector).await.unwrap();
    Setting { links, channel, closing, door }
}

/// Makes a Node; its uid.
pub(super) async fn register(door: &Door, name: &str) -> Value {
    let nodes = Target::collection(catalogue::nodes(), "");
    let node = crate::testing::create(door, &nodes, json!({"metadata": {"name": name}})).await.unwrap();
    node["metadata"]["uid"].clone()
}

pub(crate) fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

fn hello(node: &str) -> NodeSignal {
    NodeSignal { signal: Some(node_signal::Signal::Hello(NodeHello { node_name: node.to_owned(), lease_seconds: 8 })) }
}

fn frame(frame: Frame) -> SessionFrame {
    SessionFrame { frame: Some(frame) }
}

/// A node as a test plays it.
pub(crate) struct Node {
    token: &'static str,
    client: NodeLinkClient<Channel>,
    to_server: mpsc::Sender<NodeSignal>,
    signals: Streaming<ServerSignal>,
    /// How many it has sent.
    pub(crate) pings: u64,
}

impl Node {
    pub(crate) async fn connect(setting: &Setting, token: &'static str, name: &str) -> Self {
        let mut client = NodeLinkClient::new(setting.channel.clone());
        let (to_server, outgoing) = mpsc::channel(8);
        let answer = client.control(with_token(token, ReceiverStream::new(outgoing))).await.unwrap();
        to_server.send(hello(name)).await.unwrap();
        Self { token, client, to_server, signals: answer.into_inner(), pings: 0 }
    }

    /// Connected: the server has answered a ping.
    pub(crate) async fn ready(setting: &Setting, name: &'static str) -> Self {
        let mut node = Self::connect(setting, name, name).await;
        node.ping().await.unwrap();
        node
    }

    pub(crate) async fn ping(&mut self) -> Result<ServerPong, Status> {
        self.send_ping().await;
        self.pong().await
    }

    pub(crate) async fn send_ping(&mut self) {
        self.pings += 1;
        let ping = NodeSignal { signal: Some(node_signal::Signal::Ping(NodePing {})) };
        self.to_server.send(ping).await.ok();
    }

    pub(crate) async fn pong(&mut self) -> Result<ServerPong, Status> {
        match self.signals.message().await?.and_then(|message| message.signal) {
            Some(server_signal::Signal::Pong(pong)) => Ok(pong),
            other => Err(Status::internal(format!("no pong but {other:?}"))),
        }
    }

    /// Its control stream works.
    pub(crate) async fn answers(&mut self) {
        self.ping().await.unwrap();
    }

    pub(crate) async fn asked(&mut self) -> OpenSession {
        match self.signals.message().await.unwrap().and_then(|message| message.signal) {
            Some(server_signal::Signal::OpenSession(open)) => open,
            other => panic!("not asked for a session: {other:?}"),
        }
    }

    pub(crate) async fn open(&mut self, session_id: String) -> (mpsc::Sender<SessionFrame>, Streaming<SessionFrame>) {
        let (sender, outgoing) = mpsc::channel(1);
        let answer = self.client.session(with_token(self.token, ReceiverStream::new(outgoing))).await.unwrap();
        sender.send(frame(Frame::SessionId(session_id))).await.unwrap();
        (sender, answer.into_inner())
    }
}

fn request() -> LogRequest {
    LogRequest {
        namespace: "default".to_owned(),
        pod: "p".to_owned(),
        container: "c".to_owned(),
        ..LogRequest::default()
    }
}

#[tokio::test]
async fn a_log_comes_over_a_session_that_the_node_opens() {
    let setting = setting().await;
    let mut node = Node::ready(&setting, "one").await;
    let links = Arc::clone(&setting.links);
    let reading = tokio::spawn(async move { links.open("one", request()).await });
    let asked = node.asked().await;
    assert_eq!(asked.purpose, Some(Purpose::Logs(request())));
    let (sender, _answer) = node.open(asked.session_id).await;
    for line in ["a\n", "b\n"] {
        sender.send(frame(Frame::Data(Bytes::from_static(line.as_bytes())))).await.unwrap();
    }
    sender.send(frame(Frame::End(SessionEnd::default()))).await.unwrap();
    let log = reading.await.unwrap().unwrap_or_else(|error| panic!("{error}"));
    let text: Vec<_> = log.map(Result::unwrap).collect().await;
    assert_eq!(text.concat(), b"a\nb\n");
}

#[tokio::test]
async fn a_refusal_before_the_first_byte_is_an_error_and_a_break_later_too() {
    let setting = setting().await;
    let mut node = Node::ready(&setting, "one").await;
    let links = Arc::clone(&setting.links);
    let reading = tokio::spawn(async move { links.open("one", request()).await.map(drop) });
    let asked = node.asked().await;
    let (sender, _answer) = node.open(asked.session_id).await;
    let status = ApiError::bad_request("container \"c\" is waiting to start").to_status().to_string();
    sender.send(frame(Frame::End(SessionEnd { status: status.into() }))).await.unwrap();
    let error = reading.await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.message.as_str()), (400, "container \"c\" is waiting to start"));

    let links = Arc::clone(&setting.links);
    let reading = tokio::spawn(async move { links.open("one", request()).await });
    let asked = node.asked().await;
    let (sender, _answer) = node.open(asked.session_id).await;
    sender.send(frame(Frame::Data(Bytes::from_static(b"half")))).await.unwrap();
    drop(sender);
    let mut log = reading.await.unwrap().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(log.next().await.unwrap().unwrap(), "half");
    assert_eq!(log.next().await.unwrap().unwrap_err().reason, Reason::ServiceUnavailable);
    assert!(log.next().await.is_none());
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_nodes_call() {
    let setting = setting().await;
    let mut node = Node::ready(&setting, "one").await;
    let links = Arc::clone(&setting.links);
    let reading = tokio::spawn(async move { links.open("one", request()).await });
    let asked = node.asked().await;
    let (sender, mut answer) = node.open(asked.session_id).await;
    sender.send(frame(Frame::Data(Bytes::from_static(b"x")))).await.unwrap();
    drop(reading.await.unwrap());
    assert!(matches!(answer.message().await, Ok(None) | Err(_)), "the node is told that nobody listens");
}

#[tokio::test]
async fn too_many_pings_end_the_link() {
    let setting = setting().await;
    let mut node = Node::ready(&setting, "one").await;
    let mut refused = None;
    for _ in 0..PINGS_TOO_MANY {
        if let Err(error) = node.ping().await {
            refused = Some(error);
            break;
        }
    }
    let refused = refused.expect("pings are taken without end");
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, "too many pings"));
}

#[tokio::test]
async fn a_view_is_for_nodes_and_each_follows_its_own() {
    let setting = setting().await;
    let mut client = NodeLinkClient::new(setting.channel.clone());
    for (token, code) in [("admin", Code::PermissionDenied), ("wrong", Code::Unauthenticated)] {
        let error = client.follow(with_token(token, FollowRequest::default())).await.unwrap_err();
        assert_eq!(error.code(), code, "{token}");
    }
    let mut view = client.follow(with_token("one", FollowRequest::default())).await.unwrap().into_inner();
    let first = view.message().await.unwrap().unwrap();
    assert!(first.whole && first.revision > 0, "{first:?}");
}

#[tokio::test]
async fn a_flood_that_nobody_reads_does_not_delay_the_control_stream() {
    let setting = setting().await;
    let mut node = Node::ready(&setting, "one").await;
    let links = Arc::clone(&setting.links);
    let reading = tokio::spawn(async move { links.open("one", request()).await });
    let asked = node.asked().await;
    let (sender, _answer) = node.open(asked.session_id).await;
    // Fill the session until the server's window is used up: then `try_send` stays refused.
    let chunk = Bytes::from(vec![b'x'; 16 * 1024]);
    let (stop, mut stopped) = mpsc::channel::<()>(1);
    let flood = tokio::spawn(async move {
        let mut sent = 0_usize;
        loop {
            tokio::select! {
                _ = stopped.recv() => return sent,
                result = sender.send(frame(Frame::Data(chunk.clone()))) => {
                    if result.is_err() {
                        return sent;
                    }
                    sent += chunk.len();
                }
            }
        }
    });
    let log = reading.await.unwrap();
    for _ in 0..50 {
        node.ping().await.unwrap();
    }
    drop(stop);
    assert!(flood.await.unwrap() < 64 << 20, "the flood was held back");
    drop(log);
}

#[tokio::test]
async fn only_the_node_itself_speaks_for_a_node() {
    let setting = setting().await;
    let mut client = NodeLinkClient::new(setting.channel.clone());
    for (token, code) in [("admin", Code::PermissionDenied), ("wrong", Code::Unauthenticated)] {
        let error = client.control(with_token(token, futures::stream::empty())).await.unwrap_err();
        assert_eq!(error.code(), code, "{token}");
        let error = client.session(with_token(token, futures::stream::empty())).await.unwrap_err();
        assert_eq!(error.code(), code, "{token}");
    }
    let mut impostor = Node::connect(&setting, "two", "one").await;
    assert_eq!(impostor.signals.message().await.unwrap_err().code(), Code::PermissionDenied);
    assert!(!setting.links.is_connected("one"));
}

#[tokio::test]
async fn another_node_cannot_take_a_session() {
    let setting = setting().await;
    let mut one = Node::ready(&setting, "one").await;
    let mut two = Node::ready(&setting, "two").await;
    let links = Arc::clone(&setting.links);
    let reading = tokio::spawn(async move { links.open("one", request()).await });
    let asked = one.asked().await;
    let (_sender, mut refused) = two.open(asked.session_id.clone()).await;
    assert_eq!(refused.message().await.unwrap_err().code(), Code::NotFound);
    let (sender, _answer) = one.open(asked.session_id).await;
    sender.send(frame(Frame::End(SessionEnd::default()))).await.unwrap();
    assert!(reading.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_node_that_is_not_there_is_named() {
    let setting = setting().await;
    let absent = |result: Result<_, ApiError>| {
        let error = result.map(drop).unwrap_err();
        assert_eq!(error.reason, Reason::ServiceUnavailable);
        assert!(error.message.contains("node \"one\""), "{}", error.message);
    };
    absent(setting.links.open("one", request()).await);
    // Asked, but gone before it opened the session.
    let mut node = Node::ready(&setting, "one").await;
    let links = Arc::clone(&setting.links);
    let reading = tokio::spawn(async move { links.open("one", request()).await });
    node.asked().await;
    drop(node);
    absent(reading.await.unwrap());
}

#[tokio::test]
async fn a_second_connection_replaces_the_first_and_closing_ends_all() {
    let setting = setting().await;
    let mut first = Node::ready(&setting, "one").await;
    let mut second = Node::ready(&setting, "one").await;
    assert_eq!(first.signals.message().await.unwrap_err().code(), Code::Aborted);
    drop(first);
    second.ping().await.unwrap();
    assert!(setting.links.is_connected("one"));
    setting.closing.cancel();
    assert_eq!(second.signals.message().await.unwrap_err().code(), Code::Aborted);
}

fn exec() -> Purpose {
    Purpose::Exec(ExecRequest { pod: "p".to_owned(), command: vec!["c".to_owned()], ..ExecRequest::default() })
}

fn forward() -> Purpose {
    Purpose::PortForward(PortForwardRequest { pod: "p".to_owned(), port: 80, ..PortForwardRequest::default() })
}

fn channel(channel: u32, data: &'static str) -> ChannelFrame {
    ChannelFrame { channel, data: Bytes::from_static(data.as_bytes()), close: false }
}

/// A session that is open on both sides.
async fn session(
    setting: &Setting,
    node: &mut Node,
    purpose: Purpose,
) -> (Session, mpsc::Sender<SessionFrame>, Streaming<SessionFrame>) {
    let links = Arc::clone(&setting.links);
    let opening = tokio::spawn(async move { links.open_session("one", purpose).await });
    let asked = node.asked().await;
    let (to_server, from_server) = node.open(asked.session_id).await;
    (opening.await.unwrap().unwrap_or_else(|error| panic!("{error}")), to_server, from_server)
}

#[tokio::test]
async fn a_session_carries_channels_both_ways() {
    let setting = setting().await;
    let mut node = Node::ready(&setting, "one").await;
    let (mut session, to_server, mut from_server) = session(&setting, &mut node, exec()).await;
    to_server.send(frame(Frame::Channel(channel(1, "out")))).await.unwrap();
    assert_eq!(session.next().await.unwrap(), Said::Channel(channel(1, "out")));
    let (mut reader, writer) = session.split();
    let large = Bytes::from(vec![b'x'; 100_000]);
    let sending = tokio::spawn(async move {
        writer.send(0, large).await.unwrap();
        writer.close(0).await.unwrap();
        writer
    });
    let mut received = 0;
    loop {
        let message = from_server.message().await.unwrap().and_then(SessionFrame::into_channel);
        let Some(frame) = message else { panic!("no channel frame") };
        assert!(frame.data.len() <= 32 * 1024, "in pieces");
        received += frame.data.len();
        if frame.close {
            break;
        }
    }
    assert_eq!(received, 100_000);
    let _writer = sending.await.unwrap();
    to_server.send(frame(Frame::End(SessionEnd { status: Bytes::from_static(b"{}") }))).await.unwrap();
    assert_eq!(reader.next().await.unwrap(), Said::End(Bytes::from_static(b"{}")));
}

#[tokio::test]
async fn forwarded_connections_leave_room_for_other_sessions() {
    let setting = setting().await;
    let mut node = Node::ready(&setting, "one").await;
    let mut kept = Vec::new();
    for _ in 0..MAX_FORWARDS_PER_NODE {
        kept.push(session(&setting, &mut node, forward()).await);
    }
    let error = setting.links.open_session("one", forward()).await.map(drop).unwrap_err();
    assert_eq!(error.reason, Reason::TooManyRequests);
    kept.push(session(&setting, &mut node, exec()).await);
    kept.remove(0);
    kept.push(session(&setting, &mut node, forward()).await);
}

#[tokio::test]
async fn a_session_ends_with_its_nodes_link() {
    let setting = setting().await;
    let mut node = Node::ready(&setting, "one").await;
    let (session, _to_server, _from_server) = session(&setting, &mut node, exec()).await;
    let (mut reader, writer) = session.split();
    let _second = Node::ready(&setting, "one").await;
    for error in [reader.next().await.map(drop), writer.send(0, Bytes::from_static(b"x")).await] {
        let error = error.unwrap_err();
        assert_eq!(error.reason, Reason::ServiceUnavailable);
        assert!(error.message.contains("the connection to node \"one\" was lost"), "{error}");
    }
}

#[tokio::test]
async fn a_node_that_does_not_read_holds_the_writer_back() {
    let setting = setting().await;
    let mut node = Node::ready(&setting, "one").await;
    let (session, to_server, from_server) = session(&setting, &mut node, exec()).await;
    let (_reader, writer) = session.split();
    let (counts, mut counted) = tokio::sync::watch::channel(0_usize);
    let writing = tokio::spawn(async move {
        let chunk = Bytes::from(vec![b'x'; 32 * 1024]);
        while writer.send(0, chunk.clone()).await.is_ok() {
            counts.send_modify(|sent| *sent += chunk.len());
        }
    });
    // Pings go through whatever is unread, and time passes for the writer.
    counted.changed().await.unwrap();
    for _ in 0..50 {
        node.ping().await.unwrap();
    }
    assert!(*counted.borrow() < 64 << 20, "{} bytes", *counted.borrow());
    drop((to_server, from_server));
    writing.await.unwrap();
}

#[tokio::test]
async fn half_a_session_is_none() {
    let setting = setting().await;
    let mut node = Node::ready(&setting, "one").await;
    for reader_goes in [true, false] {
        let (session, _to_server, mut from_server) = session(&setting, &mut node, exec()).await;
        let (reader, writer) = session.split();
        let kept: Box<dyn std::any::Any> = if reader_goes {
            drop(reader);
            assert!(writer.close(0).await.is_err());
            Box::new(writer)
        } else {
            drop(writer);
            Box::new(reader)
        };
        assert!(matches!(from_server.message().await, Ok(None) | Err(_)), "the node is told");
        drop(kept);
    }
}
