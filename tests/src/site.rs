//! Where a cluster under test lives: a directory and an address of its own, and the programs that are run against it.

use crate::kubectl::{Kubectl, texts};
use anyhow::{Context as _, Result};
use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};
use tempfile::TempDir;

/// How many addresses this process has given to sites.
static MADE: AtomicU8 = AtomicU8::new(0);

/// The binary under test: `CORACLE_TEST_BINARY`, else the one beside the test's own.
///
/// # Errors
/// When there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(named) = env::var_os("CORACLE_TEST_BINARY") {
        return Ok(PathBuf::from(named));
    }
    let test = env::current_exe().context("this test has no path")?;
    let found = test.ancestors().skip(1).map(|folder| folder.join("coracle")).find(|path| path.is_file());
    found.context("the binary `coracle` is not built; run the tests with `make test`")
}

/// See the module. Dropping it removes the directory.
pub(crate) struct Site {
    directory: TempDir,
    /// A loopback address that no other test uses: node ports are opened on it, and must not meet those of others.
    pub(crate) host: Ipv4Addr,
}

impl Site {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self::with_hosts(1)
    }

    /// An empty one, to which the so many addresses from its host on belong.
    pub(crate) fn with_hosts(count: u8) -> Self {
        let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary directory: {error}"));
        Self { directory, host: hosts(count) }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Has a process print into the log, after what is there.
    pub(crate) fn print_into_log(&self, command: &mut Command) -> io::Result<()> {
        self.print_into(command, "log")
    }

    fn print_into(&self, command: &mut Command, name: &str) -> io::Result<()> {
        let log = File::options().create(true).append(true).open(self.path(name))?;
        command.env_remove("KUBECONFIG").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(())
    }

    /// The binary under test with these arguments, which prints into the file `log`, after what is there.
    ///
    /// # Panics
    /// When there is no binary, or no log can be written.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, log: &str, arguments: &[S]) -> Command {
        let mut command = Command::new(binary().unwrap_or_else(|error| panic!("{error:#}")));
        command.args(arguments);
        self.printing(log, command)
    }

    /// Any command, which then prints into the file `log`, after what is there.
    ///
    /// # Panics
    /// When no log can be written.
    pub(crate) fn printing(&self, log: &str, mut command: Command) -> Command {
        self.print_into(&mut command, log).unwrap_or_else(|error| panic!("{log}: {error}"));
        command
    }

    /// Everything that was printed.
    pub(crate) fn log(&self) -> String {
        self.printed("log")
    }

    /// Everything that was printed into the file `log`.
    pub(crate) fn printed(&self, log: &str) -> String {
        fs::read_to_string(self.path(log)).unwrap_or_default()
    }

    pub(crate) fn kubectl(&self, program: &Path, kubeconfig: &Path) -> Kubectl {
        Kubectl::new(program, kubeconfig, &self.path("kubectl-cache"))
    }
}

/// A loopback address that no other test uses.
pub(crate) fn another_host() -> Ipv4Addr {
    hosts(1)
}

/// The first of so many loopback addresses that no other test uses.
fn hosts(count: u8) -> Ipv4Addr {
    let [_, _, high, low] = process::id().to_be_bytes();
    Ipv4Addr::new(127, high, low, 1 + MADE.fetch_add(count, Ordering::Relaxed) % 250)
}

/// Runs the `coracle` command with exact arguments.
pub(crate) fn coracle(kubeconfig: &Path, arguments: &[&str]) -> Result<String, String> {
    let binary = binary().map_err(|error| error.to_string())?;
    let output = Command::new(binary)
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("coracle does not run: {error}"))?;
    texts(&output)
}

/// Pushes a wasm file as an image of the cluster's registry.
///
/// # Panics
/// When it is refused.
pub(crate) fn push(kubeconfig: &Path, file: &Path, name: &str) {
    let path = file.display().to_string();
    coracle(kubeconfig, &["push", &path, name]).unwrap_or_else(|error| panic!("push {path}: {error}"));
}

/// The direct children of a directory; none if it is not there.
pub(crate) fn children(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// What a pod's containers have written on the node with this directory, by the pod's name, all runs together.
pub(crate) fn output(node: &Path, pod: &str) -> String {
    let is_it = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(pod));
    let mut files = children(&node.join("logs"));
    files.retain(is_it);
    for _ in ["containers", "runs"] {
        files = files.iter().flat_map(|directory| children(directory)).collect();
    }
    files.sort();
    files.iter().map(|file| fs::read_to_string(file).unwrap_or_default()).collect()
}
