//! What rests in memory: control plane, agent and runner as processes of their own, with no pod and with one.
//!
//! `make bench` runs it against the release binary. Figures are printed, never asserted.

use coracle_tests::{Kubectl, cluster::binary, eventually, example, processes};
use std::{
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// Long enough for start-up's allocations to be given back.
const REST: Duration = Duration::from_secs(10);

fn main() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("server");
    let server = Ended(start(&[
        "server",
        "--listen",
        "127.0.0.1:0",
        "--node",
        "node-1",
        "--data-dir",
        &data.display().to_string(),
    ]));
    let kubeconfig = data.join("kubeconfig");
    let kubectl = Kubectl::new(&Kubectl::programs()[0], &kubeconfig, &directory.path().join("cache"));
    eventually("the server", || kubectl.run("get namespace default"));
    let address = kubectl.run("config view --minify -o jsonpath={.clusters[0].cluster.server}").expect("the address");
    let node = Ended(start(&[
        "node",
        "--server",
        address.trim(),
        "--credentials",
        &data.join("nodes/node-1").display().to_string(),
        "--data-dir",
        &directory.path().join("node").display().to_string(),
    ]));
    eventually("readiness", || kubectl.run("get --raw /readyz"));
    thread::sleep(REST);
    println!("idle, no pod:");
    print("control plane", server.0.id());
    print("agent", node.0.id());

    push(&kubeconfig, &example("init-pod/app.wasm"), "myapp:1");
    kubectl.run("run idle --image=myapp:1").expect("a pod");
    eventually("the pod", || kubectl.run("wait --for=condition=Ready pod/idle --timeout=5s"));
    thread::sleep(REST);
    println!("idle, one sleeping pod:");
    print("control plane", server.0.id());
    print("agent", node.0.id());
    for runner in processes::descendants(node.0.id()) {
        print("runner", runner);
    }
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

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(binary().expect("the binary"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("a process")
}

fn push(kubeconfig: &Path, file: &Path, name: &str) {
    let mut command = Command::new(binary().expect("the binary"));
    let status = command.arg("push").arg(file).arg(name).env("KUBECONFIG", kubeconfig).status().expect("a push");
    assert!(status.success());
}

fn print(what: &str, pid: u32) {
    let kib = processes::pss_kib(pid).and_then(|kib| u32::try_from(kib).ok()).unwrap_or_default();
    println!("  {what}: {:.1} MiB PSS", f64::from(kib) / 1024.0);
}
