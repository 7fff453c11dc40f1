//! Services of every kind through the public doors: what they are reached by, and what happens when they become another kind.

use coracle_tests::{
    Cluster, Kubectl, eventually,
    network::{address, cluster, datagram, endpoints, get, node_port, probe, server, service},
    pods::{self, running},
};
use serde_json::{Value, json};

/// A cluster with servers `a` and `b` behind label `web`.
fn two_servers(services: &[Value]) -> (Cluster, Kubectl) {
    let (cluster, kubectl) = cluster();
    pods::apply(&kubectl, "default", &[&["a", "b"].map(|name| server(name, "web"))[..], services].concat());
    for name in ["a", "b"] {
        running(&kubectl, name);
    }
    (cluster, kubectl)
}

fn patch(kubectl: &Kubectl, service: &str, spec: &Value) {
    let change = json!({"spec": spec}).to_string();
    kubectl.run_arguments(["patch", "service", service, "--type=merge", "-p", &change]).unwrap();
}

#[test]
fn a_service_becomes_another_kind() {
    let ports = json!([
        {"name": "http", "port": 80, "targetPort": "http"}, {"name": "both", "port": 91, "targetPort": 8080},
        {"name": "both-udp", "port": 91, "targetPort": "udp", "protocol": "UDP"}]);
    let web = service("web", "web", &json!({"type": "NodePort", "ports": ports, "externalTrafficPolicy": "Local"}));
    let other = service(
        "other",
        "web",
        &json!({"ports": [{"port": 80, "targetPort": 8080}], "internalTrafficPolicy": "Local"}),
    );
    let (cluster, kubectl) = two_servers(&[web, other]);
    endpoints(&kubectl, "web", 2);
    // One number for both protocols; all endpoints are on this node, so that `Local` is no restriction.
    let (tcp, udp) = (node_port(&cluster, "web", "both"), node_port(&cluster, "web", "both-udp"));
    assert_eq!(tcp, udp);
    eventually("an answer by TCP", || get(tcp, "/").map(drop));
    assert_eq!(eventually("an answer by UDP", || datagram(udp, b"hello")), b"hello");
    let log = probe(&kubectl, "local", &[&["until", "other", "80"], &["get", "other", "80", "/"]]);
    assert!(log.lines().last().is_some_and(|line| line.starts_with("200 hello from ")), "{log}");

    let ip_of = |name: &str| kubectl.json(&format!("get service {name}")).unwrap()["spec"]["clusterIP"].clone();
    let before = ip_of("web");
    patch(&kubectl, "web", &json!({"type": "ClusterIP"}));
    eventually("the node port to be closed", || get(tcp, "/").map_or(Ok(()), |answer| Err(answer.text())));
    assert_eq!(ip_of("web"), before);
    patch(&kubectl, "web", &json!({"type": "ExternalName", "externalName": "other.default.svc.cluster.local"}));
    let target = ip_of("other");
    let log = eventually("the alias", || {
        let name = format!("alias-{}", kubectl.run("get pods -o name")?.lines().count());
        let log = probe(&kubectl, &name, &[&["resolve", "web"]]);
        if log.trim() == format!("web is at {}", target.as_str().unwrap_or_default()) { Ok(log) } else { Err(log) }
    });
    assert!(!log.contains(before.as_str().unwrap()), "{log}");
    let old_address = before.as_str().unwrap();
    let log = probe(&kubectl, "nobody", &[&["connect", old_address, "80"]]);
    assert!(log.trim().ends_with("connection refused"), "an address that is nobody's is refused at once: {log}");
    patch(&kubectl, "web", &json!({"type": "NodePort"}));
    eventually("an answer at the new node port", || get(node_port(&cluster, "web", "http"), "/").map(drop));
}

#[test]
fn endpoints_written_by_hand_get_traffic_and_follow() {
    let bare = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    let manual = bare("manual", json!({"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}));
    let headless = bare("db", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 8080}]}));
    let (_cluster, kubectl) = two_servers(&[manual, headless]);
    let by_hand = |service: &str, pod: &str| {
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": service}, "subsets": [{
            "addresses": [{"ip": address(&kubectl, pod).to_string(), "hostname": "one"}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}]})
    };
    pods::apply(&kubectl, "default", &[by_hand("manual", "a"), by_hand("db", "b")]);
    let log = probe(
        &kubectl,
        "first",
        &[
            &["until", "manual", "80"],
            &["get", "manual", "80", "/", "10"],
            &["until", "one.db", "8080"],
            &["resolve", "one.db"],
        ],
    );
    let from_a = log.lines().filter(|line| line.starts_with("200 hello from a,")).count();
    assert_eq!(from_a, 10, "{log}");
    assert_eq!(log.lines().last(), Some(&*format!("one.db is at {}", address(&kubectl, "b"))), "{log}");

    pods::apply(&kubectl, "default", &[by_hand("manual", "b")]);
    eventually("the mirror to follow", || {
        let slices = kubectl.json("get endpointslices -l kubernetes.io/service-name=manual")?;
        let there = &slices["items"][0]["endpoints"][0]["addresses"][0];
        if *there == address(&kubectl, "b").to_string() { Ok(()) } else { Err(slices["items"].to_string()) }
    });
    kubectl.run("delete endpoints manual").unwrap();
    eventually("the mirror to go", || {
        let slices = kubectl.run("get endpointslices -l kubernetes.io/service-name=manual -o name")?;
        if slices.is_empty() { Ok(()) } else { Err(slices) }
    });
}

#[test]
fn an_external_ip_is_the_services_from_inside() {
    let spec = json!({"externalIPs": ["198.51.100.7"], "ports": [{"port": 80, "targetPort": 8080}]});
    let (_cluster, kubectl) = two_servers(&[service("web", "web", &spec)]);
    endpoints(&kubectl, "web", 2);
    let log = probe(
        &kubectl,
        "client",
        &[&["until", "web", "80"], &["get", "198.51.100.7", "80", "/", "4"], &["connect", "198.51.100.7", "81"]],
    );
    let answers = log.lines().filter(|line| line.starts_with("200 hello from ")).count();
    assert_eq!(answers, 4, "{log}");
    assert!(log.trim().ends_with("connection refused"), "{log}");
}
