//! Pulling from registries that are not the cluster's: credentials, mirrors, redirects, and servers that misbehave.

use super::*;
use crate::{manifest::MODULE_BYTES_MAX, tar::tests::entry};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use coracle_objects::registry_auth::basic;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;

const WASM: &str = "application/wasm";
const TOKEN: &str = "token-of-the-token-server";

/// How a server answers one request for a blob.
enum Fault {
    /// Sends so many bytes and breaks the connection.
    Cut(usize),
    /// Sends everything whatever part was asked for.
    Whole,
    Status(StatusCode),
    Redirect(String),
    Bytes(Vec<u8>),
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Guard {
    #[default]
    Nobody,
    Basic,
    Bearer,
}

#[derive(Default)]
struct Inner {
    address: String,
    guard: Guard,
    /// `user:password` that are let in.
    users: Vec<(&'static str, &'static str)>,
    token_server: Option<String>,
    things: HashMap<String, Vec<u8>>,
    faults: VecDeque<Fault>,
    /// Path, range and authorization of each request.
    seen: Vec<(String, String, String)>,
    tokens_given: usize,
}

/// A registry that does what the test says.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Inner>>);

impl Server {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        server.with(|inner| inner.address = listener.local_addr().unwrap().to_string());
        let app = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        server
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    fn address(&self) -> String {
        self.with(|inner| inner.address.clone())
    }

    fn guarded(&self, guard: Guard, users: &[(&'static str, &'static str)]) {
        self.with(|inner| {
            inner.guard = guard;
            inner.users = users.to_vec();
        });
    }

    fn fault(&self, fault: Fault) {
        self.with(|inner| inner.faults.push_back(fault));
    }

    fn thing(&self, path: &str, bytes: &[u8]) -> String {
        let digest = digest_of(bytes);
        self.with(|inner| inner.things.insert(path.replace("{}", &digest), bytes.to_vec()));
        digest
    }

    /// An image of these layers: type, title, content.
    fn push(&self, repository: &str, tag: &str, layers: &[(&str, Option<&str>, &[u8])]) -> String {
        let layers: Vec<Value> = layers
            .iter()
            .map(|(media_type, title, bytes)| {
                let digest = self.thing(&format!("/v2/{repository}/blobs/{{}}"), bytes);
                let mut layer = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
                if let Some(title) = title {
                    layer["annotations"] = json!({"org.opencontainers.image.title": title});
                }
                layer
            })
            .collect();
        let manifest = json!({"schemaVersion": 2, "layers": layers}).to_string();
        self.thing(&format!("/v2/{repository}/manifests/{tag}"), manifest.as_bytes());
        self.thing(&format!("/v2/{repository}/manifests/{{}}"), manifest.as_bytes())
    }

    fn seen(&self, part: &str) -> Vec<(String, String, String)> {
        self.with(|inner| inner.seen.iter().filter(|(path, ..)| path.contains(part)).cloned().collect())
    }
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

async fn answer(State(server): State<Server>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let (range, proof) = (text(request.headers(), &header::RANGE), text(request.headers(), &header::AUTHORIZATION));
    server.with(|inner| {
        inner.seen.push((path.clone(), range.to_owned(), proof.to_owned()));
        let known = inner.users.iter().any(|(user, password)| basic(user, password) == proof);
        if path == "/token" {
            if !known && !inner.users.is_empty() {
                return StatusCode::UNAUTHORIZED.into_response();
            }
            inner.tokens_given += 1;
            return json!({"token": TOKEN, "expires_in": 300}).to_string().into_response();
        }
        let challenge = match inner.guard {
            Guard::Nobody => None,
            Guard::Basic if known => None,
            Guard::Basic => Some("Basic realm=\"here\"".to_owned()),
            Guard::Bearer if proof == format!("Bearer {TOKEN}") => None,
            Guard::Bearer => {
                let realm = inner.token_server.as_ref().unwrap_or(&inner.address);
                Some(format!("Bearer realm=\"http://{realm}/token\",service=\"here\",scope=\"repository:app:pull\""))
            }
        };
        if let Some(challenge) = challenge {
            return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response();
        }
        let fault = if path.contains("/blobs/") { inner.faults.pop_front() } else { None };
        let Some(bytes) = inner.things.get(&path).cloned() else { return StatusCode::NOT_FOUND.into_response() };
        serve(bytes, range, fault)
    })
}

fn serve(mut bytes: Vec<u8>, range: &str, fault: Option<Fault>) -> Response {
    let whole = bytes.len();
    let mut from = range.strip_prefix("bytes=").and_then(|range| range.trim_end_matches('-').parse().ok()).unwrap_or(0);
    let mut cut = None;
    match fault {
        Some(Fault::Status(status)) => return status.into_response(),
        Some(Fault::Redirect(to)) => return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response(),
        Some(Fault::Bytes(other)) => bytes = other,
        Some(Fault::Whole) => from = 0,
        Some(Fault::Cut(count)) => cut = Some(count),
        None => {}
    }
    let part = bytes.split_off(from.min(bytes.len()));
    let length = part.len();
    let body = match cut {
        None => Body::from(part),
        Some(count) => {
            let sent = part[..count.min(length)].to_vec();
            let parts = [Ok(sent), Err(io::Error::other("cut"))];
            Body::from_stream(futures::StreamExt::then(futures::stream::iter(parts), async |part| {
                // What was sent must leave before the connection breaks.
                tokio::time::sleep(Duration::from_millis(20)).await;
                part
            }))
        }
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    if from > 0 {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {from}-{}/{whole}", whole - 1).parse().unwrap();
        response.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    response
}

/// Images of a node that reaches these servers without TLS.
fn node(directory: &tempfile::TempDir, servers: &[&Server]) -> Images {
    configured(directory, servers, |_| {})
}

fn configured(
    directory: &tempfile::TempDir,
    servers: &[&Server],
    change: impl FnOnce(&mut RegistrySettings),
) -> Images {
    let mut settings = RegistrySettings::default();
    for server in servers {
        let host = settings::Host { plain_http: true, ..settings::Host::default() };
        settings.hosts.insert(server.address(), host);
    }
    change(&mut settings);
    let cluster = ClusterRegistry {
        address: "127.0.0.1:1".to_owned(),
        ca_pem: String::new(),
        token: "cluster".to_owned(),
        identity: None,
    };
    let registries = Registries::plain_http(cluster, settings);
    Images::with_registries(directory.path(), registries, Duration::from_millis(1)).unwrap()
}

fn keyring(host: &str, user: &str, password: &str) -> Keyring {
    let config = json!({"auths": {host: {"username": user, "password": password}}});
    Keyring::from_config_json(config.to_string().as_bytes()).unwrap()
}

fn nobody() -> Keyring {
    Keyring::default()
}

fn read(image: &Image, index: usize) -> Vec<u8> {
    fs::read(&image.modules[index].path).unwrap()
}

fn detail(result: Result<Image, PullError>) -> String {
    match result {
        Err(PullError::Pull { detail, .. } | PullError::Unavailable { detail, .. }) => detail,
        other => panic!("expected a failed pull, got {other:?}"),
    }
}

fn leftovers(directory: &tempfile::TempDir) -> Vec<String> {
    let partial = fs::read_dir(directory.path().join("partial")).unwrap();
    partial.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn every_kind_of_authentication_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let host = server.address();
    let images = node(&directory, &[&server]);
    let always = PullPolicy::Always;
    server.push("app", "v1", &[(WASM, None, b"module")]);
    let name = format!("{host}/app:v1");
    let mine = keyring(&host, "me", "secret");
    images.ensure(&name, always, &nobody()).await.unwrap();

    server.guarded(Guard::Basic, &[("me", "secret")]);
    let denied = detail(images.ensure(&name, always, &nobody()).await);
    let expected = format!("registry {host} denies access (401); no pull secret of the pod and no credential");
    assert!(denied.starts_with(&expected), "{denied}");
    images.ensure(&name, always, &mine).await.unwrap();
    let wrong = detail(images.ensure(&name, always, &keyring(&host, "me", "guess")).await);
    assert!(wrong.contains("the credentials for") && !wrong.contains("guess"), "{wrong}");
    let mut several = keyring(&host, "me", "guess");
    several.extend(mine.clone());
    images.ensure(&name, always, &several).await.unwrap();

    server.guarded(Guard::Bearer, &[]);
    images.ensure(&name, always, &nobody()).await.unwrap();
    server.guarded(Guard::Bearer, &[("me", "secret")]);
    let given = server.with(|inner| inner.tokens_given);
    for _ in 0..3 {
        images.ensure(&name, always, &mine).await.unwrap();
    }
    assert_eq!(server.with(|inner| inner.tokens_given), given + 1, "a token is used until it expires");
    let wrong = detail(images.ensure(&name, always, &keyring(&host, "me", "guess")).await);
    assert!(wrong.starts_with(&format!("token server {host} of registry {host} answered 401")), "{wrong}");

    let node_wide = configured(&directory, &[&server], |settings| settings.credentials = mine.clone());
    node_wide.ensure(&name, always, &nobody()).await.unwrap();
}

#[tokio::test]
async fn a_pod_without_the_credentials_asks_for_itself() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let host = server.address();
    let images = node(&directory, &[&server]);
    server.guarded(Guard::Basic, &[("me", "secret"), ("you", "other")]);
    server.push("app", "v1", &[(WASM, None, b"module")]);
    let name = format!("{host}/app:v1");
    let (mine, yours) = (keyring(&host, "me", "secret"), keyring(&host, "you", "other"));
    let present = PullPolicy::IfNotPresent;
    images.ensure(&name, present, &mine).await.unwrap();
    let asked = server.with(|inner| inner.seen.len());
    images.ensure(&name, present, &mine).await.unwrap();
    images.ensure(&name, PullPolicy::Never, &mine).await.unwrap();
    assert_eq!(server.with(|inner| inner.seen.len()), asked, "it is present");

    assert!(matches!(images.local(&name, &nobody()).unwrap(), Local::Withheld(_)));
    assert!(detail(images.ensure(&name, present, &nobody()).await).contains("denies access"));
    let never = images.ensure(&name, PullPolicy::Never, &nobody()).await.unwrap_err();
    assert!(matches!(never, PullError::Withheld { .. }), "{never}");
    let blobs = server.seen("/blobs/").len();
    let image = images.ensure(&name, present, &yours).await.unwrap();
    assert!(!image.pulled && server.seen("/blobs/").len() == blobs, "what is here is not fetched again");
    assert!(matches!(images.local(&name, &yours).unwrap(), Local::Here(_)));
    assert!(matches!(node(&directory, &[&server]).local(&name, &mine).unwrap(), Local::Here(_)), "after a restart");
}

#[tokio::test]
async fn credentials_stay_with_their_host() {
    let directory = tempfile::tempdir().unwrap();
    let (server, storage, stranger) = (Server::start().await, Server::start().await, Server::start().await);
    let host = server.address();
    let images = node(&directory, &[&server, &storage]);
    server.guarded(Guard::Basic, &[("me", "secret")]);
    server.push("app", "v1", &[(WASM, None, b"module")]);
    storage.thing("/somewhere", b"module");
    let mine = keyring(&host, "me", "secret");
    let name = format!("{host}/app:v1");

    server.fault(Fault::Redirect(format!("http://{}/somewhere?signature=private", stranger.address())));
    let refused = detail(images.ensure(&name, PullPolicy::Always, &mine).await);
    assert!(refused.contains(&format!("redirects to {} without TLS", stranger.address())), "{refused}");
    assert!(!refused.contains("private"), "{refused}");
    assert_eq!(stranger.with(|inner| inner.seen.len()), 0);

    server.fault(Fault::Redirect(format!("http://{}/somewhere", storage.address())));
    images.ensure(&name, PullPolicy::Always, &mine).await.unwrap();
    assert_eq!(storage.seen(""), [("/somewhere".to_owned(), String::new(), String::new())]);
    assert!(server.seen("/blobs/").iter().any(|(_, _, proof)| *proof == basic("me", "secret")));

    server.push("app", "v2", &[(WASM, None, b"another")]);
    for _ in 0..8 {
        server.fault(Fault::Redirect(format!("http://{host}/v2/app/blobs/{}", digest_of(b"another"))));
    }
    let circle = detail(images.ensure(&format!("{host}/app:v2"), PullPolicy::Always, &mine).await);
    assert!(circle.contains("redirects more than 5 times"), "{circle}");

    // A token server that may not be spoken to in the clear gets nothing.
    server.guarded(Guard::Bearer, &[("me", "secret")]);
    server.with(|inner| inner.token_server = Some(stranger.address()));
    let refused = detail(images.ensure(&name, PullPolicy::Always, &mine).await);
    assert!(refused.contains("sends clients for tokens to") && refused.contains("without TLS"), "{refused}");
    assert_eq!(stranger.with(|inner| inner.seen.len()), 0);
}

#[tokio::test]
async fn mirrors_are_asked_first() {
    let directory = tempfile::tempdir().unwrap();
    let (server, empty, mirror) = (Server::start().await, Server::start().await, Server::start().await);
    let (host, mirrors) = (server.address(), vec![empty.address(), mirror.address()]);
    let images = configured(&directory, &[&server, &empty, &mirror], |settings| {
        settings.hosts.get_mut(&host).unwrap().mirrors = mirrors;
    });
    server.guarded(Guard::Basic, &[("me", "secret")]);
    for server in [&server, &mirror] {
        server.push("app", "v1", &[(WASM, None, b"module")]);
    }
    let name = format!("{host}/app:v1");
    let image = images.ensure(&name, PullPolicy::Always, &keyring(&host, "me", "secret")).await.unwrap();
    assert!(image.id.starts_with(&format!("{host}/app@sha256:")), "{}", image.id);
    assert!(server.seen("").is_empty() && empty.seen("").len() == 2);
    assert!(mirror.seen("").iter().chain(&empty.seen("")).all(|(_, _, proof)| proof.is_empty()), "credentials leaked");
    mirror.with(|inner| inner.things.clear());
    assert!(!images.ensure(&name, PullPolicy::Always, &keyring(&host, "me", "secret")).await.unwrap().pulled);
    let failed = detail(images.ensure(&name, PullPolicy::Always, &nobody()).await);
    assert!(failed.contains("denies access") && failed.contains("; mirror: not found in registry"), "{failed}");
}

#[tokio::test]
async fn downloads_go_on_where_they_broke_off() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let host = server.address();
    let images = node(&directory, &[&server]);
    let module: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
    server.push("app", "v1", &[(WASM, None, &module)]);
    server.fault(Fault::Cut(100_000));
    server.fault(Fault::Status(StatusCode::SERVICE_UNAVAILABLE));
    server.fault(Fault::Cut(50_000));
    let image = images.ensure(&format!("{host}/app:v1"), PullPolicy::Always, &nobody()).await.unwrap();
    assert!(read(&image, 0) == module, "the parts do not fit");
    let ranges: Vec<String> = server.seen("/blobs/").into_iter().map(|(_, range, _)| range).collect();
    assert_eq!(ranges, ["", "bytes=100000-", "bytes=100000-", "bytes=150000-"]);
    assert_eq!(leftovers(&directory), [""; 0]);

    // A server that knows no ranges sends all of it again.
    let module: Vec<u8> = (100_000..200_000_u32).flat_map(u32::to_be_bytes).collect();
    server.push("app", "v2", &[(WASM, None, &module)]);
    server.fault(Fault::Cut(10));
    server.fault(Fault::Whole);
    let image = images.ensure(&format!("{host}/app:v2"), PullPolicy::Always, &nobody()).await.unwrap();
    assert!(read(&image, 0) == module);
}

#[tokio::test]
async fn a_registry_that_stays_away_is_given_up_and_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let name = format!("{}/app:v1", server.address());
    let images = node(&directory, &[&server]);
    let module = vec![7; 1000];
    server.push("app", "v1", &[(WASM, None, &module)]);
    server.fault(Fault::Cut(400));
    for _ in 0..4 {
        server.fault(Fault::Status(StatusCode::BAD_GATEWAY));
    }
    let failed = images.ensure(&name, PullPolicy::Always, &nobody()).await.unwrap_err();
    assert!(matches!(&failed, PullError::Unavailable { detail, .. } if detail.contains("502")), "{failed}");
    assert!(failed.to_string().ends_with("; 400 of 1000 bytes are here, given up after 5 tries"), "{failed}");
    let images = node(&directory, &[&server]);
    images.ensure(&name, PullPolicy::IfNotPresent, &nobody()).await.unwrap();
    assert_eq!(server.seen("/blobs/").last().unwrap().1, "bytes=400-", "after a restart it goes on");
}

#[tokio::test]
async fn what_is_not_what_was_announced_is_thrown_away() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let host = server.address();
    let images = node(&directory, &[&server]);
    let name = format!("{host}/app:v1");
    server.push("app", "v1", &[(WASM, None, b"module")]);
    for (bytes, expected) in [
        (b"modulo".to_vec(), "has digest"),
        (b"mod".to_vec(), "3 bytes shorter than its manifest says"),
        (vec![b'm'; 100_000], "longer than its manifest says"),
    ] {
        server.fault(Fault::Bytes(bytes));
        let failed = detail(images.ensure(&name, PullPolicy::Always, &nobody()).await);
        assert!(failed.contains(expected), "{failed}");
        assert_eq!(leftovers(&directory), [""; 0], "{expected}");
    }
    // A part that was damaged meanwhile is fetched again from its beginning.
    let digest = digest_of(b"module");
    fs::write(directory.path().join("partial").join(digest.trim_start_matches("sha256:")), b"mad").unwrap();
    let image = images.ensure(&name, PullPolicy::Always, &nobody()).await.unwrap();
    assert_eq!(read(&image, 0), b"module");

    let huge =
        json!({"schemaVersion": 2, "layers": [{"mediaType": WASM, "digest": digest, "size": MODULE_BYTES_MAX + 1}]});
    server.thing("/v2/app/manifests/huge", huge.to_string().as_bytes());
    let failed = detail(images.ensure(&format!("{host}/app:huge"), PullPolicy::Always, &nobody()).await);
    assert!(failed.contains("at most"), "{failed}");
}

#[tokio::test]
async fn many_tags_and_repositories_fetch_a_digest_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let host = server.address();
    let images = node(&directory, &[&server]);
    let module = vec![1; 300_000];
    let mut names = Vec::new();
    for (repository, tag) in [("app", "v1"), ("app", "v2"), ("app", "latest"), ("team/app", "v1")] {
        server.push(repository, tag, &[(WASM, None, &module)]);
        names.push(format!("{host}/{repository}:{tag}"));
    }
    let nobody = nobody();
    let all = names.iter().chain(&names).map(|name| images.ensure(name, PullPolicy::Always, &nobody));
    for result in futures::future::join_all(all).await {
        result.unwrap();
    }
    assert_eq!(server.seen("/blobs/").len(), 1);
    assert_eq!(server.seen("/manifests/").len(), names.len());
    assert!(images.puller.busy.lock().unwrap().is_empty(), "locks are left");
}

#[tokio::test]
async fn digests_pin_and_several_modules_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let host = server.address();
    let images = node(&directory, &[&server]);
    let layers: [(&str, Option<&str>, &[u8]); 3] = [
        (WASM, Some("server.wasm"), b"server"),
        ("application/octet-stream", Some("bin/tool.wasm"), b"tool"),
        ("application/json", Some("notes.json"), b"{}"),
    ];
    let digest = server.push("app", "v1", &layers);
    server.push("app", "v1", &[(WASM, None, b"moved on")]);
    for name in [format!("{host}/app@{digest}"), format!("{host}/app:v1@{digest}")] {
        let image = images.ensure(&name, PullPolicy::IfNotPresent, &nobody()).await.unwrap();
        let names: Vec<&str> = image.modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["server", "tool"], "{name}");
        assert_eq!(image.id, format!("{host}/app@{digest}"));
    }
    let other = digest_of(b"no such manifest");
    let missing = detail(images.ensure(&format!("{host}/app@{other}"), PullPolicy::Always, &nobody()).await);
    assert!(missing.starts_with(&format!("not found in registry {host}")), "{missing}");
}

#[tokio::test]
async fn modules_come_out_of_archives() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let host = server.address();
    let images = node(&directory, &[&server]);
    let tar = "application/vnd.oci.image.layer.v1.tar";
    let first = [entry("bin/", b'5', b""), entry("bin/a.wasm", b'0', b"a"), entry("b.wasm", b'0', b"b"), vec![0; 1024]]
        .concat();
    let second = [entry(".wh.b.wasm", b'0', b""), entry("c.wasm", b'0', b"c"), vec![0; 1024]].concat();
    server.push("app", "v1", &[(tar, None, &first), (tar, None, &second)]);
    let name = format!("{host}/app:v1");
    let image = images.ensure(&name, PullPolicy::Always, &nobody()).await.unwrap();
    let found: Vec<(&str, Vec<u8>)> =
        image.modules.iter().enumerate().map(|(index, module)| (module.name.as_str(), read(&image, index))).collect();
    assert_eq!(found, [("a", b"a".to_vec()), ("c", b"c".to_vec())]);
    assert!(image.modules.iter().all(|module| module.verify().unwrap()));
    let blobs = server.seen("/blobs/").len();
    assert!(!images.ensure(&name, PullPolicy::Always, &nobody()).await.unwrap().pulled);
    assert_eq!(server.seen("/blobs/").len(), blobs, "unpacked once");
    assert!(matches!(node(&directory, &[]).local(&name, &nobody()).unwrap(), Local::Here(_)));

    let twice = [entry("x/a.wasm", b'0', b"1"), entry("y/a.wasm", b'0', b"2")].concat();
    for (archive, expected) in
        [(twice, "two modules called \"a\""), (entry("../a.wasm", b'0', b"1"), "leads out of it")]
    {
        server.push("app", "bad", &[(tar, None, &archive)]);
        let failed = detail(images.ensure(&format!("{host}/app:bad"), PullPolicy::Always, &nobody()).await);
        assert!(failed.contains(expected), "{failed}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let images = configured(&directory, &[], |_| {});
    let failed = images.ensure(&format!("{}/app", server.address()), PullPolicy::Always, &nobody()).await.unwrap_err();
    assert!(matches!(&failed, PullError::Pull { detail, .. } if detail.contains("set \"plainHttp\"")), "{failed}");
}
