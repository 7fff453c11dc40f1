//! What rests: control plane, agent and runners as processes of their own, with no pod, with one, and with many in one
//! namespace; of these also processor time, mappings of memory and descriptors. A second node is `coracle-node`, the program
//! for small devices; of both programs the sizes are printed.
//!
//! `make bench` runs it against the release binary. Figures are printed, never asserted. `CORACLE_BENCH_PODS` says how
//! many pods are many (1,000). They have limits and, with `CORACLE_BENCH_PROBED=1`, a TCP readiness probe each (of an HTTP
//! component then, which has no instance while no request comes; otherwise of a module that waits for input).

use coracle_sdk::{Connection, Credentials};
use coracle_tests::{Kubectl, crowd, eventually, example, guest, processes, site::binary};
use serde_json::json;
use std::{
    env, fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// Long enough for start-up's allocations to be given back.
const REST: Duration = Duration::from_secs(10);
/// How long processor time is looked at.
const LOOK: Duration = Duration::from_secs(20);
/// Many pods, where nobody says otherwise.
const MANY: usize = 1000;
/// Name of the node that is `coracle-node`.
const DEVICE: &str = "device";
/// Addresses beyond those of the many pods.
const SPARE: usize = 10;

fn main() {
    rustls::crypto::ring::default_provider().install_default().expect("the first provider");
    let many = env::var("CORACLE_BENCH_PODS").map_or(MANY, |text| text.parse().expect("CORACLE_BENCH_PODS: a number"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("server");
    let (both, alone) = (binary().expect("the binary"), binary().expect("the binary").with_file_name("coracle-node"));
    for program in [&both, &alone] {
        let bytes = fs::metadata(program).expect("the program's size").len();
        println!("{}: {:.1} MiB", program.file_name().expect("a name").display(), kib(bytes >> 10) / 1024.0);
    }
    let nodes = ["--node", "node-1", "--node", DEVICE];
    let mut server = vec!["server", "--listen", "127.0.0.1:0", "--data-dir", data.to_str().expect("a path")];
    server.extend(nodes);
    let server = Ended(start(&both, &server));
    let kubeconfig = data.join("kubeconfig");
    let kubectl = Kubectl::new(&Kubectl::programs()[0], &kubeconfig, &directory.path().join("cache"));
    eventually("the server", || kubectl.run("get namespace default"));
    let address = kubectl.run("config view --minify -o jsonpath={.clusters[0].cluster.server}").expect("the address");
    let start_node = |program: &Path, name: &str, host: &str, pods: usize| {
        let (credentials, directory) = (data.join("nodes").join(name), directory.path().join(name));
        let words = if program == both { vec!["node".to_owned()] } else { Vec::new() };
        let more = ["--server", address.trim(), "--address", host, "--max-pods", &pods.to_string(), "--credentials"];
        let words = words.into_iter().chain(more.map(str::to_owned));
        let paths = [credentials.display().to_string(), "--data-dir".to_owned(), directory.display().to_string()];
        let words: Vec<String> = words.chain(paths).collect();
        Ended(start(program, &words.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    let node = start_node(&both, "node-1", "127.0.0.1", many + SPARE);
    // No room for the many.
    let device = start_node(&alone, DEVICE, "127.0.0.2", 1);
    eventually("readiness", || kubectl.run("wait --for=condition=Ready node/node-1 node/device --timeout=5s"));
    thread::sleep(REST);
    println!("idle, no pod:");
    print("control plane", server.0.id());
    print("agent of coracle", node.0.id());
    print("agent of coracle-node", device.0.id());

    push(&kubeconfig, &example("init-pod/app.wasm"), "myapp:1");
    for (pod, name) in [("idle", "node-1"), ("idle-too", DEVICE)] {
        let spec = json!({"apiVersion": "v1", "spec": {"nodeName": name}}).to_string();
        kubectl.run_arguments(["run", pod, "--image=myapp:1", &format!("--overrides={spec}")]).expect("a pod");
    }
    eventually("the pods", || kubectl.run("wait --for=condition=Ready pod/idle pod/idle-too --timeout=5s"));
    thread::sleep(REST);
    println!("idle, one sleeping pod each:");
    print("control plane", server.0.id());
    for (what, agent) in [("coracle", node.0.id()), ("coracle-node", device.0.id())] {
        print(&format!("agent of {what}"), agent);
        for runner in processes::descendants(agent) {
            print(&format!("runner of {what}"), runner);
        }
        println!("  agent and runner of {what}: {:.1} MiB PSS", kib(pss_of_node(agent)) / 1024.0);
    }
    drop(device);

    let container = if env::var_os("CORACLE_BENCH_PROBED").is_some() {
        push(&kubeconfig, &guest("http.wasm"), "http:1");
        println!("idle, {many} HTTP components more in one namespace, with limits and a TCP probe every 10 s:");
        json!({
            "name": "app", "image": "http:1", "ports": [{"containerPort": 8080}], "readinessProbe": {"tcpSocket": {"port": 8080}},
            "resources": {"limits": {"cpu": "100m", "memory": "16Mi"}, "requests": {"cpu": "0", "memory": "0"}},
        })
    } else {
        println!("idle, {many} sleeping pods more in one namespace, with limits and without probes:");
        json!({
            "name": "app", "image": "myapp:1",
            "resources": {"limits": {"cpu": "100m", "memory": "16Mi"}, "requests": {"cpu": "0", "memory": "0"}},
        })
    };
    let before = [pss_kib(server.0.id()), pss_of_node(node.0.id())];
    let credentials = Credentials::load(Some(&kubeconfig), None).expect("the kubeconfig");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let started = runtime.block_on(async {
        let connection = Connection::new(&credentials).expect("the connection");
        crowd::start(&connection, "many", many, &container).await
    });
    println!("  all running after {:.1?}", started.all);
    thread::sleep(REST);
    many_rest(server.0.id(), node.0.id(), many, before);
}

/// What each process has and uses, and what a pod costs over `before`, which is control plane and node in KiB.
fn many_rest(server: u32, node: u32, many: usize, before: [u64; 2]) {
    let runners = processes::descendants(node);
    let named = [("control plane", server), ("agent", node)];
    let all: Vec<(&str, u32)> = named.into_iter().chain(runners.iter().map(|runner| ("runner", *runner))).collect();
    let used =
        || -> Vec<Duration> { all.iter().map(|(_, pid)| processes::cpu_time(*pid).unwrap_or_default()).collect() };
    let begun = used();
    thread::sleep(LOOK);
    let ended = used();
    for (index, (what, pid)) in all.iter().enumerate() {
        print(what, *pid);
        let percent = ended[index].saturating_sub(begun[index]).as_secs_f64() / LOOK.as_secs_f64() * 100.0;
        let (mappings, descriptors) = (processes::mappings(*pid), processes::descriptors(*pid).len());
        println!("    {percent:.2} % of a processor, {mappings} mappings, {descriptors} descriptors");
    }
    let node_used: Duration = (1..all.len()).map(|index| ended[index].saturating_sub(begun[index])).sum();
    println!("  agent and runners: {:.2} % of a processor", node_used.as_secs_f64() / LOOK.as_secs_f64() * 100.0);
    let each =
        |now: u64, before: u64| kib(now.saturating_sub(before)) / f64::from(u32::try_from(many).unwrap_or(u32::MAX));
    println!("  a pod costs the node {:.1} KiB PSS", each(pss_of_node(node), before[1]));
    println!("  a pod costs the control plane {:.1} KiB PSS", each(pss_kib(server), before[0]));
}

fn pss_kib(pid: u32) -> u64 {
    processes::pss_kib(pid).unwrap_or_default()
}

/// Agent and runners, in KiB.
fn pss_of_node(agent: u32) -> u64 {
    pss_kib(agent) + processes::descendants(agent).into_iter().map(pss_kib).sum::<u64>()
}

fn kib(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX))
}

/// Ends with the bench, whatever happens.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // A failure means that it has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(program: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("a process")
}

fn push(kubeconfig: &Path, file: &Path, name: &str) {
    let mut command = Command::new(binary().expect("the binary"));
    let status = command.arg("push").arg(file).arg(name).env("KUBECONFIG", kubeconfig).status().expect("a push");
    assert!(status.success());
}

fn print(what: &str, pid: u32) {
    println!("  {what}: {:.1} MiB PSS", kib(pss_kib(pid)) / 1024.0);
}
