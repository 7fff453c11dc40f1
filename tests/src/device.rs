//! A small device: a control group with little memory, and an ordinary user in it who owns nothing but a directory.
//! Only root can make one.

use crate::{processes, site::binary};
use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::{PermissionsExt as _, lchown},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

/// Who works on it: Debian's `nobody`.
const USER: u32 = 65_534;
/// Where the hierarchy of memory is, by itself or with all others.
const HIERARCHIES: [(&str, &str); 2] =
    [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
/// How many devices this process has made.
static MADE: AtomicU32 = AtomicU32::new(0);

/// See the module. Dropping it removes the group; what runs there must have ended.
pub struct Device {
    group: PathBuf,
    /// Address space that each process may have, in KiB, if that is limited.
    address_kib: Option<u64>,
}

impl Device {
    /// With so much memory, and no swap beyond what the machine has.
    ///
    /// # Panics
    /// Where control groups of memory cannot be made.
    #[must_use]
    pub fn with_memory(bytes: u64) -> Self {
        let name = format!("coracle-test-{}-{}", process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let made = HIERARCHIES.iter().find_map(|(hierarchy, file)| {
            let group = Path::new(hierarchy).join(&name);
            fs::create_dir(&group).ok()?;
            if fs::write(group.join(file), bytes.to_string()).is_ok() {
                return Some(Self { group, address_kib: None });
            }
            drop(fs::remove_dir(&group));
            None
        });
        made.expect("a control group with a limit of memory; that takes root, and the controller \"memory\"")
    }

    /// With so much address space for each process, as `ulimit -v` has it.
    #[must_use]
    pub fn with_address_space(mut self, bytes: u64) -> Self {
        self.address_kib = Some(bytes >> 10);
        self
    }

    /// The node's own program with these arguments, as a user who has `directory` and what is in it.
    ///
    /// # Panics
    /// When the directory cannot be given away.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, directory: &Path, arguments: &[S]) -> Command {
        let above = directory.parent().expect("a directory in another");
        fs::set_permissions(above, fs::Permissions::from_mode(0o711)).expect("a directory that can be passed");
        // The build's own directory may be root's alone.
        let program = above.join("coracle-node");
        if !program.exists() {
            let built = binary().expect("the binary under test").with_file_name("coracle-node");
            fs::hard_link(&built, &program).or_else(|_| fs::copy(&built, &program).map(drop)).expect("the program");
        }
        give(directory);
        // The group first: whoever has become another user cannot choose one.
        let limit = self.address_kib.map(|kib| format!("ulimit -v {kib} && ")).unwrap_or_default();
        let join = format!("echo $$ > {}/cgroup.procs && {limit}exec \"$@\"", self.group.display());
        let mut command = Command::new("sh");
        command.args(["-c", &join, "sh", "setpriv", "--clear-groups"]);
        command.args([format!("--reuid={USER}"), format!("--regid={USER}")]).arg(program).args(arguments);
        command
    }

    /// Processes that the kernel has killed here because there was no memory left.
    ///
    /// # Panics
    /// When the group does not say.
    #[must_use]
    pub fn killed_for_memory(&self) -> u64 {
        let files = ["memory.oom_control", "memory.events"];
        let counted = files.iter().find_map(|file| {
            let text = fs::read_to_string(self.group.join(file)).ok()?;
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        });
        counted.expect("the group counts what was killed in it")
    }

    /// Processes that are in it.
    ///
    /// # Panics
    /// When the group does not say.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.group.join("cgroup.procs")).expect("the group's processes");
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Whether all of its processes belong to the ordinary user.
    ///
    /// # Panics
    /// When the group does not say.
    #[must_use]
    pub fn is_the_users_alone(&self) -> bool {
        self.processes().into_iter().all(|pid| processes::user(pid).is_none_or(|user| user == USER))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Fails while something runs there, which a test that fails may leave for a moment.
        drop(fs::remove_dir(&self.group));
    }
}

fn give(path: &Path) {
    lchown(path, Some(USER), Some(USER)).unwrap_or_else(|error| panic!("lchown {}: {error}", path.display()));
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).expect("a directory").flatten().for_each(|entry| give(&entry.path()));
    }
}
