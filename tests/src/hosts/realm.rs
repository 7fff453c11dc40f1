//! A control plane and nodes, each on a host of its own, and an outsider: a host that runs nothing of Coracle's.

use super::{Host, Lan, WrongClock};
use crate::{
    Kubectl, eventually,
    kubectl::texts,
    pods, processes,
    site::{Site, binary, output},
    wait::within,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// What the host of the control plane is called.
pub const SERVER: &str = "server";
const OUTSIDER: &str = "outsider";
const PORT: u16 = 6443;
/// How long a node may take from silence to `NotReady` and back on a busy machine, also with the usual times.
const NODE_LIMIT: Duration = Duration::from_mins(2);

/// One process on one host.
struct Member {
    host: Host,
    child: Option<Child>,
    options: Vec<String>,
    environment: Vec<(String, OsString)>,
}

impl Member {
    fn new(host: Host) -> Self {
        Self { host, child: None, options: Vec::new(), environment: Vec::new() }
    }

    fn end(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // A failure means that it has ended already, which is what is wanted.
        drop(child.kill());
        drop(child.wait());
    }
}

/// See the module. Dropping it kills all processes and removes everything.
pub struct Realm {
    lan: Lan,
    site: Site,
    members: BTreeMap<String, Member>,
}

impl Realm {
    /// A realm with these nodes, none of which is started; a name that begins with `nat` is behind a router, and one that
    /// begins with `roaming` is not told its address.
    ///
    /// # Panics
    /// When the machine does not let hosts be made.
    #[must_use]
    pub fn unstarted(nodes: &[&str]) -> Self {
        let lan = Lan::new();
        let mut members = BTreeMap::new();
        for name in [SERVER, OUTSIDER].iter().chain(nodes) {
            let host = if name.starts_with("nat") { lan.host_behind_router(name) } else { lan.host(name) };
            members.insert((*name).to_owned(), Member::new(host));
        }
        Self { lan, site: Site::new(), members }
    }

    /// Starts everybody, and waits until all nodes are ready.
    ///
    /// # Panics
    /// When they do not become so.
    pub fn start_all(&mut self) {
        self.start_server();
        let nodes = self.nodes();
        for node in &nodes {
            self.start_node(node);
        }
        for node in &nodes {
            self.ready(node, "True");
        }
    }

    /// With more options for the server or a node, from its next start on.
    ///
    /// # Panics
    /// When there is nobody of this name.
    pub fn options(&mut self, name: &str, options: &[&str]) {
        self.member_mut(name).options = options.iter().map(|&option| option.to_owned()).collect();
    }

    /// With nodes that are heard of each second and missed within seconds, and pods that bear that for minutes.
    ///
    /// # Panics
    /// Never: there always is a server.
    #[must_use]
    pub fn attentive(mut self) -> Self {
        let patience =
            ["--default-not-ready-toleration-seconds", "300", "--default-unreachable-toleration-seconds", "300"];
        self.options(SERVER, &[&["--node-profile", "fast"][..], &patience].concat());
        for node in self.nodes() {
            self.options(&node, &["--heartbeat-interval", "1"]);
        }
        self
    }

    /// With a clock that is so many seconds ahead (negative: behind) from its next start on, and can be set.
    ///
    /// # Panics
    /// When there is nobody of this name, or no C compiler.
    pub fn wrong_clock(&mut self, name: &str, seconds: i64) -> WrongClock {
        let clock = WrongClock::ahead(&self.site.path(&format!("{name}.clock")), seconds);
        let variables = clock.environment().map(|(variable, value)| (variable.to_owned(), value));
        self.member_mut(name).environment.extend(variables);
        clock
    }

    /// The network between the hosts.
    #[must_use]
    pub const fn lan(&self) -> &Lan {
        &self.lan
    }

    /// Names of the nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        self.members.keys().filter(|name| *name != SERVER && *name != OUTSIDER).cloned().collect()
    }

    /// A host: [`SERVER`] or a node's.
    ///
    /// # Panics
    /// When there is none of this name.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        &self.member(name).host
    }

    /// A host, to give it another address.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn host_mut(&mut self, name: &str) -> &mut Host {
        &mut self.member_mut(name).host
    }

    /// The host that runs nothing of Coracle's.
    ///
    /// # Panics
    /// Never: there always is one.
    #[must_use]
    pub fn outsider(&self) -> &Host {
        self.host(OUTSIDER)
    }

    fn member(&self, name: &str) -> &Member {
        self.members.get(name).unwrap_or_else(|| panic!("there is no host {name}"))
    }

    fn member_mut(&mut self, name: &str) -> &mut Member {
        self.members.get_mut(name).unwrap_or_else(|| panic!("there is no host {name}"))
    }

    /// Where the API is.
    #[must_use]
    pub fn server_address(&self) -> SocketAddr {
        SocketAddr::new(self.host(SERVER).address.into(), PORT)
    }

    /// A directory of one of the processes, [`SERVER`]'s or a node's.
    #[must_use]
    pub fn directory(&self, name: &str) -> PathBuf {
        self.site.path(name)
    }

    /// The credentials that the server has made for a node.
    #[must_use]
    pub fn credentials(&self, node: &str) -> PathBuf {
        self.directory(SERVER).join("nodes").join(node)
    }

    fn spawn(&mut self, name: &str, arguments: &[String]) {
        let log = File::options().create(true).append(true).open(self.log_file(name)).expect("a log");
        let program = binary().unwrap_or_else(|error| panic!("{error:#}"));
        let member = self.member_mut(name);
        assert!(member.child.is_none(), "{name} runs already");
        let mut command = Command::new(program);
        command.args(arguments).args(&member.options).env_remove("KUBECONFIG").stdin(Stdio::null());
        command.envs(member.environment.iter().map(|(name, value)| (name, value)));
        command.stdout(log.try_clone().expect("a second descriptor of the log")).stderr(log);
        let child = member.host.namespace.enter(&mut command).spawn();
        member.child = Some(child.unwrap_or_else(|error| panic!("{name} does not start: {error}")));
    }

    /// Starts the control plane and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start_server(&mut self) {
        let (data, listen) = (self.directory(SERVER).display().to_string(), self.server_address().to_string());
        let mut arguments = vec!["server".to_owned(), "--data-dir".to_owned(), data, "--listen".to_owned(), listen];
        for node in self.nodes() {
            arguments.extend(["--node".to_owned(), node]);
        }
        self.spawn(SERVER, &arguments);
        let kubectl = self.kubectl();
        eventually("the server to answer", || {
            kubectl.run("get --raw /livez").map_err(|error| format!("{error}\n{}", self.log(SERVER)))
        });
    }

    /// Starts a node; does not wait for anything.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_node(&mut self, name: &str) {
        let [data, credentials] = [self.directory(name), self.credentials(name)].map(|path| path.display().to_string());
        let server = format!("https://{}", self.server_address());
        let address = self.host(name).address.to_string();
        let mut arguments = vec!["node", "--server", &server, "--data-dir", &data, "--credentials", &credentials];
        if !name.starts_with("roaming") {
            arguments.extend(["--address", &address]);
        }
        self.spawn(name, &arguments.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
    }

    /// `kill -9` of the server or of a node.
    pub fn kill(&mut self, name: &str) {
        self.member_mut(name).end();
    }

    /// Sends a signal to the server or a node.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, name: &str, signal: Signal) {
        let pid = i32::try_from(self.pid(name)).map(Pid::from_raw).expect("a process id");
        kill(pid, signal).unwrap_or_else(|error| panic!("{name} cannot be signalled: {error}"));
    }

    /// Process id of the server or of a node.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self, name: &str) -> u32 {
        self.member(name).child.as_ref().unwrap_or_else(|| panic!("{name} does not run")).id()
    }

    /// Panics with its log when the server or a node has ended by itself.
    ///
    /// # Panics
    /// Then.
    pub fn assert_runs(&mut self, name: &str) {
        let ended = self.member_mut(name).child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        assert!(ended.is_none(), "{name} ended with {ended:?}:\n{}", self.log(name));
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.site.path(&format!("{name}.log"))
    }

    /// Everything that the server or a node has printed.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.log_file(name)).unwrap_or_default()
    }

    /// What a pod's containers have written on its node, by the pod's name, all runs together; needs no server.
    #[must_use]
    pub fn output(&self, node: &str, pod: &str) -> String {
        output(&self.directory(node), pod)
    }

    /// The first kubectl, on the server's host.
    #[must_use]
    pub fn kubectl(&self) -> Kubectl {
        let kubectl = self.site.kubectl(&Kubectl::programs()[0], &self.kubeconfig());
        kubectl.inside(self.host(SERVER).namespace())
    }

    /// The `coracle` command with exact arguments, on the server's host.
    ///
    /// # Errors
    /// What it printed.
    pub fn coracle(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(binary().map_err(|error| error.to_string())?);
        command.args(arguments).env("KUBECONFIG", self.kubeconfig()).stdin(Stdio::null());
        let output = self.host(SERVER).namespace.enter(&mut command).output();
        texts(&output.map_err(|error| format!("coracle does not run: {error}"))?)
    }

    /// Pushes a wasm file as an image of the cluster's registry.
    ///
    /// # Panics
    /// When it is refused.
    pub fn push(&self, file: &Path, name: &str) {
        let path = file.display().to_string();
        self.coracle(&["push", &path, name]).unwrap_or_else(|error| panic!("push {path}: {error}"));
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory(SERVER).join("kubeconfig")
    }

    /// A condition of a node: its status and reason.
    ///
    /// # Errors
    /// When it has none of this type, or cannot be asked for.
    pub fn condition(&self, node: &str, kind: &str) -> Result<(String, String), String> {
        let object = self.kubectl().json(&format!("get node {node}"))?;
        let found = pods::condition(&object, kind);
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        if found.is_null() { Err(object["status"].to_string()) } else { Ok((text("status"), text("reason"))) }
    }

    /// Waits until the node's condition `Ready` is so: `True`, `False` or `Unknown`.
    ///
    /// # Panics
    /// When it does not become so.
    pub fn ready(&self, node: &str, wanted: &str) {
        within(NODE_LIMIT, &format!("Ready={wanted} of node {node}"), || {
            let told = |error: String| format!("{error}\n{}", self.log(node));
            if let Some(child) = &self.member(node).child {
                let is_there = !processes::command_line(child.id()).is_empty();
                assert!(is_there, "node {node} has ended:\n{}", self.log(node));
            }
            let (status, reason) = self.condition(node, "Ready").map_err(told)?;
            if status == wanted { Ok(()) } else { Err(told(format!("{status}, {reason}"))) }
        });
    }
}

impl Drop for Realm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in self.members.keys().filter(|name| *name != OUTSIDER) {
                eprintln!("--- log of {name} ---\n{}", self.log(name));
            }
            for words in ["get nodes -o wide", "get pods -A -o wide", "get endpointslices -A", "get events -A"] {
                let said = self.kubectl().run(&format!("{words} --request-timeout=5s"));
                eprintln!("--- {words} ---\n{}", said.unwrap_or_else(|error| error));
            }
        }
        // Nodes first: without a server they would say much.
        self.members.values_mut().rev().for_each(Member::end);
    }
}
