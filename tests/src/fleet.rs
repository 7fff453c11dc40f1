//! A control plane and several nodes, each a process with a loopback address, a directory and a log of its own. Any of
//! them is killed, frozen and started again while the others go on; none outlives the test.
//!
//! Nodes have numbers from 0; number 0 is called `node-0`.

use crate::{
    daemon::Daemon,
    device::Device,
    footprint::Node as Holder,
    kubectl::Kubectl,
    network::node_port_number,
    pods, processes,
    site::{self, Site, another_host, children},
    wait::eventually,
};
use nix::sys::signal::Signal;
use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitStatus,
};

/// The port of the API, on an address that no other test uses: a restarted server must be found again.
const PORT: u16 = 6443;
/// Lines of each log that a failed test shows.
const LOG_LINES_SHOWN: usize = 400;

/// See the module. Dropping it kills every process and removes the directory.
pub struct Fleet {
    nodes: Vec<Node>,
    server: Daemon,
    server_arguments: Vec<String>,
    node_arguments: Vec<String>,
    environment: Vec<(String, String)>,
    site: Site,
}

struct Node {
    daemon: Daemon,
    host: Ipv4Addr,
    device: Option<Device>,
}

impl Fleet {
    /// Starts a server and so many nodes, and waits until all nodes are ready.
    ///
    /// # Panics
    /// When one does not become so.
    #[must_use]
    pub fn start(nodes: usize) -> Self {
        Self::unstarted(nodes).up()
    }

    /// One that was never started, to give it arguments before.
    ///
    /// # Panics
    /// When there is no temporary directory.
    #[must_use]
    pub fn unstarted(nodes: usize) -> Self {
        let node = |_| Node { daemon: Daemon::default(), host: another_host(), device: None };
        Self {
            nodes: (0..nodes).map(node).collect(),
            server: Daemon::default(),
            server_arguments: Vec::new(),
            node_arguments: Vec::new(),
            environment: Vec::new(),
            site: Site::new(),
        }
    }

    /// With more arguments for `coracle server`.
    #[must_use]
    pub fn with_server_arguments(mut self, arguments: &[&str]) -> Self {
        self.server_arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// With more arguments for every `coracle node`.
    #[must_use]
    pub fn with_node_arguments(mut self, arguments: &[&str]) -> Self {
        self.node_arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// With more variables in the environment of every node.
    #[must_use]
    pub fn with_environment(mut self, variables: &[(&str, &str)]) -> Self {
        self.environment.extend(variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())));
        self
    }

    /// With one node on a device: `coracle-node` as an ordinary user, with the device's memory.
    #[must_use]
    pub fn on_device(mut self, node: usize, device: Device) -> Self {
        self.nodes[node].device = Some(device);
        self
    }

    /// The device that a node is on, if it is on one.
    #[must_use]
    pub fn device(&self, node: usize) -> Option<&Device> {
        self.nodes[node].device.as_ref()
    }

    /// Starts whatever does not run and waits until all nodes are ready.
    ///
    /// # Panics
    /// When one does not become so.
    #[must_use]
    pub fn up(mut self) -> Self {
        self.start_server();
        for node in 0..self.nodes.len() {
            self.start_node(node);
        }
        for node in 0..self.nodes.len() {
            self.until_ready(node);
        }
        self
    }

    /// Starts the control plane and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start_server(&mut self) {
        let mut arguments: Vec<String> = ["server", "--listen"].map(str::to_owned).into();
        arguments.extend([format!("{}:{PORT}", self.site.host), "--data-dir".into(), shown(&self.server_dir())]);
        for node in 0..self.nodes.len() {
            arguments.extend(["--node".to_owned(), self.name(node)]);
        }
        arguments.extend(self.server_arguments.iter().cloned());
        self.server.start(self.site.command("server.log", &arguments));
        let kubectl = self.kubectl();
        eventually("the server to answer", || {
            kubectl.run("get --raw /livez").map_err(|error| format!("{error}\n{}", self.server_log()))
        });
    }

    /// Starts a node; does not wait for anything.
    ///
    /// # Panics
    /// When it runs or cannot be started.
    pub fn start_node(&mut self, node: usize) {
        let (directory, mut credentials) = (self.node_dir(node), self.credentials(node));
        if self.nodes[node].device.is_some() {
            credentials = carried(&credentials, &directory);
        }
        let mut arguments: Vec<String> = ["--server".to_owned(), self.server_url()].into();
        arguments.extend(["--address".to_owned(), self.nodes[node].host.to_string()]);
        arguments.extend(["--credentials".to_owned(), shown(&credentials)]);
        arguments.extend(["--data-dir".to_owned(), shown(&directory)]);
        arguments.extend(self.node_arguments.iter().cloned());
        let mut command = if let Some(device) = &self.nodes[node].device {
            self.site.printing(&log_of(node), device.command(&directory, &arguments))
        } else {
            arguments.insert(0, "node".to_owned());
            self.site.command(&log_of(node), &arguments)
        };
        command.envs(self.environment.iter().cloned());
        self.nodes[node].daemon.start(command);
    }

    /// `kill -9` of the control plane.
    pub fn kill_server(&mut self) {
        self.server.kill();
    }

    /// `SIGSTOP` to the control plane: its connections stay, and it says nothing.
    pub fn pause_server(&self) {
        self.server.signal(Signal::SIGSTOP);
    }

    /// `SIGCONT` to the control plane.
    pub fn resume_server(&self) {
        self.server.signal(Signal::SIGCONT);
    }

    /// `kill -9` of a node's agent; its runners end by themselves.
    pub fn kill_node(&mut self, node: usize) {
        self.nodes[node].daemon.kill();
    }

    /// `SIGSTOP` to a node's agent: the node is silent, and its pods compute on.
    pub fn pause_node(&self, node: usize) {
        self.nodes[node].daemon.signal(Signal::SIGSTOP);
    }

    /// `SIGCONT` to a node's agent.
    pub fn resume_node(&self, node: usize) {
        self.nodes[node].daemon.signal(Signal::SIGCONT);
    }

    /// Ends a node with `SIGTERM`, which gives its pods their grace, and answers its exit status.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop_node(&mut self, node: usize) -> ExitStatus {
        let (site, log) = (&self.site, log_of(node));
        self.nodes[node].daemon.stop(|| site.printed(&log))
    }

    /// `SIGTERM` to a node; does not wait for anything.
    pub fn ask_node_to_end(&self, node: usize) {
        self.nodes[node].daemon.signal(Signal::SIGTERM);
    }

    /// Waits for the end of a node that was asked to end, and answers its exit status.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn node_end(&mut self, node: usize) -> ExitStatus {
        let (site, log) = (&self.site, log_of(node));
        self.nodes[node].daemon.end(|| site.printed(&log))
    }

    /// `kill -9` of a node, and a new start once nothing of it runs any more.
    ///
    /// # Panics
    /// When something of it runs on, or it does not start.
    pub fn restart_node(&mut self, node: usize) {
        self.kill_node(node);
        eventually("the end of the dead node's processes", || {
            let strays = self.strays(node);
            if strays.is_empty() { Ok(()) } else { Err(format!("{strays:?}")) }
        });
        self.start_node(node);
    }

    /// Panics when an agent that was started has ended by itself.
    ///
    /// # Panics
    /// Then.
    pub fn assert_nodes_run(&mut self) {
        for node in 0..self.nodes.len() {
            let ended = self.nodes[node].daemon.ended();
            assert!(ended.is_none(), "{} ended with {ended:?}:\n{}", self.name(node), self.node_log(node));
        }
    }

    /// How many nodes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Name of a node.
    #[must_use]
    pub fn name(&self, node: usize) -> String {
        format!("node-{node}")
    }

    /// Address of a node, node ports included.
    #[must_use]
    pub fn address(&self, node: usize) -> IpAddr {
        self.nodes[node].host.into()
    }

    /// Address of the control plane, `https://HOST:PORT`.
    #[must_use]
    pub fn server_url(&self) -> String {
        format!("https://{}:{PORT}", self.site.host)
    }

    /// Where a service's port (by name; empty for the only one) is reached through a node.
    ///
    /// # Panics
    /// When the service has none.
    #[must_use]
    pub fn node_port(&self, node: usize, service: &str, port: &str) -> SocketAddr {
        SocketAddr::new(self.address(node), node_port_number(&self.kubectl(), service, port))
    }

    /// Process id of the control plane, if it runs.
    #[must_use]
    pub fn server_pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// Process id of a node's agent, if it runs.
    #[must_use]
    pub fn node_pid(&self, node: usize) -> Option<u32> {
        self.nodes[node].daemon.pid()
    }

    /// A node's runners and compilers.
    #[must_use]
    pub fn node_children(&self, node: usize) -> Vec<u32> {
        self.nodes[node].daemon.descendants()
    }

    /// Processes that work in a node's directory and do not belong to the agent that runs there now.
    #[must_use]
    pub fn strays(&self, node: usize) -> Vec<(u32, Vec<String>)> {
        let directory = self.node_dir(node);
        // Listed first: what the agent starts meanwhile is not taken for a stray.
        let working = processes::all().into_iter().filter(|pid| processes::works_below(*pid, &directory));
        let working: Vec<u32> = working.collect();
        let (agent, own) = (self.node_pid(node), self.node_children(node));
        let is_stray = |pid: &u32| agent != Some(*pid) && !own.contains(pid);
        working.into_iter().filter(is_stray).map(|pid| (pid, processes::command_line(pid))).collect()
    }

    /// The directory of the server.
    #[must_use]
    pub fn server_dir(&self) -> PathBuf {
        self.site.path("server")
    }

    /// The directory of a node.
    #[must_use]
    pub fn node_dir(&self, node: usize) -> PathBuf {
        self.site.path(&self.name(node))
    }

    /// The credentials that the server has made for a node.
    #[must_use]
    pub fn credentials(&self, node: usize) -> PathBuf {
        self.server_dir().join("nodes").join(self.name(node))
    }

    /// A path in the fleet's directory for what a test needs beside it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.site.path(name)
    }

    /// Everything that the control plane has printed, all starts together.
    #[must_use]
    pub fn server_log(&self) -> String {
        self.site.printed("server.log")
    }

    /// Everything that a node has printed, all starts together.
    #[must_use]
    pub fn node_log(&self, node: usize) -> String {
        self.site.printed(&log_of(node))
    }

    /// What a pod's containers have written on its node, by the pod's name, all runs together; needs no server.
    #[must_use]
    pub fn output(&self, node: usize, pod: &str) -> String {
        site::output(&self.node_dir(node), pod)
    }

    /// The last lines of every log, each behind its name.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let named = (0..self.len()).map(|node| (self.name(node), self.node_log(node)));
        for (name, log) in [("server".to_owned(), self.server_log())].into_iter().chain(named) {
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            // Writing to a string does not fail.
            writeln!(text, "--- log of {name} ---\n{}", last.join("\n")).ok();
        }
        text
    }

    /// A node as something that holds memory and descriptors.
    #[must_use]
    pub fn holder(&self, node: usize) -> impl Holder + use<> {
        Held { pid: self.node_pid(node).unwrap_or_default(), directory: self.node_dir(node) }
    }

    /// Status of a node's condition: `True`, `False`, `Unknown`, or nothing while it has none.
    ///
    /// # Errors
    /// What kubectl says.
    pub fn condition(&self, node: usize, kind: &str) -> Result<String, String> {
        let object = self.kubectl().json(&format!("get node {}", self.name(node)))?;
        Ok(pods::condition(&object, kind)["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until a node's condition has this status.
    ///
    /// # Panics
    /// When it does not get it in time.
    pub fn until_condition(&self, node: usize, kind: &str, status: &str) {
        let (kubectl, name) = (self.kubectl(), self.name(node));
        eventually(&format!("{kind}={status} of {name}"), || {
            let object =
                kubectl.json(&format!("get node {name}")).map_err(|error| format!("{error}\n{}", self.logs()))?;
            let is_so = pods::condition(&object, kind)["status"] == status;
            if is_so { Ok(()) } else { Err(object["status"]["conditions"].to_string()) }
        });
    }

    /// Waits until a node is ready.
    ///
    /// # Panics
    /// When it does not become so.
    pub fn until_ready(&self, node: usize) {
        self.until_condition(node, "Ready", "True");
    }

    /// The first kubectl.
    #[must_use]
    pub fn kubectl(&self) -> Kubectl {
        self.site.kubectl(&Kubectl::programs()[0], &self.kubeconfig())
    }

    /// Every kubectl.
    #[must_use]
    pub fn kubectls(&self) -> Vec<Kubectl> {
        Kubectl::programs().iter().map(|program| self.site.kubectl(program, &self.kubeconfig())).collect()
    }

    /// The admin's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.server_dir().join("kubeconfig")
    }

    /// Runs the `coracle` command against the fleet; words are split at spaces.
    pub fn coracle(&self, words: &str) -> Result<String, String> {
        site::coracle(&self.kubeconfig(), &words.split_whitespace().collect::<Vec<_>>())
    }

    /// Pushes a wasm file as an image of the fleet's registry.
    ///
    /// # Panics
    /// When it is refused.
    pub fn push(&self, file: &Path, name: &str) {
        site::push(&self.kubeconfig(), file, name);
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

/// A copy of a node's credentials in its own directory, as one carries them to a device.
fn carried(credentials: &Path, directory: &Path) -> PathBuf {
    let carried = directory.join("carried");
    fs::create_dir_all(&carried).unwrap_or_else(|error| panic!("{}: {error}", carried.display()));
    for file in children(credentials) {
        let copied = fs::copy(&file, carried.join(file.file_name().unwrap_or_default()));
        copied.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    carried
}

struct Held {
    pid: u32,
    directory: PathBuf,
}

impl Holder for Held {
    fn process(&self) -> u32 {
        self.pid
    }

    fn directory(&self) -> PathBuf {
        self.directory.clone()
    }

    fn is_shared(&self) -> bool {
        false
    }
}

fn log_of(node: usize) -> String {
    format!("node-{node}.log")
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
