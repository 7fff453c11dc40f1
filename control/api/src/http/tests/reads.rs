//! Lists, watches and what describes the server.

use super::*;

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
