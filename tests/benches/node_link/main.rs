//! What being told costs: the bytes of an idle node's link, counted by a relay between the node and its server, and how long
//! a change of endpoints takes to the last of many simulated nodes, each with a connection and a certificate of its own.
//!
//! `make bench` runs it against the release binary. Figures are printed, never asserted. `CORACLE_BENCH_NODES` says how many
//! nodes are simulated (1,000); with `CORACLE_BENCH_SHORT=1` there are few, and the idle link is looked at for seconds only.

mod idle;
mod relay;
mod simulated;

use coracle_tests::{Kubectl, eventually, site::binary};
use std::{
    env,
    path::Path,
    process::{Child, Command, Stdio},
};

/// Simulated nodes, where nobody says otherwise, and in short.
const NODES: (usize, usize) = (1000, 20);

fn main() {
    rustls::crypto::ring::default_provider().install_default().expect("the first provider");
    raise_descriptor_limit();
    let short = env::var_os("CORACLE_BENCH_SHORT").is_some();
    let nodes = if short { NODES.1 } else { NODES.0 };
    let nodes =
        env::var("CORACLE_BENCH_NODES").map_or(nodes, |text| text.parse().expect("CORACLE_BENCH_NODES: a number"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("server");
    let shown = data.display().to_string();
    let _server = Ended(start(&["server", "--listen", "127.0.0.1:0", "--node", "node-1", "--data-dir", &shown]));
    let kubeconfig = data.join("kubeconfig");
    let kubectl = Kubectl::new(&Kubectl::programs()[0], &kubeconfig, &directory.path().join("cache"));
    eventually("the server", || kubectl.run("get namespace default"));
    let address = kubectl.run("config view --minify -o jsonpath={.clusters[0].cluster.server}").expect("the address");
    let server = address.trim().trim_start_matches("https://").parse().expect("an address");

    idle::measure(server, &data, &directory.path().join("node"), &kubectl, short);
    simulated::measure(server, &data, nodes);
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

/// Starts a node against `server` as others see it.
fn start_node(server: &str, data: &Path, node: &Path) -> Ended {
    let credentials = data.join("nodes/node-1").display().to_string();
    let node = node.display().to_string();
    Ended(start(&["node", "--server", server, "--credentials", &credentials, "--data-dir", &node]))
}

/// Every simulated node has a connection, and the server its other end; children inherit what is set here.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of descriptors");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("more descriptors");
}
