//! What the runner process gives up, and when.
//!
//! Three moments, in this order, each of which cannot be undone:
//!
//! 1. [`take_stream`]: nothing inherited but the stream to the agent (descriptor 3) and standard error.
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

/// Where the stream to the agent lives.
const STREAM: RawFd = 3;

/// Moves the stream from standard input to descriptor 3, puts nothing in its place, and closes every other descriptor
/// but standard output and standard error.
pub(crate) fn take_stream() -> io::Result<OwnedFd> {
    // SAFETY: plain system calls on descriptor numbers, made before this process has opened anything: descriptors from
    // 3 on can only be inherited ones that nothing here knows of, so closing or replacing them cannot pull a
    // descriptor from under its owner.
    let stream = unsafe {
        if libc::dup3(libc::STDIN_FILENO, STREAM, libc::O_CLOEXEC) != STREAM {
            return Err(io::Error::last_os_error());
        }
        close_from(STREAM + 1)?;
        OwnedFd::from_raw_fd(STREAM)
    };
    let null = open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(stream)
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
