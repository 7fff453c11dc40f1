//! A cluster of one `coracle dev` process in a directory of its own.

use crate::{
    kubectl::Kubectl,
    older_kernel, processes,
    site::{self, Site, binary, children},
    wait::eventually,
};
use anyhow::{Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    net::IpAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
};

/// A running (or stopped) cluster; dropping it kills the process and removes the directory.
pub struct Cluster {
    site: Site,
    nodes: u8,
    child: Option<Child>,
    arguments: Vec<String>,
    user: Option<u32>,
    without_landlock: bool,
}

impl Cluster {
    /// Starts a cluster and waits until a pod could run.
    ///
    /// # Panics
    /// When it does not become ready; the log is part of the message.
    #[must_use]
    pub fn start() -> Self {
        let mut cluster = Self::unstarted();
        cluster.start_again();
        cluster
    }

    /// A cluster that was never started, to prepare its directory before.
    ///
    /// # Panics
    /// When there is no temporary directory.
    #[must_use]
    pub fn unstarted() -> Self {
        Self::of_nodes(1)
    }

    /// A cluster of so many nodes that was never started; several are processes below that of the cluster.
    ///
    /// # Panics
    /// When there is no temporary directory.
    #[must_use]
    pub fn of_nodes(nodes: u8) -> Self {
        Self {
            site: Site::with_hosts(nodes),
            nodes,
            child: None,
            arguments: Vec::new(),
            user: None,
            without_landlock: false,
        }
    }

    /// Started as an ordinary user, who owns nothing but the cluster's directory. Only root can do that.
    ///
    /// # Panics
    /// When the directory cannot be given away.
    #[must_use]
    pub fn as_user(mut self, user: u32) -> Self {
        let path = self.site.directory();
        std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap_or_else(|error| panic!("chown: {error}"));
        self.user = Some(user);
        self
    }

    /// Started as on a kernel that has no Landlock: its calls fail as those that do not exist.
    #[must_use]
    pub fn without_landlock(mut self) -> Self {
        self.without_landlock = true;
        self
    }

    /// With more arguments for `coracle dev`.
    #[must_use]
    pub fn with_arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self
    }

    /// Starts the stopped cluster, which must end by itself with a failure; answers what it printed.
    ///
    /// # Panics
    /// When it starts, or does neither in time.
    pub fn start_and_fail(&mut self) -> String {
        let before = self.log().len();
        if let Err(error) = self.spawn() {
            panic!("the cluster cannot be started: {error:#}");
        }
        let status = eventually("a failure to start", || self.ended().ok_or_else(|| self.log()));
        self.child = None;
        let said = self.log().split_off(before);
        assert!(!status.success(), "it ended with {status}: {said}");
        said
    }

    /// Starts the stopped cluster on the same directory.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn start_again(&mut self) {
        if let Err(error) = self.spawn() {
            panic!("the cluster does not start: {error:#}");
        }
        let kubectl = self.kubectl();
        eventually("readiness of the cluster", || {
            if let Some(status) = self.ended() {
                panic!("the cluster ended with {status}:\n{}", self.log());
            }
            kubectl.run("get --raw /readyz").map_err(|error| format!("{error}\n{}", self.log()))
        });
    }

    /// Starts the stopped cluster and waits only until the API answers: its node may take no pods.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start_again_unready(&mut self) {
        if let Err(error) = self.spawn() {
            panic!("the cluster does not start: {error:#}");
        }
        let kubectl = self.kubectl();
        eventually("the API of the cluster", || {
            kubectl.run("get --raw /livez").map_err(|error| format!("{error}\n{}", self.log()))
        });
    }

    fn spawn(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("it is running already");
        }
        // A stale kubeconfig names the port of the last start.
        fs::remove_file(self.kubeconfig()).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        let mut program = binary()?;
        if self.user.is_some() {
            // The build's own directory may be root's alone.
            let reachable = self.site.path("coracle");
            if !reachable.exists() && fs::hard_link(&program, &reachable).is_err() {
                fs::copy(&program, &reachable)?;
            }
            program = reachable;
        }
        let mut command = Command::new(program);
        if let Some(user) = self.user {
            command.uid(user).gid(user).env("HOME", self.site.directory());
        }
        if self.without_landlock {
            older_kernel::without_landlock(&mut command);
        }
        command.args(["dev", "--listen", &format!("{}:0", self.site.host), "--data-dir"]);
        command.arg(self.data_dir());
        if self.nodes > 1 {
            command.args(["--nodes", &self.nodes.to_string()]);
        }
        self.site.print_into_log(command.args(&self.arguments))?;
        self.child = Some(command.spawn()?);
        Ok(())
    }

    /// The address that it listens on, node ports included.
    #[must_use]
    pub fn host(&self) -> IpAddr {
        self.site.host.into()
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.site.path("data")
    }

    /// The kubeconfig that the cluster writes.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("kubeconfig")
    }

    /// Everything the process has printed.
    #[must_use]
    pub fn log(&self) -> String {
        self.site.log()
    }

    /// Process id of `coracle dev`.
    ///
    /// # Panics
    /// When it is stopped.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the cluster runs").id()
    }

    /// Process ids of its runners.
    #[must_use]
    pub fn runners(&self) -> Vec<u32> {
        let children = processes::descendants(self.pid());
        children.into_iter().filter(|pid| processes::command_line(*pid).iter().any(|word| word == "runner")).collect()
    }

    /// Directories of the namespaces that the node has something of.
    #[must_use]
    pub fn namespace_directories(&self) -> Vec<PathBuf> {
        children(&self.data_dir().join("node/ns"))
    }

    /// What the node keeps of pods: their volumes, logs and ledger entries.
    #[must_use]
    pub fn traces_of_pods(&self) -> Vec<PathBuf> {
        let node = self.data_dir().join("node");
        let volumes = self.namespace_directories().into_iter().flat_map(|path| children(&path.join("volumes")));
        volumes.chain(children(&node.join("logs"))).chain(children(&node.join("ledger"))).collect()
    }

    /// The runner of the namespace with this uid: a runner stands in its namespace's directory.
    #[must_use]
    pub fn runner_of(&self, namespace_uid: &str) -> Option<u32> {
        let stands =
            |pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|path| path.ends_with(namespace_uid));
        self.runners().into_iter().find(stands)
    }

    /// Its exit status, when it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Ends it as Ctrl-C does and answers its exit status.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGINT);
        let status = eventually("a clean end", || self.ended().ok_or_else(|| "still running".to_owned()));
        self.child = None;
        status
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A failure means that it has ended already, which is what is wanted.
            drop(child.kill());
            drop(child.wait());
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).map(Pid::from_raw);
        if let Ok(pid) = pid {
            kill(pid, signal).unwrap_or_else(|error| panic!("cannot signal the cluster: {error}"));
        }
    }

    /// The first kubectl.
    #[must_use]
    pub fn kubectl(&self) -> Kubectl {
        self.kubectl_of(&Kubectl::programs()[0])
    }

    /// Every kubectl.
    #[must_use]
    pub fn kubectls(&self) -> Vec<Kubectl> {
        Kubectl::programs().iter().map(|program| self.kubectl_of(program)).collect()
    }

    fn kubectl_of(&self, program: &Path) -> Kubectl {
        self.site.kubectl(program, &self.kubeconfig())
    }

    /// Runs the `coracle` command against the cluster; words are split at spaces.
    pub fn coracle(&self, words: &str) -> Result<String, String> {
        self.coracle_arguments(&words.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs the `coracle` command with exact arguments.
    pub fn coracle_arguments(&self, arguments: &[&str]) -> Result<String, String> {
        site::coracle(&self.kubeconfig(), arguments)
    }

    /// Pushes a wasm file as an image of the cluster's registry.
    ///
    /// # Panics
    /// When it is refused.
    pub fn push(&self, file: &Path, name: &str) {
        site::push(&self.kubeconfig(), file, name);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the cluster ---\n{}", self.log());
        }
        self.kill();
    }
}
