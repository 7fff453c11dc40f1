//! A process that finds itself on a kernel without some feature: the feature's system calls fail as unknown ones do, for
//! it and for all that it starts. A filter does that, so what is tested needs no switch of its own.

use nix::libc;
use std::{io, os::unix::process::CommandExt, process::Command};

/// Landlock's three system calls have these numbers on every architecture.
const LANDLOCK_CALLS: (u32, u32) = (444, 446);
/// Words of classic BPF: load a word of the call's description, compare it, and give a verdict.
const LOAD: u16 = 0x20;
const AT_LEAST: u16 = 0x35;
const MORE: u16 = 0x25;
const VERDICT: u16 = 0x06;

const fn word(code: u16, when_true: u8, when_false: u8, value: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: when_true, jf: when_false, k: value }
}

static NO_LANDLOCK: [libc::sock_filter; 5] = [
    // The number of the call is the first word.
    word(LOAD, 0, 0, 0),
    word(AT_LEAST, 0, 2, LANDLOCK_CALLS.0),
    word(MORE, 1, 0, LANDLOCK_CALLS.1),
    word(VERDICT, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()),
    word(VERDICT, 0, 0, libc::SECCOMP_RET_ALLOW),
];

/// Makes the program start without Landlock.
pub fn without_landlock(command: &mut Command) {
    let filter = || {
        let program = libc::sock_fprog { len: 5, filter: NO_LANDLOCK.as_ptr().cast_mut() };
        // SAFETY: two system calls, the second of which reads the constant program above.
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
        };
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec nothing is allocated and no lock is taken.
    unsafe { command.pre_exec(filter) };
}
