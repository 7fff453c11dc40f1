//! The doors that are tried. An attempt that gets `Ok` has got through.

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, open, openat},
    libc,
    sys::{
        socket::{MsgFlags, sendto},
        stat::{Mode, UtimensatFlags, stat, utimensat},
        time::TimeSpec,
    },
    unistd::{linkat, symlinkat, unlinkat},
};
use std::path::{Path, PathBuf};

/// What an intruder knows of its surroundings.
pub(crate) struct Place {
    /// The agent's process.
    pub(crate) agent: libc::pid_t,
    /// The directory above the namespaces, as the machine names it.
    pub(crate) outside: PathBuf,
}

/// One door.
pub(crate) struct Attempt {
    pub(crate) name: &'static str,
    pub(crate) make: fn(&Place) -> Result<(), Errno>,
    pub(crate) rule: Rule,
}

/// What must become of an attempt. All but the last kind must work for root without a sandbox, or they would prove nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Guests need it, so it must work.
    Needed,
    /// Compilers need it too.
    NeededByCompilers,
    /// It stands open outside, and must be refused.
    Guarded,
    /// Only a root directory of its own keeps it shut: the Node's condition says so.
    OpenWithoutRoot,
    /// Nobody may touch it: the process must die of the attempt. An error would not do, since the kernel might give it for
    /// the arguments, which lead nowhere.
    Forbidden,
}

const fn door(name: &'static str, make: fn(&Place) -> Result<(), Errno>) -> Attempt {
    Attempt { name, make, rule: Rule::Forbidden }
}

const fn guarded(name: &'static str, make: fn(&Place) -> Result<(), Errno>) -> Attempt {
    Attempt { name, make, rule: Rule::Guarded }
}

const fn needed(name: &'static str, make: fn(&Place) -> Result<(), Errno>) -> Attempt {
    Attempt { name, make, rule: Rule::Needed }
}

const fn needed_by_compilers(name: &'static str, make: fn(&Place) -> Result<(), Errno>) -> Attempt {
    Attempt { name, make, rule: Rule::NeededByCompilers }
}

const fn open_without_root(name: &'static str, make: fn(&Place) -> Result<(), Errno>) -> Attempt {
    Attempt { name, make, rule: Rule::OpenWithoutRoot }
}

fn read(path: impl AsRef<Path>) -> Result<(), Errno> {
    open(path.as_ref(), OFlag::O_RDONLY, Mode::empty()).map(drop)
}

fn write(path: impl AsRef<Path>) -> Result<(), Errno> {
    open(path.as_ref(), OFlag::O_WRONLY, Mode::empty()).map(drop)
}

fn create(path: impl AsRef<Path>) -> Result<(), Errno> {
    open(path.as_ref(), OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL, Mode::S_IRUSR).map(drop)
}

fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), Errno> {
    nix::fcntl::renameat(nix::fcntl::AT_FDCWD, from.as_ref(), nix::fcntl::AT_FDCWD, to.as_ref())
}

fn link(from: impl AsRef<Path>, to: &str) -> Result<(), Errno> {
    linkat(nix::fcntl::AT_FDCWD, from.as_ref(), nix::fcntl::AT_FDCWD, to, AtFlags::empty())
}

fn through_link(target: impl AsRef<Path>) -> Result<(), Errno> {
    symlinkat(target.as_ref(), nix::fcntl::AT_FDCWD, "volumes/v/link")?;
    read("volumes/v/link")
}

/// A system call with up to six numbers.
fn call<const N: usize>(number: libc::c_long, arguments: [i64; N]) -> Result<(), Errno> {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&arguments);
    // SAFETY: the pointers among the arguments are null or point to constants with an end, and nothing of this program
    // is changed: where the call is let through, all it could do is what the attempt is about.
    match unsafe { libc::syscall(number, all[0], all[1], all[2], all[3], all[4], all[5]) } {
        -1 => Err(Errno::last()),
        _ => Ok(()),
    }
}

fn text(text: &'static std::ffi::CStr) -> i64 {
    text.as_ptr().expose_provenance().cast_signed() as i64
}

fn socket(family: libc::c_int, kind: libc::c_int) -> Result<(), Errno> {
    call(libc::SYS_socket, [family.into(), kind.into(), 0])
}

fn map(protection: libc::c_int, flags: libc::c_int) -> Result<(), Errno> {
    let all = flags | libc::MAP_ANONYMOUS;
    call(libc::SYS_mmap, [0, 4096, protection.into(), all.into(), -1, 0])
}

/// The stream to the agent.
const STREAM: i64 = 3;
/// Where `prctl` of the C library would hide the name.
const PR_SET_DUMPABLE: i64 = 4;

pub(crate) const ATTEMPTS: &[Attempt] = &[
    // What guests do all the time.
    needed("a file in its own volume", |_| create("volumes/v/new").and_then(|()| read("volumes/v/new"))),
    needed("its own code", |_| read("code/guest.cwasm")),
    needed_by_compilers("a thread", |_| std::thread::spawn(|| ()).join().map_err(|_| Errno::EAGAIN)),
    needed_by_compilers("memory", |_| map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE)),
    // Files.
    guarded("a file of the system", |_| read("/etc/passwd")),
    guarded("a file of the agent", |place| read(place.outside.join("secret"))),
    guarded("a file of the agent, upwards", |_| read("../secret")),
    guarded("to write a file of the agent", |place| write(place.outside.join("secret"))),
    guarded("a new file beside the agent's", |place| create(place.outside.join("new"))),
    guarded("to rename a file of the agent", |place| rename(place.outside.join("secret"), place.outside.join("s"))),
    guarded("to remove a file of the agent", |place| {
        unlinkat(nix::fcntl::AT_FDCWD, &place.outside.join("secret"), nix::unistd::UnlinkatFlags::NoRemoveDir)
    }),
    guarded("the directory above", |_| read("..")),
    guarded("the root directory", |_| read("/")),
    guarded("another namespace's file", |place| read(place.outside.join("other/volumes/v/file"))),
    guarded("to write another namespace's file", |place| write(place.outside.join("other/volumes/v/file"))),
    guarded("another namespace's file, upwards", |_| read("../other/volumes/v/file")),
    guarded("another namespace's directory", |place| read(place.outside.join("other/volumes/v"))),
    guarded("to change its code", |_| write("code/guest.cwasm")),
    guarded("to add code", |_| create("code/new.cwasm")),
    guarded("to move a file among its code", |_| {
        create("volumes/v/new").and_then(|()| rename("volumes/v/new", "code/new.cwasm"))
    }),
    guarded("to link its code into its volume", |_| link("code/guest.cwasm", "volumes/v/code")),
    guarded("to replace its volumes", |_| rename("volumes", "gone")),
    guarded("a link to a file of the system", |_| through_link("/etc/passwd")),
    guarded("a link to a file of the agent", |place| through_link(place.outside.join("secret"))),
    guarded("a link upwards", |_| through_link("../../../secret")),
    guarded("a hard link to a file of the agent", |place| link(place.outside.join("secret"), "volumes/v/hard")),
    guarded("a descriptor of the root directory", |_| {
        let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
        openat(&root, "etc/passwd", OFlag::O_RDONLY, Mode::empty()).map(drop)
    }),
    guarded("a descriptor of the directory above", |_| {
        let above = open("..", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
        openat(&above, "secret", OFlag::O_RDONLY, Mode::empty()).map(drop)
    }),
    guarded("the memory of the agent", |place| read(format!("/proc/{}/mem", place.agent))),
    guarded("the environment of the agent", |place| read(format!("/proc/{}/environ", place.agent))),
    guarded("its own memory", |_| write("/proc/self/mem")),
    guarded("the devices", |_| read("/dev/zero")),
    guarded("a setting of the kernel", |_| read("/proc/sys/kernel/core_pattern")),
    open_without_root("what the agent has", |place| stat(&place.outside.join("secret")).map(drop)),
    open_without_root("the times of a file of the agent", |place| {
        let never = TimeSpec::new(0, 0);
        let path = place.outside.join("secret");
        utimensat(nix::fcntl::AT_FDCWD, &path, &never, &never, UtimensatFlags::FollowSymlink)
    }),
    guarded("modes", |_| call(libc::SYS_fchmodat, [libc::AT_FDCWD.into(), text(c"volumes/v"), 0o777])),
    guarded("owners", |_| call(libc::SYS_fchownat, [libc::AT_FDCWD.into(), text(c"volumes/v"), 0, 0, 0])),
    door("attributes", |_| call(libc::SYS_setxattr, [text(c"volumes/v"), text(c"user.a"), text(c"b"), 1, 0])),
    guarded("a device in its volume", |_| {
        let zero = i64::try_from(libc::makedev(1, 5)).unwrap_or_default();
        call(libc::SYS_mknodat, [libc::AT_FDCWD.into(), text(c"volumes/v/d"), (libc::S_IFCHR | 0o666).into(), zero])
    }),
    guarded("a pipe in its volume", |_| {
        call(libc::SYS_mknodat, [libc::AT_FDCWD.into(), text(c"volumes/v/p"), (libc::S_IFIFO | 0o666).into(), 0])
    }),
    door("files by their handles", |_| call(libc::SYS_open_by_handle_at, [libc::AT_FDCWD.into(), 0, 0])),
    door("handles of files", |_| call(libc::SYS_name_to_handle_at, [libc::AT_FDCWD.into(), text(c"/"), 0, 0, 0])),
    guarded("a root of its choice", |_| call(libc::SYS_chroot, [text(c"volumes")])),
    door("to exchange the root", |_| call(libc::SYS_pivot_root, [text(c"volumes"), text(c"volumes")])),
    door("to mount", |_| call(libc::SYS_mount, [text(c"x"), text(c"volumes"), text(c"tmpfs"), 0, 0])),
    door("to unmount", |_| call(libc::SYS_umount2, [text(c"/proc"), 0])),
    door("to mount in the new way", |_| call(libc::SYS_fsopen, [text(c"tmpfs"), 0])),
    door("to copy a tree of mounts", |_| call(libc::SYS_open_tree, [libc::AT_FDCWD.into(), text(c"/"), 0])),
    // Processes.
    door("another program", |_| call(libc::SYS_execve, [text(c"/bin/true"), 0, 0])),
    door("another program by descriptor", |_| call(libc::SYS_execveat, [-1, text(c"/bin/true"), 0, 0, 0])),
    guarded("another process", |_| {
        // SAFETY: the child ends at once.
        match unsafe { libc::fork() } {
            -1 => Err(Errno::last()),
            // SAFETY: as above.
            0 => unsafe { libc::_exit(0) },
            _ => Ok(()),
        }
    }),
    door("a thread with rights of its own", |_| {
        let flags = libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_VM | libc::CLONE_NEWNET;
        call(libc::SYS_clone, [flags.into(), 0, 0, 0, 0])
    }),
    // The C library goes on without it only if it is not there; any other error means that it is.
    guarded("the newer way to make a process", |_| match call(libc::SYS_clone3, [0, 0]) {
        Err(Errno::ENOSYS) => Err(Errno::ENOSYS),
        Ok(()) | Err(_) => Ok(()),
    }),
    guarded("a signal to the agent", |place| call(libc::SYS_kill, [place.agent.into(), 0])),
    guarded("a signal to a thread of the agent", |place| {
        call(libc::SYS_tgkill, [place.agent.into(), place.agent.into(), 0])
    }),
    guarded("a descriptor of the agent's process", |place| call(libc::SYS_pidfd_open, [place.agent.into(), 0])),
    door("a descriptor out of the agent", |_| call(libc::SYS_pidfd_getfd, [-1, 0, 0])),
    guarded("to trace the agent", |place| {
        call(libc::SYS_ptrace, [libc::PTRACE_SEIZE.into(), place.agent.into(), 0, 0])
    }),
    door("to read the agent's memory", |place| call(libc::SYS_process_vm_readv, [place.agent.into(), 0, 0, 0, 0, 0])),
    door("to write the agent's memory", |place| call(libc::SYS_process_vm_writev, [place.agent.into(), 0, 0, 0, 0, 0])),
    door("the agent's memory given back", |_| call(libc::SYS_process_madvise, [0, 0, 0, 4, 0])),
    door("signals by a descriptor's owner", |place| {
        call(libc::SYS_fcntl, [STREAM, libc::F_SETOWN.into(), place.agent.into()])
    }),
    // Rights.
    guarded("to be root", |_| call(libc::SYS_setuid, [0])),
    guarded("to be somebody else", |_| call(libc::SYS_setresuid, [1, 1, 1])),
    guarded("groups", |_| call(libc::SYS_setgroups, [0, 0])),
    door("capabilities", |_| call(libc::SYS_capset, [0, 0])),
    guarded("to be looked at", |_| call(libc::SYS_prctl, [PR_SET_DUMPABLE, 1, 0, 0, 0])),
    guarded("to outlive the agent", |_| call(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG.into(), 0, 0, 0, 0])),
    guarded("a bounding set", |_| call(libc::SYS_prctl, [libc::PR_CAPBSET_DROP.into(), 0, 0, 0, 0])),
    door("another filter", |_| call(libc::SYS_seccomp, [libc::SECCOMP_SET_MODE_FILTER.into(), 0, 0])),
    door("more resources", |_| call(libc::SYS_setrlimit, [0, 0])),
    guarded("a namespace of users", |_| call(libc::SYS_unshare, [libc::CLONE_NEWNET.into()])),
    door("a namespace of somebody", |_| call(libc::SYS_setns, [0, 0])),
    guarded("another personality", |_| call(libc::SYS_personality, [0])),
    guarded("to come first", |_| call(libc::SYS_setpriority, [0, 0, -5])),
    guarded("to come before what serves guests", |_| call(libc::SYS_setpriority, [0, 0, 2])),
    needed("to stand back", |_| call(libc::SYS_setpriority, [0, 0, 19])),
    guarded("to say how far the agent stands back", |place| call(libc::SYS_setpriority, [0, place.agent.into(), 0])),
    // Sockets.
    guarded("a TCP socket", |_| socket(libc::AF_INET, libc::SOCK_STREAM)),
    guarded("a TCP socket of IPv6", |_| socket(libc::AF_INET6, libc::SOCK_STREAM)),
    guarded("a UDP socket", |_| socket(libc::AF_INET, libc::SOCK_DGRAM)),
    guarded("a Unix socket", |_| socket(libc::AF_UNIX, libc::SOCK_STREAM)),
    guarded("a netlink socket", |_| socket(libc::AF_NETLINK, libc::SOCK_RAW)),
    door("a packet socket", |_| socket(libc::AF_PACKET, libc::SOCK_RAW)),
    door("a socket to the hypervisor", |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM)),
    door("a socket to the kernel's ciphers", |_| socket(libc::AF_ALG, libc::SOCK_SEQPACKET)),
    door("datagrams with an address", |_| {
        call(libc::SYS_socketpair, [libc::AF_UNIX.into(), libc::SOCK_DGRAM.into(), 0, 0])
    }),
    door("to connect what it has", |_| call(libc::SYS_connect, [STREAM, 0, 0])),
    door("to bind what it has", |_| call(libc::SYS_bind, [STREAM, 0, 0])),
    door("to listen on what it has", |_| call(libc::SYS_listen, [STREAM, 1])),
    door("to accept on what it has", |_| call(libc::SYS_accept4, [STREAM, 0, 0, 0])),
    door("to connect by sending", |_| sendto(3, b"x", &(), MsgFlags::from_bits_retain(libc::MSG_FASTOPEN)).map(drop)),
    door("a program for a socket", |_| {
        call(libc::SYS_setsockopt, [STREAM, libc::SOL_SOCKET.into(), libc::SO_ATTACH_FILTER.into(), 0, 0])
    }),
    // The kernel's less travelled ways.
    guarded("code that it writes", |_| map(libc::PROT_WRITE | libc::PROT_EXEC, libc::MAP_PRIVATE)),
    guarded("shared memory", |_| map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)),
    guarded("memory as a file", |_| call(libc::SYS_memfd_create, [text(c"x"), 0])),
    door("keys", |_| call(libc::SYS_keyctl, [0, -3, 0])),
    door("a key", |_| call(libc::SYS_add_key, [text(c"user"), text(c"x"), text(c"y"), 1, -3])),
    door("programs in the kernel", |_| call(libc::SYS_bpf, [0, 0, 0])),
    door("measuring others", |_| call(libc::SYS_perf_event_open, [0, 0, 0, -1, 0])),
    door("faults of its own", |_| call(libc::SYS_userfaultfd, [1])),
    door("a ring of requests", |_| call(libc::SYS_io_uring_setup, [1, 0])),
    door("the kernel's log", |_| call(libc::SYS_syslog, [10, 0, 0])),
    door("a module of the kernel", |_| call(libc::SYS_finit_module, [-1, 0, 0])),
    door("another kernel", |_| call(libc::SYS_kexec_load, [0, 0, 0, 0])),
    door("the clock", |_| call(libc::SYS_clock_settime, [0, 0])),
    door("swap", |_| call(libc::SYS_swapon, [0, 0])),
    door("a terminal's input", |_| call(libc::SYS_ioctl, [STREAM, i64::try_from(libc::TIOCSTI).unwrap_or(0), 0])),
    door("messages between processes", |_| call(libc::SYS_msgget, [0, 0o1000])),
    door("shared segments", |_| call(libc::SYS_shmget, [0, 4096, 0o1600])),
    door("a system call of another table", |_| call(libc::SYS_getpid | 0x4000_0000, [])),
];
