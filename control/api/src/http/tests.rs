//! The REST paths, end to end over a store in memory.

use super::*;
use crate::testing::{self, TOKEN};
use axum::body::Body;
use coracle_store::{Revision, testing::LocalProposer};
use http::{Response as HttpResponse, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

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
async fn an_object_lives_and_dies() {
    let server = Server::new().await;
    let (status, created) = server.call("POST", CONFIG_MAPS, &testing::config_map("x")).await;
    assert_eq!(status, 201);
    assert_eq!(created["metadata"]["namespace"], "default");
    assert!(!created["metadata"]["uid"].as_str().unwrap().is_empty());
    let path = format!("{CONFIG_MAPS}/x");
    assert_eq!(server.get(&path).await, (200, created.clone()), "what is answered is what is stored");

    let (status, refused) = server.call("POST", CONFIG_MAPS, &testing::config_map("x")).await;
    assert_eq!((status, message(&refused)), (409, "configmaps \"x\" already exists"));

    let mut changed = created.clone();
    changed["data"]["a"] = Value::from("2");
    let updated = server.must("PUT", &path, &changed).await;
    assert_ne!(updated["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    assert_eq!(updated["metadata"]["uid"], created["metadata"]["uid"]);
    let (status, refused) = server.call("PUT", &path, &changed).await;
    let text = "Operation cannot be fulfilled on configmaps \"x\": the object has been modified; \
                please apply your changes to the latest version and try again";
    assert_eq!((status, message(&refused)), (409, text));
    let again = server.must("PUT", &path, &updated).await;
    assert_eq!(again, updated, "a change of nothing writes nothing");

    let deleted = server.must("DELETE", &path, &json!({"propagationPolicy": "Background"})).await;
    assert_eq!((deleted["kind"].as_str(), deleted["status"].as_str()), (Some("Status"), Some("Success")));
    assert_eq!(deleted["details"]["uid"], created["metadata"]["uid"]);
    let (status, gone) = server.get(&path).await;
    assert_eq!((status, message(&gone)), (404, "configmaps \"x\" not found"));
    assert_eq!(server.call("DELETE", &path, &Value::Null).await.0, 404);
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
async fn unknown_fields_warn_or_refuse() {
    let server = Server::new().await;
    let mut object = testing::config_map("x");
    object["bogus"] = json!(1);
    let response = server.raw("POST", CONFIG_MAPS, &[], object.to_string()).await;
    let warning = response.headers().get(header::WARNING).and_then(|value| value.to_str().ok()).unwrap().to_owned();
    assert_eq!(warning, r#"299 - "unknown field \"bogus\"""#);
    assert!(json_of(response).await.1.get("bogus").is_none());
    object["metadata"]["name"] = Value::from("y");
    let strict = format!("{CONFIG_MAPS}?fieldValidation=Strict");
    let (status, refused) = server.call("POST", &strict, &object).await;
    assert_eq!(status, 400);
    assert!(message(&refused).contains("unknown field \"bogus\""), "{refused}");
}

#[tokio::test]
async fn yaml_bodies_and_dry_runs() {
    let server = Server::new().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: why\ndata:\n  a: '1'\n";
    let dry = format!("{CONFIG_MAPS}?dryRun=All");
    let (status, created) =
        json_of(server.raw("POST", &dry, &[("content-type", "application/yaml")], yaml).await).await;
    assert_eq!(status, 201, "{created}");
    assert_eq!(server.get(&format!("{CONFIG_MAPS}/why")).await.0, 404);
    let response = server.raw("POST", CONFIG_MAPS, &[("content-type", "application/yaml")], yaml).await;
    assert_eq!(json_of(response).await.0, 201);
    let path = format!("{CONFIG_MAPS}/why");
    server.must("DELETE", &format!("{path}?dryRun=All"), &Value::Null).await;
    let (_, patched) = server.patch(&format!("{path}?dryRun=All"), MERGE, &json!({"data": {"a": "2"}})).await;
    assert_eq!(patched["data"]["a"], "2");
    assert_eq!(server.get(&path).await.1["data"]["a"], "1");
}

#[tokio::test]
async fn lists_are_paged_selected_and_printed() {
    let server = Server::new().await;
    for name in ["a", "b", "c", "d", "e"] {
        server.must("POST", PODS, &testing::pod(name)).await;
    }
    let first = server.must("GET", &format!("{PODS}?limit=2"), &Value::Null).await;
    assert_eq!(first["kind"], "PodList");
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    server.must("POST", PODS, &testing::pod("bb")).await;
    let rest = server.must("GET", &format!("{PODS}?limit=10&continue={token}"), &Value::Null).await;
    let names: Vec<_> =
        rest["items"].as_array().unwrap().iter().map(|pod| pod["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["c", "d", "e"], "a continued list shows the state of its first page");
    assert!(rest["metadata"].get("continue").is_none());
    server.proposer.compact(Revision(server.door.store().revision().0 + 1)).unwrap();
    let (status, expired) = server.get(&format!("{PODS}?limit=10&continue={token}")).await;
    assert_eq!((status, expired["reason"].as_str()), (410, Some("Expired")));

    let chosen = server.must("GET", "/api/v1/pods?labelSelector=app%20in%20(a,c)&limit=1", &Value::Null).await;
    assert_eq!(chosen["items"].as_array().map(Vec::len), Some(1));
    let token = chosen["metadata"]["continue"].as_str().unwrap();
    let chosen = server
        .must("GET", &format!("/api/v1/pods?labelSelector=app%20in%20(a,c)&limit=1&continue={token}"), &Value::Null)
        .await;
    assert_eq!(chosen["items"][0]["metadata"]["name"], "c");
    let one = server.must("GET", &format!("{PODS}?fieldSelector=metadata.name%3Db"), &Value::Null).await;
    assert_eq!(one["items"].as_array().map(Vec::len), Some(1), "bb is not b");

    for path in [PODS.to_owned(), format!("{PODS}/a")] {
        let (_, table) = json_of(server.raw("GET", &path, &[("accept", TABLE)], "").await).await;
        assert_eq!((table["kind"].as_str(), table["apiVersion"].as_str()), (Some("Table"), Some("meta.k8s.io/v1")));
        assert_eq!(table["rows"][0]["cells"][0], "a");
    }
    let partial = ("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io");
    let (_, list) = json_of(server.raw("GET", PODS, &[partial], "").await).await;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert!(list["items"][0].get("spec").is_none());
}

#[tokio::test]
async fn watches_follow_a_selected_set() {
    let server = Server::new().await;
    server.must("POST", PODS, &testing::pod("a")).await;
    let listed = server.must("GET", PODS, &Value::Null).await;
    let from = listed["metadata"]["resourceVersion"].as_str().unwrap();
    let mut all = server.watch(&format!("{PODS}?watch=true&resourceVersion={from}")).await;
    let mut chosen = server.watch("/api/v1/pods?watch=1&labelSelector=app%3Da").await;
    chosen.must("ADDED", "a").await;
    server.must("POST", PODS, &testing::pod("b")).await;
    server.patch(&format!("{PODS}/a"), MERGE, &json!({"metadata": {"labels": {"app": "z"}}})).await;
    server.patch(&format!("{PODS}/a"), MERGE, &json!({"metadata": {"labels": {"app": "a"}}})).await;
    server.must("DELETE", &format!("{PODS}/a"), &Value::Null).await;
    for (event_type, name) in [("ADDED", "b"), ("MODIFIED", "a"), ("MODIFIED", "a"), ("DELETED", "a")] {
        all.must(event_type, name).await;
    }
    let left = chosen.must("DELETED", "a").await;
    assert_eq!(left["object"]["metadata"]["labels"]["app"], "a");
    chosen.must("ADDED", "a").await;
    chosen.must("DELETED", "a").await;
    server.door.close();
    assert_eq!(all.next().await, None, "the end of the server ends the watch");
    assert_eq!(chosen.next().await, None);
}

#[tokio::test]
async fn watches_end_at_their_timeout_with_a_bookmark() {
    let server = Server::new().await;
    let path = format!("{PODS}?watch=true&resourceVersion=1&allowWatchBookmarks=true&timeoutSeconds=1");
    server.must("POST", CONFIG_MAPS, &testing::config_map("other")).await;
    let mut watch = server.watch(&path).await;
    let event = watch.next().await;
    if let Some(event) = event {
        assert_eq!(event["type"], "BOOKMARK");
        assert_eq!(event["object"]["kind"], "Pod");
        assert_eq!(watch.next().await, None);
    }
}

#[tokio::test]
async fn watches_tell_what_they_cannot_do() {
    let server = Server::new().await;
    for name in ["a", "b"] {
        server.must("POST", PODS, &testing::pod(name)).await;
    }
    server.proposer.compact(server.door.store().revision()).unwrap();
    let mut expired = server.watch(&format!("{PODS}?watch=true&resourceVersion=1")).await;
    let event = expired.next().await.unwrap();
    assert_eq!((event["type"].as_str(), event["object"]["code"].as_u64()), (Some("ERROR"), Some(410)));
    assert_eq!(expired.next().await, None);
    assert_eq!(server.get(&format!("{PODS}?watch=true&sendInitialEvents=true")).await.0, 422);

    let initial = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut streamed = server.watch(&format!("{PODS}?{initial}")).await;
    streamed.must("ADDED", "a").await;
    streamed.must("ADDED", "b").await;
    let mark = streamed.next().await.unwrap();
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let response = server.raw("GET", &format!("{PODS}?watch=true"), &[("accept", TABLE)], "").await;
    let mut tables = Frames(response.into_body());
    let (first, second) = (tables.next().await.unwrap(), tables.next().await.unwrap());
    assert!(!first["object"]["columnDefinitions"].as_array().unwrap().is_empty());
    assert!(second["object"]["columnDefinitions"].as_array().unwrap().is_empty());
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
}

#[tokio::test]
async fn patches_of_every_type() {
    let server = Server::new().await;
    server.must("POST", PODS, &testing::pod("p")).await;
    let path = format!("{PODS}/p");
    let (status, patched) = server.patch(&path, MERGE, &json!({"metadata": {"labels": {"app": null, "b": "1"}}})).await;
    assert_eq!((status, &patched["metadata"]["labels"]), (200, &json!({"b": "1"})));
    let json_patch = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": "app:2"}]);
    let (status, patched) = server.patch(&path, "application/json-patch+json", &json_patch).await;
    assert_eq!((status, patched["spec"]["containers"][0]["image"].as_str()), (200, Some("app:2")), "{patched}");
    let strategic = json!({"spec": {"containers": [{"name": "main", "image": "app:3"}]}});
    let (status, patched) = server.patch(&path, "application/strategic-merge-patch+json", &strategic).await;
    assert_eq!((status, patched["spec"]["containers"].as_array().map(Vec::len)), (200, Some(1)), "{patched}");
    assert_eq!(patched["metadata"]["generation"], 3);
    assert_eq!(server.patch(&path, "application/apply-patch+yaml", &json!({})).await.0, 415);
    let stale = json!({"metadata": {"resourceVersion": "1", "labels": {"c": "1"}}});
    assert_eq!(server.patch(&path, MERGE, &stale).await.0, 409);
    let renamed = json!({"metadata": {"name": "q"}});
    assert_eq!(server.patch(&path, MERGE, &renamed).await.0, 400);
    let (status, refused) = server.patch(&path, MERGE, &json!({"spec": {"containers": []}})).await;
    assert_eq!(status, 422, "{refused}");
}

#[tokio::test]
async fn status_is_its_own_path() {
    let server = Server::new().await;
    server.must("POST", PODS, &testing::pod("p")).await;
    let path = format!("{PODS}/p");
    let (_, ignored) = server.patch(&path, MERGE, &json!({"status": {"phase": "Failed"}})).await;
    assert_ne!(ignored["status"]["phase"], "Failed");
    let both = json!({"status": {"phase": "Running"}, "spec": {"containers": [{"name": "main", "image": "other"}]}});
    let (status, changed) = server.patch(&format!("{path}/status"), MERGE, &both).await;
    assert_eq!(status, 200, "{changed}");
    assert_eq!(changed["status"]["phase"], "Running");
    assert_eq!(changed["spec"]["containers"][0]["image"], "app:1");
    assert_eq!(server.get(&format!("{path}/status")).await.0, 200);
}

#[tokio::test]
async fn binding_deleting_and_finalizing_a_pod() {
    let server = Server::new().await;
    server.must("POST", PODS, &testing::pod("p")).await;
    let path = format!("{PODS}/p");
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "one"}});
    let (status, bound) = server.call("POST", &format!("{path}/binding"), &binding).await;
    assert_eq!((status, bound["status"].as_str()), (201, Some("Success")));
    let (status, refused) = server.call("POST", &format!("{path}/binding"), &binding).await;
    assert_eq!(
        (status, message(&refused).contains("pod p is already assigned to node \"one\"")),
        (409, true),
        "{refused}"
    );
    let pod = server.get(&path).await.1;
    assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");

    let wrong = json!({"preconditions": {"uid": "other"}});
    assert_eq!(server.call("DELETE", &path, &wrong).await.0, 409);
    let ending = server.must("DELETE", &path, &Value::Null).await;
    assert_eq!(
        (ending["kind"].as_str(), ending["metadata"]["deletionGracePeriodSeconds"].as_i64()),
        (Some("Pod"), Some(30))
    );
    let uid = pod["metadata"]["uid"].clone();
    let finally = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
    server.must("DELETE", &path, &finally).await;
    assert_eq!(server.get(&path).await.0, 404);

    let mut held = testing::config_map("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.must("POST", CONFIG_MAPS, &held).await;
    let path = format!("{CONFIG_MAPS}/held");
    let marked = server.must("DELETE", &path, &Value::Null).await;
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    server.patch(&path, MERGE, &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(server.get(&path).await.0, 404);
}

#[tokio::test]
async fn namespaces_end_when_they_are_empty() {
    let server = Server::new().await;
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    let created = server.must("POST", "/api/v1/namespaces", &body).await;
    assert_eq!(created["spec"]["finalizers"], json!(["kubernetes"]), "{created}");
    let ending = server.must("DELETE", "/api/v1/namespaces/team", &Value::Null).await;
    assert_eq!(ending["status"]["phase"], "Terminating");
    let (status, refused) = server.call("POST", "/api/v1/namespaces/team/configmaps", &testing::config_map("x")).await;
    assert_eq!(status, 403);
    assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let mut emptied = ending;
    emptied["spec"]["finalizers"] = json!([]);
    server.must("PUT", "/api/v1/namespaces/team/finalize", &emptied).await;
    assert_eq!(server.get("/api/v1/namespaces/team").await.0, 404);
}

#[tokio::test]
async fn services_get_addresses_of_their_own() {
    let server = Server::new().await;
    let first = server.must("POST", SERVICES, &testing::service("a")).await;
    let address = first["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.96."), "{address}");
    assert_eq!(first["spec"]["clusterIPs"], json!([address]));
    assert_eq!(
        (&first["spec"]["ipFamilies"], &first["spec"]["ipFamilyPolicy"]),
        (&json!(["IPv4"]), &json!("SingleStack"))
    );

    let mut same = testing::service("b");
    same["spec"]["clusterIP"] = Value::from(address.as_str());
    let (status, refused) = server.call("POST", SERVICES, &same).await;
    assert_eq!((status, message(&refused).contains("provided IP is already allocated")), (422, true), "{refused}");
    same["spec"]["clusterIP"] = Value::from("192.168.0.1");
    let (status, refused) = server.call("POST", SERVICES, &same).await;
    assert_eq!((status, message(&refused).contains("not in the valid range")), (422, true), "{refused}");

    let (status, patched) = server.patch(&format!("{SERVICES}/a"), MERGE, &json!({"spec": {"type": "NodePort"}})).await;
    assert_eq!(status, 200, "{patched}");
    let port = patched["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30_000..=32_767).contains(&port));
    assert_eq!(patched["spec"]["clusterIP"], Value::from(address.as_str()));
    let mut taken = testing::service("c");
    taken["spec"]["type"] = Value::from("NodePort");
    taken["spec"]["ports"][0]["nodePort"] = Value::from(port);
    let (status, refused) = server.call("POST", SERVICES, &taken).await;
    assert_eq!((status, message(&refused).contains("provided port is already allocated")), (422, true), "{refused}");

    server.must("DELETE", &format!("{SERVICES}/a"), &Value::Null).await;
    taken["spec"]["clusterIP"] = Value::from(address.as_str());
    let taken_over = server.must("POST", SERVICES, &taken).await;
    assert_eq!(taken_over["spec"]["ports"][0]["nodePort"], port, "what is given back can be taken");
    let mut headless = testing::service("d");
    headless["spec"]["clusterIP"] = Value::from("None");
    assert_eq!(server.must("POST", SERVICES, &headless).await["spec"]["clusterIPs"], json!(["None"]));
}

#[tokio::test]
async fn generated_names_and_collections() {
    let server = Server::new().await;
    let mut object = testing::config_map("x");
    object["metadata"] = json!({"generateName": "made-", "labels": {"batch": "1"}});
    let names: std::collections::BTreeSet<String> = {
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..5 {
            let created = server.must("POST", CONFIG_MAPS, &object).await;
            names.insert(created["metadata"]["name"].as_str().unwrap().to_owned());
        }
        names
    };
    assert!(names.len() == 5 && names.iter().all(|name| name.starts_with("made-") && name.len() == 10), "{names:?}");
    server.must("POST", CONFIG_MAPS, &testing::config_map("kept")).await;
    let removed = server.must("DELETE", &format!("{CONFIG_MAPS}?labelSelector=batch%3D1"), &Value::Null).await;
    assert_eq!(removed["items"].as_array().map(Vec::len), Some(5));
    let left = server.must("GET", CONFIG_MAPS, &Value::Null).await;
    assert_eq!(left["items"][0]["metadata"]["name"], "kept");
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn discovery_openapi_version_and_health() {
    let server = Server::new().await;
    for path in [
        "/api",
        "/apis",
        "/api/v1",
        "/apis/discovery.k8s.io",
        "/apis/discovery.k8s.io/v1",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/api/v1",
        "/",
    ] {
        let (status, answer) = server.get(path).await;
        assert!(status == 200 && answer.is_object(), "{path}: {status}");
    }
    assert_eq!(server.get("/apis/nothing").await.0, 404);
    let aggregated =
        ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json");
    let response = server.raw("GET", "/apis", &[aggregated], "").await;
    let content_type = response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
    assert!(content_type.contains("as=APIGroupDiscoveryList"), "{content_type}");
    let protobuf = ("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf");
    let response = server.raw("GET", "/openapi/v2", &[protobuf], "").await;
    assert!(response.headers()[header::CONTENT_TYPE].to_str().unwrap().ends_with("protobuf"));

    let anonymous = |path: &str| http::Request::get(path).body(Body::empty()).unwrap();
    let (status, version) = json_of(server.send(anonymous("/version")).await).await;
    assert_eq!((status, version["minor"].as_str()), (200, Some("33")));
    assert_eq!(json_of(server.send(anonymous("/livez")).await).await, (200, Value::from("ok")));
    assert_eq!(json_of(server.send(anonymous("/readyz")).await).await.0, 503);
    server.door.set_ready_check(Box::new(|| vec!["no node is ready".to_owned()]));
    let (status, text) = json_of(server.send(anonymous("/readyz")).await).await;
    assert_eq!((status, text.as_str()), (503, Some("not ready\n[-] no node is ready\n")));
}

#[tokio::test]
async fn an_exact_state_can_be_listed_again() {
    let server = Server::new().await;
    server.must("POST", PODS, &testing::pod("a")).await;
    let Revision(then) = server.door.store().revision();
    server.must("POST", PODS, &testing::pod("b")).await;
    let exact =
        server.must("GET", &format!("{PODS}?resourceVersion={then}&resourceVersionMatch=Exact"), &Value::Null).await;
    assert_eq!(exact["items"].as_array().map(Vec::len), Some(1));
    let newer = server.must("GET", &format!("{PODS}?resourceVersion={then}"), &Value::Null).await;
    assert_eq!(newer["items"].as_array().map(Vec::len), Some(2));
}
