//! What a started process tells its user to type next.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    path::Path,
};

/// Prints it. Whoever has closed the output does not want to know.
pub(crate) fn print(text: &str) {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).ok();
}

/// For `coracle dev`.
pub(crate) fn dev(address: SocketAddr, data_dir: &Path, node: &str) -> String {
    let directory = data_dir.display();
    format!(
        "Coracle is up: https://{address}, node {node}, everything under {directory}

  export KUBECONFIG={directory}/kubeconfig
  kubectl get nodes
  coracle push hello.wasm hello:1
  kubectl run hello --image=hello:1 --restart=Never
  kubectl logs -f hello

Ctrl-C stops it. Started again on the same directory, everything is still there.
"
    )
}

/// For `coracle dev --nodes`; `nodes` are their names and addresses.
pub(crate) fn fleet(address: SocketAddr, data_dir: &Path, nodes: &[(&str, IpAddr)]) -> String {
    let directory = data_dir.display();
    let mut processes = String::new();
    for (name, address) in nodes {
        // Writing to a string does not fail.
        writeln!(processes, "  {name} is a process of its own at {address}").ok();
    }
    let last = nodes.last().map_or("node-1", |node| node.0);
    format!(
        "Coracle is up: https://{address}, everything under {directory}

{processes}
  export KUBECONFIG={directory}/kubeconfig
  kubectl get nodes -o wide
  pkill -9 -f 'node --name {last}'

The last line kills a node; what starts it again is printed then. Ctrl-C stops all of them.
"
    )
}

/// For `coracle server`.
pub(crate) fn server(address: SocketAddr, data_dir: &Path, nodes: &[String]) -> String {
    let directory = data_dir.display();
    let mut text = format!(
        "The control plane serves https://{address}.

  export KUBECONFIG={directory}/kubeconfig
  kubectl get nodes
"
    );
    for node in nodes {
        let credentials = format!("--credentials {directory}/nodes/{node}");
        // Writing to a string does not fail.
        writeln!(text, "  coracle node --server https://{address} {credentials} --data-dir {node}-data").ok();
    }
    text
}
