//! What a process that meets strangers' code gives up, and when: the runner, and the compiler.
//!
//! For the runner four moments, in this order, each of which cannot be undone:
//!
//! 1. [`take_sockets`]: nothing inherited but the stream of frames and the network channel to the agent (descriptors 3
//!    and 4) and standard error.
//! 2. [`before_threads`], while there is one thread: its own root where it started as root, its own user and no
//!    capabilities, no new privileges, limits, death with the agent, and Landlock: `code/` to read, `volumes/` to read
//!    and write, nothing else, no TCP, no signal or abstract socket to anybody outside.
//! 3. [`Confining::before_guests`], with engine and threads running: the allow-list of system calls for all threads.
//! 4. What could not be had is said with `Ready`; whether guests run all the same is the agent's decision.
//!
//! The compiler needs less ([`compiler`]): when it begins to read a stranger's bytes it has one file to read and one
//! to write, both open, and can open no other.

mod account;
mod landlock;
mod syscalls;

use crate::protocol::Confinement;
use nix::{
    fcntl::{OFlag, open},
    libc,
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
        signal::Signal,
        stat::Mode,
    },
};
use std::{
    env, fs, io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
};

/// Where the stream of frames lives.
const STREAM: RawFd = 3;
/// Where the network channel lives.
const NETWORK: RawFd = 4;
/// `oom_score_adj` of runners and compilers: where memory runs out they go before the agent, compilers first.
const RUNNER_OOM_SCORE: &str = "900";
const COMPILER_OOM_SCORE: &str = "1000";
/// Threads of a runner's user, also where a namespace has several runners.
const MAX_THREADS: u64 = 4096;
/// Descriptors of a compiler.
const MAX_COMPILER_DESCRIPTORS: u64 = 64;

/// Moves the stream of frames from standard input to descriptor 3 and the network channel from standard output to
/// descriptor 4, puts nothing in their place, and closes every other descriptor but standard error.
pub(crate) fn take_sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    // SAFETY: plain system calls on descriptor numbers, made before this process has opened anything: descriptors from
    // 3 on can only be inherited ones that nothing here knows of, so closing or replacing them cannot pull a
    // descriptor from under its owner.
    let sockets = unsafe {
        for (from, to) in [(libc::STDIN_FILENO, STREAM), (libc::STDOUT_FILENO, NETWORK)] {
            if libc::dup3(from, to, libc::O_CLOEXEC) != to {
                return Err(io::Error::last_os_error());
            }
        }
        close_from(NETWORK + 1)?;
        (OwnedFd::from_raw_fd(STREAM), OwnedFd::from_raw_fd(NETWORK))
    };
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    Ok(sockets)
}

/// # Safety
/// Nothing in this process may own a descriptor of that number or above.
unsafe fn close_from(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(io::Error::other)?;
    // SAFETY: the caller vouches for the descriptors.
    if unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } == 0 {
        return Ok(());
    }
    // Before Linux 5.9 there is no such call.
    let (_, last) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let last = RawFd::try_from(last.min(1 << 20)).unwrap_or(RawFd::MAX);
    for descriptor in RawFd::try_from(first).map_err(io::Error::other)?..last {
        // SAFETY: as above.
        unsafe { libc::close(descriptor) };
    }
    Ok(())
}

/// A runner that is confined but for what has to wait for its threads.
#[derive(Debug)]
pub(crate) struct Confining {
    root: PathBuf,
    so_far: Confinement,
}

/// What a runner gives up before it has more than one thread. `user` is the user and group that it becomes.
///
/// # Errors
/// When something that this machine can do fails; what it cannot do is missing from the [`Confinement`] instead.
pub(crate) fn before_threads(root: &Path, user: Option<u32>) -> io::Result<Confining> {
    // Without procfs it is as it was.
    let _ = fs::write("/proc/self/oom_score_adj", RUNNER_OOM_SCORE);
    nix::unistd::chdir(root)?;
    let own_root = account::take_root(user.is_some())?;
    let root = if own_root { PathBuf::from("/") } else { env::current_dir()? };
    account::bound_capabilities()?;
    account::become_user(user)?;
    account::drop_capabilities()?;
    // After the change of user, which clears it.
    die_with_parent()?;
    prctl::set_no_new_privs()?;
    no_core()?;
    // Every preopened directory and every file that a guest opens is a descriptor.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    if user.is_some() {
        setrlimit(Resource::RLIMIT_NPROC, MAX_THREADS, MAX_THREADS)?;
    }
    let landlock_abi = landlock::runner(&root)?;
    let so_far = Confinement { landlock_abi, seccomp: false, own_root, own_user: user.is_some() };
    Ok(Confining { root, so_far })
}

impl Confining {
    /// The runner's root as it sees it: absolute.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What a runner gives up before the first guest, when all its threads are there.
    ///
    /// # Errors
    /// As [`before_threads`].
    pub(crate) fn before_guests(self) -> io::Result<Confinement> {
        Ok(Confinement { seccomp: syscalls::allow_only(&syscalls::runner())?, ..self.so_far })
    }
}

/// The directory that a compiler makes `beside` its output and removes again before it reads anything.
pub(crate) fn compiler_root(beside: &Path, process: u32) -> PathBuf {
    account::empty_root(beside, process)
}

/// What a compiler gives up once its input and output are open, before it reads a byte or starts a thread.
///
/// # Errors
/// As [`before_threads`].
pub(crate) fn compiler(user: Option<u32>, beside: &Path) -> io::Result<Confinement> {
    let _ = fs::write("/proc/self/oom_score_adj", COMPILER_OOM_SCORE);
    let own_root = account::take_empty_root(beside, user.is_some())?;
    account::bound_capabilities()?;
    account::become_user(user)?;
    account::drop_capabilities()?;
    die_with_parent()?;
    prctl::set_no_new_privs()?;
    no_core()?;
    setrlimit(Resource::RLIMIT_NOFILE, MAX_COMPILER_DESCRIPTORS, MAX_COMPILER_DESCRIPTORS)?;
    if user.is_some() {
        setrlimit(Resource::RLIMIT_NPROC, MAX_THREADS, MAX_THREADS)?;
    }
    let landlock_abi = landlock::nothing()?;
    let seccomp = syscalls::allow_only(&syscalls::compiler())?;
    Ok(Confinement { landlock_abi, seccomp, own_root, own_user: user.is_some() })
}

/// A core file would hold every guest's memory.
fn no_core() -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?)
}

/// Has the kernel kill this process when the agent dies. If the agent has died already, its end of the stream is
/// closed, which ends the runner as well.
pub(crate) fn die_with_parent() -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    Ok(())
}
