//! Pods of nodes on different hosts talk to each other, over networks that do what networks do.

use super::{on, ran_again, realm};
use coracle_tests::{
    Kubectl, eventually, guest,
    hosts::{Host, Realm, SERVER, Weather, Wire, reuse},
    network::{self, address, client, endpoints, node_port_number, server, service},
    pods::{self, running},
    random::Random,
    wait::contains,
};
use serde_json::{Value, json};
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

/// The ports of the probe's servers as a service's.
fn ports() -> Value {
    json!({"type": "NodePort", "ports": [
        {"name": "http", "port": 80, "targetPort": 8080}, {"name": "echo", "port": 9000, "targetPort": 9000},
        {"name": "sink", "port": 9001, "targetPort": 9001},
        {"name": "udp", "port": 9002, "targetPort": 9002, "protocol": "UDP"}]})
}

/// A server on this node, behind a service, both called so.
fn serve(kubectl: &Kubectl, node: &str, name: &str) {
    pods::apply(kubectl, "default", &[on(node, server(name, name)), service(name, name, &ports())]);
    endpoints(kubectl, name, 1);
}

/// What these probe commands print on this node.
fn probe(kubectl: &Kubectl, node: &str, name: &str, commands: &[&[&str]]) -> String {
    pods::apply(kubectl, "default", &[on(node, client(name, commands))]);
    pods::phase(kubectl, name, "Succeeded");
    let said = kubectl.run(&format!("logs {name}")).unwrap();
    // Gone, so that the next one may have its name.
    kubectl.run(&format!("delete pod {name} --timeout=150s")).unwrap();
    said
}

/// Asks a service all the time over one connection, from this node, in words that [`turn`] reads.
fn converse(kubectl: &Kubectl, node: &str, name: &str, with: &str) {
    pods::apply(kubectl, "default", &[on(node, client(name, &[&["until", with, "80"], &["keep", with, "80", "50"]]))]);
    running(kubectl, name);
}

/// The last turn of a conversation, as its node has written it down.
fn turn(realm: &Realm, node: &str, name: &str) -> Result<usize, String> {
    let log = realm.output(node, name);
    assert!(!log.contains("lost"), "the connection of {name} was cut:\n{log}");
    let last = log.lines().rev().find_map(|line| line.split_once("turn ")?.1.split_once(": 200 "));
    last.and_then(|(turn, _)| turn.parse().ok()).ok_or(log)
}

/// The same connection carries more.
fn conversation_goes_on(realm: &Realm, node: &str, name: &str) {
    let before = eventually("the conversation", || turn(realm, node, name));
    eventually(&format!("the conversation {name} to go on"), || {
        turn(realm, node, name)
            .and_then(|now| if now > before + 5 { Ok(()) } else { Err(format!("turn {now} after {before}")) })
    });
}

/// Both kinds of traffic between the pods of these nodes, by address and by the service's name.
fn talks(kubectl: &Kubectl, from: &str, with: &str) {
    let ip = address(kubectl, with).to_string();
    let long = "long ".repeat(2000);
    let said = probe(
        kubectl,
        from,
        &format!("asks-{from}-{with}"),
        &[
            &["until", &ip, "8080"],
            &["until", with, "80"],
            &["get", &ip, "8080", "/"],
            &["get", with, "80", "/"],
            &["echo", with, "9000", "300000", "7", "2"],
            &["udp", &ip, "9002", "short"],
            &["udp", &ip, "9002", "short"],
            &["udp", &ip, "9002", "short"],
            &["udp", with, "9002", &long],
            &["udp", with, "9002", &long],
            &["udp", with, "9002", &long],
        ],
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 12, "{said}");
    for line in &lines[2..4] {
        assert!(line.starts_with("200 ") && line.contains(with), "{line}");
    }
    assert_eq!(lines[4..6], ["echo: 300000 bytes came back"; 2], "{said}");
    // Some may be lost, but not all.
    assert!(lines[6..9].iter().any(|line| line.starts_with("udp: short from ")), "{said}");
    assert!(lines[9..].iter().any(|line| line.starts_with(&format!("udp: {long} from "))), "{said}");
}

/// `GET /` from a host; what does not answer 200 is an error that tells the answer.
fn asks(from: &Host, address: Ipv4Addr, port: u16) -> Result<String, String> {
    let answer = from.namespace().run(|| network::get(SocketAddr::new(address.into(), port), "/"))?;
    if answer.status == 200 { Ok(answer.text()) } else { Err(format!("{}\n\n{}", answer.head, answer.text())) }
}

/// `GET /` of a node port, from a host.
fn asks_node_port(from: &Host, node: &Host, port: u16) -> Result<String, String> {
    asks(from, node.address(), port)
}

#[test]
fn pods_of_two_hosts_talk_in_both_kinds_and_node_ports_lead_to_either() {
    let (realm, kubectl) = realm(&["a", "b"]);
    for node in ["a", "b"] {
        serve(&kubectl, node, &format!("web-{node}"));
    }
    talks(&kubectl, "a", "web-b");
    talks(&kubectl, "b", "web-a");
    let port = node_port_number(&kubectl, "web-b", "http");
    for node in ["a", "b"] {
        let said = eventually("a node port", || asks_node_port(realm.outsider(), realm.host(node), port));
        assert!(said.contains("web-b"), "{said}");
    }
}

#[test]
fn an_external_address_is_served_by_the_host_that_has_it() {
    const SHARED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
    let (realm, kubectl) = realm(&["a", "b"]);
    let (entry, outsider) = (realm.host("a"), realm.outsider());
    entry.namespace().ip(&format!("addr add {SHARED}/32 dev eth0"));
    outsider.namespace().ip(&format!("route add {SHARED}/32 via {}", entry.address()));
    serve(&kubectl, "b", "web-b");
    let port = |number: u16| json!([{"name": "http", "port": number, "targetPort": 8080}]);
    let outside = service("outside", "web-b", &json!({"externalIPs": [SHARED.to_string()], "ports": port(8000)}));
    let balanced = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": port(8001)});
    pods::apply(&kubectl, "default", &[outside, service("balanced", "web-b", &balanced)]);
    let said = eventually("the external address", || asks(outsider, SHARED, 8000));
    assert!(said.contains("web-b"), "{said}");
    let shared = SHARED.to_string();
    let said = probe(&kubectl, "b", "inside", &[&["until", &shared, "8000"], &["get", &shared, "8000", "/"]]);
    assert!(said.contains("200 hello from web-b"), "{said}");

    // A load balancer asks each node whether it has endpoints of its own, and finds the client's address kept there.
    let health = kubectl.json("get service balanced").unwrap()["spec"]["healthCheckNodePort"].clone();
    let health = u16::try_from(health.as_u64().expect("a port for health checks")).unwrap();
    let said = eventually("a host with endpoints", || asks(outsider, realm.host("b").address(), health));
    assert!(said.contains("\"localEndpoints\":1") || said.contains("\"localEndpoints\": 1"), "{said}");
    eventually("a host without endpoints to say so", || match asks(outsider, entry.address(), health) {
        Err(refused) if refused.contains("503") && refused.contains("localEndpoints") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let port = node_port_number(&kubectl, "balanced", "http");
    let said = eventually("a node port", || asks_node_port(outsider, realm.host("b"), port));
    assert!(said.contains("web-b"), "{said}");
    assert!(asks_node_port(outsider, entry, port).is_err(), "a host without endpoints answers");
}

#[test]
fn loss_disorder_and_damage_between_hosts_change_no_byte() {
    let (realm, kubectl) = realm(&["a", "b"]);
    serve(&kubectl, "b", "web-b");
    let weather = Weather {
        delay: Duration::from_millis(2),
        jitter: Duration::from_millis(3),
        lost_permille: 10,
        doubled_permille: 20,
        damaged_permille: 5,
    };
    let mut random = Random::seeded();
    let _wire = Wire::between(realm.lan(), realm.host("a"), weather, &mut random);
    let seed = random.below(1 << 30).to_string();
    let said = probe(&kubectl, "a", "soak", &[&["soak", "web-b", "9000", "9001", "60", &seed]]);
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("soak: done 60, ") && !said.contains("WRONG"), "{said}");
    let failures: Vec<&str> = last.split(", ").skip(3).collect();
    assert!(failures.is_empty(), "connections failed: {last}");
}

#[test]
fn connections_survive_narrower_packets_and_another_address_of_a_router() {
    let (realm, kubectl) = realm(&["a", "nat"]);
    serve(&kubectl, "a", "web-a");
    converse(&kubectl, "nat", "talk", "web-a");
    conversation_goes_on(&realm, "nat", "talk");
    realm.host("a").set_mtu(1280);
    conversation_goes_on(&realm, "nat", "talk");
    let said = probe(&kubectl, "nat", "narrow", &[&["echo", "web-a", "9000", "1000000", "3"]]);
    assert_eq!(said.trim(), "echo: 1000000 bytes came back");
    realm.host("a").set_mtu(1500);
    realm.host("nat").renumber_router(200);
    conversation_goes_on(&realm, "nat", "talk");
    realm.ready("nat", "True");
    talks(&kubectl, "nat", "web-a");
}

#[test]
fn pods_go_on_talking_while_no_server_is_there_also_after_a_node_has_restarted() {
    let (mut realm, kubectl) = realm(&["a", "b"]);
    serve(&kubectl, "b", "web-b");
    let before = running(&kubectl, "web-b");
    converse(&kubectl, "a", "talk", "web-b");
    // Asks again and again, a connection each.
    pods::apply(
        &kubectl,
        "default",
        &[on("a", client("asks", &[&["until", "web-b", "80"], &["get", "web-b", "80", "/", "100000"]]))],
    );
    let answers = |realm: &Realm| realm.output("a", "asks").lines().filter(|line| line.contains("200 ")).count();
    let goes_on = |realm: &Realm| {
        let before = answers(realm);
        eventually("answers to new connections", || {
            let now = answers(realm);
            if now > before + 5 { Ok(()) } else { Err(format!("{now} answers\n{}", realm.log("a"))) }
        });
    };
    goes_on(&realm);
    realm.kill(SERVER);
    conversation_goes_on(&realm, "a", "talk");
    goes_on(&realm);
    realm.kill("b");
    realm.start_node("b");
    goes_on(&realm);
    realm.start_server();
    realm.ready("a", "True");
    realm.ready("b", "True");
    ran_again(&kubectl, &before);
    goes_on(&realm);
    let said = realm.output("a", "asks");
    assert!(!said.lines().any(|line| line.contains("200 ") && !line.contains("web-b")), "{said}");
    realm.assert_runs("a");
}

#[test]
fn nodes_that_cannot_reach_each_other_talk_through_the_control_plane_and_say_so() {
    let (realm, kubectl) = realm(&["a", "nat-1", "nat-2"]);
    for node in realm.nodes() {
        serve(&kubectl, &node, &format!("web-{node}"));
    }
    // Nobody can dial nodes behind routers, but they dial others: what is there is used both ways.
    talks(&kubectl, "nat-1", "web-a");
    talks(&kubectl, "a", "web-nat-1");
    talks(&kubectl, "nat-1", "web-nat-2");
    talks(&kubectl, "nat-2", "web-nat-1");
    eventually("a word about the detour", || {
        let events = kubectl.json("get events -A --field-selector reason=PeerRelayed")?;
        let told = events["items"].as_array().unwrap().iter().any(|event| {
            let about = event["involvedObject"]["name"].as_str().unwrap_or_default();
            about.starts_with("nat-") && event["message"].as_str().unwrap_or_default().contains("node nat-")
        });
        if told { Ok(()) } else { Err(format!("{}\n{}", events["items"], realm.log("nat-1"))) }
    });
    // Whoever looks later than events last reads it from the node.
    for (node, other) in [("nat-1", "nat-2"), ("nat-2", "nat-1")] {
        eventually("a word that stays", || {
            let (status, reason) = realm.condition(node, "PeersDirect")?;
            if status == "False" { Ok(()) } else { Err(format!("{status} {reason}")) }
        });
        for said in [kubectl.run(&format!("describe node {node}")), realm.coracle(&["describe", "node", node])] {
            let said = said.unwrap();
            let line = said.lines().find(|line| line.contains("PeersDirect")).unwrap_or(&said);
            contains(line, "SomePeersRelayed").unwrap();
            contains(line, &format!(" {other} (")).unwrap();
        }
    }
    says_that_peers_are_direct(&realm, "a");
}

/// Waits until the node's condition says that no traffic takes a detour.
fn says_that_peers_are_direct(realm: &Realm, node: &str) {
    eventually("the direct way in the node's condition", || {
        let (status, reason) = realm.condition(node, "PeersDirect")?;
        if status == "True" { Ok(()) } else { Err(format!("{node}: {reason}\n{}", realm.log(node))) }
    });
}

#[test]
fn a_cut_between_two_nodes_alone_is_no_cut_for_their_pods() {
    let (realm, kubectl) = realm(&["a", "b"]);
    serve(&kubectl, "b", "web-b");
    talks(&kubectl, "a", "web-b");
    realm.lan().cut(realm.host("a"), realm.host("b"));
    eventually("the detour", || {
        let said = probe(&kubectl, "a", "detour", &[&["get", "web-b", "80", "/"]]);
        contains(&said, "200 ")
    });
    realm.lan().heal();
    eventually("the direct way", || {
        contains(&kubectl.run("get events -A --field-selector reason=PeerDirect")?, "directly again")
    });
    for node in ["a", "b"] {
        says_that_peers_are_direct(&realm, node);
    }
    talks(&kubectl, "a", "web-b");
}

#[test]
fn nobody_reaches_a_wrong_pod_while_addresses_are_used_again_and_again() {
    let mut realm = Realm::unstarted(&["a", "b"]);
    // The smallest range that a node may have.
    realm.options("b", &["--max-pods", "30"]);
    realm.start_all();
    realm.push(&guest("probe.wasm"), "probe:1");
    let done = reuse::churn(&realm, &realm.kubectl(), "a", "b", 90, &mut Random::seeded());
    println!("{done:?}");
    assert!(done.addresses * 4 <= done.pods * 3, "addresses were hardly used again: {done:?}");
    assert!(done.answers > 20, "hardly anybody asked: {done:?}");
}

#[test]
fn a_node_with_another_address_is_reached_by_a_detour_and_directly_once_it_has_said_so() {
    let (mut realm, kubectl) = realm(&["a", "b"]);
    serve(&kubectl, "b", "web-b");
    talks(&kubectl, "a", "web-b");
    realm.host_mut("b").renumber(99);
    // It is not told that its address is another one: what it had is dead, and others look for it where it was.
    let asks = |name: &str| probe(&kubectl, "a", name, &[&["get", "web-b", "80", "/"]]);
    eventually("the node to notice", || contains(&realm.log("b"), "lost the control stream"));
    realm.ready("b", "True");
    eventually("the detour", || contains(&asks("detour"), "200 hello from web-b"));
    realm.kill("b");
    realm.start_node("b");
    let fresh = realm.host("b").address().to_string();
    eventually("the new address", || {
        let node = kubectl.json("get node b")?;
        contains(&node["status"]["addresses"].to_string(), &fresh)?;
        contains(&node["metadata"]["annotations"]["coracle.dev/tunnel"].to_string(), &fresh)
    });
    eventually("the same pod at its new host", || contains(&asks("direct"), "200 hello from web-b"));
    endpoints(&kubectl, "web-b", 1);
    talks(&kubectl, "a", "web-b");
    let port = node_port_number(&kubectl, "web-b", "http");
    eventually("a node port there", || asks_node_port(realm.outsider(), realm.host("b"), port));
}
