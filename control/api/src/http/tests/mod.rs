//! The REST paths, end to end over a store in memory.

use super::*;
use crate::testing::{self, TOKEN};
use axum::body::Body;
use coracle_store::{Revision, testing::LocalProposer};
use http::{Response as HttpResponse, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

mod lives;
mod reads;
mod reviews;
mod writes;

const PODS: &str = "/api/v1/namespaces/default/pods";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const MERGE: &str = "application/merge-patch+json";

struct Server {
    router: Router,
    door: Arc<Door>,
    proposer: Arc<LocalProposer>,
}

impl Server {
    async fn new() -> Self {
        let (door, proposer) = testing::door().await;
        Self { router: routes(Arc::clone(&door), testing::authenticator()), door, proposer }
    }

    async fn send(&self, request: http::Request<Body>) -> HttpResponse<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> HttpResponse<Body> {
        let mut request = http::Request::builder().method(method).uri(path);
        request = request.header(header::AUTHORIZATION, format!("Bearer {TOKEN}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        json_of(self.raw(method, path, &[], body).await).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, &Value::Null).await
    }

    async fn must(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!(status < 300, "{method} {path}: {answer}");
        answer
    }

    async fn patch(&self, path: &str, content_type: &str, body: &Value) -> (u16, Value) {
        json_of(self.raw("PATCH", path, &[("content-type", content_type)], body.to_string()).await).await
    }

    async fn watch(&self, path: &str) -> Frames {
        let response = self.raw("GET", path, &[], "").await;
        assert_eq!(response.status(), StatusCode::OK);
        Frames(response.into_body())
    }
}

struct Frames(Body);

impl Frames {
    async fn next(&mut self) -> Option<Value> {
        let frame = tokio::time::timeout(std::time::Duration::from_secs(30), self.0.frame()).await.unwrap();
        frame.map(|frame| serde_json::from_slice(&frame.unwrap().into_data().unwrap()).unwrap())
    }

    async fn must(&mut self, event_type: &str, name: &str) -> Value {
        let event = self.next().await.unwrap();
        assert_eq!(
            (event["type"].as_str(), event["object"]["metadata"]["name"].as_str()),
            (Some(event_type), Some(name)),
            "{event}"
        );
        event
    }
}

async fn json_of(response: HttpResponse<Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (
        status,
        serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes).into_owned())),
    )
}

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn refusals_are_statuses_with_the_right_code() {
    let server = Server::new().await;
    let cases = [
        ("GET", "/api/v1/nothing", json!(null), 404),
        ("GET", "/nothing", json!(null), 404),
        ("POST", "/api/v1/namespaces/default/pods/x", json!({}), 405),
        ("PUT", PODS, json!({}), 405),
        ("POST", "/version", json!({}), 405),
        ("POST", PODS, json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}}), 400),
        ("POST", PODS, json!([1]), 400),
        ("POST", "/api/v1/namespaces/missing/configmaps", testing::config_map("x"), 404),
        (
            "POST",
            PODS,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": []}}),
            422,
        ),
        ("POST", CONFIG_MAPS, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}), 422),
        ("GET", "/api/v1/pods?labelSelector=a+in+(", json!(null), 400),
        ("GET", "/api/v1/pods?fieldSelector=spec.what%3Dx", json!(null), 400),
        ("GET", "/api/v1/pods?continue=rubbish", json!(null), 400),
        ("GET", "/api/v1/pods?limit=x", json!(null), 400),
        ("GET", "/api/v1/pods?resourceVersion=999999", json!(null), 504),
        ("DELETE", "/api/v1/namespaces/default", json!(null), 403),
        ("DELETE", "/api/v1/pods", json!(null), 405),
    ];
    for (method, path, body, code) in cases {
        let (status, answer) = server.call(method, path, &body).await;
        assert_eq!(status, code, "{method} {path}: {answer}");
        assert_eq!(
            (answer["kind"].as_str(), answer["code"].as_u64()),
            (Some("Status"), Some(u64::from(code))),
            "{path}"
        );
        assert_eq!(answer["status"], "Failure");
    }
    let anonymous = server.send(http::Request::get("/api/v1/pods").body(Body::empty()).unwrap()).await;
    let (status, answer) = json_of(anonymous).await;
    assert_eq!((status, answer["reason"].as_str()), (401, Some("Unauthorized")));
    let huge = server.raw("POST", PODS, &[], "[".repeat(10 << 20)).await;
    assert_eq!(json_of(huge).await.0, 413);
    let deep = server.raw("POST", PODS, &[], "[".repeat(100_000)).await;
    assert_eq!(json_of(deep).await.0, 400);
    let cbor = server.raw("POST", PODS, &[("content-type", "application/cbor")], "x").await;
    assert_eq!(json_of(cbor).await.0, 415);
    let unacceptable = server.raw("GET", PODS, &[("accept", "application/vnd.kubernetes.protobuf")], "").await;
    assert_eq!(json_of(unacceptable).await.0, 406);
}

#[tokio::test]
async fn what_is_not_served_says_so_and_has_details() {
    let server = Server::new().await;
    for (path, part) in [
        ("/api/v1/namespaces/default/pods/p/proxy", "pods/proxy is not supported here"),
        ("/api/v1/namespaces/default/pods/p/nothing", "could not find the requested resource"),
        ("/apis/apps/v1", "could not find the requested resource"),
    ] {
        let (status, answer) = server.get(path).await;
        assert_eq!((status, answer["details"].is_object()), (404, true), "{answer}");
        assert!(message(&answer).contains(part), "{answer}");
    }
    let impersonating = server.raw("GET", PODS, &[("impersonate-user", "bob")], "").await;
    assert_eq!(json_of(impersonating).await.0, 403);
    let (_, ahead) = server.get("/api/v1/pods?resourceVersion=999999").await;
    assert_eq!(ahead["details"]["causes"][0]["reason"], "ResourceVersionTooLarge", "{ahead}");
}

#[tokio::test]
async fn orphans_stay_and_forget_their_owner() {
    let server = Server::new().await;
    let owner = server.must("POST", CONFIG_MAPS, &testing::config_map("owner")).await;
    let reference =
        |name: &str, uid: &Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid});
    let mut dependent = testing::config_map("owned");
    let uid = &owner["metadata"]["uid"];
    dependent["metadata"]["ownerReferences"] = json!([reference("owner", uid), reference("another", &json!("u"))]);
    server.must("POST", CONFIG_MAPS, &dependent).await;
    dependent["metadata"] = json!({"name": "alone", "ownerReferences": [reference("owner", uid)]});
    server.must("POST", CONFIG_MAPS, &dependent).await;
    let path = format!("{CONFIG_MAPS}/owner");
    for refused in [json!({"dryRun": ["Some"]}), json!({"propagationPolicy": "Sideways"})] {
        assert_eq!(server.call("DELETE", &path, &refused).await.0, 422, "{refused}");
    }
    server.must("DELETE", &path, &json!({"propagationPolicy": "Orphan"})).await;
    assert_eq!(server.get(&path).await.0, 404);
    let (_, kept) = server.get(&format!("{CONFIG_MAPS}/owned")).await;
    assert_eq!(kept["metadata"]["ownerReferences"], json!([reference("another", &json!("u"))]));
    let (_, kept) = server.get(&format!("{CONFIG_MAPS}/alone")).await;
    assert_eq!((kept["kind"].as_str(), kept["metadata"].get("ownerReferences")), (Some("ConfigMap"), None));
}
