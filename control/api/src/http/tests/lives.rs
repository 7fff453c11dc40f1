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

/// A service of two ports, TCP and UDP, with the same number.
fn dns(name: &str) -> Value {
    let mut dns = testing::service(name);
    dns["spec"] = json!({"type": "NodePort", "ports": [
        {"name": "tcp", "port": 53}, {"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "web", "port": 80},
    ]});
    dns
}

fn node_ports(service: &Value) -> Vec<i64> {
    let ports = service["spec"]["ports"].as_array().unwrap();
    ports.iter().map(|port| port["nodePort"].as_i64().unwrap_or_default()).collect()
}

#[tokio::test]
async fn a_port_that_is_both_tcp_and_udp_has_one_node_port() {
    let server = Server::new().await;
    let made = server.must("POST", SERVICES, &dns("a")).await;
    let ports = node_ports(&made);
    assert!(ports[0] == ports[1] && ports[0] != ports[2] && ports[2] != 0, "{ports:?}");
    // Asked for by the later one, it is the earlier one's as well.
    let mut asked = dns("b");
    asked["spec"]["ports"][1]["nodePort"] = json!(30_053);
    let asked = node_ports(&server.must("POST", SERVICES, &asked).await);
    assert_eq!(asked[..2], [30_053, 30_053]);
    // One that is added later joins the one that is there.
    let mut grown = testing::service("c");
    grown["spec"]["type"] = json!("NodePort");
    grown["spec"]["ports"] = json!([{"name": "tcp", "port": 53}]);
    let mut grown = server.must("POST", SERVICES, &grown).await;
    grown["spec"]["ports"] = json!([{"name": "tcp", "port": 53}, {"name": "udp", "port": 53, "protocol": "UDP"}]);
    let grown = node_ports(&server.must("PUT", &format!("{SERVICES}/c"), &grown).await);
    assert_eq!(grown[0], grown[1]);
    let mut twice = dns("d");
    twice["spec"]["ports"][0]["nodePort"] = json!(30_054);
    twice["spec"]["ports"][2]["nodePort"] = json!(30_054);
    let (status, refused) = server.call("POST", SERVICES, &twice).await;
    assert_eq!(
        (status, message(&refused).contains("spec.ports[2].nodePort: Duplicate value")),
        (422, true),
        "{refused}"
    );
}

#[tokio::test]
async fn load_balancers_that_ask_each_node_have_a_port_to_ask_at() {
    let server = Server::new().await;
    let mut local = testing::service("a");
    local["spec"]["type"] = json!("LoadBalancer");
    local["spec"]["externalTrafficPolicy"] = json!("Local");
    let made = server.must("POST", SERVICES, &local).await;
    let port = made["spec"]["healthCheckNodePort"].as_i64().unwrap();
    assert!((30_000..=32_767).contains(&port) && node_ports(&made)[0] != port, "{made}");
    let mut taken = testing::service("b");
    taken["spec"]["type"] = json!("NodePort");
    taken["spec"]["ports"][0]["nodePort"] = json!(port);
    let (status, refused) = server.call("POST", SERVICES, &taken).await;
    assert_eq!((status, message(&refused).contains("provided port is already allocated")), (422, true), "{refused}");
    // A change that is silent about it keeps it, and one that needs it no more gives it back.
    local["spec"]["ports"][0]["port"] = json!(81);
    local["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    let kept = server.must("PUT", &format!("{SERVICES}/a"), &local).await;
    assert_eq!(kept["spec"]["healthCheckNodePort"], port);
    let change = json!({"spec": {"externalTrafficPolicy": "Cluster"}});
    let (status, changed) = server.patch(&format!("{SERVICES}/a"), MERGE, &change).await;
    assert_eq!((status, changed["spec"].get("healthCheckNodePort")), (200, None), "{changed}");
    server.must("POST", SERVICES, &taken).await;
}

#[tokio::test]
async fn a_service_that_changes_its_type_gives_back_and_gets_what_the_type_has() {
    let server = Server::new().await;
    let own = format!("{SERVICES}/a");
    let patch = async |spec: Value| {
        let (status, patched) = server.patch(&own, MERGE, &json!({"spec": spec})).await;
        assert_eq!(status, 200, "{patched}");
        patched
    };
    let made = server.must("POST", SERVICES, &testing::service("a")).await;
    let address = made["spec"]["clusterIP"].clone();
    let port = node_ports(&patch(json!({"type": "NodePort"})).await)[0];
    let plain = patch(json!({"type": "ClusterIP"})).await;
    assert_eq!((&plain["spec"]["clusterIP"], node_ports(&plain)[0]), (&address, 0), "{plain}");
    assert_eq!(plain["spec"].get("externalTrafficPolicy"), None);
    let mut other = testing::service("b");
    other["spec"]["type"] = json!("NodePort");
    other["spec"]["ports"][0]["nodePort"] = json!(port);
    server.must("POST", SERVICES, &other).await;

    let external = patch(json!({"type": "ExternalName", "externalName": "example.com"})).await;
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        assert_eq!(external["spec"].get(field), None, "{external}");
    }
    let mut heir = testing::service("c");
    heir["spec"]["clusterIP"] = address.clone();
    server.must("POST", SERVICES, &heir).await;

    let back = patch(json!({"type": "NodePort"})).await;
    let given = back["spec"]["clusterIP"].as_str().unwrap();
    assert!(given.starts_with("10.96.") && given != address, "{back}");
    assert_eq!(back["spec"]["clusterIPs"], json!([given]));
    assert!(node_ports(&back)[0] >= 30_000 && node_ports(&back)[0] != port, "{back}");
    // Another number frees the one before.
    let moved = patch(json!({"ports": [{"port": 80, "nodePort": 31_000}]})).await;
    assert_eq!(node_ports(&moved), [31_000]);
    other["metadata"]["name"] = json!("d");
    other["spec"]["ports"][0]["nodePort"] = json!(node_ports(&back)[0]);
    server.must("POST", SERVICES, &other).await;
    let (status, refused) =
        server.patch(&own, MERGE, &json!({"spec": {"clusterIP": "None", "type": "ClusterIP"}})).await;
    assert_eq!((status, message(&refused).contains("may not change once set")), (422, true), "{refused}");
}
