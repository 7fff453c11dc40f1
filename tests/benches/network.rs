//! The pod network against the kernel's loopback TCP in the same run: throughput, round trips, connections per second,
//! and memory per open connection.
//!
//! `make bench` runs it against the release binary. Figures are printed, never asserted. Both ends of the pod network are
//! guests; both ends on loopback are threads of this process that make the same system calls.

use coracle_tests::{
    Cluster, Kubectl, eventually, guest,
    network::{address, endpoints, server, service},
    pods, processes,
    wait::within,
};
use serde_json::{Value, json};
use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

const ROUND_TRIPS: usize = 5000;
const MIB: usize = 512;
const CONNECTS: usize = 3000;
/// Connections that are held open, to see what one costs.
const OPEN: u32 = 4000;
/// As the guest has it.
const MESSAGE: usize = 64;
const CHUNK: usize = 64 << 10;
const LIMIT: Duration = Duration::from_mins(5);
/// Long enough for what is made on first use to have been made, and for allocators to give back.
const REST: Duration = Duration::from_secs(5);

/// One row of figures.
#[derive(Debug, Clone, Copy)]
struct Figures {
    mib_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    connects_per_second: f64,
}

fn main() {
    let loopback = loopback();
    println!("{:<28}{:>18}{:>16}{:>16}{:>18}", "", "MiB/s", "p50 µs", "p99 µs", "connects/s");
    print("kernel loopback", loopback, loopback);
    let cluster = Cluster::start();
    cluster.push(&guest("probe.wasm"), "probe:1");
    let kubectl = cluster.kubectl();
    let ports = json!({"ports": [{"name": "echo", "port": 9000}, {"name": "sink", "port": 9001}]});
    kubectl.run("create namespace beyond").expect("a namespace");
    pods::apply(&kubectl, "default", &[server("target", "target"), service("target", "target", &ports)]);
    endpoints(&kubectl, "target", 1);
    let ip = address(&kubectl, "target").to_string();

    let mut both = client("both", "localhost");
    let beside = server("x", "x")["spec"]["containers"][0].clone();
    let containers = both["spec"]["containers"].as_array_mut().expect("containers");
    containers.push(beside);
    containers[1]["name"] = "server".into();
    print("same pod", measure(&kubectl, "default", &both), loopback);
    print("same namespace", measure(&kubectl, "default", &client("near", &ip)), loopback);
    print("across namespaces", measure(&kubectl, "beyond", &client("far", &ip)), loopback);
    print("through a service", measure(&kubectl, "default", &client("by-service", "target")), loopback);
    print(
        "service, across namespaces",
        measure(&kubectl, "beyond", &client("far-service", "target.default")),
        loopback,
    );
    open_connections(&cluster, &kubectl);
}

fn print(what: &str, figures: Figures, base: Figures) {
    let cell = |value: f64, base: f64| format!("{value:.1} ({:.2}x)", value / base);
    println!(
        "{what:<28}{:>18}{:>16}{:>16}{:>18}",
        cell(figures.mib_per_second, base.mib_per_second),
        cell(figures.p50_us, base.p50_us),
        cell(figures.p99_us, base.p99_us),
        cell(figures.connects_per_second, base.connects_per_second),
    );
}

fn client(name: &str, host: &str) -> Value {
    let (trips, mib, connects) = (ROUND_TRIPS.to_string(), MIB.to_string(), CONNECTS.to_string());
    let commands: [&[&str]; 5] = [
        &["until", host, "9000"],
        &["round-trips", host, "9000", &trips],
        &["throughput", host, "9001", &mib],
        &["connects", host, "9000", &connects],
        &["hold"],
    ];
    pods::pod(name, "Always", &json!({"image": "probe:1", "args": commands.join(&"--")}))
}

fn measure(kubectl: &Kubectl, namespace: &str, pod: &Value) -> Figures {
    let name = pod["metadata"]["name"].as_str().expect("a name");
    pods::apply(kubectl, namespace, std::slice::from_ref(pod));
    let log = within(LIMIT, "the figures", || {
        let log = kubectl.run(&format!("logs {name} -c main -n {namespace}"))?;
        if log.contains("holding") { Ok(log) } else { Err(log) }
    });
    kubectl.run(&format!("delete pod {name} -n {namespace} --timeout=50s")).expect("the client goes");
    let figure = |key: &str| {
        let found = log.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok());
        found.unwrap_or_else(|| panic!("{key} is missing in:\n{log}"))
    };
    Figures {
        mib_per_second: figure("mib_per_s"),
        p50_us: figure("p50_us"),
        p99_us: figure("p99_us"),
        connects_per_second: figure("per_s"),
    }
}

/// The same over the kernel's loopback.
fn loopback() -> Figures {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("its address");
    // Ends with the process.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || echo(stream));
        }
    });
    let sink = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let sink_address = sink.local_addr().expect("its address");
    thread::spawn(move || {
        let (mut stream, _) = sink.accept().expect("a connection");
        let mut chunk = vec![0; CHUNK];
        while stream.read(&mut chunk).expect("bytes") > 0 {}
    });
    let mut times = round_trips(address);
    times.sort();
    let at = |hundredths: usize| times[times.len() * hundredths / 100].as_secs_f64() * 1e6;
    Figures {
        mib_per_second: throughput(sink_address),
        p50_us: at(50),
        p99_us: at(99),
        connects_per_second: connects(address),
    }
}

fn echo(mut stream: TcpStream) {
    stream.set_nodelay(true).expect("an option");
    let mut message = [0; MESSAGE];
    while stream.read_exact(&mut message).is_ok() && stream.write_all(&message).is_ok() {}
}

fn round_trips(address: SocketAddr) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_nodelay(true).expect("an option");
    let mut message = [0; MESSAGE];
    let trip = |_| {
        let begun = Instant::now();
        stream.write_all(&message).expect("a question");
        stream.read_exact(&mut message).expect("an answer");
        begun.elapsed()
    };
    (0..ROUND_TRIPS).map(trip).collect()
}

fn throughput(address: SocketAddr) -> f64 {
    let mut stream = TcpStream::connect(address).expect("a connection");
    let chunk = vec![0; CHUNK];
    let begun = Instant::now();
    for _ in 0..MIB * ((1 << 20) / CHUNK) {
        stream.write_all(&chunk).expect("room");
    }
    stream.shutdown(Shutdown::Write).expect("a half-close");
    // The other end closes once it has everything.
    stream.read_to_end(&mut Vec::new()).expect("the end");
    f64::from(u32::try_from(MIB).expect("few")) / begun.elapsed().as_secs_f64()
}

fn connects(address: SocketAddr) -> f64 {
    let begun = Instant::now();
    let mut message = [0; MESSAGE];
    for _ in 0..CONNECTS {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.write_all(&message).expect("a question");
        stream.read_exact(&mut message).expect("an answer");
    }
    f64::from(u32::try_from(CONNECTS).expect("few")) / begun.elapsed().as_secs_f64()
}

/// What one more open connection between two pods costs, both ends counted, their guests' own memory too.
fn open_connections(cluster: &Cluster, kubectl: &Kubectl) {
    let listening = pods::pod("mute", "Always", &json!({"image": "probe:1", "args": ["serve", "mute=9002"]}));
    pods::apply(kubectl, "default", &[listening]);
    let ip = address(kubectl, "mute").to_string();
    let total = || -> u64 {
        let pids = [cluster.pid()].into_iter().chain(cluster.runners());
        pids.filter_map(processes::pss_kib).sum()
    };
    let occupy = |name: &str, count: u32| {
        let count = count.to_string();
        let commands: [&[&str]; 2] = [&["until", &ip, "9002"], &["occupy", &ip, "9002", &count]];
        let pod = pods::pod(name, "Always", &json!({"image": "probe:1", "args": commands.join(&"--")}));
        pods::apply(kubectl, "default", &[pod]);
        eventually("the connections", || {
            let log = kubectl.run(&format!("logs {name}"))?;
            if log.contains(&format!("{count} open")) { Ok(()) } else { Err(log) }
        });
        thread::sleep(REST);
    };
    occupy("few", 100);
    let before = total();
    occupy("many", OPEN);
    let each = f64::from(u32::try_from(total().saturating_sub(before)).unwrap_or(u32::MAX)) / f64::from(OPEN);
    println!("memory per open connection between two pods (PSS of all processes, guests included): {each:.2} KiB");
}
