//! Nodes on hosts of their own: what passes between them and the control plane, and what becomes of it when the network
//! does not do as it should.

mod between;
mod roaming;

use coracle_tests::{
    Kubectl, eventually, guest,
    hosts::{Host, Lan, Namespace, Realm, SERVER, Weather, Wire},
    network,
    pods::{self, condition, container, on, running, toolbox},
    random::Random,
    wait::contains,
};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Stdio},
    thread,
    time::Duration,
};

/// How long a connection may take to be made where packets are lost, one in ten in both directions: the kernel tries again
/// after 1, 2, 4, 8, 16 and 32 s.
const CONNECT_WAIT: Duration = Duration::from_mins(2);

/// A realm that has the toolbox and the probe.
fn realm(nodes: &[&str]) -> (Realm, Kubectl) {
    let mut realm = Realm::unstarted(nodes).attentive();
    realm.start_all();
    realm.push(&guest("toolbox.wasm"), "toolbox:1");
    realm.push(&guest("probe.wasm"), "probe:1");
    let kubectl = realm.kubectl();
    (realm, kubectl)
}

/// A `kubectl port-forward` that runs, and the port on the server's `localhost` that it listens on.
struct Forward(Child, u16);

impl Forward {
    fn start(kubectl: &Kubectl, pod: &str, port: u16) -> Self {
        let mut command = kubectl.command(["port-forward", pod, &format!(":{port}")]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let local = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        Self(child, local.unwrap_or_else(|| panic!("port-forward {pod}: {line:?}")))
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Everything that passes over a node's link works for the pods of this node.
fn node_link_works(realm: &Realm, kubectl: &Kubectl, node: &str) {
    let [tool, web] = ["tool", "web"].map(|kind| format!("{kind}-{node}"));
    let pods = [toolbox(&tool, "Always", &["wait-eof"]), network::server(&web, &web)];
    pods::apply(kubectl, "default", &pods.map(|pod| on(node, pod)));
    running(kubectl, &tool);
    running(kubectl, &web);
    eventually("the log", || kubectl.run(&format!("logs {tool}")).and_then(|log| contains(&log, "waiting")));
    let said = kubectl.run_with_input(&format!("exec -i {tool} -- toolbox tally"), &"x".repeat(100_000)).unwrap();
    assert_eq!(said.trim(), "100000 bytes, sum 12000000");
    // A pod runs before it listens, and kubectl gives up when nobody does.
    let answer = eventually("an answer over a forwarded port", || {
        let forward = Forward::start(kubectl, &web, 8080);
        let local = SocketAddr::from(([127, 0, 0, 1], forward.1));
        realm.host(SERVER).namespace().run(|| network::get(local, "/"))
    });
    assert_eq!(answer.status, 200, "{}", answer.head);
    let summary =
        kubectl.json(&format!("get --raw /api/v1/nodes/{node}/proxy/stats/summary")).unwrap_or_else(|error| {
            // `-o json` and `--raw` exclude each other in newer ones.
            let text = kubectl.run(&format!("get --raw /api/v1/nodes/{node}/proxy/stats/summary"));
            serde_json::from_str(&text.unwrap_or_else(|second| panic!("{error}, {second}"))).unwrap()
        });
    assert_eq!(summary["node"]["nodeName"], node);
    let deleted = kubectl.run(&format!("delete pod {tool} {web} --timeout=150s"));
    deleted.unwrap_or_else(|error| panic!("{error}"));
}

/// Bytes that come back from an echo on another host.
fn exchange(from: &Host, to: SocketAddr, length: usize) -> Result<(), String> {
    from.namespace().run(|| {
        let fails = |error: std::io::Error| format!("{to}: {error}");
        let mut stream = TcpStream::connect_timeout(&to, CONNECT_WAIT).map_err(fails)?;
        let mut sender = stream.try_clone().map_err(fails)?;
        let sent: Vec<u8> = (0..length).map(|place| u8::try_from(place % 251).unwrap()).collect();
        let copy = sent.clone();
        let sending = thread::spawn(move || sender.write_all(&copy));
        let mut received = vec![0; length];
        stream.read_exact(&mut received).map_err(fails)?;
        sending.join().unwrap().map_err(fails)?;
        if sent == received { Ok(()) } else { Err("other bytes have come back".to_owned()) }
    })
}

/// An echo on a host, for one connection.
fn echo(host: &Host) -> SocketAddr {
    let listener = host.namespace().run(|| TcpListener::bind((host.address(), 0)).unwrap());
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = stream.try_clone().unwrap();
        // Whoever hangs up has what it wanted, or says so itself.
        drop(std::io::copy(&mut reader, &mut stream));
    });
    address
}

#[test]
fn the_network_of_the_tests_does_to_packets_what_it_says() {
    let lan = Lan::new();
    let (one, other, hidden) = (lan.host("one"), lan.host("other"), lan.host_behind_router("hidden"));
    let connects = |from: &Host, to: SocketAddr| {
        from.namespace().run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok())
    };
    exchange(&one, echo(&other), 1 << 20).unwrap();
    exchange(&hidden, echo(&other), 1 << 20).unwrap();
    assert!(!connects(&other, echo(&hidden)), "a router lets strangers in");
    lan.cut(&one, &other);
    assert!(!connects(&one, echo(&other)), "a cut network carries connections");
    exchange(&hidden, echo(&other), 1000).unwrap();
    lan.heal();
    let target = echo(&other);
    lan.block("tcp", target.port());
    assert!(!connects(&one, target), "a blocked port is reached");
    lan.heal();
    lan.lose(999);
    assert!(!connects(&one, target), "packets that are lost arrive");
    lan.heal();
    exchange(&one, target, 1000).unwrap();
    lan.lose(100);
    exchange(&one, echo(&other), 100_000).unwrap();
    lan.heal();
    other.set_mtu(1300);
    exchange(&one, echo(&other), 1 << 20).unwrap();
    let weather = Weather {
        delay: Duration::from_millis(2),
        jitter: Duration::from_millis(3),
        lost_permille: 5,
        doubled_permille: 20,
        damaged_permille: 5,
    };
    let wire = Wire::between(&lan, &one, weather, &mut Random::seeded());
    exchange(&one, echo(&other), 1 << 20).unwrap();
    assert!(wire.passed() > 100, "only {} packets came through the wire", wire.passed());
    drop(wire);
    exchange(&one, echo(&other), 1 << 20).unwrap();
    // Nothing of it is seen outside.
    let links = std::process::Command::new("ip").args(["-o", "link"]).output().unwrap();
    let links = String::from_utf8_lossy(&links.stdout).into_owned();
    assert!(!links.contains("port1") && !links.contains("lan:"), "{links}");
    let (alone, there) = (Namespace::new(), echo(&one));
    let stray = alone.run(|| TcpStream::connect_timeout(&there, Duration::from_millis(300)));
    assert!(stray.is_err(), "a network of its own reaches others");
    exchange(&other, there, 1000).unwrap();
}

#[test]
fn the_node_link_reaches_hosts_with_addresses_of_their_own_and_hosts_behind_a_router() {
    let (realm, kubectl) = realm(&["a", "b", "nat"]);
    for node in realm.nodes() {
        let object = kubectl.json(&format!("get node {node}")).unwrap();
        let addresses = object["status"]["addresses"].as_array().unwrap().clone();
        let own = realm.host(&node).address().to_string();
        assert!(addresses.iter().any(|one| one["type"] == "InternalIP" && one["address"] == own), "{addresses:?}");
        node_link_works(&realm, &kubectl, &node);
    }
}

#[test]
fn a_node_that_was_cut_off_returns_with_the_same_pods_and_no_others() {
    let (mut realm, kubectl) = realm(&["a", "b"]);
    pods::apply(&kubectl, "default", &[on("b", toolbox("counter", "Always", &["count", "0.1"]))]);
    let before = running(&kubectl, "counter");
    realm.lan().isolate(realm.host("b"));
    realm.ready("b", "Unknown");
    realm.ready("a", "True");
    let counted = realm.output("b", "counter").lines().count();
    eventually("the pod of the node that is cut off to go on", || {
        let now = realm.output("b", "counter").lines().count();
        if now > counted { Ok(()) } else { Err(format!("{now} lines, as before")) }
    });
    is_ready(&kubectl, "counter", "False");
    realm.lan().heal();
    realm.ready("b", "True");
    is_ready(&kubectl, "counter", "True");
    node_link_works(&realm, &kubectl, "b");
    let after = running(&kubectl, "counter");
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(container(&after)["containerID"], container(&before)["containerID"], "it was started again");
    assert_eq!(container(&after)["restartCount"], 0);
    let starts = realm.output("b", "counter").lines().filter(|line| line.ends_with(" 0")).count();
    assert_eq!(starts, 1, "it was started {starts} times");
    realm.assert_runs("b");
}

/// Waits until the pod's condition `Ready` is so.
fn is_ready(kubectl: &Kubectl, pod: &str, wanted: &str) {
    pods::until(kubectl, pod, &format!("Ready={wanted}"), |object| condition(object, "Ready")["status"] == wanted);
}

/// The pod runs again, as the same pod, and what it is now.
fn ran_again(kubectl: &Kubectl, before: &Value) -> Value {
    let name = before["metadata"]["name"].as_str().unwrap();
    let after = pods::until(kubectl, name, "the run after the restart", |pod| {
        container(pod)["state"]["running"].is_object()
            && container(pod)["containerID"] != container(before)["containerID"]
    });
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"], "it is another pod");
    after
}

#[test]
fn a_node_that_restarts_while_it_is_cut_off_runs_its_pods_and_comes_back_with_them() {
    let (mut realm, kubectl) = realm(&["a", "b"]);
    let [stays, goes] = ["stays", "goes"].map(|name| on("b", toolbox(name, "Always", &["count", "0.1"])));
    pods::apply(&kubectl, "default", &[stays, goes]);
    let before = running(&kubectl, "stays");
    running(&kubectl, "goes");
    realm.lan().isolate(realm.host("b"));
    realm.kill("b");
    let runs = |realm: &Realm, pod: &str| realm.output("b", pod).lines().filter(|line| line.ends_with(" 0")).count();
    // Deleted without the node's knowledge: it must not stay when the node hears of it.
    kubectl.run("delete pod goes --force --grace-period=0").unwrap();
    realm.start_node("b");
    for pod in ["stays", "goes"] {
        eventually("a second run without any server", || match runs(&realm, pod) {
            2 => Ok(()),
            runs => Err(format!("{runs} runs of {pod}\n{}", realm.log("b"))),
        });
    }
    realm.lan().heal();
    realm.ready("b", "True");
    let after = ran_again(&kubectl, &before);
    let restarts = container(&after)["restartCount"].as_u64().unwrap();
    assert_eq!(u64::try_from(runs(&realm, "stays")).unwrap(), restarts + 1, "it ran beside itself");
    eventually("the end of the pod that was deleted meanwhile", || {
        let traces = realm.output("b", "goes");
        if traces.is_empty() { Ok(()) } else { Err(format!("{} lines of log are there", traces.lines().count())) }
    });
    node_link_works(&realm, &kubectl, "b");
}

#[test]
fn a_wrong_clock_is_no_reason_to_lose_a_node() {
    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    let mut realm = Realm::unstarted(&["ahead", "behind", "beyond"]);
    let ahead = realm.wrong_clock("ahead", 2 * HOUR);
    realm.wrong_clock("behind", -HOUR / 10);
    let beyond = realm.wrong_clock("beyond", -30 * DAY);
    realm.start_server();
    realm.push(&guest("toolbox.wasm"), "toolbox:1");
    realm.push(&guest("probe.wasm"), "probe:1");
    let kubectl = realm.kubectl();
    for node in realm.nodes() {
        realm.start_node(&node);
    }
    for node in ["ahead", "behind"] {
        realm.ready(node, "True");
        node_link_works(&realm, &kubectl, node);
    }
    pods::apply(&kubectl, "default", &[on("ahead", toolbox("counter", "Always", &["count", "0.1"]))]);
    let before = running(&kubectl, "counter");
    ahead.set(20 * DAY);
    node_link_works(&realm, &kubectl, "ahead");
    ahead.set(-HOUR / 10);
    node_link_works(&realm, &kubectl, "ahead");
    realm.ready("ahead", "True");
    let after = running(&kubectl, "counter");
    assert_eq!(container(&after)["containerID"], container(&before)["containerID"], "it was started again");
    // No certificate is valid on that day: the node says so, and comes when its clock is right.
    eventually("the node to say what is wrong", || contains(&realm.log("beyond"), "not valid yet"));
    assert!(realm.condition("beyond", "Ready").is_err());
    beyond.set(0);
    realm.ready("beyond", "True");
}
