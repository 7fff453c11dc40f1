//! Services and pods across nodes: by address, by name, through every node, while pods leave and nodes die.

use coracle_tests::{
    Fleet, Kubectl, eventually, guest,
    network::{address, client, datagram, endpoints, get, server, service},
    pods::{self, on, running},
    wait::contains,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const NODES: usize = 3;
/// How long a pod that leaves goes on answering: until then all nodes of a slow machine have heard that it leaves.
const GRACE_SECONDS: u32 = 10;
/// Requests of a client that goes on until the test is over.
const ENDLESS: &str = "100000000";

/// A fleet that has the probe as `probe:1`.
fn fleet() -> (Fleet, Kubectl) {
    let fleet = Fleet::start(NODES);
    fleet.push(&guest("probe.wasm"), "probe:1");
    let kubectl = fleet.kubectl();
    (fleet, kubectl)
}

/// A fleet with a server `s-0`, `s-1`, … with label `web` on each node, and these services.
fn fleet_of_servers(services: &[Value]) -> (Fleet, Kubectl) {
    let (fleet, kubectl) = fleet();
    let servers: Vec<Value> = (0..NODES).map(|node| on(&fleet.name(node), server(&name(node), "web"))).collect();
    pods::apply(&kubectl, "default", &[&servers, services].concat());
    for node in 0..NODES {
        running(&kubectl, &name(node));
    }
    (fleet, kubectl)
}

fn name(node: usize) -> String {
    format!("s-{node}")
}

fn names(nodes: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
    nodes.into_iter().map(name).collect()
}

/// Every port of the servers, by node ports too.
fn web(more: &Value) -> Value {
    let mut spec = json!({"type": "NodePort", "ports": [
        {"name": "http", "port": 80, "targetPort": "http"}, {"name": "echo", "port": 90, "targetPort": 9000},
        {"name": "udp", "port": 91, "targetPort": "udp", "protocol": "UDP"}]});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    service("web", "web", &spec)
}

/// Runs probe commands in a pod on this node to their end and answers what they printed.
fn probe_on(fleet: &Fleet, node: usize, pod: &str, commands: &[&[&str]]) -> String {
    let kubectl = fleet.kubectl();
    pods::apply(&kubectl, "default", &[on(&fleet.name(node), client(pod, commands))]);
    eventually(&format!("the end of {pod}"), || {
        let phase = kubectl.json(&format!("get pod {pod}"))?["status"]["phase"].clone();
        let log = kubectl.run(&format!("logs {pod}"))?;
        if phase == "Succeeded" { Ok(log) } else { Err(format!("{phase}:\n{log}")) }
    })
}

/// Who answered, by the lines like `200 hello from NAME, here …`; other lines are answered as they are.
fn who(log: &str) -> (Vec<String>, Vec<String>) {
    let name = |line: &str| Some(line.strip_prefix("200 hello from ")?.split(',').next()?.to_owned());
    let (answers, others): (Vec<_>, Vec<_>) = log.lines().partition(|line| name(line).is_some());
    (answers.into_iter().filter_map(name).collect(), others.into_iter().map(str::to_owned).collect())
}

fn set(names: Vec<String>) -> BTreeSet<String> {
    names.into_iter().collect()
}

/// Asks a node port until all these have answered; answers from others are a failure.
fn all_answer(port: std::net::SocketAddr, expected: &BTreeSet<String>) {
    let mut answered = BTreeSet::new();
    eventually(&format!("answers from {expected:?} at {port}"), || {
        answered.extend(who(&format!("200 {}", get(port, "/")?.text())).0);
        if answered == *expected { Ok(()) } else { Err(format!("{answered:?}")) }
    });
}

#[test]
fn pods_reach_each_other_on_every_node_by_address_and_by_name_over_both_protocols() {
    let peers = service("peers", "web", &json!({"clusterIP": "None", "ports": [{"name": "http", "port": 8080}]}));
    let (fleet, kubectl) = fleet_of_servers(&[web(&json!({})), peers]);
    endpoints(&kubectl, "web", NODES);
    endpoints(&kubectl, "peers", NODES);
    let ip = kubectl.json("get service web").unwrap()["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let mut addresses: Vec<String> = (0..NODES).map(|node| address(&kubectl, &name(node)).to_string()).collect();
    let far = addresses[1].clone();
    let log = probe_on(
        &fleet,
        0,
        "by-address",
        &[
            &["until", &far, "8080"],
            &["get", &far, "8080", "/"],
            &["echo", &far, "9000", "3000000", "5"],
            &["connect", &far, "8081"],
            &["udp", &far, "9002", "far"],
            &["udp", &far, "9002", "far"],
            &["udp", &far, "9002", "far"],
        ],
    );
    let lines: Vec<_> = log.lines().collect();
    assert!(lines[1].starts_with("200 hello from s-1,"), "{log}");
    assert_eq!(lines[2], "echo: 3000000 bytes came back", "{log}");
    assert!(lines[3].ends_with("connection refused"), "{log}");
    // One may be lost.
    assert!(lines[4..].contains(&format!("udp: far from {far}:9002").as_str()), "{log}");

    addresses.sort();
    let record = "_http._tcp.peers.default.svc.cluster.local";
    for node in 0..NODES {
        let log = probe_on(
            &fleet,
            node,
            &format!("by-name-{node}"),
            &[
                &["until", "web", "80"],
                &["get", "web", "80", "/", "30"],
                &["get", &ip, "80", "/", "30"],
                &["echo", "web", "90", "300000", "7", "6"],
                &["udp", "web", "91", "one"],
                &["udp", "web", "91", "two"],
                &["udp", "web", "91", "three"],
                &["resolve", "peers"],
                &["get", "peers", "8080", "/", "5"],
                &["dns", "udp", "10.96.0.10", "SRV", record],
            ],
        );
        let (answered, others) = who(&log);
        assert_eq!((answered.len(), set(answered)), (65, names(0..NODES)), "{log}");
        let echoed = |word: &&str| others.contains(&format!("udp: {word} from {ip}:91"));
        let lost = ["one", "two", "three"].into_iter().filter(|word| !echoed(word)).count();
        assert!(lost <= 1, "datagrams are lost: {log}");
        assert!(others.contains(&format!("peers is at {}", addresses.join(" "))), "{log}");
        assert!(!log.lines().any(|line| line.contains("failed") && !line.starts_with("udp: ")), "{log}");
        contains(&log, "8080").unwrap();
    }

    for node in 0..NODES {
        all_answer(fleet.node_port(node, "web", "http"), &names(0..NODES));
        let udp = fleet.node_port(node, "web", "udp");
        for _ in 0..6 {
            eventually("a datagram's echo at the node port", || {
                let reply = datagram(udp, b"from the host")?;
                if reply == b"from the host" { Ok(()) } else { Err(format!("{reply:?}")) }
            });
        }
    }
}

#[test]
fn traffic_policies_keep_to_a_node() {
    let local = web(&json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}));
    let (fleet, kubectl) = fleet_of_servers(&[local]);
    endpoints(&kubectl, "web", NODES);
    kubectl.run("label pod s-2 app-").unwrap();
    endpoints(&kubectl, "web", 2);
    for node in [0, 1] {
        let pod = format!("inside-{node}");
        let log = probe_on(&fleet, node, &pod, &[&["until", "web", "80"], &["get", "web", "80", "/", "20"]]);
        assert_eq!(set(who(&log).0), names([node]), "{log}");
        for _ in 0..5 {
            all_answer(fleet.node_port(node, "web", "http"), &names([node]));
        }
    }
    // This node may be the last to hear that its pod has left.
    let mut attempts = 0..;
    eventually("a refusal for pods where there is no endpoint", || {
        let name = format!("nobody-{}", attempts.next().unwrap_or_default());
        let log = probe_on(&fleet, 2, &name, &[&["connect", "web", "80"]]);
        if log.trim().ends_with("connection refused") { Ok(()) } else { Err(log) }
    });
    let port = fleet.node_port(2, "web", "http");
    eventually("a refusal where there is no endpoint", || match get(port, "/") {
        Ok(answer) => Err(answer.text()),
        // The port is closed, or who has got in is reset.
        Err(error) => contains(&error, "refused").or_else(|_| contains(&error, "reset by peer")),
    });
    // From outside the node's own pods see who it is: the machine, here.
    assert!(get(fleet.node_port(0, "web", "http"), "/").is_ok());
}

#[test]
fn a_client_stays_with_a_pod_of_another_node_until_it_is_gone() {
    let (fleet, kubectl) = fleet_of_servers(&[web(&json!({"sessionAffinity": "ClientIP"}))]);
    endpoints(&kubectl, "web", NODES);
    let port = fleet.node_port(0, "web", "http");
    let first = eventually("an answer", || Ok::<_, String>(who(&format!("200 {}", get(port, "/")?.text())).0));
    for _ in 0..20 {
        assert_eq!(who(&format!("200 {}", get(port, "/").unwrap().text())).0, first);
    }
    kubectl.run(&format!("delete pod {} --timeout=150s", first[0])).unwrap();
    endpoints(&kubectl, "web", NODES - 1);
    let second = eventually("another answer", || Ok::<_, String>(who(&format!("200 {}", get(port, "/")?.text())).0));
    assert_ne!(second, first);
    for _ in 0..20 {
        assert_eq!(who(&format!("200 {}", get(port, "/").unwrap().text())).0, second);
    }
}

#[test]
fn a_pod_that_leaves_with_grace_costs_no_request() {
    let (fleet, kubectl) = fleet();
    let servers: Vec<Value> = (0..NODES)
        .map(|node| {
            let mut pod = on(&fleet.name(node), server(&name(node), "web"));
            pod["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"sleep": {"seconds": GRACE_SECONDS}}});
            pod["spec"]["terminationGracePeriodSeconds"] = (2 * GRACE_SECONDS).into();
            pod
        })
        .collect();
    pods::apply(&kubectl, "default", &[&servers[..], &[web(&json!({}))]].concat());
    for node in 0..NODES {
        running(&kubectl, &name(node));
    }
    endpoints(&kubectl, "web", NODES);
    let caller = client("caller", &[&["until", "web", "80"], &["get", "web", "80", "/", ENDLESS]]);
    pods::apply(&kubectl, "default", &[on(&fleet.name(0), caller)]);
    let seen = |others: &str| {
        let log = kubectl.run("logs caller --tail=60")?;
        let answered = set(who(&log).0);
        let wanted = names(others.bytes().map(|digit| usize::from(digit - b'0')));
        if answered == wanted { Ok(()) } else { Err(format!("{answered:?}")) }
    };
    eventually("answers from all", || seen("012"));
    kubectl.run("delete pod s-1 --timeout=150s").unwrap();
    eventually("answers from those that are left", || seen("02"));
    kubectl.run("delete pod s-0 --timeout=150s").unwrap();
    eventually("answers from the one that is left", || seen("2"));
    let log = kubectl.run("logs caller").unwrap();
    let (_, others) = who(&log);
    assert!(others.len() <= 1, "requests failed: {others:?}");
}

#[test]
fn a_node_that_is_killed_costs_its_own_connections_and_no_more() {
    let (mut fleet, kubectl) = fleet_of_servers(&[web(&json!({}))]);
    endpoints(&kubectl, "web", NODES);
    let caller = client("caller", &[&["until", "web", "80"], &["get", "web", "80", "/", ENDLESS]]);
    pods::apply(&kubectl, "default", &[on(&fleet.name(0), caller)]);
    let answered = |wanted: BTreeSet<String>| {
        let answered = set(who(&kubectl.run("logs caller --tail=60")?).0);
        if answered == wanted { Ok(()) } else { Err(format!("{answered:?}")) }
    };
    eventually("answers from all", || answered(names(0..NODES)));
    fleet.kill_node(1);
    eventually("answers from the others", || answered(names([0, 2])));
    all_answer(fleet.node_port(2, "web", "http"), &names([0, 2]));
    let udp = fleet.node_port(2, "web", "udp");
    for _ in 0..6 {
        eventually("a datagram's echo", || datagram(udp, b"still there").map(drop));
    }
    let (_, others) = who(&kubectl.run("logs caller").unwrap());
    // Sequential calls: at most one was under way.
    assert!(others.len() <= 2, "calls failed: {others:?}");

    fleet.start_node(1);
    fleet.until_ready(1);
    eventually("answers from all again", || answered(names(0..NODES)));
}
