//! A host that is a whole machine: systemd is its first process, and whoever is its administrator types what the
//! documentation says. Made of namespaces and of the packages that `scripts/systemd.sh` has unpacked.
//!
//! Needs root, `unshare` and `nsenter`, and a kernel with control groups of version 2, and says so aloud. Nothing of the
//! machine below is changed, and nothing stays.

use super::Host;
use crate::{
    kubectl::texts,
    processes, repository,
    site::binary,
    wait::{eventually, within},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use tempfile::TempDir;

/// How long a start may take on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_mins(2);
/// How many machines this process has booted.
static MADE: AtomicU32 = AtomicU32::new(0);

/// See the module. Dropping it ends all that runs there.
pub struct Booted {
    /// `unshare`, whose child is the machine's first process.
    outside: Child,
    first: u32,
    group: PathBuf,
    place: TempDir,
}

impl Booted {
    /// Boots a machine of this name, and waits until systemd has started everything.
    ///
    /// # Panics
    /// When the means are missing, or it does not come up, with what it said.
    #[must_use]
    pub fn on(host: &Host, name: &str) -> Self {
        let place = tempfile::tempdir().expect("a temporary directory");
        let group = control_group();
        let root = env::var_os("CORACLE_TEST_SYSTEMD").filter(|path| !path.is_empty());
        let root = root.expect("CORACLE_TEST_SYSTEMD names no root with systemd; run the tests with `make test`");
        let mounted = place.path().join("machine");
        fs::create_dir(&mounted).expect("a directory");
        let log = File::create(place.path().join("log")).expect("a log");
        let mut command = Command::new("sh");
        // The group first: inside it is the root of all groups.
        let enter = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", group.display());
        command.args(["-c", &enter, "sh", "unshare", "--mount", "--uts", "--ipc", "--cgroup", "--pid", "--fork"]);
        command.args(["--kill-child", "sh"]).arg(repository().join("tests/src/hosts/booted.sh"));
        command.arg(root).arg(mounted).arg(name).arg(repository().join("packaging"));
        command.arg(binary().expect("the binary under test").with_file_name("coracle-node"));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second descriptor of the log")).stderr(log);
        let outside = host.namespace().enter(&mut command).spawn().expect("`sh` runs");
        let mut booted = Self { outside, first: 0, group, place };
        booted.wait();
        booted
    }

    fn wait(&mut self) {
        within(BOOT_LIMIT, "a machine with systemd to boot in namespaces", || {
            let ended = self.outside.try_wait().expect("a child can be asked for");
            assert!(ended.is_none(), "a machine with systemd cannot be booted here, {ended:?}:\n{}", self.console());
            let child = processes::descendants(self.outside.id()).first().copied();
            self.first = child.ok_or("`unshare` has started nothing yet")?;
            let state = match self.shell("systemctl is-system-running || true") {
                Ok(state) | Err(state) => state,
            };
            let is_up = ["running", "degraded"].contains(&state.trim());
            if is_up { Ok(()) } else { Err(format!("{state}\n{}", self.console())) }
        });
        // What it says of units from here on is in the journal, as on any machine.
        let _ = self.must("systemctl log-target journal");
    }

    /// What systemd printed while it started.
    fn console(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }

    /// A command that its administrator gives the shell, in the checkout.
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.first.to_string(), "-m", "-u", "-i", "-n", "-p", "-C"]);
        command.args(["--", "sh", "-e", "-c", &format!("cd /checkout; {script}")]).stdin(Stdio::null());
        command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
        command
    }

    /// Runs it; answers what it printed.
    ///
    /// # Errors
    /// What it printed, when it fails.
    pub fn shell(&self, script: &str) -> Result<String, String> {
        let output = self.command(script).output().map_err(|error| format!("nsenter does not run: {error}"))?;
        texts(&output)
    }

    /// Runs it.
    ///
    /// # Panics
    /// When it fails, with what it printed.
    #[must_use]
    pub fn must(&self, script: &str) -> String {
        self.shell(script).unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// A property of a unit, as systemd has it now.
    ///
    /// # Panics
    /// When systemd does not answer.
    #[must_use]
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.must(&format!("systemctl show --value --property {name} {unit}")).trim().to_owned()
    }

    /// What a unit has written into the journal.
    #[must_use]
    pub fn journal(&self, unit: &str) -> String {
        self.shell(&format!("journalctl --no-pager --output=cat --unit {unit}")).unwrap_or_else(|error| error)
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        if std::thread::panicking() && self.first > 0 {
            let journal = self.shell("journalctl --no-pager --output=short-precise --lines=200");
            eprintln!("--- journal ---\n{}", journal.unwrap_or_else(|error| error));
        }
        if let Ok(first @ 1..) = i32::try_from(self.first) {
            // A failure means that it has ended already, which is what is wanted. With it goes all that runs there.
            let _ = kill(Pid::from_raw(first), Signal::SIGKILL);
        } else {
            drop(self.outside.kill());
        }
        drop(self.outside.wait());
        if std::thread::panicking() {
            // The test has failed already; at worst empty groups stay.
            drop(remove(&self.group));
        } else {
            eventually("the end of the machine's control groups", || remove(&self.group));
        }
    }
}

/// A control group of version 2 of this machine's own.
fn control_group() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the table of mounts");
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mount = mounts.lines().map(words).find(|words| words.get(2).is_some_and(|kind| kind == "cgroup2"));
    let mount = mount.expect("a machine with systemd needs control groups of version 2 (cgroup2), mounted anywhere");
    let name = format!("coracle-test-{}-{}", process::id(), MADE.fetch_add(1, Ordering::Relaxed));
    let group = Path::new(&mount[1]).join(format!("machine-{name}"));
    fs::create_dir(&group).unwrap_or_else(|error| {
        panic!("a machine with systemd needs a control group of its own: {}: {error}", group.display())
    });
    group
}

/// Removes a control group and those in it, from which everybody is gone.
fn remove(group: &Path) -> Result<(), String> {
    let inner = fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path());
    inner.filter(|path| path.is_dir()).try_for_each(|path| remove(&path))?;
    fs::remove_dir(group).map_err(|error| format!("{}: {error}", group.display()))
}
