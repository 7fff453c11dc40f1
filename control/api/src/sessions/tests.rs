//! Sessions through real sockets, against a node as a test plays it.

use super::spdy::client::{self, Client, Heard};
use crate::{
    http,
    nodelink::tests::{Node, Setting, setting},
    testing::{self, TOKEN},
};
use bytes::{Bytes, BytesMut};
use coracle_objects::ApiError;
use coracle_wire::v1::{
    ChannelFrame, ExecRequest, SessionEnd, SessionFrame, open_session::Purpose, session_frame::Frame,
};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _, protocol::frame::coding::CloseCode},
};
use tonic::Streaming;

const POD: &str = "/api/v1/namespaces/default/pods/runs";
const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";
const FORWARD: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// A server with a pod that runs on a node.
struct Server {
    address: SocketAddr,
    setting: Setting,
}

/// The node's side of one session.
struct AtNode {
    purpose: Purpose,
    to_server: mpsc::Sender<SessionFrame>,
    from_server: Streaming<SessionFrame>,
}

async fn server() -> (Server, Node) {
    let (door, _proposer) = testing::door().await;
    testing::running_pod(&door, "runs", "one", &json!({"state": {"running": {}}})).await;
    testing::running_pod(&door, "far", "two", &json!({"state": {"running": {}}})).await;
    let setting = setting().await;
    door.set_node_links(Arc::clone(&setting.links));
    let node = Node::ready(&setting, "one").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = http::routes(door, testing::authenticator());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (Server { address, setting }, node)
}

impl Server {
    async fn websocket(&self, path: &str, protocol: &str) -> WebSocketStream<TcpStream> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
        headers.insert("sec-websocket-protocol", protocol.parse().unwrap());
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (socket, response) = client_async(request, stream).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
        socket
    }

    /// Asks for a switch; answers the head of the response and the connection behind it.
    async fn ask(&self, method: &str, path: &str, headers: &str) -> (String, TcpStream) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        (String::from_utf8(head).unwrap(), stream)
    }

    async fn spdy(&self, path: &str, protocol: &str) -> Peer<TcpStream> {
        let headers =
            format!("Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v9, {protocol}\r\n");
        let (head, stream) = self.ask("POST", path, &headers).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains(&format!("x-stream-protocol-version: {protocol}\r\n")), "{head}");
        Peer::new(stream)
    }

    /// The head of the answer to a creation.
    async fn refused_or_made(&self, path: &str, object: &Value) -> String {
        let body = object.to_string();
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len(),
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// The `Status` of a refusal.
    async fn refused(&self, method: &str, path: &str, headers: &str) -> Value {
        let (head, mut stream) = self.ask(method, path, &format!("{headers}X-Last: 1\r\n")).await;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {head}"))
    }
}

impl AtNode {
    async fn opened(node: &mut Node) -> Self {
        let asked = node.asked().await;
        let (to_server, from_server) = node.open(asked.session_id).await;
        Self { purpose: asked.purpose.unwrap(), to_server, from_server }
    }

    async fn frame(&self, frame: Frame) {
        self.to_server.send(SessionFrame { frame: Some(frame) }).await.unwrap();
    }

    async fn say(&self, channel: u32, data: impl Into<Bytes>) {
        self.frame(Frame::Channel(ChannelFrame { channel, data: data.into(), close: false })).await;
    }

    async fn end(&self, status: impl Into<Bytes>) {
        self.frame(Frame::End(SessionEnd { status: status.into() })).await;
    }

    /// What comes next on a channel.
    async fn next(&mut self) -> Option<ChannelFrame> {
        self.from_server.message().await.unwrap().and_then(SessionFrame::into_channel)
    }

    /// What comes on `channel` until it is closed.
    async fn hear(&mut self, channel: u32) -> Vec<u8> {
        let mut whole = Vec::new();
        loop {
            match self.next().await {
                Some(frame) if frame.channel == channel => {
                    whole.extend_from_slice(&frame.data);
                    if frame.close {
                        return whole;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The server has ended the call.
    async fn is_over(&mut self) {
        while let Ok(Some(_)) = self.from_server.message().await {}
    }
}

/// A client that speaks SPDY.
struct Peer<S> {
    io: S,
    frames: Client,
    buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    fn new(io: S) -> Self {
        Self { io, frames: Client::new(), buffer: BytesMut::new() }
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    async fn open(&mut self, stream: u32, kind: &str) {
        let frame = self.frames.open(stream, [("streamtype", kind)], false);
        self.say(&frame).await;
    }

    async fn forward(&mut self, stream: u32, kind: &str, port: &str, request: &str) {
        let headers = [("streamtype", kind), ("port", port), ("requestid", request)];
        let frame = self.frames.open(stream, headers, false);
        self.say(&frame).await;
    }

    async fn hear(&mut self) -> Option<Heard> {
        loop {
            match self.frames.hear(&mut self.buffer) {
                Some(Heard::Other | Heard::Ping(_)) => {}
                Some(heard) => return Some(heard),
                None if self.io.read_buf(&mut self.buffer).await.unwrap() == 0 => return None,
                None => {}
            }
        }
    }

    /// What comes on each of `streams` until all of them have ended.
    async fn whole<const N: usize>(&mut self, streams: [u32; N]) -> [Vec<u8>; N] {
        let (mut texts, mut open) = ([const { Vec::new() }; N], N);
        while open > 0 {
            match self.hear().await {
                Some(Heard::Data { stream, bytes, fin }) => {
                    if let Some(place) = streams.iter().position(|own| *own == stream) {
                        texts[place].extend_from_slice(&bytes);
                        open -= usize::from(fin);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        texts
    }
}

fn exit_code(code: u8) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with exit code {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

#[tokio::test]
async fn a_command_runs_over_websocket() {
    let (server, mut node) = server().await;
    let path = format!("{POD}/exec?command=cat&command=-&stdin=true&stdout=1&stderr=true&container=main");
    let opening = tokio::spawn(async move { (AtNode::opened(&mut node).await, node) });
    let mut client = server.websocket(&path, V5).await;
    let (mut at_node, _node) = opening.await.unwrap();
    let Purpose::Exec(asked) = &at_node.purpose else { panic!("{:?}", at_node.purpose) };
    let ExecRequest { container, command, stdin, stdout, stderr, tty, pod_uid, .. } = asked;
    assert_eq!((container.as_str(), command.as_slice()), ("main", &["cat".to_owned(), "-".to_owned()][..]));
    assert_eq!((stdin, stdout, stderr, tty, pod_uid.is_empty()), (&true, &true, &true, &false, false));
    client.send(Message::binary(&b"\x00typed "[..])).await.unwrap();
    client.send(Message::binary(&b"\x00in"[..])).await.unwrap();
    client.send(Message::binary(&b"\xff\x00"[..])).await.unwrap();
    assert_eq!(at_node.hear(0).await, b"typed in");
    at_node.say(1, "out").await;
    at_node.say(2, "err").await;
    at_node.end(exit_code(3).to_string()).await;
    let (mut texts, mut close) = ([const { Vec::new() }; 4], None);
    while let Some(message) = client.next().await {
        match message.unwrap() {
            Message::Binary(bytes) => texts[usize::from(bytes[0])].extend_from_slice(&bytes[1..]),
            Message::Close(frame) => close = frame,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((texts[1].as_slice(), texts[2].as_slice()), (&b"out"[..], &b"err"[..]));
    assert_eq!(serde_json::from_slice::<Value>(&texts[3]).unwrap(), exit_code(3));
    assert_eq!(close.map(|frame| frame.code), Some(CloseCode::Normal));
    at_node.is_over().await;
}

#[tokio::test]
async fn a_command_runs_over_spdy_and_large_output_comes_whole() {
    let (server, mut node) = server().await;
    let path = format!("{POD}/exec?command=x&stdin=true&stdout=true&stderr=true");
    let opening = tokio::spawn(async move { (AtNode::opened(&mut node).await, node) });
    let mut peer = server.spdy(&path, V4).await;
    let (mut at_node, _node) = opening.await.unwrap();
    for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
        peer.open(stream, kind).await;
    }
    let input = vec![b'i'; 3 << 20];
    let expected = input.clone();
    let echo = tokio::spawn(async move {
        assert_eq!(at_node.hear(0).await, expected);
        for _ in 0..256 {
            at_node.say(1, vec![b'o'; 16 * 1024]).await;
        }
        at_node.say(2, "err").await;
        at_node.end(Bytes::new()).await;
        at_node.is_over().await;
    });
    for piece in input.chunks(32 * 1024) {
        peer.say(&client::data(3, piece, false)).await;
    }
    peer.say(&client::data(3, b"", true)).await;
    let [error, stdout, stderr] = peer.whole([1, 5, 7]).await;
    assert_eq!((stdout.len(), stderr.as_slice()), (4 << 20, &b"err"[..]));
    assert_eq!(serde_json::from_slice::<Value>(&error).unwrap()["status"], "Success");
    assert_eq!(peer.hear().await, Some(Heard::GoAway));
    assert_eq!(peer.hear().await, None);
    echo.await.unwrap();
}

/// Two connections to one pod, of which the second is refused by the node.
async fn forwards(mut peer: Peer<impl AsyncRead + AsyncWrite + Unpin>, node: &mut Node) {
    // The streams of two requests, mixed.
    for (stream, kind, port, request) in
        [(1, "error", "80", "0"), (3, "error", "81", "1"), (5, "data", "80", "0"), (7, "data", "81", "1")]
    {
        peer.forward(stream, kind, port, request).await;
    }
    let (one, two) = (AtNode::opened(node).await, AtNode::opened(node).await);
    let port = |at_node: &AtNode| match &at_node.purpose {
        Purpose::PortForward(request) => request.port,
        other => panic!("{other:?}"),
    };
    let (mut good, bad) = if port(&one) == 80 { (one, two) } else { (two, one) };
    assert_eq!((port(&good), port(&bad)), (80, 81));
    bad.end(ApiError::bad_request("connection refused").to_status().to_string()).await;
    let [error, data] = peer.whole([3, 7]).await;
    let error = String::from_utf8(error).unwrap();
    assert!(error.starts_with("error forwarding port 81 to pod runs, uid "), "{error}");
    assert!(error.ends_with(": connection refused") && data.is_empty(), "{error}");
    peer.say(&client::data(5, b"request", true)).await;
    assert_eq!(good.hear(0).await, b"request");
    good.say(0, "answer").await;
    good.frame(Frame::Channel(ChannelFrame { channel: 0, data: Bytes::new(), close: true })).await;
    // The client is told that it is over, also when the node waits for the client to close its part.
    assert_eq!(peer.whole([5, 1]).await, [&b"answer"[..], b""]);
    good.is_over().await;
    // The client may give a connection up.
    for (stream, kind) in [(9, "error"), (11, "data")] {
        peer.forward(stream, kind, "80", "2").await;
    }
    let mut given_up = AtNode::opened(node).await;
    peer.say(&client::reset(11)).await;
    assert_eq!(peer.whole([9]).await, [b""], "it waits for the end of the errors");
    given_up.is_over().await;
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy() {
    let (server, mut node) = server().await;
    let peer = server.spdy(&format!("{POD}/portforward"), FORWARD).await;
    forwards(peer, &mut node).await;
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy_inside_of_a_websocket() {
    let (server, mut node) = server().await;
    let (near, far) = tokio::io::duplex(1 << 16);
    let (mut sink, mut stream) = server.websocket(&format!("{POD}/portforward"), TUNNEL).await.split();
    let (mut reader, mut writer) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(Message::Binary(bytes))) = stream.next().await {
            writer.write_all(&bytes).await.unwrap();
        }
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; 1000];
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            sink.send(Message::binary(buffer[..length].to_vec())).await.unwrap();
        }
    });
    forwards(Peer::new(near), &mut node).await;
}

#[tokio::test]
async fn ports_are_forwarded_over_channels() {
    let (server, mut node) = server().await;
    let mut client = server.websocket(&format!("{POD}/portforward?ports=80"), V4).await;
    let mut at_node = AtNode::opened(&mut node).await;
    for channel in [0, 1] {
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(vec![channel, 80, 0]));
    }
    client.send(Message::binary(&b"\x00hello"[..])).await.unwrap();
    assert_eq!(at_node.next().await.unwrap().data, "hello");
    at_node.say(0, "answer").await;
    assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(&b"\x00answer"[..]));
    at_node.end(ApiError::bad_request("gone").to_status().to_string()).await;
    let Message::Binary(error) = client.next().await.unwrap().unwrap() else { panic!("no message") };
    assert!(error.starts_with(b"\x01error forwarding port 80") && error.ends_with(b"gone"), "{error:?}");
}

#[tokio::test]
async fn refusals_come_before_the_switch() {
    let (server, _node) = server().await;
    let websocket = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let spdy = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
    let exec = format!("{POD}/exec?command=x&stdout=true");
    let far = "/api/v1/namespaces/default/pods/far";
    let cases = [
        ("POST", exec.clone(), String::new(), 400, "Upgrade request required"),
        ("POST", exec.clone(), "Connection: Upgrade\r\nUpgrade: h2c\r\n".to_owned(), 400, "only to websocket and SPDY"),
        ("GET", exec.clone(), websocket.replace("13", "12"), 400, "Sec-WebSocket-Version must be 13"),
        ("GET", exec.clone(), format!("{websocket}Sec-WebSocket-Protocol: x\r\n"), 403, "unable to negotiate protocol"),
        ("POST", exec.clone(), format!("{spdy}X-Stream-Protocol-Version: x\r\n"), 403, "server accepts [\"v4.channel"),
        ("POST", format!("{POD}/portforward"), spdy.to_owned(), 403, "server accepts [\"portforward.k8s.io\"]"),
        ("GET", format!("{POD}/portforward"), websocket.to_owned(), 400, "\"ports\" is required"),
        ("GET", format!("{POD}/portforward?ports=x"), websocket.to_owned(), 400, "\"x\" is no port"),
        ("POST", format!("{far}/exec?command=x&stdout=1"), spdy.to_owned(), 503, "node \"two\" is not connected"),
        ("POST", format!("{far}/portforward"), spdy.to_owned(), 503, "node \"two\" is not connected"),
        ("POST", format!("{POD}/attach"), spdy.to_owned(), 400, "at least 1 of stdin, stdout, stderr"),
        ("PUT", exec.clone(), spdy.to_owned(), 405, "does not allow this method"),
        ("POST", "/api/v1/namespaces/default/pods/no/exec".to_owned(), spdy.to_owned(), 400, "at least 1 command"),
        ("POST", exec.replace("runs", "no"), spdy.to_owned(), 404, "pods \"no\" not found"),
    ];
    for (method, path, headers, code, text) in cases {
        let status = server.refused(method, &path, &headers).await;
        assert_eq!((status["kind"].as_str(), status["code"].as_u64()), (Some("Status"), Some(code)), "{path}");
        assert!(status["message"].as_str().is_some_and(|message| message.contains(text)), "{path}: {status}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_what_it_began() {
    let (server, mut node) = server().await;
    let path = format!("{POD}/attach?stdin=true&stdout=true");
    let opening = tokio::spawn(async move { (AtNode::opened(&mut node).await, node) });
    let client = server.websocket(&path, V4).await;
    let (mut at_node, mut node) = opening.await.unwrap();
    assert!(matches!(at_node.purpose, Purpose::Attach(_)));
    drop(client);
    at_node.is_over().await;
    for leave in ["at once", "with its streams open"] {
        let opening = tokio::spawn(async move { (AtNode::opened(&mut node).await, node) });
        let mut peer = server.spdy(&path, V4).await;
        let (mut at_node, kept) = opening.await.unwrap();
        node = kept;
        if leave != "at once" {
            for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
                peer.open(stream, kind).await;
            }
            at_node.say(1, "x").await;
            assert!(matches!(peer.hear().await, Some(Heard::Data { stream: 5, .. })));
        }
        drop(peer);
        at_node.is_over().await;
    }
}

#[tokio::test]
async fn garbage_costs_only_the_session_that_it_is_said_in() {
    let (server, mut node) = server().await;
    let path = format!("{POD}/exec?command=x&stdin=true&stdout=true");
    for protocol in ["SPDY", "WebSocket"] {
        let opening = tokio::spawn(async move { (AtNode::opened(&mut node).await, node) });
        let mut stream = if protocol == "SPDY" {
            server.spdy(&path, V4).await.io
        } else {
            server.websocket(&path, V4).await.into_inner()
        };
        let (mut at_node, kept) = opening.await.unwrap();
        node = kept;
        stream.write_all(&[0xff; 4096]).await.unwrap();
        at_node.is_over().await;
        // What the server says last may be anything; it hangs up.
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.ok();
    }
    // Message of a size that is not taken.
    let opening = tokio::spawn(async move { (AtNode::opened(&mut node).await, node) });
    let mut client = server.websocket(&path, V4).await;
    let (mut at_node, _node) = opening.await.unwrap();
    client.send(Message::binary(vec![0; 5 << 20])).await.ok();
    at_node.is_over().await;
}

#[tokio::test]
async fn a_lost_node_is_a_failure_that_the_client_is_told() {
    let (server, mut node) = server().await;
    let opening = tokio::spawn(async move { (AtNode::opened(&mut node).await, node) });
    let mut client = server.websocket(&format!("{POD}/exec?command=x&stdout=true"), V5).await;
    let (_at_node, _first) = opening.await.unwrap();
    let _second = Node::ready(&server.setting, "one").await;
    let status = loop {
        match client.next().await.unwrap().unwrap() {
            Message::Binary(bytes) if bytes[0] == 3 => break serde_json::from_slice::<Value>(&bytes[1..]).unwrap(),
            Message::Binary(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((status["status"].as_str(), status["code"].as_u64()), (Some("Failure"), Some(503)), "{status}");
}

async fn get(server: &Server, path: &str, headers: &str) -> (String, Vec<u8>) {
    let (head, mut stream) = server.ask("GET", path, &format!("Connection: close\r\n{headers}")).await;
    let mut body = Vec::new();
    stream.read_to_end(&mut body).await.unwrap();
    (head, body)
}

/// A node that answers every session with a summary in pieces, and counts them.
fn telling(mut node: Node, summary: Value) -> Arc<std::sync::atomic::AtomicUsize> {
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let mut at_node = AtNode::opened(&mut node).await;
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert!(matches!(at_node.purpose, Purpose::Summary(_)), "{:?}", at_node.purpose);
            for piece in summary.to_string().into_bytes().chunks(100) {
                at_node.frame(Frame::Data(Bytes::copy_from_slice(piece))).await;
            }
            at_node.end(Bytes::new()).await;
            at_node.is_over().await;
        }
    });
    asked
}

#[tokio::test]
async fn what_nodes_say_becomes_metrics_and_is_asked_once() {
    let (server, node) = server().await;
    let stats = |name: &str, nanocores: u64| {
        let time = "2026-01-01T00:00:10Z";
        json!({
            "name": name, "cpu": {"time": time, "usageNanoCores": nanocores},
            "memory": {"time": time, "workingSetBytes": 2048},
        })
    };
    let pods = json!([
        {"podRef": {"name": "runs", "namespace": "default"}, "containers": [stats("main", 1000)]},
        {"podRef": {"name": "deleted", "namespace": "default"}, "containers": [stats("main", 1)]},
    ]);
    let asked = telling(node, json!({"node": stats("", 5), "pods": pods}));
    let group = "/apis/metrics.k8s.io/v1beta1";
    let read = async |path: &str, headers: &str| {
        let (head, body) = get(&server, &format!("{group}{path}"), headers).await;
        let code: u64 = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, serde_json::from_slice::<Value>(&body).unwrap_or_default())
    };
    // The pod on a node that is not connected has no numbers, and none are invented.
    let (_, list) = read("/pods", "").await;
    assert_eq!((list["kind"].as_str(), list["items"].as_array().map(Vec::len)), (Some("PodMetricsList"), Some(1)));
    let expected = json!([{"name": "main", "usage": {"cpu": "1000n", "memory": "2Ki"}}]);
    let item = &list["items"][0];
    assert_eq!((&item["containers"], &item["metadata"]["labels"]), (&expected, &json!({"app": "runs"})));
    assert_eq!((&item["timestamp"], &item["window"]), (&json!("2026-01-01T00:00:10Z"), &json!("10s")));
    let (_, one) = read("/namespaces/default/pods/runs", "").await;
    assert_eq!((one["kind"].as_str(), &one["containers"]), (Some("PodMetrics"), &expected));
    for (path, count) in [
        ("/pods?labelSelector=app%3Druns", 1),
        ("/pods?labelSelector=app%3Dother", 0),
        ("/namespaces/other/pods", 0),
        ("/namespaces/default/pods?fieldSelector=metadata.name%3Druns", 1),
        ("/nodes", 0),
    ] {
        let (code, list) = read(path, "").await;
        assert_eq!((code, list["items"].as_array().map(Vec::len)), (200, Some(count)), "{path}");
    }
    let table = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io\r\n";
    let (_, table) = read("/pods", table).await;
    assert_eq!(table["rows"][0]["cells"], json!(["runs", "1000n", "2Ki", "10s"]), "{table}");
    let (code, missing) = read("/namespaces/default/pods/far", "").await;
    assert_eq!((code, missing["message"].as_str()), (404, Some("podmetrics.metrics.k8s.io \"far\" not found")));
    assert_eq!(read("/pods?watch=true", "").await.0, 405);
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1, "an answer is good for some seconds");
    let (_, resources) = read("", "").await;
    let names: Vec<_> = resources["resources"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["nodes", "pods"]);
}

#[tokio::test]
async fn a_nodes_statistics_are_passed_on_as_they_are() {
    let (server, node) = server().await;
    let summary = json!({"node": {"nodeName": "one"}, "pods": []});
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one"}});
    let created = server.refused_or_made("/api/v1/nodes", &object).await;
    assert!(created.starts_with("HTTP/1.1 201 "), "{created}");
    let (head, _) = get(&server, "/api/v1/nodes/two/proxy/stats/summary", "").await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    let (head, _) = get(&server, "/api/v1/nodes/one/proxy/pods", "").await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    telling(node, summary.clone());
    let (head, body) = get(&server, "/api/v1/nodes/one/proxy/stats/summary", "").await;
    assert!(head.contains("application/json"), "{head}");
    assert!(String::from_utf8_lossy(&body).contains("{\"nodeName\":\"one\"}"), "{body:?}");
    let (head, _) = get(&server, "/api/v1/nodes/one/proxy/metrics/resource", "").await;
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
}

#[tokio::test]
async fn keys_that_wait_to_be_read_are_merged_and_break_nothing() {
    const KEYS: usize = 20_000;
    let (server, mut node) = server().await;
    let path = format!("{POD}/exec?command=c&stdin=true&stdout=true");
    let (mut client, mut at_node) = tokio::join!(server.websocket(&path, V5), AtNode::opened(&mut node));
    for index in 0..KEYS {
        client.send(Message::binary(vec![0, b'a' + u8::try_from(index % 26).unwrap()])).await.unwrap();
    }
    client.send(Message::binary(vec![255, 0])).await.unwrap();
    // Whatever else the node's connection carries goes on meanwhile.
    node.answers().await;
    let (mut whole, mut frames) = (Vec::new(), 0);
    loop {
        let frame = at_node.next().await.expect("a frame");
        frames += 1;
        whole.extend_from_slice(&frame.data);
        if frame.close {
            break;
        }
    }
    assert_eq!(whole.len(), KEYS);
    assert!(whole.iter().enumerate().all(|(index, key)| usize::from(key - b'a') == index % 26), "in order");
    assert!(frames < KEYS / 4, "{frames} frames");
}
