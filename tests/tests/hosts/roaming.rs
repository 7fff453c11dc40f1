//! A node that moves to another address while it runs, and whose pods are reached there.

use super::{on, realm, toolbox};
use coracle_tests::{
    eventually,
    network::{address, client, endpoints, get, node_port_number, server, service},
    pods::{self, running},
};
use serde_json::json;
use std::net::SocketAddr;

/// The last part of the address that it moves to.
const ELSEWHERE: u8 = 210;

#[test]
fn a_node_that_moves_is_found_again_by_others_and_at_its_node_ports() {
    let (mut realm, kubectl) = realm(&["a", "roaming"]);
    let web = service("web", "web", &json!({"type": "NodePort", "ports": [{"port": 80, "targetPort": 8080}]}));
    pods::apply(&kubectl, "default", &[on("roaming", server("far", "web")), web]);
    running(&kubectl, "far");
    endpoints(&kubectl, "web", 1);
    let asks = client("asks", &[&["until", "web", "80"], &["get", "web", "80", "/", "100000"]]);
    pods::apply(&kubectl, "default", &[on("a", asks)]);
    let answers = |realm: &coracle_tests::hosts::Realm| {
        realm.output("a", "asks").lines().filter(|line| line.contains("200 hello from far")).count()
    };
    eventually("answers", || if answers(&realm) > 5 { Ok(()) } else { Err(realm.output("a", "asks")) });
    let pod = address(&kubectl, "far");

    realm.host_mut("roaming").renumber(ELSEWHERE);
    let now = realm.host("roaming").address();
    eventually("the node to say where it is", || {
        let node = kubectl.json("get node roaming")?;
        let said = &node["status"]["addresses"][0]["address"];
        let tunnel = &node["metadata"]["annotations"]["coracle.dev/tunnel"];
        let as_it_is = *said == now.to_string() && *tunnel == format!("{now}:6444");
        if as_it_is { Ok(()) } else { Err(format!("{said} {tunnel}\n{}", realm.log("roaming"))) }
    });
    let before = answers(&realm);
    eventually("answers from the new place", || {
        let now = answers(&realm);
        if now > before + 20 { Ok(()) } else { Err(format!("{now} after {before}\n{}", realm.log("a"))) }
    });
    assert_eq!(address(&kubectl, "far"), pod, "the pod stays what it is");
    // It says where its node is now; so do containers that begin there.
    pods::until(&kubectl, "far", "the node's new address", |pod| {
        pod["status"]["hostIP"] == now.to_string() && pod["status"]["hostIPs"] == json!([{"ip": now.to_string()}])
    });
    let mut seen = toolbox("seen", "Never", &["env"]);
    seen["spec"]["containers"][0]["env"] =
        json!([{"name": "HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}]);
    pods::apply(&kubectl, "default", &[on("roaming", seen)]);
    pods::phase(&kubectl, "seen", "Succeeded");
    let said = kubectl.run("logs seen").unwrap();
    assert!(said.lines().any(|line| line == format!("HOST_IP={now}")), "{said}");
    let port = SocketAddr::new(now.into(), node_port_number(&kubectl, "web", ""));
    eventually("the node port at the new address", || {
        let answer = realm.outsider().namespace().run(|| get(port, "/"))?;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    });
    realm.ready("roaming", "True");
}
