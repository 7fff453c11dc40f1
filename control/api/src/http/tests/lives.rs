//! From creation to the end: what an object goes through.

use super::*;

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
