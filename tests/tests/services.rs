//! Services as clients see them: by cluster IP, by name, from the host; what happens when endpoints come, go and fail.

use coracle_tests::{
    Cluster, Kubectl, eventually,
    network::{address, client, cluster, datagram, endpoints, get, node_port, probe, server, service},
    pods::{self, running},
};
use serde_json::json;
use std::collections::BTreeSet;

/// A cluster with servers `a`, `b`, `c` behind label `web`, and one client that has seen them.
fn three_servers(services: &[serde_json::Value]) -> (Cluster, Kubectl) {
    let (cluster, kubectl) = cluster();
    let servers = ["a", "b", "c"].map(|name| server(name, "web"));
    pods::apply(&kubectl, "default", &[&servers[..], services].concat());
    for name in ["a", "b", "c"] {
        running(&kubectl, name);
    }
    (cluster, kubectl)
}

/// Who answered: the names in lines like `200 hello from NAME, here …`. Anything else is a failure.
fn who(log: &str) -> Vec<String> {
    let name = |line: &str| line.strip_prefix("200 hello from ")?.split(',').next().map(str::to_owned);
    log.lines().map(|line| name(line).unwrap_or_else(|| panic!("{line:?} in:\n{log}"))).collect()
}

fn all(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn many_ports() -> serde_json::Value {
    service(
        "web",
        "web",
        &json!({"type": "NodePort", "ports": [
            {"name": "http", "port": 80, "targetPort": "http"}, {"name": "echo", "port": 90, "targetPort": 9000},
            {"name": "udp", "port": 91, "targetPort": "udp", "protocol": "UDP"}]}),
    )
}

#[test]
fn every_port_reaches_every_ready_pod() {
    let (cluster, kubectl) = three_servers(&[many_ports()]);
    endpoints(&kubectl, "web", 3);
    let ip = kubectl.json("get service web").unwrap()["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let by_ip = probe(&kubectl, "by-ip", &[&["get", &ip, "80", "/", "40"]]);
    assert_eq!(who(&by_ip).into_iter().collect::<BTreeSet<_>>(), all(&["a", "b", "c"]), "{by_ip}");
    let others = probe(
        &kubectl,
        "others",
        &[
            &["get", "web", "80", "/", "40"],
            &["echo", "web", "90", "300000", "5"],
            &["udp", "web", "91", "hello"],
            &["connect", "web", "81", "8080"],
            &["connect", &ip, "443"],
        ],
    );
    let lines: Vec<_> = others.lines().collect();
    assert_eq!(who(&lines[..40].join("\n")).into_iter().collect::<BTreeSet<_>>(), all(&["a", "b", "c"]));
    assert_eq!(lines[40], "echo: 300000 bytes came back");
    // The reply comes from where the question went.
    assert_eq!(lines[41], format!("udp: hello from {ip}:91"));
    assert!(lines[42..].iter().all(|line| line.ends_with("connection refused")), "{others}");

    let http = node_port(&cluster, "web", "http");
    let mut answered = BTreeSet::new();
    eventually("answers from all three at the node port", || {
        answered.extend(who(&format!("200 {}", get(http, "/")?.text())));
        if answered == all(&["a", "b", "c"]) { Ok(()) } else { Err(format!("{answered:?}")) }
    });
    let changed = r#"[{"op": "replace", "path": "/spec/type", "value": "ClusterIP"}]"#;
    kubectl.run_arguments(["patch", "service", "web", "--type=json", "-p", changed]).unwrap();
    eventually("the node port to be closed", || get(http, "/").map_or(Ok(()), |answer| Err(answer.text())));
}

#[test]
fn a_datagram_is_answered_at_the_node_port() {
    let (cluster, kubectl) = three_servers(&[many_ports()]);
    endpoints(&kubectl, "web", 3);
    let udp = node_port(&cluster, "web", "udp");
    eventually("a datagram's echo at the node port", || {
        let reply = datagram(udp, b"from the host")?;
        if reply == b"from the host" { Ok(()) } else { Err(format!("{reply:?}")) }
    });
}

#[test]
fn who_ends_or_goes_gets_no_traffic_and_others_answer() {
    let (_cluster, kubectl) = three_servers(&[many_ports()]);
    endpoints(&kubectl, "web", 3);
    // The container of `a` ends by itself: from the next dial on, nobody may notice.
    let a = address(&kubectl, "a").to_string();
    let log = probe(&kubectl, "killer", &[&["get", &a, "8080", "/exit"], &["get", "web", "80", "/", "60"]]);
    let lines: Vec<_> = log.lines().collect();
    assert!(lines[0].starts_with("get: failed"), "{log}");
    let answered = who(&lines[1..].join("\n"));
    assert_eq!(answered.len(), 60);
    assert!(answered.iter().any(|name| name == "b") && answered.iter().any(|name| name == "c"), "{log}");
    kubectl.run("delete pod b --timeout=30s").unwrap();
    kubectl.run("label pod c app-").unwrap();
    eventually("only a is left", || {
        let object = kubectl.json("get endpoints web")?;
        let names = object["subsets"][0]["addresses"].as_array().cloned().unwrap_or_default();
        let names: Vec<_> = names.iter().map(|one| one["targetRef"]["name"].clone()).collect();
        if names == [json!("a")] { Ok(()) } else { Err(object["subsets"].to_string()) }
    });
    let log = probe(&kubectl, "after", &[&["until", "web", "80"], &["get", "web", "80", "/", "20"]]);
    let answered: Vec<_> = log.lines().skip(1).collect();
    assert_eq!(who(&answered.join("\n")).into_iter().collect::<BTreeSet<_>>(), all(&["a"]), "{log}");
    kubectl.run("delete pod a --timeout=30s").unwrap();
    endpoints(&kubectl, "web", 0);
    let log = probe(&kubectl, "nobody", &[&["get", "web", "80", "/"]]);
    assert_eq!(log.trim(), "get: failed: connection refused");
}

#[test]
fn headless_services_and_aliases_are_names() {
    let headless = service("peers", "web", &json!({"clusterIP": "None", "ports": [{"name": "http", "port": 8080}]}));
    let alias = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "elsewhere"},
        "spec": {"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}});
    let (_cluster, kubectl) = three_servers(&[many_ports(), headless, alias]);
    endpoints(&kubectl, "peers", 3);
    let mut addresses = ["a", "b", "c"].map(|name| address(&kubectl, name).to_string());
    addresses.sort();
    let ip = kubectl.json("get service web").unwrap()["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let log = probe(
        &kubectl,
        "asker",
        &[&["resolve", "peers", "elsewhere"], &["get", "peers", "8080", "/"], &["get", "elsewhere", "80", "/"]],
    );
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines[0], format!("peers is at {}", addresses.join(" ")));
    assert_eq!(lines[1], format!("elsewhere is at {ip}"));
    assert_eq!(who(&lines[2..].join("\n")).len(), 2);
}

#[test]
fn affinity_keeps_a_client_at_one_pod() {
    let sticky =
        service("sticky", "web", &json!({"sessionAffinity": "ClientIP", "ports": [{"port": 80, "targetPort": 8080}]}));
    let (_cluster, kubectl) = three_servers(&[sticky]);
    endpoints(&kubectl, "sticky", 3);
    let mut chosen = BTreeSet::new();
    for number in 0..6 {
        let log = probe(&kubectl, &format!("client-{number}"), &[&["get", "sticky", "80", "/", "20"]]);
        let answered: BTreeSet<_> = who(&log).into_iter().collect();
        assert_eq!(answered.len(), 1, "one client was answered by {answered:?}");
        chosen.extend(answered);
    }
    assert!(chosen.len() > 1, "six clients all went to {chosen:?}");
}

#[test]
fn endpoints_made_by_hand_from_a_set_based_selector() {
    let bare = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chosen"},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
    let (_cluster, kubectl) = three_servers(&[bare]);
    for (pod, tier) in [("a", "front"), ("b", "back"), ("c", "other")] {
        kubectl.run(&format!("label pod {pod} tier={tier}")).unwrap();
    }
    let chosen = kubectl
        .run_arguments(["get", "pods", "-l", "app=web,tier in (front, back)", "-o", "json"])
        .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).map_err(|error| error.to_string()))
        .unwrap();
    let endpoint =
        |pod: &serde_json::Value| json!({"addresses": [pod["status"]["podIP"]], "conditions": {"ready": true}});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "chosen-by-hand", "labels": {"kubernetes.io/service-name": "chosen"}},
        "endpoints": chosen["items"].as_array().unwrap().iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]});
    pods::apply(&kubectl, "default", &[slice]);
    let log = probe(&kubectl, "client", &[&["until", "chosen", "80"], &["get", "chosen", "80", "/", "30"]]);
    let answered = log.lines().skip(1).collect::<Vec<_>>().join("\n");
    assert_eq!(who(&answered).into_iter().collect::<BTreeSet<_>>(), all(&["a", "b"]), "{log}");
}

#[test]
fn a_connection_survives_changes_that_do_not_concern_it() {
    let (_cluster, kubectl) = three_servers(&[many_ports()]);
    endpoints(&kubectl, "web", 3);
    let mut keeper = client("keeper", &[&["keep", "web", "80", "50"]]);
    keeper["spec"]["restartPolicy"] = "Always".into();
    pods::apply(&kubectl, "default", &[keeper]);
    let turns = || -> Result<(usize, String), String> {
        let log = kubectl.run("logs keeper")?;
        assert!(!log.contains("lost"), "the connection was cut:\n{log}");
        let last = log.lines().rev().find_map(|line| line.strip_prefix("turn ")).ok_or("nothing yet")?;
        let (turn, rest) = last.split_once(": ").ok_or("half a line")?;
        let name = rest.strip_prefix("200 hello from ").and_then(|rest| rest.split(',').next());
        Ok((turn.parse().map_err(|_| "half a line")?, name.ok_or("half a line")?.to_owned()))
    };
    let goes_on = |what: &str| {
        let before = eventually(what, &turns).0;
        eventually(what, || turns().and_then(|now| if now.0 > before + 5 { Ok(now.1) } else { Err(now.0.to_string()) }))
    };
    let kept = goes_on("answers on one connection");
    // Another service comes and goes, an endpoint more, one less, another port: none of it is this connection's.
    pods::apply(
        &kubectl,
        "default",
        &[service("second", "web", &json!({"ports": [{"port": 80, "targetPort": 8080}]}))],
    );
    pods::apply(&kubectl, "default", &[server("d", "web")]);
    endpoints(&kubectl, "web", 4);
    assert_eq!(goes_on("answers after an endpoint more"), kept);
    let other = ["a", "b", "c"].into_iter().find(|name| *name != kept).unwrap();
    kubectl.run(&format!("delete pod {other} --timeout=30s")).unwrap();
    kubectl.run("delete service second").unwrap();
    endpoints(&kubectl, "web", 3);
    assert_eq!(goes_on("answers after an endpoint less"), kept);
    // The service itself may go: what is connected stays so.
    kubectl.run("delete service web").unwrap();
    assert_eq!(goes_on("answers without the service"), kept);
    // The pod at the other end does concern it.
    kubectl.run(&format!("delete pod {kept} --timeout=30s")).unwrap();
    eventually("the connection's end", || {
        let log = kubectl.run("logs keeper --previous").or_else(|_| kubectl.run("logs keeper"))?;
        if log.contains("lost") { Ok(()) } else { Err(log.lines().last().unwrap_or_default().to_owned()) }
    });
}
