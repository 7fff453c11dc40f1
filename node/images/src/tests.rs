//! Pulling from a registry that the test controls, as the cluster's own.

use super::*;
use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

const TOKEN: &str = "registry-token";

#[derive(Default)]
struct Fake {
    manifests: Mutex<HashMap<String, Vec<u8>>>,
    blobs: Mutex<HashMap<String, Vec<u8>>>,
    manifest_requests: AtomicUsize,
    blob_requests: AtomicUsize,
}

impl Fake {
    fn push(&self, tag: &str, media_type: &str, module: &[u8]) -> String {
        let digest = digest_of(module);
        self.blobs.lock().unwrap().insert(digest.clone(), module.to_vec());
        let manifest = json!({
            "schemaVersion": 2, "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": digest, "size": 2},
            "layers": [{"mediaType": media_type, "digest": digest, "size": module.len()}],
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = digest_of(&manifest);
        let mut manifests = self.manifests.lock().unwrap();
        manifests.insert(tag.to_owned(), manifest.clone());
        manifests.insert(digest.clone(), manifest);
        digest
    }
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn authorized(headers: &HeaderMap) -> bool {
    headers.get("authorization").is_some_and(|value| value == &format!("Bearer {TOKEN}"))
}

async fn manifest(State(fake): State<Arc<Fake>>, Path(version): Path<String>, headers: HeaderMap) -> Response {
    fake.manifest_requests.fetch_add(1, Ordering::SeqCst);
    if !authorized(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let found = fake.manifests.lock().unwrap().get(&version).cloned();
    let missing = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
    found.map_or_else(|| (StatusCode::NOT_FOUND, missing).into_response(), IntoResponse::into_response)
}

async fn blob(State(fake): State<Arc<Fake>>, Path(digest): Path<String>) -> Response {
    fake.blob_requests.fetch_add(1, Ordering::SeqCst);
    let found = fake.blobs.lock().unwrap().get(&digest).cloned();
    found.map_or_else(|| StatusCode::NOT_FOUND.into_response(), |bytes| Body::from(bytes).into_response())
}

struct World {
    fake: Arc<Fake>,
    images: Images,
    directory: tempfile::TempDir,
    address: String,
}

impl World {
    async fn new() -> Self {
        let fake = Arc::new(Fake::default());
        let app = Router::new()
            .route("/v2/app/manifests/{version}", get(manifest))
            .route("/v2/app/blobs/{digest}", get(blob))
            .with_state(fake.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let directory = tempfile::tempdir().unwrap();
        let images = open(&directory, &address, TOKEN);
        Self { fake, images, directory, address }
    }
}

fn open(directory: &tempfile::TempDir, address: &str, token: &str) -> Images {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster =
        ClusterRegistry { address: address.to_owned(), ca_pem: String::new(), token: token.to_owned(), identity: None };
    let registries = Registries::plain_http(cluster, RegistrySettings::default());
    Images::with_registries(directory.path(), registries, Duration::from_millis(1)).unwrap()
}

/// The cluster's own registry needs no credentials of pods.
async fn ensure(images: &Images, name: &str, policy: PullPolicy) -> Result<Image, PullError> {
    images.ensure(name, policy, &Keyring::default()).await
}

fn local(images: &Images, name: &str) -> Option<Image> {
    match images.local(name, &Keyring::default()).unwrap() {
        Local::Here(image) => Some(image),
        Local::Absent => None,
        Local::Withheld(_) => panic!("withheld"),
    }
}

fn detail(result: Result<Image, PullError>) -> String {
    match result {
        Err(PullError::Pull { detail, .. }) => detail,
        other => panic!("expected a failed pull, got {other:?}"),
    }
}

#[tokio::test]
async fn a_pulled_image_is_verified_and_stays() {
    let world = World::new().await;
    let digest = world.fake.push("v1", "application/wasm", b"\0asm module");
    let image = ensure(&world.images, "app:v1", PullPolicy::IfNotPresent).await.unwrap();
    assert!(image.pulled);
    assert_eq!(image.id, format!("{}/app@{digest}", world.address));
    assert_eq!(image.modules.len(), 1);
    assert_eq!((image.modules[0].name.as_str(), image.size_bytes), ("app", 11));
    assert_eq!(fs::read(&image.modules[0].path).unwrap(), b"\0asm module");

    let requests = world.fake.manifest_requests.load(Ordering::SeqCst);
    let again = ensure(&world.images, "app:v1", PullPolicy::IfNotPresent).await.unwrap();
    assert!(!again.pulled && again.id == image.id);
    assert_eq!(world.fake.manifest_requests.load(Ordering::SeqCst), requests, "asked although present");

    let reopened = open(&world.directory, &world.address, TOKEN);
    assert_eq!(local(&reopened, "app:v1").unwrap().id, image.id);
    assert_eq!(ensure(&reopened, "app:v1", PullPolicy::Never).await.unwrap().id, image.id);
}

#[tokio::test]
async fn what_runs_is_found_by_its_id_also_when_its_name_means_something_else() {
    let world = World::new().await;
    world.fake.push("v1", "application/wasm", b"\0asm old");
    let old = ensure(&world.images, "app:v1", PullPolicy::IfNotPresent).await.unwrap();
    world.fake.push("v1", "application/wasm", b"\0asm new");
    let new = ensure(&world.images, "app:v1", PullPolicy::Always).await.unwrap();
    for image in [old, new] {
        let held = world.images.held(&image.id).unwrap();
        assert_eq!((&held.id, &held.modules), (&image.id, &image.modules));
    }
    for stranger in ["app:v1", "", &format!("{}/app@sha256:{}", world.address, "0".repeat(64))] {
        assert!(world.images.held(stranger).is_none(), "{stranger}");
    }
}

#[tokio::test]
async fn what_was_damaged_on_disk_is_pulled_again() {
    let world = World::new().await;
    let digest = world.fake.push("v1", "application/wasm", b"module");
    let image = ensure(&world.images, "app:v1", PullPolicy::IfNotPresent).await.unwrap();
    let module = &image.modules[0];
    assert!(module.verify().unwrap());
    let spoil = |path: &std::path::Path, bytes: &[u8]| {
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    };
    spoil(&module.path, b"modulo");
    assert!(!module.verify().unwrap() && !module.path.exists(), "damaged bytes must not be found again");
    assert!(local(&world.images, "app:v1").is_none());
    assert!(ensure(&world.images, "app:v1", PullPolicy::IfNotPresent).await.unwrap().pulled);
    assert!(module.verify().unwrap());
    // The manifest too, whatever its length.
    let manifest = world.directory.path().join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let whole = fs::read(&manifest).unwrap();
    spoil(&manifest, &vec![b' '; whole.len()]);
    assert!(local(&world.images, "app:v1").is_none());
    ensure(&world.images, "app:v1", PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!(fs::read(&manifest).unwrap(), whole);
    assert_eq!(local(&world.images, "app:v1").unwrap().id, image.id);
}

#[tokio::test]
async fn policies_decide_when_the_registry_is_asked() {
    let world = World::new().await;
    let never = ensure(&world.images, "app:v1", PullPolicy::Never).await.unwrap_err();
    assert_eq!(never.to_string(), "image \"app:v1\" is not present with pull policy of Never");

    world.fake.push("v1", "application/wasm", b"one");
    let first = ensure(&world.images, "app:v1", PullPolicy::Always).await.unwrap();
    assert!(!ensure(&world.images, "app:v1", PullPolicy::Always).await.unwrap().pulled);
    world.fake.push("v1", "application/wasm", b"two");
    let kept = ensure(&world.images, "app:v1", PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!(kept.id, first.id);
    let second = ensure(&world.images, "app:v1", PullPolicy::Always).await.unwrap();
    assert!(second.pulled && second.id != first.id);
    assert_eq!(local(&world.images, "app:v1").unwrap().id, second.id);
}

#[tokio::test]
async fn many_that_wait_pull_once() {
    let world = World::new().await;
    world.fake.push("v1", "application/wasm", b"shared");
    let all = (0..16).map(|_| ensure(&world.images, "app:v1", PullPolicy::IfNotPresent));
    for result in futures::future::join_all(all).await {
        result.unwrap();
    }
    assert_eq!(world.fake.manifest_requests.load(Ordering::SeqCst), 1);
    assert_eq!(world.fake.blob_requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn failures_say_why_and_leave_nothing() {
    let world = World::new().await;
    let address = &world.address;
    let missing = detail(ensure(&world.images, "app:v9", PullPolicy::IfNotPresent).await);
    assert_eq!(missing, format!("not found in registry {address}: manifest unknown"));

    let text = "text/plain";
    world.fake.push("text", text, b"text");
    let not_wasm = detail(ensure(&world.images, "app:text", PullPolicy::IfNotPresent).await);
    assert_eq!(not_wasm, format!("app:text is not a wasm workload image: its layers are {text}"));
    let tar = "application/vnd.oci.image.layer.v1.tar";
    world.fake.push("tar", tar, &[0; 1024]);
    let empty = detail(ensure(&world.images, "app:tar", PullPolicy::IfNotPresent).await);
    assert_eq!(empty, "app:tar is not a wasm workload image: there is no .wasm file in its layers");

    let digest = world.fake.push("bad", "application/wasm", b"what was promised");
    let module = digest_of(b"what was promised");
    world.fake.blobs.lock().unwrap().insert(module, b"what was delivere".to_vec());
    let forged = detail(ensure(&world.images, "app:bad", PullPolicy::IfNotPresent).await);
    assert!(forged.contains("has digest"), "{forged}");
    assert_eq!(local(&world.images, "app:bad"), None);

    world.fake.manifests.lock().unwrap().insert(digest.clone(), b"{\"schemaVersion\":2,\"layers\":[]}".to_vec());
    let forged = detail(ensure(&world.images, &format!("app@{digest}"), PullPolicy::IfNotPresent).await);
    assert!(forged.starts_with("the manifest that came for"), "{forged}");

    let huge = vec![b' '; registry::MANIFEST_BYTES_MAX + 1];
    world.fake.manifests.lock().unwrap().insert("huge".to_owned(), huge);
    let huge = detail(ensure(&world.images, "app:huge", PullPolicy::IfNotPresent).await);
    assert!(huge.contains("is longer than"), "{huge}");

    let stranger = open(&world.directory, address, "wrong");
    let denied = detail(ensure(&stranger, "app:v1", PullPolicy::Always).await);
    assert_eq!(denied, format!("registry {address} denies access (401)"));

    let invalid = ensure(&world.images, "App:v1", PullPolicy::Always).await.unwrap_err();
    let text = "couldn't parse image name \"App:v1\": the repository name must be lowercase";
    assert_eq!(invalid.to_string(), text);
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_named() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let directory = tempfile::tempdir().unwrap();
    let images = open(&directory, &address, TOKEN);
    match ensure(&images, "app", PullPolicy::IfNotPresent).await {
        Err(PullError::Unavailable { detail, .. }) => {
            assert!(detail.contains(&address) && detail.contains("refused"), "{detail}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn only_what_nothing_needs_is_swept_away() {
    let world = World::new().await;
    let blobs = || fs::read_dir(world.directory.path().join("blobs/sha256")).unwrap().count();
    let none = BTreeSet::new();
    let now = Duration::ZERO;
    world.fake.push("v1", "application/wasm", b"\0asm shared");
    world.fake.push("v2", "application/wasm", b"\0asm two");
    for version in ["v1", "v2"] {
        ensure(&world.images, &format!("app:{version}"), PullPolicy::IfNotPresent).await.unwrap();
    }
    assert_eq!((blobs(), world.images.stored().unwrap().len()), (4, 2));
    assert_eq!(world.images.sweep(&none, now).unwrap().freed_bytes, 0, "names keep what they mean");

    // A name that means something else by now leaves the old image to nobody but those who run it.
    let old = local(&world.images, "app:v2").unwrap();
    world.fake.push("v2", "application/wasm", b"\0asm three");
    let new = ensure(&world.images, "app:v2", PullPolicy::Always).await.unwrap();
    let in_use = world.images.in_use(["app:v1", "nonsense name"], [old.id.as_str(), ""]);
    assert_eq!(in_use.len(), 2);
    let swept = world.images.sweep(&in_use, now).unwrap();
    assert_eq!((swept.freed_bytes, swept.modules.len(), blobs()), (0, 3, 6));
    assert!(world.images.held(&old.id).is_some());
    assert_eq!(world.images.sweep(&none, Duration::from_mins(1)).unwrap().freed_bytes, 0, "it is young");
    assert!(world.images.sweep(&none, now).unwrap().freed_bytes > 0);
    assert!(world.images.held(&old.id).is_none() && blobs() == 4);

    // Who was used a moment ago is not forgotten, nor one that is being pulled.
    let digest = new.id.rsplit_once('@').unwrap().1.to_owned();
    assert!(!world.images.forget(&digest, Duration::from_mins(1)).unwrap());
    {
        let _pin = world.images.puller.pin([digest.clone()]);
        assert!(!world.images.forget(&digest, now).unwrap());
    }
    assert!(world.images.forget(&digest, now).unwrap());
    assert!(local(&world.images, "app:v2").is_none());
    {
        let _pin = world.images.puller.pin([digest.clone()]);
        assert_eq!((world.images.sweep(&none, now).unwrap().freed_bytes, blobs()), (0, 4), "it is being pulled");
        let _unpacking = world.images.puller.pin_all();
        assert_eq!(world.images.sweep(&none, now).unwrap().freed_bytes, 0);
    }
    let swept = world.images.sweep(&none, now).unwrap();
    assert_eq!((swept.modules.len(), blobs()), (1, 2));
    assert!(local(&world.images, "app:v1").is_some());
    // Whoever wants it again pulls it again.
    assert!(ensure(&world.images, "app:v2", PullPolicy::IfNotPresent).await.unwrap().pulled);
}

#[tokio::test]
async fn the_images_of_longest_disuse_come_first() {
    let world = World::new().await;
    for version in ["v1", "v2"] {
        world.fake.push(version, "application/wasm", version.as_bytes());
        ensure(&world.images, &format!("app:{version}"), PullPolicy::IfNotPresent).await.unwrap();
    }
    let oldest = || {
        let stored = world.images.stored().unwrap();
        stored.into_iter().min_by_key(|image| image.last_used).unwrap().names
    };
    assert_eq!(oldest(), ["cluster/app:v1"]);
    local(&world.images, "app:v1").unwrap();
    assert_eq!(oldest(), ["cluster/app:v2"]);
    fs::write(world.directory.path().join("partial").join("0".repeat(64)), "broken off").unwrap();
    assert!(world.images.sweep(&BTreeSet::new(), Duration::ZERO).unwrap().freed_bytes > 0);
    assert_eq!(fs::read_dir(world.directory.path().join("partial")).unwrap().count(), 0);
}
