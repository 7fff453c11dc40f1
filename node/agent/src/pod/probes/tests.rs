//! Runs that are probed over connections to real listeners, by a clock that is fast or stands still.

use super::*;
use crate::{
    contact::Contact,
    context::Caches,
    events::Recorder,
    fake::{FakeGuests, FakeLink, FakeSwitch, FakeWorkloads, eventually, offer},
    homes::Homes,
    ledger::Ledger,
    link::EVENTS,
    logs::Logs,
    network::place::Place,
    pod::{admission::Room, subject::tests::subject},
    pressure::Pressure,
    reports::Reports,
    sandbox::Owners,
};
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Mutex};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
};

/// A test that waits longer has failed.
const WAIT_MAX: Duration = Duration::from_secs(30);
const POD: &str = "10.244.0.7:8080";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An agent without processes, whose pods' listeners are the test's.
pub(crate) struct World {
    pub(crate) context: Arc<Context>,
    link: Arc<FakeLink>,
    switch: Arc<FakeSwitch>,
    _directory: tempfile::TempDir,
}

/// What a server has been asked, whole heads.
type Seen = Arc<Mutex<Vec<String>>>;

impl World {
    pub(crate) fn new() -> Self {
        Self::at_pace(Pace::fast(20))
    }

    pub(crate) fn at_pace(pace: Pace) -> Self {
        let (link, directory) = (FakeLink::new(), tempfile::tempdir().unwrap());
        let (network, switch) = FakeSwitch::network(directory.path(), "10.244.0.0/22");
        let (recorder, writer) = Recorder::new(link.clone(), "n");
        tokio::spawn(writer.run());
        let owners = Arc::new(Owners::open(directory.path()).unwrap());
        let context = Arc::new(Context {
            link: link.clone(),
            workloads: FakeWorkloads::new(),
            checks: Arc::new(crate::pod::checks::Real),
            guests: FakeGuests::new(),
            network,
            recorder,
            reports: Reports::new(link.clone()),
            logs: Arc::new(Logs::open(directory.path().join("logs")).unwrap()),
            homes: Homes::new(directory.path(), owners.clone()),
            owners,
            ledger: Ledger::open(directory.path().join("ledger")).unwrap(),
            caches: Caches::new(),
            room: Room::new(offer()),
            pressure: watch::Sender::new(Pressure::default()).subscribe(),
            data_dir: directory.path().to_owned(),
            place: watch::Sender::new(Place { address: "127.0.0.1".to_owned(), ..Place::default() }).subscribe(),
            probes: Probes::new(&pace),
            pace,
            contact: Arc::new(Contact::open(directory.path(), Duration::from_hours(1))),
            shutdown_grace: Duration::from_secs(5),
        });
        Self { context, link, switch, _directory: directory }
    }

    /// Whoever connects to `at` sends a request and gets what `answer` makes of it.
    pub(crate) async fn serve(&self, at: &str, answer: impl Fn(&str) -> String + Send + 'static) -> Seen {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.switch.listen(at, listener.local_addr().unwrap());
        let seen = Seen::default();
        let noted = seen.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let head = String::from_utf8(head).unwrap();
                let answer = answer(&head);
                noted.lock().unwrap().push(head);
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        seen
    }

    /// Whoever connects to `at` waits for ever.
    pub(crate) fn hang(&self, at: &str) {
        self.switch.listen(at, SocketAddr::from(([127, 0, 0, 1], 0)));
    }

    fn events(&self) -> Vec<(String, String)> {
        let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
        self.link.all(EVENTS).iter().map(|event| (text(event, "reason"), text(event, "message"))).collect()
    }

    async fn told(&self, reason: &str, message: &str) {
        let is_told = || self.events().contains(&(reason.to_owned(), message.to_owned()));
        eventually(&format!("{message}: {:?}", self.events()), is_told).await;
    }

    /// Makes one probe of a container that has it for its readiness.
    async fn once(&self, mut probe: Value) -> Outcome {
        // What does answer may take its time on a busy machine.
        if probe["timeoutSeconds"].is_null() {
            probe["timeoutSeconds"] = 600.into();
        }
        let subject = Arc::new(subject(json!({"readinessProbe": probe})));
        let spec = Spec::of(subject.container(), Kind::Readiness).unwrap();
        tokio::time::timeout(WAIT_MAX, probe_once(self.context.clone(), subject, spec)).await.unwrap()
    }

    fn start(&self, probes: Value) -> (Probing, mpsc::Receiver<Verdict>) {
        let (said, heard) = mpsc::channel(8);
        (start(&self.context, subject(probes), said).unwrap(), heard)
    }
}

async fn next(heard: &mut mpsc::Receiver<Verdict>) -> (Kind, bool) {
    let verdict = tokio::time::timeout(WAIT_MAX, heard.recv()).await.unwrap().unwrap();
    (verdict.kind, verdict.healthy)
}

fn failure(text: &str) -> Outcome {
    Outcome::Failure(text.to_owned())
}

#[tokio::test]
async fn an_http_probe_asks_as_a_kubelet_does() {
    let world = World::new();
    let seen = world.serve(POD, |_| OK.to_owned()).await;
    let probe = json!({"httpGet": {"path": "/healthz?full=1", "port": "http", "scheme": "HTTP"}});
    assert_eq!(world.once(probe).await, Outcome::Success("ok".to_owned()));
    let headers = json!([
        {"name": "Host", "value": "example.org"}, {"name": "User-Agent", "value": "me"}, {"name": "Accept", "value": ""},
        {"name": "X-One", "value": "1"}, {"name": "X-One", "value": "2"},
    ]);
    let probe = json!({"httpGet": {"path": "a", "port": 8080, "httpHeaders": headers}});
    assert_eq!(world.once(probe).await, Outcome::Success("ok".to_owned()));
    let seen = seen.lock().unwrap();
    let plain = "GET /healthz?full=1 HTTP/1.1\r\nuser-agent: kube-probe/1.33\r\naccept: */*\r\nconnection: close\r\n\
        host: 10.244.0.7:8080\r\n\r\n";
    assert_eq!(seen[0], plain);
    for line in ["GET /a HTTP/1.1", "host: example.org", "user-agent: me", "x-one: 1", "x-one: 2"] {
        assert!(seen[1].contains(&format!("{line}\r\n")), "{line} in {}", seen[1]);
    }
    assert!(!seen[1].contains("accept"), "{}", seen[1]);
}

#[tokio::test]
async fn http_answers_mean_what_they_mean_to_a_kubelet() {
    let world = World::new();
    let get = |path: &str| json!({"httpGet": {"path": path, "port": 8080}});
    world
        .serve(POD, |head| {
            let path = head.split(' ').nth(1).unwrap();
            let code = path.trim_start_matches('/').to_owned();
            match &*code {
                "to-200" => "HTTP/1.1 302 Found\r\nLocation: /200\r\n\r\n".to_owned(),
                "to-500" => "HTTP/1.1 307 Over\r\nLocation: http://10.244.0.7:8080/500\r\n\r\n".to_owned(),
                "away" => {
                    "HTTP/1.1 301 Gone\r\nLocation: http://example.org/\r\nContent-Length: 3\r\n\r\nbye".to_owned()
                }
                "round" => "HTTP/1.1 302 Found\r\nLocation: round\r\n\r\n".to_owned(),
                "huge" => format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(3 * OUTPUT_BYTES_MAX)),
                "rubbish" => "this is not HTTP\r\n\r\n".to_owned(),
                "nothing" => String::new(),
                _ => format!("HTTP/1.1 {code} Whatever\r\nContent-Length: 0\r\n\r\n"),
            }
        })
        .await;
    for good in ["/200", "/204", "/299", "/to-200"] {
        assert_eq!(world.once(get(good)).await, Outcome::Success(String::new()), "{good}");
    }
    for (path, code) in [("/400", 400), ("/404", 404), ("/500", 500), ("/to-500", 500)] {
        assert_eq!(
            world.once(get(path)).await,
            failure(&format!("HTTP probe failed with statuscode: {code}")),
            "{path}"
        );
    }
    let warning = |body: &str| Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"));
    assert_eq!(world.once(get("/away")).await, warning("bye"));
    assert_eq!(world.once(get("/302")).await, warning(""), "a redirect to nowhere");
    let round = "Get \"http://10.244.0.7:8080/round\": stopped after 10 redirects";
    assert_eq!(world.once(get("/round")).await, failure(round));
    assert_eq!(world.once(get("/huge")).await, Outcome::Success("x".repeat(OUTPUT_BYTES_MAX)));
    assert_eq!(world.once(get("/nothing")).await, failure("Get \"http://10.244.0.7:8080/nothing\": EOF"));
    assert!(matches!(world.once(get("/rubbish")).await, Outcome::Failure(text) if text.starts_with("Get \"http")));
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_as_people_know_it() {
    let world = World::new();
    let refused = "Get \"http://10.244.0.7:81/\": dial tcp 10.244.0.7:81: connect: connection refused";
    assert_eq!(world.once(json!({"httpGet": {"port": 81, "path": "/"}})).await, failure(refused));
    let refused = "dial tcp 10.244.0.7:81: connect: connection refused";
    assert_eq!(world.once(json!({"tcpSocket": {"port": 81}})).await, failure(refused));
    world.hang("10.244.0.7:82");
    let late =
        "Get \"http://10.244.0.7:82/\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    assert_eq!(world.once(json!({"httpGet": {"port": 82, "path": "/"}, "timeoutSeconds": 1})).await, failure(late));
    assert_eq!(
        world.once(json!({"tcpSocket": {"port": 82}, "timeoutSeconds": 1})).await,
        failure("dial tcp 10.244.0.7:82: i/o timeout")
    );
    let late = "timeout: failed to connect service \"10.244.0.7:82\" within 1s: context deadline exceeded";
    assert_eq!(world.once(json!({"grpc": {"port": 82}, "timeoutSeconds": 1})).await, failure(late));
    let none = Outcome::Error("container app has no port \"admin\"".to_owned());
    assert_eq!(world.once(json!({"tcpSocket": {"port": "admin"}})).await, none);
}

#[tokio::test]
async fn other_hosts_are_reached_as_the_pod_reaches_them() {
    let world = World::new();
    let outside = world.serve("example.org:80", |_| OK.to_owned()).await;
    let inside = world.serve("127.0.0.1:8080", |_| OK.to_owned()).await;
    let good = Outcome::Success("ok".to_owned());
    assert_eq!(world.once(json!({"httpGet": {"host": "example.org", "port": 80, "path": "/"}})).await, good);
    assert!(outside.lock().unwrap()[0].contains("host: example.org\r\n"));
    for host in ["127.0.0.1", "localhost"] {
        assert_eq!(world.once(json!({"httpGet": {"host": host, "port": 8080, "path": "/"}})).await, good, "{host}");
    }
    assert_eq!(inside.lock().unwrap().len(), 2);
    assert_eq!(
        world.once(json!({"tcpSocket": {"host": "example.org", "port": 80}})).await,
        Outcome::Success(String::new())
    );
}

#[tokio::test]
async fn a_grpc_probe_asks_for_health() {
    let world = World::new();
    let (health, service) = tonic_health::server::health_reporter();
    health.set_service_status("up", tonic_health::ServingStatus::Serving).await;
    health.set_service_status("down", tonic_health::ServingStatus::NotServing).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.switch.listen(POD, listener.local_addr().unwrap());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let ask = |service: &str| world.once(json!({"grpc": {"port": 8080, "service": service}}));
    assert_eq!(ask("up").await, Outcome::Success("service healthy".to_owned()));
    assert_eq!(ask("").await, Outcome::Success("service healthy".to_owned()));
    assert_eq!(ask("down").await, failure("service unhealthy (responded with \"NOT_SERVING\")"));
    let unknown = ask("nobody").await;
    assert!(matches!(&unknown, Outcome::Failure(text) if text.contains("code = NotFound")), "{unknown:?}");
    let refused = world.once(json!({"grpc": {"port": 81}})).await;
    assert!(matches!(&refused, Outcome::Failure(text) if text.ends_with("connect: connection refused")), "{refused:?}");
}

#[tokio::test]
async fn https_is_spoken_with_anybody() {
    let world = World::new();
    let key = rcgen::generate_simple_self_signed(["nobody.example".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.switch.listen(POD, listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.write_all(OK.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    let get = |scheme: &str| json!({"httpGet": {"port": 8080, "path": "/", "scheme": scheme}});
    assert_eq!(world.once(get("HTTPS")).await, Outcome::Success("ok".to_owned()));
    let plain = world.once(get("HTTP")).await;
    assert!(matches!(plain, Outcome::Failure(_)), "{plain:?}");
}

#[tokio::test]
async fn liveness_fails_and_is_told() {
    let world = World::new();
    world.serve(POD, |_| "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned()).await;
    let probe = json!({"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1, "failureThreshold": 2,
        "terminationGracePeriodSeconds": 7, "timeoutSeconds": 600});
    let (_probing, mut heard) = world.start(json!({"livenessProbe": probe}));
    let verdict = heard.recv().await.unwrap();
    let message = "HTTP probe failed with statuscode: 500".to_owned();
    let (run, grace) = (RunId("r0".to_owned()), Some(Duration::from_secs(7)));
    assert_eq!(verdict, Verdict { index: 0, run, kind: Kind::Liveness, healthy: false, message, grace });
    world.told("Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 500").await;
    // There is nothing more to be found out about this run.
    assert_eq!(heard.recv().await, None);
    let event = &world.link.all(EVENTS)[0];
    assert_eq!(event["involvedObject"]["fieldPath"], "spec.containers{app}");
}

#[tokio::test]
async fn readiness_follows_the_container() {
    let world = World::new();
    let state = Arc::new(Mutex::new("503"));
    let answers = state.clone();
    world.serve(POD, move |_| format!("HTTP/1.1 {} X\r\nContent-Length: 0\r\n\r\n", answers.lock().unwrap())).await;
    let probe = json!({"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 600});
    let (_probing, mut heard) = world.start(json!({"readinessProbe": probe}));
    assert_eq!(next(&mut heard).await, (Kind::Readiness, false));
    world.told("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503").await;
    for (code, ready) in [("200", true), ("404", false), ("200", true)] {
        *state.lock().unwrap() = code;
        assert_eq!(next(&mut heard).await, (Kind::Readiness, ready));
    }
}

#[tokio::test]
async fn startup_comes_first() {
    let world = World::new();
    let is_up = Arc::new(Mutex::new(false));
    let answers = is_up.clone();
    let seen = world
        .serve(POD, move |head| {
            let good = !head.contains("/start") || *answers.lock().unwrap();
            format!("HTTP/1.1 {} X\r\nContent-Length: 0\r\n\r\n", if good { 200 } else { 500 })
        })
        .await;
    let probe = |path: &str| json!({"httpGet": {"port": 8080, "path": path}, "periodSeconds": 1, "failureThreshold": 100, "timeoutSeconds": 600});
    let (_probing, mut heard) = world.start(json!({
        "startupProbe": probe("/start"), "livenessProbe": probe("/live"), "readinessProbe": probe("/ready"),
    }));
    eventually("it asks whether it has started", || seen.lock().unwrap().len() >= 8).await;
    assert!(seen.lock().unwrap().iter().all(|head| head.starts_with("GET /start ")));
    *is_up.lock().unwrap() = true;
    assert_eq!(next(&mut heard).await, (Kind::Startup, true));
    let mut rest = [next(&mut heard).await, next(&mut heard).await];
    rest.sort_by_key(|row| row.0 == Kind::Liveness);
    assert_eq!(rest, [(Kind::Readiness, true), (Kind::Liveness, true)]);
    let asked = seen.lock().unwrap().len();
    eventually("the others go on", || seen.lock().unwrap().len() > asked + 4).await;
    assert!(seen.lock().unwrap()[asked..].iter().all(|head| !head.starts_with("GET /start ")));
}

#[tokio::test]
async fn one_that_hangs_delays_no_other() {
    let world = World::new();
    world.hang("10.244.0.7:81");
    // Longer than this test waits.
    let slow = json!({"tcpSocket": {"port": 81}, "timeoutSeconds": 3600, "periodSeconds": 1});
    let all: Vec<_> = (0..300).map(|_| world.start(json!({"readinessProbe": slow}))).collect();
    let quick = json!({"tcpSocket": {"port": 82}, "periodSeconds": 1, "failureThreshold": 1});
    // The one that hangs is in the same container.
    let (_probing, mut heard) = world.start(json!({"readinessProbe": quick, "livenessProbe": slow}));
    assert_eq!(next(&mut heard).await, (Kind::Readiness, false));
    drop(all);
}

#[tokio::test]
async fn dropping_it_ends_it() {
    let world = World::new();
    world.hang("10.244.0.7:81");
    let probe = json!({"tcpSocket": {"port": 81}, "timeoutSeconds": 3600});
    let (probing, mut heard) = world.start(json!({"readinessProbe": probe}));
    tokio::task::yield_now().await;
    drop(probing);
    assert_eq!(heard.recv().await, None);
    assert!(start(&world.context, subject(json!({})), mpsc::channel(1).0).is_none(), "no probe, no task");
}

#[tokio::test]
async fn events_of_one_run_are_bounded() {
    let world = World::new();
    let now = world.context.pace.now();
    let mut run = Run {
        context: world.context.clone(),
        subject: Arc::new(subject(json!({}))),
        schedules: Box::default(),
        said: mpsc::channel(1).0,
        events_left: EVENTS_AT_ONCE,
        events_since: now,
    };
    for later in [Duration::ZERO, EVENT_INTERVAL] {
        for _ in 0..100 {
            run.tell("Unhealthy", "again", now + later);
        }
    }
    world.context.recorder.record(&run.subject.pod, "", Severity::Normal, "Last", "");
    world.told("Last", "").await;
    let count = world.link.all(EVENTS).iter().map(|event| event["count"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(count, u64::from(EVENTS_AT_ONCE) + 1 + 1);
}

#[tokio::test]
async fn pods_that_an_earlier_agent_had_are_spread() {
    let pace = Pace::real();
    let probes = Probes::new(&pace);
    let (period, now) = (Duration::from_secs(10), pace.now());
    let mut subject = subject(json!({}));
    let mut spread = |start: &str, now: Instant| {
        let mut pod = Value::clone(&subject.pod);
        pod["status"]["startTime"] = start.into();
        subject.pod = Arc::new(pod);
        probes.spread(&subject, period, now, 0.5)
    };
    assert_eq!(spread("2020-01-01T00:00:00Z", now), Duration::from_secs(5));
    assert_eq!(spread("2020-01-01T00:00:00Z", now + period), Duration::ZERO, "it has been here for long");
    assert_eq!(spread(&clock::seconds(clock::now()), now), Duration::ZERO, "a new pod");
}
