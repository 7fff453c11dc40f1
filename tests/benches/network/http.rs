//! Requests per second of an HTTP component through a node port, beside `wasmtime serve` with the same component.
//!
//! The program is named by `CORACLE_BENCH_WASMTIME`; without it there is nothing to compare with, and that is said.

use crate::{Amount, median};
use coracle_tests::{
    Cluster, eventually, guest,
    network::{endpoints, get, node_port, service},
    pods,
};
use serde_json::json;
use std::{
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Connections, each of which always has one request under way.
const CONNECTIONS: usize = 8;
const PATH: &str = "/hello";
const WARM_UP: Duration = Duration::from_millis(500);
/// How a runner has it too: a pool of instances (the default), one request per instance, interruptible code, the same
/// optimisation; `cli` is what this component imports beside HTTP.
const FLAGS: [&str; 7] = [
    "serve",
    "-Scli=y",
    "-Wtimeout=3600s",
    "-Oopt-level=2",
    "-Opooling-allocator=y",
    "--max-instance-reuse-count=1",
    "--addr",
];

pub fn measure(cluster: &Cluster, amount: Amount) {
    let kubectl = cluster.kubectl();
    cluster.push(&guest("http.wasm"), "http:1");
    let container = json!({"image": "http:1", "ports": [{"containerPort": 8080}]});
    let mut pod = pods::pod("web", "Always", &container);
    pod["metadata"]["labels"] = json!({"app": "web"});
    let spec = json!({"type": "NodePort", "ports": [{"port": 8080}]});
    pods::apply(&kubectl, "default", &[pod, service("web", "web", &spec)]);
    endpoints(&kubectl, "web", 1);
    let mut servers = vec![("an HTTP component through a node port", node_port(cluster, "web", ""))];
    let wasmtime = env::var_os("CORACLE_BENCH_WASMTIME").map(|program| Serve::start(Path::new(&program)));
    if let Some(wasmtime) = &wasmtime {
        servers.push(("wasmtime serve", wasmtime.address));
    }

    let mut results: Vec<[Vec<f64>; 3]> = servers.iter().map(|_| Default::default()).collect();
    for (_, server) in &servers {
        eventually("an answer", || get(*server, PATH).map(|answer| assert_eq!(answer.text(), "hello\n")));
        load(*server, WARM_UP);
    }
    for _ in 0..amount.turns {
        for ((_, server), results) in servers.iter().zip(&mut results) {
            let figures = load(*server, amount.http);
            figures.into_iter().zip(results).for_each(|(figure, figures)| figures.push(figure));
        }
    }
    println!("  HTTP/1.1, GET {PATH}, {CONNECTIONS} connections kept alive, {:?} each:", amount.http);
    let medians: Vec<[f64; 3]> = results.into_iter().map(|row| row.map(median)).collect();
    for ((name, _), [rate, p50, p99]) in servers.iter().zip(&medians) {
        println!("  {name:40}{rate:9.0} requests/s   p50 {p50:7.1} us   p99 {p99:7.1} us");
    }
    match (&wasmtime, medians.as_slice()) {
        (Some(wasmtime), [ours, theirs]) => {
            println!("  ratio of requests/s to {}: {:.2}", wasmtime.version, ours[0] / theirs[0]);
            println!("  its flags: {}", FLAGS.join(" "));
        }
        _ => println!("  no wasmtime to compare with: CORACLE_BENCH_WASMTIME is not set"),
    }
}

/// `wasmtime serve`; ends with the bench.
struct Serve {
    child: Child,
    address: SocketAddr,
    version: String,
}

impl Serve {
    fn start(program: &Path) -> Self {
        let output = Command::new(program).arg("--version").output().expect("wasmtime");
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        // Free when this returns; nobody else on this machine draws ports just now.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let mut command = Command::new(program);
        command.args(FLAGS).arg(address.to_string()).arg(guest("http.wasm"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("wasmtime serve");
        Self { child, address, version }
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // A failure means that it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Requests per second, and the median and 99th percentile of a request in microseconds.
fn load(server: SocketAddr, time: Duration) -> [f64; 3] {
    let deadline = Instant::now() + time;
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| thread::spawn(move || client(server, deadline))).collect();
    let mut times: Vec<Duration> = clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
    times.sort();
    let count = f64::from(u32::try_from(times.len()).unwrap_or(u32::MAX));
    let at = |hundredths: usize| times[(times.len() * hundredths / 100).min(times.len() - 1)].as_secs_f64() * 1e6;
    [count / time.as_secs_f64(), at(50), at(99)]
}

/// Asks over one connection until the deadline, and says how long each answer took.
fn client(server: SocketAddr, deadline: Instant) -> Vec<Duration> {
    let mut stream = BufReader::new(TcpStream::connect(server).expect("a connection"));
    stream.get_ref().set_nodelay(true).expect("a connected socket");
    let request = format!("GET {PATH} HTTP/1.1\r\nHost: {server}\r\n\r\n");
    let mut times = Vec::new();
    let mut body = Vec::new();
    while Instant::now() < deadline {
        let begun = Instant::now();
        stream.get_mut().write_all(request.as_bytes()).expect("a server");
        let length = head(&mut stream);
        body.resize(length, 0);
        stream.read_exact(&mut body).expect("a whole answer");
        assert_eq!(body, b"hello\n");
        times.push(begun.elapsed());
    }
    times
}

/// Reads the head of an answer, and says how long its body is.
fn head(stream: &mut BufReader<TcpStream>) -> usize {
    let (mut line, mut length, mut first) = (String::new(), None, true);
    loop {
        line.clear();
        assert!(stream.read_line(&mut line).expect("an answer") > 0, "the server has closed the connection");
        if first {
            assert!(line.starts_with("HTTP/1.1 200"), "{line}");
            first = false;
        } else if line == "\r\n" {
            return length.expect("a length");
        } else if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
}
