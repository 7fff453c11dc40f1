//! What a started process tells its user to type next.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::SocketAddr,
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
