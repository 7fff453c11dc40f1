//! What the runner process gives up, and when.
//!
//! Three moments, in this order, each of which cannot be undone:
//!
//! 1. [`take_sockets`]: nothing inherited but the stream of frames and the network channel to the agent (descriptors 3
//!    and 4) and standard error.
//! 2. [`before_threads`], while there is one thread: the root, no new privileges, limits, death with the agent.
//!    Here follow, in this order: `chroot` to the runner's root where it started as root, its own uid without
//!    capabilities (which clears the parent-death signal, so that is set again), Landlock on `/` of that root.
//! 3. [`before_guests`], with engine and threads running: here follows the seccomp allow-list.

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
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    path::Path,
};

/// Where the stream of frames lives.
const STREAM: RawFd = 3;
/// Where the network channel lives.
const NETWORK: RawFd = 4;

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

/// What a runner gives up before it has more than one thread. From here on its root is the current directory, and all
/// its paths are relative.
pub(crate) fn before_threads(root: &Path) -> io::Result<()> {
    nix::unistd::chdir(root)?;
    die_with_parent()?;
    prctl::set_no_new_privs()?;
    // A core file would hold every guest's memory.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    // Every preopened directory and every file that a guest opens is a descriptor.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    // Place of: chroot, uid and capabilities, `die_with_parent` again, Landlock.
    Ok(())
}

/// What a runner gives up before the first guest, when all its threads are there.
pub(crate) fn before_guests() {
    // Place of: seccomp.
}

/// Has the kernel kill this process when the agent dies. If the agent has died already, its end of the stream is
/// closed, which ends the runner as well.
pub(crate) fn die_with_parent() -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    Ok(())
}
