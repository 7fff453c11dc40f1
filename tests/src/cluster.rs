//! A cluster of one `coracle dev` process in a directory of its own.

use crate::{
    kubectl::{Kubectl, texts},
    older_kernel, processes,
    wait::eventually,
};
use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    env, fs,
    fs::File,
    net::{IpAddr, Ipv4Addr},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};
use tempfile::TempDir;

/// A running (or stopped) cluster; dropping it kills the process and removes the directory.
pub struct Cluster {
    directory: TempDir,
    child: Option<Child>,
    host: Ipv4Addr,
    arguments: Vec<String>,
    user: Option<u32>,
    without_landlock: bool,
}

/// How many clusters this process has made.
static MADE: AtomicU8 = AtomicU8::new(0);

/// A loopback address that no other test uses: node ports are opened on it, and must not meet those of others.
pub(crate) fn own_loopback_address() -> Ipv4Addr {
    let [_, _, high, low] = process::id().to_be_bytes();
    Ipv4Addr::new(127, high, low, 1 + MADE.fetch_add(1, Ordering::Relaxed) % 250)
}

/// The binary under test: `CORACLE_TEST_BINARY`, else the one beside the test's own.
pub fn binary() -> Result<PathBuf> {
    if let Some(named) = env::var_os("CORACLE_TEST_BINARY") {
        return Ok(PathBuf::from(named));
    }
    let test = env::current_exe().context("this test has no path")?;
    let found = test.ancestors().skip(1).map(|folder| folder.join("coracle")).find(|path| path.is_file());
    found.context("the binary `coracle` is not built; run the tests with `make test`")
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
        let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary directory: {error}"));
        Self {
            directory,
            child: None,
            host: own_loopback_address(),
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
        let path = self.directory.path();
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
        let log = File::options().create(true).append(true).open(self.directory.path().join("log"))?;
        let mut program = binary()?;
        if self.user.is_some() {
            // The build's own directory may be root's alone.
            let reachable = self.directory.path().join("coracle");
            if !reachable.exists() && fs::hard_link(&program, &reachable).is_err() {
                fs::copy(&program, &reachable)?;
            }
            program = reachable;
        }
        let mut command = Command::new(program);
        if let Some(user) = self.user {
            command.uid(user).gid(user).env("HOME", self.directory.path());
        }
        if self.without_landlock {
            older_kernel::without_landlock(&mut command);
        }
        let child = command
            .args(["dev", "--listen", &format!("{}:0", self.host), "--data-dir"])
            .arg(self.data_dir())
            .args(&self.arguments)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    /// The address that it listens on, node ports included.
    #[must_use]
    pub fn host(&self) -> IpAddr {
        self.host.into()
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The kubeconfig that the cluster writes.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("kubeconfig")
    }

    /// Everything the process has printed.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
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
        files_below(&self.data_dir().join("node/ns"))
    }

    /// What the node keeps of pods: their volumes, logs and ledger entries.
    #[must_use]
    pub fn traces_of_pods(&self) -> Vec<PathBuf> {
        let node = self.data_dir().join("node");
        let volumes = self.namespace_directories().into_iter().flat_map(|path| files_below(&path.join("volumes")));
        volumes.chain(files_below(&node.join("logs"))).chain(files_below(&node.join("ledger"))).collect()
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
        Kubectl::new(program, &self.kubeconfig(), &self.directory.path().join("kubectl-cache"))
    }

    /// Runs the `coracle` command against the cluster; words are split at spaces.
    pub fn coracle(&self, words: &str) -> Result<String, String> {
        self.coracle_arguments(&words.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs the `coracle` command with exact arguments.
    pub fn coracle_arguments(&self, arguments: &[&str]) -> Result<String, String> {
        let binary = binary().map_err(|error| error.to_string())?;
        let output = Command::new(binary)
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("coracle does not run: {error}"))?;
        texts(&output)
    }

    /// Pushes a wasm file as an image of the cluster's registry.
    ///
    /// # Panics
    /// When it is refused.
    pub fn push(&self, file: &Path, name: &str) {
        let path = file.display().to_string();
        self.coracle_arguments(&["push", &path, name]).unwrap_or_else(|error| panic!("push {path}: {error}"));
    }
}

/// The direct children of a directory; none if it is not there.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the cluster ---\n{}", self.log());
        }
        self.kill();
    }
}
