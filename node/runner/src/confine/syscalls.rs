//! Which system calls a process makes from here on. Everything that is not listed kills it.
//!
//! The list is what the engine, the async runtime, the standard library and the C library need after start-up, and no
//! more: nothing opens a socket or connects one, nothing starts or looks at a process, nothing changes modes, owners or
//! mounts. What an argument decides is checked as far as a filter can see it: numbers, not what pointers point to.

use nix::{errno::Errno, libc};
use seccompiler::{
    BackendError, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};
use std::{collections::BTreeMap, env, io};

/// `-10000` stands for the calling process where a process descriptor is asked for.
const PIDFD_SELF: u64 = 0xffff_d8f0;
/// Names a mapping for `/proc/PID/maps`: the C library's allocator does.
const PR_SET_VMA: u64 = 0x5356_4d41;
/// The kind of a mapping among `mmap`'s flags.
const MAP_TYPE: u64 = 0xf;
/// The kind of a socket without its flags.
const SOCK_TYPE: u64 = 0xf;
/// New namespaces are no business of a thread.
const NAMESPACES: libc::c_int = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS;

/// What is allowed, and what is refused with an error instead of death.
pub(super) struct Calls {
    allowed: Vec<(libc::c_long, Vec<Arguments>)>,
    refused: Vec<(libc::c_long, Errno)>,
}

/// Conditions on arguments that must hold together: which argument (its lower 32 bits), and how.
type Arguments = Vec<(u8, SeccompCmpOp, u64)>;

fn is(argument: u8, value: libc::c_int) -> Arguments {
    vec![(argument, SeccompCmpOp::Eq, number(value))]
}

fn number(value: libc::c_int) -> u64 {
    u64::from(value.cast_unsigned())
}

fn any(calls: &[libc::c_long]) -> Vec<(libc::c_long, Vec<Arguments>)> {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

fn one_of(argument: u8, values: &[libc::c_int]) -> Vec<Arguments> {
    values.iter().map(|value| is(argument, *value)).collect()
}

/// Memory, threads, time, the end: what any program of this standard library needs.
fn program() -> Vec<(libc::c_long, Vec<Arguments>)> {
    let mut calls = any(&[
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_lseek,
        libc::SYS_fstat,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_membarrier,
        libc::SYS_futex,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_restart_syscall,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_getrusage,
        libc::SYS_getrandom,
        libc::SYS_sysinfo,
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_gettimeofday,
    ]);
    let process = libc::c_int::try_from(std::process::id()).unwrap_or_default();
    let (write, exec) = (number(libc::PROT_WRITE), number(libc::PROT_EXEC));
    let thread = number(libc::CLONE_THREAD);
    calls.extend([
        // Nothing shared, which no limit would count, and nothing executable at once: code is written or loaded first.
        (
            libc::SYS_mmap,
            vec![vec![
                (2, SeccompCmpOp::MaskedEq(exec), 0),
                (3, SeccompCmpOp::MaskedEq(MAP_TYPE), number(libc::MAP_PRIVATE)),
            ]],
        ),
        // Never writable and executable at the same time.
        (
            libc::SYS_mprotect,
            vec![vec![(2, SeccompCmpOp::MaskedEq(write), 0)], vec![(2, SeccompCmpOp::MaskedEq(exec), 0)]],
        ),
        (libc::SYS_clone, vec![vec![(0, SeccompCmpOp::MaskedEq(thread | number(NAMESPACES)), thread)]]),
        // `abort`, to itself only.
        (libc::SYS_tgkill, vec![is(0, process)]),
        // A thread's name, and the name of memory.
        (libc::SYS_prctl, vec![is(0, libc::PR_SET_NAME), vec![(0, SeccompCmpOp::Eq, PR_SET_VMA)]]),
        // To ask, not to set.
        (libc::SYS_prlimit64, vec![vec![(0, SeccompCmpOp::Eq, 0), (2, SeccompCmpOp::Eq, 0)]]),
        (
            libc::SYS_fcntl,
            one_of(
                1,
                &[libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD, libc::F_DUPFD_CLOEXEC],
            ),
        ),
        (libc::SYS_ioctl, ioctls()),
    ]);
    calls
}

/// Whether reads wait, whether a descriptor outlives `exec`, how much there is to read or was not read yet, whether it
/// is a terminal.
fn ioctls() -> Vec<Arguments> {
    [libc::FIONBIO, libc::FIOCLEX, libc::FIONREAD, libc::TIOCOUTQ, libc::TCGETS]
        .iter()
        .map(|request| vec![(1, SeccompCmpOp::Eq, u64::from(u32::try_from(*request).unwrap_or_default()))])
        .collect()
}

/// What a runner needs besides: files below its root, sockets that it was given, waiting for many things at once.
pub(super) fn runner() -> Calls {
    let mut allowed = program();
    allowed.extend(any(&[
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_fchdir,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_fstatfs,
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        libc::SYS_getdents64,
        libc::SYS_mkdirat,
        libc::SYS_unlinkat,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_readlinkat,
        libc::SYS_utimensat,
        libc::SYS_ftruncate,
        libc::SYS_fallocate,
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_fadvise64,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
        libc::SYS_preadv,
        libc::SYS_pwritev,
        libc::SYS_preadv2,
        libc::SYS_pwritev2,
        libc::SYS_epoll_create1,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_ppoll,
        libc::SYS_eventfd2,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_shutdown,
        libc::SYS_getsockopt,
        libc::SYS_getsockname,
        libc::SYS_getpeername,
    ]));
    #[cfg(target_arch = "x86_64")]
    allowed.extend(any(&[libc::SYS_epoll_wait, libc::SYS_poll]));
    let stream = vec![
        (0, SeccompCmpOp::Eq, number(libc::AF_UNIX)),
        (1, SeccompCmpOp::MaskedEq(SOCK_TYPE), number(libc::SOCK_STREAM)),
    ];
    let fast_open = number(libc::MSG_FASTOPEN);
    allowed.extend([
        // A connection within a pod: two ends that know no address. (A datagram socket could be told one.)
        (libc::SYS_socketpair, vec![stream]),
        // Sending must not connect what was closed.
        (libc::SYS_sendto, vec![vec![(3, SeccompCmpOp::MaskedEq(fast_open), 0)]]),
        (libc::SYS_sendmsg, vec![vec![(2, SeccompCmpOp::MaskedEq(fast_open), 0)]]),
        (
            libc::SYS_setsockopt,
            vec![vec![(1, SeccompCmpOp::Eq, number(libc::SOL_SOCKET)), (2, SeccompCmpOp::Eq, number(libc::SO_SNDBUF))]],
        ),
        // To stand back: its own thread, and never forward without the right to.
        (
            libc::SYS_setpriority,
            vec![vec![(0, SeccompCmpOp::Eq, u64::from(libc::PRIO_PROCESS)), (1, SeccompCmpOp::Eq, 0)]],
        ),
        // The pool gives memory of several places back at once.
        (
            libc::SYS_process_madvise,
            vec![vec![(0, SeccompCmpOp::Eq, PIDFD_SELF), (3, SeccompCmpOp::Eq, number(libc::MADV_DONTNEED))]],
        ),
    ]);
    // The C library goes on to `clone`, whose flags can be seen; the engine goes on without.
    let refused = vec![(libc::SYS_clone3, Errno::ENOSYS), (libc::SYS_memfd_create, Errno::ENOSYS)];
    Calls { allowed, refused }
}

/// What a compiler needs besides: what it has open. The standard library looks for the number of processors in files,
/// and goes on without.
pub(super) fn compiler() -> Calls {
    let mut allowed = program();
    allowed.extend(any(&[libc::SYS_statx, libc::SYS_fsync, libc::SYS_pwrite64]));
    #[cfg(target_arch = "x86_64")]
    allowed.extend(any(&[libc::SYS_poll]));
    let refused = vec![
        (libc::SYS_clone3, Errno::ENOSYS),
        (libc::SYS_memfd_create, Errno::ENOSYS),
        (libc::SYS_openat, Errno::EACCES),
        (libc::SYS_newfstatat, Errno::EACCES),
        (libc::SYS_readlinkat, Errno::EACCES),
        (libc::SYS_getcwd, Errno::EACCES),
    ];
    Calls { allowed, refused }
}

/// Puts the list on all threads. Says `false` where the kernel has no such filters.
///
/// # Errors
/// When it has, and refuses this one.
pub(super) fn allow_only(calls: &Calls) -> io::Result<bool> {
    let filters = calls.filters().map_err(io::Error::other)?;
    for filter in &filters {
        match apply_filter_all_threads(filter) {
            Ok(()) => {}
            Err(seccompiler::Error::Seccomp(error))
                if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    Ok(true)
}

impl Calls {
    /// A filter knows two outcomes and there are three, so there are two filters, of which the harsher verdict counts:
    /// the first refuses with errors, the second kills.
    fn filters(&self) -> Result<Vec<seccompiler::BpfProgram>, BackendError> {
        let target = TargetArch::try_from(env::consts::ARCH)?;
        let mut errors: BTreeMap<u32, BTreeMap<i64, Vec<SeccompRule>>> = BTreeMap::new();
        let mut allowed = BTreeMap::new();
        for (call, errno) in &self.refused {
            let code = (*errno as i32).cast_unsigned();
            errors.entry(code).or_default().insert(*call, Vec::new());
            allowed.insert(*call, Vec::new());
        }
        for (call, rules) in &self.allowed {
            allowed.insert(*call, rules.iter().map(rule).collect::<Result<Vec<_>, _>>()?);
        }
        let mut programs = Vec::new();
        for (code, calls) in errors {
            let filter = SeccompFilter::new(calls, SeccompAction::Allow, SeccompAction::Errno(code), target)?;
            programs.push(filter.try_into()?);
        }
        let list = SeccompFilter::new(allowed, SeccompAction::KillProcess, SeccompAction::Allow, target)?;
        programs.push(list.try_into()?);
        Ok(programs)
    }
}

fn rule(arguments: &Arguments) -> Result<SeccompRule, BackendError> {
    let conditions = arguments.iter();
    let conditions = conditions.map(|(index, how, value)| SeccompCondition::new(*index, Dword, how.clone(), *value));
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}
