//! A network namespace that has no name: it is held by a descriptor, so it goes with this process and with the
//! processes that were started in it, however they end, and cannot meet anybody else's.

use nix::{
    libc,
    sched::{CloneFlags, setns, unshare},
    unistd::Uid,
};
use std::{
    fmt,
    fs::{self, File},
    io,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    panic,
    process::{self, Command, Stdio},
    sync::Arc,
    thread,
};

/// See the module.
#[derive(Clone)]
pub struct Namespace(Arc<File>);

impl fmt::Debug for Namespace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Namespace({})", self.0.as_raw_fd())
    }
}

/// Says aloud what the machine lacks; there is no skipping.
fn demand_means() {
    assert!(
        Uid::effective().is_root(),
        "tests with hosts of their own have to run as root: they make network namespaces"
    );
    for (tool, package) in [("ip", "iproute2"), ("nft", "nftables")] {
        let there = Command::new(tool).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(
            there.is_ok(),
            "tests with hosts of their own need `{tool}` (Debian: {package}; `make setup` installs it)"
        );
    }
}

impl Namespace {
    /// One with nothing but `lo`, which is up, and without IPv6.
    ///
    /// # Panics
    /// When this is not root, when a tool is missing, or when the kernel refuses.
    #[must_use]
    pub fn new() -> Self {
        demand_means();
        let made = thread::spawn(|| -> io::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = made.join().expect("a thread that makes a network namespace ends");
        let namespace =
            Self(Arc::new(file.unwrap_or_else(|error| panic!("no network namespace can be made: {error}"))));
        namespace.ip("link set lo up");
        for scope in ["all", "default"] {
            namespace.write(&format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1");
        }
        namespace
    }

    /// Its path for other processes of this machine, as long as this one holds it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd())
    }

    /// Has a program run here. It ends when the thread that starts it does, if nobody ends it before.
    pub fn enter<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let held = Arc::clone(&self.0);
        let enter = move || {
            setns(&*held, CloneFlags::CLONE_NEWNET)?;
            // SAFETY: one system call with constant arguments.
            let asked = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            if asked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        // SAFETY: between fork and exec two system calls are made; nothing is allocated and no lock is taken.
        unsafe { command.pre_exec(enter) }
    }

    /// Runs `task` in a thread of this namespace, to its end; sockets and threads that it makes are of this namespace.
    ///
    /// # Panics
    /// When it does, with its message.
    pub fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let here = scope.spawn(|| {
                setns(&*self.0, CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("setns: {error}"));
                task()
            });
            here.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` here; words are split at spaces.
    ///
    /// # Panics
    /// When it fails.
    pub fn ip(&self, words: &str) {
        self.tool("ip", &words.split(' ').collect::<Vec<_>>());
    }

    /// Gives `nft` these commands, all or none of which take effect.
    ///
    /// # Panics
    /// When it refuses.
    pub fn nft(&self, commands: &str) {
        self.tool("nft", &[commands]);
    }

    /// Sets a value of the kernel's, such as one below `/proc/sys/net`.
    ///
    /// # Panics
    /// When it cannot be set.
    pub fn write(&self, path: &str, value: &str) {
        self.run(|| fs::write(path, value).unwrap_or_else(|error| panic!("{path}: {error}")));
    }

    fn tool(&self, program: &str, arguments: &[&str]) {
        let output = self.enter(Command::new(program).args(arguments).stdin(Stdio::null())).output();
        let output = output.unwrap_or_else(|error| panic!("{program} does not run: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}
