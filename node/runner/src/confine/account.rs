//! Root directory, user and capabilities of a process that meets strangers' code. Nothing here can be taken back.

use nix::{
    errno::Errno,
    libc,
    unistd::{Gid, Uid, chdir, chroot, setgroups, setresgid, setresuid},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Capabilities that any kernel might have.
const MAX_CAPABILITIES: libc::c_ulong = 64;
/// Version 3 of the capability calls: two words of 32 bits each.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Makes the current directory the root, if this process may; otherwise says `false`, unless it is `required`.
pub(super) fn take_root(required: bool) -> io::Result<bool> {
    match chroot(".") {
        Ok(()) => {
            chdir("/")?;
            Ok(true)
        }
        Err(Errno::EPERM) if !required => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What [`take_empty_root`] makes for a moment, for the process with this id.
pub(crate) fn empty_root(beside: &Path, process: u32) -> PathBuf {
    beside.join(format!(".root-{process}"))
}

/// The same with a directory that is empty and that nobody else can reach: made in `beside`, and removed while this
/// process is in it.
pub(super) fn take_empty_root(beside: &Path, required: bool) -> io::Result<bool> {
    if !required && !Uid::effective().is_root() {
        return Ok(false);
    }
    let empty = empty_root(beside, std::process::id());
    fs::create_dir(&empty)?;
    let inside = chdir(&empty);
    fs::remove_dir(&empty)?;
    inside?;
    take_root(required)
}

/// Becomes a user with the group of the same number and no other.
pub(super) fn become_user(user: Option<u32>) -> io::Result<()> {
    let Some(id) = user else { return Ok(()) };
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct CapabilityWords {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// No capability is to be had by any means. Before the change of user, which takes the right to say so.
pub(super) fn bound_capabilities() -> io::Result<()> {
    for capability in 0..MAX_CAPABILITIES {
        // SAFETY: the call takes numbers only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            match Errno::last() {
                // The first that this kernel does not have; or whoever may not drop them, and cannot get them either
                // once there are no new privileges.
                Errno::EINVAL | Errno::EPERM => break,
                error => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// No capability now.
pub(super) fn drop_capabilities() -> io::Result<()> {
    // SAFETY: the call takes numbers only. Before Linux 4.3 there is nothing to clear.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let none = [CapabilityWords { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: both structures have the layout that version 3 of the call reads, and outlive it.
    if unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
