//! HTTP components: requests in, requests out, and what happens when either goes wrong.

use crate::{
    fixture::{Context, Guest, Runner, exited, killed},
    neighbours::{Neighbours, with_ports},
};
use coracle_runner::{
    network::DialFailure,
    protocol::{ExitCause, FromRunner, RunId, StartGuest, ToRunner},
};
use futures::future::join_all;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Bytes, Frame, Incoming},
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use std::{convert::Infallible, fs, future::Future, net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

pub(crate) const PORT: u16 = 8080;

/// Starts the guest that answers, and those who ask it.
pub(crate) async fn serving(runner: &mut Runner, set: impl FnOnce(&mut StartGuest)) -> (RunId, Neighbours) {
    let mut start = with_ports(runner.guest(Guest::Http, &["word"]).await, &[PORT]);
    start.env = vec![("COLOUR".into(), "green".into())];
    start.mounts = vec![runner.volume("data", "/data")];
    set(&mut start);
    let run = runner.start(start).await;
    while runner.frame().await != FromRunner::Started(run.clone()) {}
    (run, Neighbours::new(runner))
}

/// One HTTP/1.1 connection to the guest.
struct Client<B>(http1::SendRequest<B>);

impl<B: Body<Data = Bytes, Error = Infallible> + Send + 'static> Client<B> {
    async fn new(neighbours: &Neighbours) -> Self {
        let stream = neighbours.connect(PORT).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn ask(&mut self, path: &str, body: B) -> Response<Incoming> {
        self.0.ready().await.unwrap();
        let request = Request::post(path).header("host", "pod.test").header("x-colour", "blue").body(body).unwrap();
        self.0.send_request(request).await.unwrap()
    }
}

/// The status and the whole body of the answer to a request on a connection of its own.
async fn get(neighbours: &Neighbours, path: &str) -> (StatusCode, String) {
    let mut client = Client::new(neighbours).await;
    whole(client.ask(path, Empty::<Bytes>::new()).await).await
}

async fn whole(response: Response<Incoming>) -> (StatusCode, String) {
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

pub(crate) async fn ok(neighbours: &Neighbours, path: &str) -> String {
    let (status, text) = get(neighbours, path).await;
    assert_eq!(status, StatusCode::OK, "{path}: {text}");
    text
}

/// Waits for `future` while the runner is heard; gives what was logged meanwhile, too.
async fn meanwhile<T>(runner: &mut Runner, future: impl Future<Output = T>) -> (T, String) {
    let mut future = std::pin::pin!(future);
    let mut log = String::new();
    loop {
        tokio::select! {
            result = &mut future => return (result, log),
            frame = runner.frame() => if let FromRunner::Log { bytes, .. } = frame {
                log += &String::from_utf8_lossy(&bytes);
            },
        }
    }
}

/// Waits until the container has logged `text`, of which a part may be in `log` already.
async fn logged(runner: &mut Runner, mut log: String, text: &str) {
    while !log.contains(text) {
        if let FromRunner::Log { bytes, .. } = runner.frame().await {
            log += &String::from_utf8_lossy(&bytes);
        }
    }
}

pub(crate) async fn requests_are_answered_by_an_instance_each(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let (_run, neighbours) = serving(&mut runner, |_| {}).await;
    fs::write(runner.volume_path("data").join("note"), "from the volume").unwrap();
    let mut client = Client::new(&neighbours).await;
    for _ in 0..3 {
        let (status, text) = whole(client.ask("/visits", Empty::new()).await).await;
        assert_eq!((status, text.as_str()), (StatusCode::OK, "1"), "on one connection, and always a new instance");
    }
    assert_eq!(
        whole(client.ask("/request?x=1", Empty::new()).await).await.1,
        "no such route: request?x=1",
        "the path is the guest's to read"
    );
    let (_, text) = whole(client.ask("/request", Empty::new()).await).await;
    assert_eq!(text, "method POST\npath /request\nauthority pod.test\nheader x-colour blue\n");
    assert_eq!(ok(&neighbours, "/env/COLOUR").await, "green");
    assert_eq!(ok(&neighbours, "/args").await, "guest word");
    assert_eq!(ok(&neighbours, "/read/note").await, "from the volume");
    assert_eq!(get(&neighbours, "/status/418").await.0, StatusCode::IM_A_TEAPOT);

    let (text, log) = meanwhile(&mut runner, ok(&neighbours, "/log/said")).await;
    assert_eq!(text, "");
    logged(&mut runner, log, "said, it warns\n").await;

    // The other HTTP, for those who know beforehand.
    let stream = neighbours.connect(PORT).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let asked = (0..3).map(|_| {
        let request = Request::get("http://pod.test/hello").body(Empty::<Bytes>::new()).unwrap();
        sender.send_request(request)
    });
    for answer in join_all(asked).await {
        assert_eq!(whole(answer.unwrap()).await.1, "hello\n");
    }
}

pub(crate) async fn bodies_pass_as_they_come(context: Arc<Context>) {
    const LARGE: usize = 24 << 20;
    let mut runner = context.runner().await;
    // Less than what passes.
    let (_run, neighbours) = serving(&mut runner, |start| start.memory_limit_bytes = Some(16 << 20)).await;
    let mut client = Client::new(&neighbours).await;
    let response = client.ask("/count", Full::new(Bytes::from(vec![b'x'; LARGE]))).await;
    assert_eq!(whole(response).await.1, LARGE.to_string());
    let response = client.ask(&format!("/big/{LARGE}"), Full::default()).await;
    assert_eq!(whole(response).await.1.len(), LARGE);

    let (chunks, body) = mpsc::channel(1);
    let body = StreamBody::new(tokio_stream(body));
    let mut client = Client::new(&neighbours).await;
    chunks.send("first").await.unwrap();
    let mut response = client.ask("/echo", body).await;
    for (echoed, next) in [("first", Some("second")), ("second", Some("third")), ("third", None)] {
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.data_ref().unwrap(), echoed);
        if let Some(next) = next {
            chunks.send(next).await.unwrap();
        }
    }
    drop(chunks);
    assert!(response.body_mut().frame().await.is_none());
}

fn tokio_stream(
    receiver: mpsc::Receiver<&'static str>,
) -> impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static {
    futures::stream::unfold(receiver, |mut receiver| async move {
        let chunk = receiver.recv().await?;
        Some((Ok(Frame::data(Bytes::from_static(chunk.as_bytes()))), receiver))
    })
}

pub(crate) async fn a_failing_guest_is_one_failed_request(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let (_run, neighbours) = serving(&mut runner, |_| {}).await;
    for (path, text, complaint) in [
        ("/trap", "the guest gave no answer\n", "POST /trap: wasm trap: wasm `unreachable` instruction executed"),
        ("/exit/3", "the guest gave no answer\n", "POST /exit/3: the guest exited with code 1"),
        ("/nothing", "the guest gave no answer\n", ""),
        ("/refuse", "the guest refused the request\n", ""),
    ] {
        let ((status, answer), log) = meanwhile(&mut runner, get(&neighbours, path)).await;
        assert_eq!((status, answer.as_str()), (StatusCode::INTERNAL_SERVER_ERROR, text), "{path}");
        logged(&mut runner, log, complaint).await;
    }
    // What was half said is not taken for whole.
    let mut client = Client::new(&neighbours).await;
    let response = client.ask("/trap-late", Empty::<Bytes>::new()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.into_body().collect().await.is_err());
    logged(&mut runner, String::new(), "POST /trap-late: wasm trap").await;
    assert_eq!(ok(&neighbours, "/hello").await, "hello\n");
}

pub(crate) async fn bad_requests_are_refused(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let (_run, neighbours) = serving(&mut runner, |_| {}).await;
    let long = format!("GET /hello HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(100 << 10));
    let many = format!("GET /hello HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(200));
    for (request, status) in [
        ("GET /hello HTTP/1.1\r\n\r\n", "HTTP/1.1 400"),
        ("GET /hello HTTP/1.0\r\n\r\n", "HTTP/1.0 400"),
        ("nonsense\r\n\r\n", "HTTP/1.1 400"),
        (&long, "HTTP/1.1 431"),
        (&many, "HTTP/1.1 431"),
        ("GET /hello HTTP/1.0\r\nhost: x\r\n\r\n", "HTTP/1.0 200"),
    ] {
        let mut stream = neighbours.connect(PORT).await.unwrap();
        // It may close before it has read all of it.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), status, "{}", &request[..request.len().min(60)]);
    }
}

pub(crate) async fn many_requests_share_few_instances(context: Arc<Context>) {
    let mut runner = context.runner_for(4).await;
    let (_run, neighbours) = serving(&mut runner, |_| {}).await;
    let answers = join_all((0..100).map(|_| ok(&neighbours, "/sleep/5"))).await;
    assert!(answers.iter().all(|answer| answer == "slept\n"));
    // And there is still room for another container.
    let asked = join_all((0..20).map(|_| ok(&neighbours, "/sleep/5")));
    let start = runner.guest(Guest::Toolbox, &["echo", "x"]).await;
    let (answers, run) = tokio::join!(asked, runner.run(start));
    assert_eq!((answers.len(), run.exit), (20, exited(0)));
}

pub(crate) async fn busy_requests_starve_nobody(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let (run, neighbours) = serving(&mut runner, |_| {}).await;
    let mut spinners = Vec::new();
    for _ in 0..4 {
        let mut stream = neighbours.connect(PORT).await.unwrap();
        stream.write_all(b"GET /spin HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        spinners.push(stream);
    }
    for _ in 0..3 {
        assert_eq!(ok(&neighbours, "/sleep/1").await, "slept\n");
    }
    runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
    assert_eq!(runner.end(&run).await.exit, killed());
    for mut stream in spinners {
        assert!(!matches!(stream.read(&mut [0]).await, Ok(1)), "an answer after the end");
    }
}

pub(crate) async fn a_client_that_leaves_keeps_nobody_out(context: Arc<Context>) {
    // There is room for one instance.
    let mut runner = context.runner_for(1).await;
    let (_run, neighbours) = serving(&mut runner, |_| {}).await;
    let mut client = Client::new(&neighbours).await;
    let mut response = client.ask("/slow/2/600000", Empty::<Bytes>::new()).await;
    assert_eq!(response.body_mut().frame().await.unwrap().unwrap().data_ref().unwrap(), "line 0\n");
    drop((client, response));
    assert_eq!(ok(&neighbours, "/hello").await, "hello\n");
}

pub(crate) async fn memory_counts_over_all_instances(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let (run, neighbours) = serving(&mut runner, |start| start.memory_limit_bytes = Some(40 << 20)).await;
    // One after the other they have room.
    for _ in 0..3 {
        assert_eq!(ok(&neighbours, "/hold/20/1").await, "held\n");
    }
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = neighbours.connect(PORT).await.unwrap();
        stream.write_all(b"GET /hold/20/60000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        streams.push(stream);
    }
    let exit = runner.end(&run).await.exit;
    assert_eq!((exit.code, exit.cause), (137, ExitCause::OutOfMemory));
    assert!(exit.message.contains("memory limit of 41943040 bytes"), "{}", exit.message);
    // Its port is free for its next life.
    drop(neighbours);
    let (_run, neighbours) = serving(&mut runner, |_| {}).await;
    assert_eq!(ok(&neighbours, "/hello").await, "hello\n");
}

/// The stack of an instance counts 1 MiB, or a sixteenth of what its container may have.
pub(crate) async fn stacks_count(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let mut counted = Vec::new();
    for limit_bytes in [None, Some(8 << 20)] {
        let (run, neighbours) = serving(&mut runner, |start| start.memory_limit_bytes = limit_bytes).await;
        let mut stream = neighbours.connect(PORT).await.unwrap();
        stream.write_all(b"GET /hold/1/60000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        // All that it takes is there when it counts no more than a moment ago.
        let mut last = (0, 0);
        loop {
            let now = runner.samples().await[&run].memory_bytes;
            last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
            if now > 2 << 20 && last.1 > 20 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        counted.push(last.0);
        runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
        runner.end(&run).await;
    }
    assert_eq!(counted[0] - counted[1], 512 << 10, "{counted:?}");
}

pub(crate) async fn stop_lets_requests_finish(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let (run, neighbours) = serving(&mut runner, |_| {}).await;
    let mut idle = Client::new(&neighbours).await;
    assert_eq!(whole(idle.ask("/hello", Empty::<Bytes>::new()).await).await.1, "hello\n");
    let mut client = Client::new(&neighbours).await;
    let mut response = client.ask("/slow/3/300", Empty::<Bytes>::new()).await;
    let first = response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(first.data_ref().unwrap(), "line 0\n");
    let mut new = Client::new(&neighbours).await;

    runner.process.send(ToRunner::Stop(run.clone())).await.unwrap();
    while idle.0.ready().await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(neighbours.connect(PORT).await.err(), Some(DialFailure::Refused));
    // Who was let in before the stop is served.
    assert_eq!(whole(new.ask("/hello", Empty::<Bytes>::new()).await).await.1, "hello\n");
    assert_eq!(whole(response).await.1, "line 1\nline 2\n");
    assert_eq!(runner.end(&run).await.exit, exited(0));
}

pub(crate) async fn kill_ends_everything(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let (run, neighbours) = serving(&mut runner, |_| {}).await;
    let mut stream: UnixStream = neighbours.connect(PORT).await.unwrap();
    stream.write_all(b"GET /sleep/600000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    runner.process.send(ToRunner::Stop(run.clone())).await.unwrap();
    runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
    assert_eq!(runner.end(&run).await.exit, killed());
    assert!(!matches!(stream.read(&mut [0]).await, Ok(1)));
}

pub(crate) async fn without_a_port_of_its_own_it_does_not_start(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let start = with_ports(runner.guest(Guest::Http, &[]).await, &[]);
    assert!(runner.refusal(start).await.contains("declares no TCP port"));
    let (_run, _neighbours) = serving(&mut runner, |_| {}).await;
    let start = with_ports(runner.guest(Guest::Http, &[]).await, &[PORT]);
    assert_eq!(runner.refusal(start).await, "TCP port 8080 is in use in this pod");
}

/// Answers every request that arrives with what was asked.
fn answer(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static) {
    let service = service_fn(|request: Request<Incoming>| async move {
        let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        let text = format!("{} {} for {host}", request.method(), request.uri());
        Ok::<_, Infallible>(Response::builder().status(201).body(Full::new(Bytes::from(text))).unwrap())
    });
    tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
}

pub(crate) async fn requests_go_out_through_the_pod_network(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let (_run, neighbours) = serving(&mut runner, |_| {}).await;
    let server = SocketAddr::from(([10, 96, 0, 7], 80));
    let mut arrivals = neighbours.listen(server).await;
    tokio::spawn(async move {
        while let Some(stream) = arrivals.recv().await {
            answer(stream);
        }
    });
    assert_eq!(ok(&neighbours, "/fetch/http/10.96.0.7/a/b").await, "status 201\nGET /a/b for 10.96.0.7");
    runner.names.insert("other".into(), Ok(vec![[10, 96, 0, 8].into(), server.ip()]));
    let (text, _) = meanwhile(&mut runner, ok(&neighbours, "/fetch/http/other/x")).await;
    assert_eq!(text, "status 201\nGET /x for other", "the second address answers");
    for (path, error) in [
        ("/fetch/http/nobody/x", "DnsError"),
        ("/fetch/http/10.96.0.7:81/x", "ConnectionRefused"),
        ("/fetch/ftp/10.96.0.7/x", "HttpProtocolError"),
    ] {
        let ((status, text), _) = meanwhile(&mut runner, get(&neighbours, path)).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY);
        assert!(text.contains(error), "{path}: {text}");
    }
    // Its own pod is reached without anybody's help.
    assert_eq!(ok(&neighbours, "/fetch/http/127.0.0.1:8080/hello").await, "status 200\nhello\n");
}

pub(crate) async fn https_needs_authorities_and_trusts_only_them(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let (_run, neighbours) = serving(&mut runner, |_| {}).await;
    let (status, text) = get(&neighbours, "/fetch/https/10.96.0.7/x").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(text.contains("no https: this node gave no certificate authorities"), "{text}");

    // Two servers; the authority of one of them is trusted.
    let mut certificates = Vec::new();
    for last in [7, 8] {
        let own = rcgen::generate_simple_self_signed([format!("10.96.0.{last}")]).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let mut arrivals = neighbours.listen(SocketAddr::from(([10, 96, 0, last], 443))).await;
        tokio::spawn(async move {
            while let Some(stream) = arrivals.recv().await {
                if let Ok(stream) = tls.accept(stream).await {
                    answer(stream);
                }
            }
        });
        certificates.push(own.cert.pem());
    }
    fs::write(runner.root.path().join("code/ca-bundle.pem"), &certificates[0]).unwrap();
    assert_eq!(ok(&neighbours, "/fetch/https/10.96.0.7/x").await, "status 201\nGET /x for 10.96.0.7");
    let (status, text) = get(&neighbours, "/fetch/https/10.96.0.8/x").await;
    assert_eq!((status, text.as_str()), (StatusCode::BAD_GATEWAY, "ErrorCode::TlsCertificateError"));
}
