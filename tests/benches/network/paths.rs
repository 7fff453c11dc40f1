//! Throughput, round trips and connects on every way from one pod to another, beside kernel loopback TCP.
//!
//! Pod `server` has an echo, a sink and a client of its own; `client` is its neighbour, `far` a pod of another namespace.
//! The clients wait for orders at node ports, so that they start once and take turns with everybody else.

use crate::{Amount, client, median, servers};
use coracle_tests::{
    Cluster, Kubectl, eventually, guest,
    network::{address, endpoints, node_port, service},
    pods,
};
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

const ECHO: u16 = 9000;
const SINK: u16 = 9001;
/// Where connections are kept.
pub const HOLD: u16 = 9002;
const CONTROL: u16 = 7000;
const FAR: &str = "far";

/// Somebody who does what a client can do.
pub enum Client {
    /// In this process, over the kernel's TCP.
    Native,
    /// A guest, at the other end of this connection.
    Guest(RefCell<BufReader<TcpStream>>),
}

impl Client {
    /// Waits until it listens: a node port connects before the pod is asked.
    fn guest(control: SocketAddr) -> Self {
        eventually("a guest that answers", || {
            let mut stream = BufReader::new(TcpStream::connect(control).map_err(|error| error.to_string())?);
            let mut answer = String::new();
            let asked = stream.get_mut().write_all(b"close\n").and_then(|()| stream.read_line(&mut answer));
            match asked {
                Ok(length) if length > 0 => Ok(Self::Guest(RefCell::new(stream))),
                other => Err(format!("{other:?}")),
            }
        })
    }

    /// Has it do something; see the guest's client for what there is.
    pub fn order(&self, line: &str) -> String {
        let answer = match self {
            Self::Native => client::run(line, &mut Vec::new()).unwrap_or_else(|error| format!("failed: {error}")),
            Self::Guest(stream) => {
                let mut stream = stream.borrow_mut();
                stream.get_mut().write_all(format!("{line}\n").as_bytes()).expect("a guest that listens");
                let mut answer = String::new();
                stream.read_line(&mut answer).expect("a guest that answers");
                answer
            }
        };
        assert!(!answer.is_empty() && !answer.starts_with("failed"), "{line}: {answer:?}");
        answer
    }
}

/// Who is where.
pub struct Places {
    /// In the pod `server`.
    inside: Client,
    /// In a pod of its namespace.
    pub neighbour: Client,
    /// In a pod of another namespace.
    pub far: Client,
    /// The pod's address.
    pub server: String,
    /// The cluster IP of the service in front of it.
    cluster_ip: String,
    /// The node's address, and the service's node ports for echo, sink and holder.
    node_ports: [SocketAddr; 3],
}

impl Places {
    pub fn prepare(cluster: &Cluster) -> Self {
        let kubectl = cluster.kubectl();
        cluster.push(&guest("load.wasm"), "load:1");
        kubectl.run(&format!("create namespace {FAR}")).expect("a namespace");
        let server = [("echo", ECHO), ("sink", SINK), ("hold", HOLD), ("control", CONTROL)];
        let controls = [("server", "default"), ("client", "default"), (FAR, FAR)];
        pods::apply(&kubectl, "default", &[pod("server", &server), pod("client", &[("control", CONTROL)])]);
        pods::apply(&kubectl, FAR, &[pod(FAR, &[("control", CONTROL)])]);
        let port = |(name, number): &(&str, u16)| json!({"name": name, "port": number});
        let front = json!({"type": "NodePort", "ports": server[..3].iter().map(port).collect::<Vec<_>>()});
        pods::apply(&kubectl, "default", &[service("front", "server", &front)]);
        for (name, namespace) in controls {
            let spec = json!({"type": "NodePort", "ports": [port(&("control", CONTROL))]});
            pods::apply(&kubectl, namespace, &[service(&format!("{name}-control"), name, &spec)]);
            endpoints(&kubectl, &format!("{name}-control -n {namespace}"), 1);
        }
        endpoints(&kubectl, "front", 1);
        let control = |name: &str, namespace: &str| {
            Client::guest(node_port(cluster, &format!("{name}-control -n {namespace}"), ""))
        };
        let node_ports = ["echo", "sink", "hold"].map(|port| node_port(cluster, "front", port));
        for (order, to) in ["round-trips TO 1", "throughput TO 1", "open TO 1"].into_iter().zip(node_ports) {
            eventually("a server that serves", || {
                let order = order.replace("TO", &to.to_string());
                client::run(&order, &mut Vec::new()).map_err(|error| format!("{order}: {error}"))
            });
        }
        Self {
            inside: control("server", "default"),
            neighbour: control("client", "default"),
            far: control(FAR, FAR),
            server: address(&kubectl, "server").to_string(),
            cluster_ip: cluster_ip(&kubectl, "front"),
            node_ports,
        }
    }

    /// Where the host reaches the holder.
    pub fn holder(&self) -> SocketAddr {
        self.node_ports[2]
    }
}

/// A pod with a container per role; it is ready when all run.
fn pod(name: &str, roles: &[(&str, u16)]) -> Value {
    let container =
        |(role, port): &(&str, u16)| json!({"name": role, "image": "load:1", "args": [role, port.to_string()]});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": roles.iter().map(container).collect::<Vec<_>>()},
    })
}

fn cluster_ip(kubectl: &Kubectl, service: &str) -> String {
    let object = kubectl.json(&format!("get service {service}")).expect("the service");
    object["spec"]["clusterIP"].as_str().expect("a cluster IP").to_owned()
}

/// An echo and a sink in this process, on the kernel's loopback.
fn native_servers() -> [String; 2] {
    let start = |serve: fn(TcpStream) -> std::io::Result<()>| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address").to_string();
        thread::spawn(move || servers::each(&listener, serve));
        address
    };
    [start(servers::echo), start(servers::sink)]
}

/// A way, who goes it, and where echo and sink are at its end.
struct Way<'a> {
    name: &'static str,
    client: &'a Client,
    echo: String,
    sink: String,
}

/// Prints a table: a line per way, the first being what the others are compared with.
pub fn measure(places: &Places, amount: Amount) {
    let [echo, sink] = native_servers();
    let way =
        |name, client, host: &str| Way { name, client, echo: format!("{host}:{ECHO}"), sink: format!("{host}:{SINK}") };
    let ways = [
        Way { name: "kernel loopback, native", client: &Client::Native, echo, sink },
        way("one pod, localhost", &places.inside, "127.0.0.1"),
        way("pods of one namespace", &places.neighbour, &places.server),
        way("pods of two namespaces", &places.far, &places.server),
        way("a service's cluster IP", &places.neighbour, &places.cluster_ip),
        way("the same, other namespace", &places.far, &places.cluster_ip),
        Way {
            name: "host, native, to a node port",
            client: &Client::Native,
            echo: places.node_ports[0].to_string(),
            sink: places.node_ports[1].to_string(),
        },
    ];
    let mut figures: Vec<[Vec<f64>; 4]> = ways.iter().map(|_| Default::default()).collect();
    for _ in 0..amount.turns {
        for (way, figures) in ways.iter().zip(&mut figures) {
            let trips = way.client.order(&format!("round-trips {} {}", way.echo, amount.round_trips));
            figures[0].push(figure(&trips, "p50_us"));
            figures[1].push(figure(&trips, "p99_us"));
            let through = way.client.order(&format!("throughput {} {}", way.sink, amount.mib));
            figures[2].push(figure(&through, "mib_per_s"));
            let connects = way.client.order(&format!("connects {} {}", way.echo, amount.connects));
            figures[3].push(figure(&connects, "per_s"));
        }
    }
    println!(
        "  64 bytes there and back ({} times), {} MiB one way, {} connections (each with 64 bytes there and back):",
        amount.round_trips, amount.mib, amount.connects
    );
    println!("  {:30}{:>17}{:>17}{:>18}{:>18}", "", "p50 us", "p99 us", "MiB/s", "connects/s");
    let medians: Vec<[f64; 4]> = figures.into_iter().map(|row| row.map(median)).collect();
    for (way, row) in ways.iter().zip(&medians) {
        let column = |index: usize| format!("{:9.1} ({:5.2})", row[index], row[index] / medians[0][index]);
        println!("  {:30}{:>17}{:>17}{:>18}{:>18}", way.name, column(0), column(1), column(2), column(3));
    }
    println!("  in parentheses: ratio to kernel loopback (less is better for times, more for rates)");
}

/// The value of `NAME=VALUE` among words.
fn figure(answer: &str, name: &str) -> f64 {
    let found = answer.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    found.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {answer:?}"))
}
