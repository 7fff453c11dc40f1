//! The distribution protocol over HTTP, with well-behaved clients and others.

use super::*;
use crate::{auth::Authenticator, identity::Identity};
use ::http::{Request, StatusCode, header};
use axum::{Router, body::Body, response::Response};
use coracle_store::testing::LocalProposer;
use http_body_util::BodyExt as _;
use path::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tower::ServiceExt as _;

struct Setting {
    directory: TempDir,
    app: Router,
}

fn setting() -> Setting {
    let directory = tempfile::tempdir().unwrap();
    let proposer = Arc::new(LocalProposer::new().unwrap());
    let store = proposer.store().clone();
    let registry = Registry::open(directory.path().to_owned(), proposer, store).unwrap();
    let authenticator = Authenticator::new()
        .with_token("admin", Identity::admin())
        .with_token("node", Identity::node("one"))
        .with_token("other", Identity::new("other", &[]));
    Setting { directory, app: routes(Arc::new(registry), Arc::new(authenticator)) }
}

/// What came back.
struct Answer {
    status: StatusCode,
    headers: ::http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Status and the code of the first error.
    fn refusal(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["errors"][0]["code"].as_str().unwrap().to_owned())
    }
}

impl Setting {
    async fn send(&self, request: Request<Body>) -> Answer {
        let response: Response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes().to_vec() }
    }

    /// `METHOD PATH` as the administrator.
    async fn call(&self, line: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path).header(header::AUTHORIZATION, "Bearer admin");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn push_blob(&self, repository: &str, content: &'static [u8]) -> String {
        let digest = digest_of(content);
        let answer = self.call(&format!("POST /v2/{repository}/blobs/uploads/?digest={digest}"), &[], content).await;
        assert_eq!(answer.status, StatusCode::CREATED);
        digest
    }

    /// A manifest of one layer, pushed under `reference`.
    async fn push(&self, repository: &str, reference: &str, layer: &'static [u8]) -> Answer {
        let config = self.push_blob(repository, b"{}").await;
        let layer = self.push_blob(repository, layer).await;
        let manifest = manifest(&config, &layer).to_string();
        self.call(&format!("PUT /v2/{repository}/manifests/{reference}"), &[("content-type", IMAGE)], manifest).await
    }

    fn files(&self, below: &str) -> usize {
        fn count(path: &std::path::Path) -> usize {
            std::fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .map(|path| if path.is_dir() { count(&path) } else { 1 })
                .sum()
        }
        count(&self.directory.path().join(below))
    }
}

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

fn digest_of(content: &[u8]) -> String {
    Digest::of(&Sha256::digest(content)).as_str().to_owned()
}

fn manifest(config: &str, layer: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/wasm", "digest": layer, "size": 3}],
    })
}

#[tokio::test]
async fn credentials_decide_who_pulls_and_who_pushes() {
    let setting = setting();
    setting.push("a", "v1", b"abc").await;
    let basic = |text: &str| {
        use base64::Engine as _;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
    };
    let cases = [
        (None, 401, 401),
        (Some("Bearer wrong".to_owned()), 401, 401),
        (Some("Bearer other".to_owned()), 403, 403),
        (Some("Bearer node".to_owned()), 200, 403),
        (Some(basic("x:node")), 200, 403),
        (Some(basic("x:admin")), 200, 202),
    ];
    for (authorization, pull, push) in cases {
        let request = |method: &str, path: &str| {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(value) = &authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            request.body(Body::empty()).unwrap()
        };
        let answer = setting.send(request("GET", "/v2/a/manifests/v1")).await;
        assert_eq!(answer.status, pull, "{authorization:?}");
        if pull == 401 {
            assert_eq!(answer.header("www-authenticate"), "Basic realm=\"coracle\"");
            assert_eq!(setting.send(request("GET", "/v2/")).await.status, 401);
        } else {
            assert_eq!(setting.send(request("GET", "/v2/")).await.status, 200);
        }
        let answer = setting.send(request("POST", "/v2/a/blobs/uploads/")).await;
        assert_eq!(answer.status, push, "{authorization:?}");
    }
}

#[tokio::test]
async fn a_blob_is_pushed_in_chunks_and_pulled_in_ranges() {
    let setting = setting();
    let begun = setting.call("POST /v2/a/b/blobs/uploads/", &[], "").await;
    assert_eq!(begun.status, StatusCode::ACCEPTED);
    let location = begun.header("location").to_owned();
    let chunk = setting.call(&format!("PATCH {location}"), &[("content-range", "0-2")], "abc").await;
    assert_eq!((chunk.status, chunk.header("range")), (StatusCode::ACCEPTED, "0-2"));
    let gap = setting.call(&format!("PATCH {location}"), &[("content-range", "5-6")], "xy").await;
    assert_eq!((gap.refusal(), gap.header("range")), ((416, "RANGE_INVALID".to_owned()), "0-2"));
    let state = setting.call(&format!("GET {location}"), &[], "").await;
    assert_eq!((state.status, state.header("range")), (StatusCode::NO_CONTENT, "0-2"));
    let digest = digest_of(b"abcdef");
    let done = setting.call(&format!("PUT {location}?digest={digest}"), &[("content-range", "3-5")], "def").await;
    assert_eq!((done.status, done.header("docker-content-digest")), (StatusCode::CREATED, digest.as_str()));
    assert_eq!(setting.call(&format!("PATCH {location}"), &[], "x").await.refusal().0, 404);

    let path = done.header("location");
    let head = setting.call(&format!("HEAD {path}"), &[], "").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (StatusCode::OK, "6", 0));
    let cases = [
        ("bytes=0-2", 206, "bytes 0-2/6", "abc"),
        ("bytes=4-", 206, "bytes 4-5/6", "ef"),
        ("bytes=-1", 206, "bytes 5-5/6", "f"),
        ("bytes=2-100", 206, "bytes 2-5/6", "cdef"),
        ("lines=1-2", 200, "", "abcdef"),
    ];
    for (range, status, content_range, body) in cases {
        let answer = setting.call(&format!("GET {path}"), &[("range", range)], "").await;
        assert_eq!((answer.status.as_u16(), answer.header("content-range")), (status, content_range), "{range}");
        assert_eq!(answer.body, body.as_bytes(), "{range}");
    }
    let beyond = setting.call(&format!("GET {path}"), &[("range", "bytes=6-")], "").await;
    assert_eq!(beyond.status, StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test]
async fn a_wrong_digest_leaves_nothing() {
    let setting = setting();
    let wrong = digest_of(b"something else");
    let answer = setting.call(&format!("POST /v2/a/blobs/uploads/?digest={wrong}"), &[], "abc").await;
    assert_eq!(answer.refusal(), (400, "DIGEST_INVALID".to_owned()));
    let location = setting.call("POST /v2/a/blobs/uploads/", &[], "").await.header("location").to_owned();
    let answer = setting.call(&format!("PUT {location}?digest={wrong}"), &[], "abc").await;
    assert_eq!(answer.refusal(), (400, "DIGEST_INVALID".to_owned()));
    let answer = setting.call(&format!("PUT {location}?digest={wrong}"), &[], "abc").await;
    assert_eq!(answer.refusal(), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
    assert_eq!((setting.files("uploads"), setting.files("sha256")), (0, 0));
    for digest in [digest_of(b"abc"), wrong] {
        assert_eq!(setting.call(&format!("GET /v2/a/blobs/{digest}"), &[], "").await.refusal().0, 404);
    }
}

#[tokio::test]
async fn what_is_declared_too_large_is_refused_at_once() {
    let setting = setting();
    let digest = digest_of(b"abc");
    let length = (MAX_BLOB_BYTES + 1).to_string();
    let headers = [("content-length", length.as_str())];
    let answer = setting.call(&format!("POST /v2/a/blobs/uploads/?digest={digest}"), &headers, "abc").await;
    assert_eq!(answer.refusal(), (413, "SIZE_INVALID".to_owned()));
    assert_eq!(setting.files("uploads"), 0);
}

#[tokio::test]
async fn uploads_are_bounded_cancelled_and_forgotten_at_start() {
    let setting = setting();
    let mut locations = Vec::new();
    for _ in 0..MAX_UPLOADS {
        locations.push(setting.call("POST /v2/a/blobs/uploads/", &[], "").await.header("location").to_owned());
    }
    assert_eq!(setting.call("POST /v2/a/blobs/uploads/", &[], "").await.refusal().0, 429);
    let other = locations[0].replace("/v2/a/", "/v2/b/");
    assert_eq!(setting.call(&format!("DELETE {other}"), &[], "").await.refusal().0, 404);
    assert_eq!(setting.call(&format!("DELETE {}", locations[0]), &[], "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(setting.files("uploads"), MAX_UPLOADS - 1);
    assert_eq!(setting.call("POST /v2/a/blobs/uploads/", &[], "").await.status, StatusCode::ACCEPTED);
    std::fs::write(setting.directory.path().join("uploads/left-over"), "x").unwrap();
    Blobs::open(setting.directory.path().to_owned()).unwrap();
    assert_eq!(setting.files("uploads"), 0);
}

#[tokio::test]
async fn a_blob_that_is_there_is_mounted() {
    let setting = setting();
    let digest = setting.push_blob("a", b"abc").await;
    let answer = setting.call(&format!("POST /v2/b/blobs/uploads/?mount={digest}&from=a"), &[], "").await;
    assert_eq!((answer.status, answer.header("location")), (StatusCode::CREATED, &*format!("/v2/b/blobs/{digest}")));
    let absent = digest_of(b"absent");
    let answer = setting.call(&format!("POST /v2/b/blobs/uploads/?mount={absent}&from=a"), &[], "").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn manifests_are_found_by_tag_and_digest_until_deleted() {
    let setting = setting();
    let pushed = setting.push("team/app", "v1", b"abc").await;
    assert_eq!(pushed.status, StatusCode::CREATED);
    let digest = pushed.header("docker-content-digest").to_owned();
    for reference in ["v1", &digest] {
        let answer = setting.call(&format!("GET /v2/team/app/manifests/{reference}"), &[], "").await;
        assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, IMAGE));
        assert_eq!(digest_of(&answer.body), digest);
        let head = setting.call(&format!("HEAD /v2/team/app/manifests/{reference}"), &[], "").await;
        assert_eq!(head.header("content-length"), answer.body.len().to_string());
    }
    // A tag moves; the old manifest stays.
    let moved = setting.push("team/app", "v1", b"def").await.header("docker-content-digest").to_owned();
    assert_ne!(moved, digest);
    let answer = setting.call("GET /v2/team/app/manifests/v1", &[], "").await;
    assert_eq!(answer.header("docker-content-digest"), moved);
    assert_eq!(setting.call(&format!("GET /v2/team/app/manifests/{digest}"), &[], "").await.status, StatusCode::OK);
    // Deleting a manifest takes its tags along.
    assert_eq!(setting.call(&format!("DELETE /v2/team/app/manifests/{moved}"), &[], "").await.status, 202);
    assert_eq!(setting.call("GET /v2/team/app/manifests/v1", &[], "").await.refusal().1, "MANIFEST_UNKNOWN");
    assert_eq!(setting.call("DELETE /v2/team/app/manifests/v1", &[], "").await.refusal().0, 404);
    assert_eq!(setting.call("GET /v2/team/manifests/v1", &[], "").await.refusal().0, 404);
}

#[tokio::test]
async fn manifests_that_cannot_be_used_are_refused() {
    let setting = setting();
    let (config, layer) = (setting.push_blob("a", b"{}").await, setting.push_blob("a", b"abc").await);
    let absent = digest_of(b"absent");
    let good = manifest(&config, &layer);
    let with = |field: &str, value: Value| {
        let mut manifest = good.clone();
        manifest[field] = value;
        manifest.to_string()
    };
    let cases = [
        (with("layers", json!([{"digest": absent}])), 404, "MANIFEST_BLOB_UNKNOWN"),
        (with("config", json!({"digest": absent})), 404, "MANIFEST_BLOB_UNKNOWN"),
        (with("manifests", json!([{"digest": absent}])), 404, "MANIFEST_BLOB_UNKNOWN"),
        (with("layers", json!([{"size": 1}])), 400, "MANIFEST_INVALID"),
        (with("layers", json!([{"digest": "../../etc/passwd"}])), 400, "MANIFEST_INVALID"),
        (with("schemaVersion", json!(1)), 400, "MANIFEST_INVALID"),
        (with("mediaType", json!("text/plain")), 400, "MANIFEST_INVALID"),
        ("{\"schemaVersion\": 2".to_owned(), 400, "MANIFEST_INVALID"),
        ("[]".to_owned(), 400, "MANIFEST_INVALID"),
        (" ".repeat(MAX_MANIFEST_BYTES + 1), 413, "SIZE_INVALID"),
    ];
    for (body, status, code) in cases {
        let shown: String = body.chars().take(80).collect();
        let answer = setting.call("PUT /v2/a/manifests/v1", &[("content-type", IMAGE)], body).await;
        assert_eq!(answer.refusal(), (status, code.to_owned()), "{shown}");
    }
    let wrong = format!("PUT /v2/a/manifests/{absent}");
    let answer = setting.call(&wrong, &[("content-type", IMAGE)], good.to_string()).await;
    assert_eq!(answer.refusal(), (400, "DIGEST_INVALID".to_owned()));
    assert_eq!(setting.call("GET /v2/a/tags/list", &[], "").await.refusal(), (404, "NAME_UNKNOWN".to_owned()));
}

#[tokio::test]
async fn listings_come_in_order_and_in_pages() {
    let setting = setting();
    for tag in ["b", "c", "a"] {
        setting.push("x/y", tag, b"abc").await;
    }
    setting.push("x", "other", b"abc").await;
    let all = setting.call("GET /v2/x/y/tags/list", &[], "").await;
    assert_eq!(all.json(), json!({"name": "x/y", "tags": ["a", "b", "c"]}));
    assert_eq!(all.header("link"), "");
    let first = setting.call("GET /v2/x/y/tags/list?n=2", &[], "").await;
    assert_eq!(first.json()["tags"], json!(["a", "b"]));
    let next = first.header("link").strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
    let second = setting.call(&format!("GET {next}"), &[], "").await;
    assert_eq!((second.json()["tags"].clone(), second.header("link")), (json!(["c"]), ""));
    let catalog = setting.call("GET /v2/_catalog", &[], "").await;
    assert_eq!(catalog.json(), json!({"repositories": ["x", "x/y"]}));
}

#[tokio::test]
async fn referrers_are_found_by_their_subject() {
    let setting = setting();
    let subject = setting.push("a", "v1", b"abc").await.header("docker-content-digest").to_owned();
    let config = digest_of(b"{}");
    let mut signature = manifest(&config, &digest_of(b"abc"));
    signature["artifactType"] = json!("application/vnd.example.signature");
    signature["subject"] = json!({"mediaType": IMAGE, "digest": subject, "size": 1});
    let answer = setting.call("PUT /v2/a/manifests/signature", &[("content-type", IMAGE)], signature.to_string()).await;
    assert_eq!(answer.header("oci-subject"), subject);
    let count = |answer: &Answer| answer.json()["manifests"].as_array().unwrap().len();
    let path = format!("GET /v2/a/referrers/{subject}");
    let found = setting.call(&path, &[], "").await;
    assert_eq!(found.json()["manifests"][0]["artifactType"], "application/vnd.example.signature");
    let cases = [("?artifactType=application/vnd.example.signature", 1), ("?artifactType=x", 0)];
    for (query, expected) in cases {
        let answer = setting.call(&format!("{path}{query}"), &[], "").await;
        assert_eq!((count(&answer), answer.header("oci-filters-applied")), (expected, "artifactType"));
    }
    let nobody = setting.call(&format!("GET /v2/a/referrers/{config}"), &[], "").await;
    assert_eq!((nobody.status, count(&nobody)), (StatusCode::OK, 0));
}
