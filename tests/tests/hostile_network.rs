//! Guests that mean harm to a network: what they try is refused or bounded, an event says why, and neighbours go on.

use coracle_tests::{
    Cluster, Kubectl, eventually,
    network::{address, client, cluster, endpoints, get, node_port, probe, server, service},
    pods::{self, phase, pod, running},
    wait::contains,
};
use serde_json::{Value, json};
use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
};

/// More bytes than this between two pods, not read by anybody, would be a leak that a guest can open.
const UNREAD_BYTES_MAX: usize = 16 << 20;
/// Connections of one pod, and those that a listener keeps before it accepts them.
const CONNECTIONS_MAX: usize = 8192;
const BACKLOG_MAX: usize = 1024;
/// More than any pod may have.
const FLOOD: &str = "20000";

/// A cluster with two good pods in conversation: `keeper` asks `good` all the time, through a service.
fn neighbours() -> (Cluster, Kubectl) {
    let (cluster, kubectl) = cluster();
    let http = json!({"type": "NodePort", "ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
    let mut keeper = client("keeper", &[&["until", "good", "80"], &["keep", "good", "80", "50"]]);
    keeper["spec"]["restartPolicy"] = "Always".into();
    pods::apply(&kubectl, "default", &[server("good", "good"), service("good", "good", &http), keeper]);
    endpoints(&kubectl, "good", 1);
    eventually("the neighbours' conversation", || turn(&kubectl).map(|_| ()));
    (cluster, kubectl)
}

fn turn(kubectl: &Kubectl) -> Result<usize, String> {
    let log = kubectl.run("logs keeper")?;
    assert!(!log.contains("lost"), "the neighbours' connection was cut:\n{log}");
    let last = log.lines().rev().find_map(|line| line.strip_prefix("turn ")?.split_once(": 200 "));
    last.and_then(|(turn, _)| turn.parse().ok()).ok_or_else(|| log.clone())
}

/// The conversation goes on, the same connection, and a new one from the host is answered.
fn neighbours_go_on(cluster: &Cluster, kubectl: &Kubectl) {
    let before = turn(kubectl).unwrap();
    eventually("the neighbours' conversation to go on", || {
        turn(kubectl).and_then(|now| if now > before + 3 { Ok(()) } else { Err(format!("turn {now} after {before}")) })
    });
    assert_eq!(get(node_port(cluster, "good", "http"), "/").unwrap().status, 200);
    assert_eq!(pods::container(&kubectl.json("get pod good").unwrap())["restartCount"], 0);
}

/// A victim that reads nothing on 9002 and accepts nothing on 9003.
fn victim(name: &str) -> Value {
    pod(name, "Always", &json!({"image": "probe:1", "args": ["serve", "mute=9002", "idle=9003", "udp=9004"]}))
}

fn has_event(kubectl: &Kubectl, pod: &str, part: &str) {
    eventually(&format!("an event that says {part:?}"), || {
        contains(&kubectl.run(&format!("describe pod {pod}"))?, part)
    });
}

/// The line of a pod's log that begins so, and the number behind it.
fn counted(kubectl: &Kubectl, pod: &str, start: &str) -> (usize, String) {
    let line = eventually(&format!("{pod} to say {start:?}"), || {
        let log = kubectl.run(&format!("logs {pod}"))?;
        log.lines().find(|line| line.starts_with(start)).map(str::to_owned).ok_or(log)
    });
    (line.split_whitespace().nth(1).unwrap().parse().unwrap(), line)
}

/// Waits for an event about one of these pods that says which bound was hit.
fn limited(kubectl: &Kubectl, pods: &[&str], bound: &str) {
    eventually(&format!("an event about one of {pods:?}: {bound:?}"), || {
        let events = kubectl.json("get events --field-selector reason=NetworkLimit")?;
        let told = events["items"].as_array().unwrap().iter().any(|event| {
            pods.iter().any(|pod| event["involvedObject"]["name"] == *pod)
                && event["message"].as_str().unwrap_or_default().contains(bound)
        });
        if told { Ok(()) } else { Err(events["items"].to_string()) }
    });
}

#[test]
fn floods_and_storms_are_bounded() {
    let (cluster, kubectl) = neighbours();
    pods::apply(&kubectl, "default", &[victim("mute"), victim("idle")]);
    let [mute, idle] = ["mute", "idle"].map(|name| {
        running(&kubectl, name);
        address(&kubectl, name).to_string()
    });
    // What gets through stays open: the neighbours are asked while it does.
    let flooder = client("flooder", &[&["until", &mute, "9002"], &["flood", &mute, "9002", FLOOD]]);
    let stormer = client("stormer", &[&["until", &idle, "9003"], &["storm", &idle, "9003", "3000"], &["hold"]]);
    pods::apply(&kubectl, "default", &[flooder, stormer]);
    let (open, flood) = counted(&kubectl, "flooder", "flood:");
    assert!(open <= CONNECTIONS_MAX, "more than a pod may have: {flood}");
    assert!(open > 1000, "thousands of connections are a pod's right: {flood}");
    // Both ends count, each for its pod: either may be the one that has as many as it may have.
    limited(&kubectl, &["flooder", "mute"], "as many connections as it may have");
    neighbours_go_on(&cluster, &kubectl);
    let (through, storm) = counted(&kubectl, "stormer", "storm:");
    assert!(through <= BACKLOG_MAX, "more wait to be accepted than any backlog holds: {storm}");
    limited(&kubectl, &["idle"], "does not accept its connections fast enough");
    neighbours_go_on(&cluster, &kubectl);
    kubectl.run("delete pod flooder stormer mute idle --timeout=50s").unwrap();
    neighbours_go_on(&cluster, &kubectl);
}

#[test]
fn what_is_never_read_is_bounded() {
    let (cluster, kubectl) = neighbours();
    pods::apply(&kubectl, "default", &[victim("victim")]);
    running(&kubectl, "victim");
    let ip = address(&kubectl, "victim").to_string();
    let log = probe(
        &kubectl,
        "stuffer",
        &[
            &["until", &ip, "9002"],
            &["stuff", &ip, "9002"],
            &["oversized", &ip, "9004", "65507"],
            &["oversized", &ip, "9004", "65508"],
            &["oversized", &ip, "9004", "100000"],
            &["udp", &ip, "9004", "still there?"],
        ],
    );
    let lines: Vec<_> = log.lines().collect();
    let stuffed: usize = lines[1].split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(stuffed < UNREAD_BYTES_MAX && lines[1].ends_with("then nothing more"), "{log}");
    assert_eq!(lines[2], "oversized: 65507 bytes went");
    assert!(lines[3].starts_with("oversized: failed") && lines[4].starts_with("oversized: failed"), "{log}");
    assert_eq!(lines[5], format!("udp: still there? from {ip}:9004"));
    neighbours_go_on(&cluster, &kubectl);
}

#[test]
fn scans_find_what_pods_serve_and_nothing_else() {
    let (cluster, kubectl) = neighbours();
    let service_ip = kubectl.json("get service good").unwrap()["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let pod_ip = address(&kubectl, "good").to_string();
    let log = probe(
        &kubectl,
        "scanner",
        &[
            &["scan", &service_ip, "1", "1000"],
            &["scan", &pod_ip, "7900", "9100"],
            // Nobody has this address.
            &["scan", "10.244.3.250", "1", "200"],
            &["scan", "127.0.0.1", "1", "1000"],
        ],
    );
    let lines: Vec<_> = log.lines().collect();
    assert!(lines[0].contains("open [80]") && lines[0].contains("\"connection refused\": 999"), "{log}");
    assert!(lines[1].contains("open [8080, 9000, 9001]"), "{log}");
    assert!(lines[2].contains("open []"), "{log}");
    assert!(lines[3].contains("open []") && lines[3].contains("\"connection refused\": 1000"), "{log}");
    neighbours_go_on(&cluster, &kubectl);
}

#[test]
fn the_host_is_out_of_reach() {
    let (cluster, kubectl) = neighbours();
    // A service of the host's own, on the loopback address and on the one that the cluster uses.
    let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
    let beside = TcpListener::bind(SocketAddr::new(cluster.host(), 0)).unwrap();
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    let everywhere = UdpSocket::bind("0.0.0.0:0").unwrap();
    for socket in [&datagrams, &everywhere] {
        socket.set_nonblocking(true).unwrap();
    }
    for listener in [&loopback, &beside] {
        listener.set_nonblocking(true).unwrap();
    }
    let port = |address: SocketAddr| address.port().to_string();
    let [to_loopback, to_beside] = [&loopback, &beside].map(|one| port(one.local_addr().unwrap()));
    let [udp_loopback, udp_everywhere] = [&datagrams, &everywhere].map(|one| port(one.local_addr().unwrap()));
    let host = cluster.host().to_string();
    let server = kubectl.run("config view --minify -o jsonpath={.clusters[0].cluster.server}").unwrap();
    let api: SocketAddr = server.trim().trim_start_matches("https://").parse().unwrap();
    let api_port = port(api);
    let mapped = |address: IpAddr| format!("::ffff:{address}");
    let (mapped_loopback, mapped_host) = (mapped("127.0.0.1".parse().unwrap()), mapped(cluster.host()));
    let log = probe(
        &kubectl,
        "burglar",
        &[
            &["connect", "127.0.0.1", &to_loopback, &api_port, "22"],
            &["connect", "::1", &to_loopback],
            &["connect", "0.0.0.0", &to_loopback],
            &["connect", &mapped_loopback, &to_loopback],
            &["connect", "localhost", &to_loopback],
            &["connect", &host, &to_beside, &api_port],
            &["connect", &mapped_host, &to_beside, &api_port],
            &["connect", "127.1.2.3", &to_loopback],
            &["connect", "169.254.169.254", "80"],
            &["connect", "fe80::1", "80"],
            &["connect", "224.0.0.1", "80"],
            &["connect", "255.255.255.255", "80"],
            &["udp", "127.0.0.1", &udp_loopback, "burglary"],
            &["udp", &host, &udp_everywhere, "burglary"],
        ],
    );
    let attempts = log.lines().filter(|line| !line.starts_with("udp")).count();
    assert_eq!(attempts, 16, "{log}");
    assert!(!log.contains(": connected"), "a guest has got through:\n{log}");
    for listener in [&loopback, &beside] {
        let seen = listener.accept().map(|(_, from)| from).map_err(|error| error.kind());
        assert_eq!(seen, Err(ErrorKind::WouldBlock), "the host's listener was reached");
    }
    for socket in [&datagrams, &everywhere] {
        let seen = socket.recv_from(&mut [0; 16]).map(|(_, from)| from).map_err(|error| error.kind());
        assert_eq!(seen, Err(ErrorKind::WouldBlock), "the host's socket was reached");
    }
    has_event(&kubectl, "burglar", "NetworkDenied");
    // The kernel has nothing of the guests' listeners either: the API's port and the node port are all.
    neighbours_go_on(&cluster, &kubectl);
    phase(&kubectl, "burglar", "Succeeded");
}
