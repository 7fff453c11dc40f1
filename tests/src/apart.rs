//! A control plane and a node as processes of their own, so that either can be away while the other goes on.

use crate::{
    daemon::Daemon,
    kubectl::Kubectl,
    pods, processes,
    site::{self, Site, children},
    wait::eventually,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The port of the API, on an address that no other test uses: a restarted server must be found again.
const PORT: u16 = 6443;
/// Name of the node.
pub const NODE: &str = "edge";

/// See the module. Dropping it kills both processes and removes the directory.
pub struct Apart {
    server: Daemon,
    node: Daemon,
    site: Site,
}

impl Apart {
    /// Starts both and waits until the node is ready.
    ///
    /// # Panics
    /// When it does not become so.
    #[must_use]
    pub fn start() -> Self {
        let mut apart = Self { server: Daemon::default(), node: Daemon::default(), site: Site::new() };
        apart.start_server();
        apart.start_node();
        let kubectl = apart.kubectl();
        eventually("the node to be ready", || {
            let node =
                kubectl.json(&format!("get node {NODE}")).map_err(|error| format!("{error}\n{}", apart.log()))?;
            if pods::condition(&node, "Ready")["status"] == "True" { Ok(()) } else { Err(node["status"].to_string()) }
        });
        apart
    }

    /// Starts the control plane and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start_server(&mut self) {
        let data = self.site.path("server").display().to_string();
        let listen = format!("{}:{PORT}", self.site.host);
        let arguments = ["server", "--data-dir", &data, "--listen", &listen, "--node", NODE];
        self.server.start(self.site.command("log", &arguments));
        let kubectl = self.kubectl();
        eventually("the server to answer", || {
            kubectl.run("get --raw /livez").map_err(|error| format!("{error}\n{}", self.log()))
        });
    }

    /// Starts the node; does not wait for anything.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_node(&mut self) {
        let (data, credentials) = (self.node_dir(), self.site.path("server").join("nodes").join(NODE));
        let server = format!("https://{}:{PORT}", self.site.host);
        let (data, credentials) = (data.display().to_string(), credentials.display().to_string());
        let arguments = ["node", "--server", &server, "--data-dir", &data, "--credentials", &credentials];
        self.node.start(self.site.command("log", &arguments));
    }

    /// `kill -9` of the control plane.
    pub fn kill_server(&mut self) {
        self.server.kill();
    }

    /// `kill -9` of the node agent.
    pub fn kill_node(&mut self) {
        self.node.kill();
    }

    /// Process id of the agent.
    ///
    /// # Panics
    /// When it was killed.
    #[must_use]
    pub fn node_pid(&self) -> u32 {
        self.node.pid().expect("the node was started")
    }

    /// The agent's descendants: runners and compilers.
    #[must_use]
    pub fn node_children(&self) -> Vec<u32> {
        self.node.descendants()
    }

    /// Panics when the agent has ended by itself.
    ///
    /// # Panics
    /// Then.
    pub fn assert_node_runs(&mut self) {
        let ended = self.node.ended();
        assert!(ended.is_none(), "the agent ended with {ended:?}:\n{}", self.log());
    }

    /// Command lines of processes that work in the node's directory and do not belong to the agent that runs now.
    #[must_use]
    pub fn strays(&self) -> Vec<(u32, Vec<String>)> {
        let directory = self.node_dir();
        // Listed first: what the agent starts meanwhile is not taken for a stray.
        let working = processes::all().into_iter().filter(|pid| processes::works_below(*pid, &directory));
        let working: Vec<u32> = working.collect();
        let own = self.node_children();
        let is_stray = |pid: &u32| self.node.pid() != Some(*pid) && !own.contains(pid);
        working.into_iter().filter(is_stray).map(|pid| (pid, processes::command_line(pid))).collect()
    }

    /// The directory of the node.
    #[must_use]
    pub fn node_dir(&self) -> PathBuf {
        self.site.path("node")
    }

    /// What a container of a pod has written to its log on the node, by the pod's name; all runs together.
    #[must_use]
    pub fn output(&self, pod: &str) -> String {
        let mut files = Vec::new();
        let named = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(pod));
        for directory in children(&self.node_dir().join("logs")).into_iter().filter(|path| named(path)) {
            files.extend(children(&directory).iter().flat_map(|container| children(container)));
        }
        files.sort();
        files.iter().map(|file| fs::read_to_string(file).unwrap_or_default()).collect()
    }

    /// Everything that both processes have printed.
    #[must_use]
    pub fn log(&self) -> String {
        self.site.log()
    }

    /// The first kubectl.
    #[must_use]
    pub fn kubectl(&self) -> Kubectl {
        self.site.kubectl(&Kubectl::programs()[0], &self.kubeconfig())
    }

    /// Pushes a wasm file as an image of the cluster's registry.
    ///
    /// # Panics
    /// When it is refused.
    pub fn push(&self, file: &Path, name: &str) {
        site::push(&self.kubeconfig(), file, name);
    }

    fn kubeconfig(&self) -> PathBuf {
        self.site.path("server").join("kubeconfig")
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the server and the node ---\n{}", self.log());
        }
        // First, so that it does not print that its server is gone.
        self.kill_node();
    }
}
