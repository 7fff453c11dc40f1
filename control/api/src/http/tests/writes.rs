//! Bodies, patches, names: how objects are written.

use super::*;

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
