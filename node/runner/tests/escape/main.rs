//! What somebody could do who has broken out of wasm: a runner is taken over at the moment at which guests could run,
//! in a thread of theirs, and tries one door after another, each in a process of its own. Every attempt must end in an
//! error or in the death of the process; some are made in the open as well, to show that it is the sandbox that refuses.
//! A compiler, which reads what strangers wrote as well, is taken over likewise.
//!
//! Run as root, both are tried with a root and a user of their own, and as an ordinary user; otherwise only so.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test program, which clippy does not see because it has its own main"
)]

mod attempts;

use attempts::{ATTEMPTS, Attempt, Place, Rule};
use nix::{
    sys::socket::{AddressFamily, SockFlag, SockType, socketpair},
    unistd::{Gid, Uid, chown},
};
use std::{
    env,
    fs::{self, Permissions},
    os::unix::{
        fs::PermissionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output, Stdio},
};
use tempfile::TempDir;

/// The signal for a system call that is not allowed.
const SIGSYS: i32 = 31;
/// A namespace's user, and a user that has nothing to do with it.
const OWN_USER: u32 = 1_900_000_001;
const ORDINARY_USER: u32 = 65_534;

/// How an attempt came out.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Killed,
    Refused(String),
    Done,
    Strange(String),
}

/// As whom the runner is started, and what it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runner {
    /// Started as root: a root directory and a user of its own.
    Apart,
    /// Started as an ordinary user.
    Ordinary,
    /// A compiler that was started as root.
    CompilerApart,
    /// A compiler that was started as an ordinary user.
    CompilerOrdinary,
    /// No runner: the attempt is made as it is.
    Free,
}

impl Runner {
    fn compiles(self) -> bool {
        matches!(self, Self::CompilerApart | Self::CompilerOrdinary)
    }

    /// It becomes a user of its own.
    fn is_apart(self) -> bool {
        matches!(self, Self::Apart | Self::CompilerApart)
    }
}

fn main() -> ExitCode {
    let words = env::args().skip(1).collect::<Vec<_>>();
    match words.first().map(String::as_str) {
        Some("free") => intruder(),
        Some("runner") => coracle_runner::child::main_taken_over_for_tests(&words[ATTEMPT_WORDS..], intruder),
        Some("compiler") => coracle_runner::compile::main_taken_over_for_tests(&words[ATTEMPT_WORDS..], intruder),
        _ => try_all(words.iter().find(|word| !word.starts_with('-')).map_or("", String::as_str)),
    }
}

/// Words before those of the runner or compiler: role, attempt, the agent's process id, what lies outside.
const ATTEMPT_WORDS: usize = 4;

/// In the process that was taken over.
fn intruder() -> ExitCode {
    let words = env::args().skip(2).collect::<Vec<_>>();
    let [name, agent, outside, ..] = words.as_slice() else { return ExitCode::FAILURE };
    let attempt = ATTEMPTS.iter().find(|attempt| attempt.name == name).unwrap();
    let place = Place { agent: agent.parse().unwrap(), outside: PathBuf::from(outside) };
    match (attempt.make)(&place) {
        Ok(()) => eprintln!("done"),
        Err(error) => eprintln!("refused {error:?}"),
    }
    ExitCode::SUCCESS
}

/// A machine with a secret, another namespace, and the namespace whose runner is taken over.
struct Machine {
    directory: TempDir,
}

impl Machine {
    fn new(runner: Runner) -> Self {
        // Where an ordinary user gets to as well; the build's own directory may be root's alone.
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for path in ["own/code", "own/volumes/v", "other/volumes/v", "compiled"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        // Nothing is protected by its mode.
        for path in ["secret", "own/code/guest.cwasm", "other/volumes/v/file"] {
            fs::write(root.join(path), "secret").unwrap();
            fs::set_permissions(root.join(path), Permissions::from_mode(0o666)).unwrap();
        }
        for path in ["", "own", "own/code", "own/volumes", "own/volumes/v", "other", "other/volumes/v", "compiled"] {
            fs::set_permissions(root.join(path), Permissions::from_mode(0o777)).unwrap();
        }
        let user = if runner.is_apart() { OWN_USER } else { ORDINARY_USER };
        if Uid::effective().is_root() && runner != Runner::Free {
            for path in ["own/code", "own/code/guest.cwasm", "own/volumes/v", "secret", "other/volumes/v/file"] {
                chown(&root.join(path), Some(Uid::from_raw(user)), Some(Gid::from_raw(user))).unwrap();
            }
        }
        Self { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// This program, under a name that an ordinary user can reach.
    fn program(&self) -> PathBuf {
        let (own, reachable) = (env::current_exe().unwrap(), self.path().join("program"));
        if fs::hard_link(&own, &reachable).is_err() {
            fs::copy(&own, &reachable).unwrap();
        }
        reachable
    }
}

fn attempt(attempt: &Attempt, runner: Runner) -> Outcome {
    let machine = Machine::new(runner);
    let role = match runner {
        Runner::Free => "free",
        Runner::Apart | Runner::Ordinary => "runner",
        Runner::CompilerApart | Runner::CompilerOrdinary => "compiler",
    };
    let mut command = Command::new(machine.program());
    command.env_clear().args([role, attempt.name, &std::process::id().to_string()]).arg(machine.path());
    if runner == Runner::Free || runner.compiles() {
        command.current_dir(machine.path().join("own"));
    }
    if !runner.compiles() {
        command.arg("--root").arg(machine.path().join("own")).args(["--max-instances", "2"]);
    }
    if runner.is_apart() {
        command.args(["--user", &OWN_USER.to_string()]);
    } else if runner != Runner::Free && Uid::effective().is_root() {
        command.uid(ORDINARY_USER).gid(ORDINARY_USER);
    }
    if runner.compiles() {
        command.arg(machine.path().join("own/code/guest.cwasm")).arg(machine.path().join("compiled/output"));
    }
    let pair = || socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let (stream, channel) = (pair(), pair());
    let child = command.stdin(Stdio::from(stream.1)).stdout(Stdio::from(channel.1)).stderr(Stdio::piped()).spawn();
    let outcome = outcome(&child.unwrap().wait_with_output().unwrap());
    let mounts = mounts_below(machine.path());
    if mounts.is_empty() { outcome } else { Outcome::Strange(format!("it left mounts: {mounts:?}")) }
}

/// What is mounted below a directory.
fn mounts_below(directory: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    points.filter(|point| Path::new(point).starts_with(directory)).map(str::to_owned).collect()
}

fn outcome(output: &Output) -> Outcome {
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match (output.status.signal(), said.strip_prefix("refused ")) {
        (Some(SIGSYS), _) => Outcome::Killed,
        (None, Some(error)) => Outcome::Refused(error.to_owned()),
        (None, None) if said == "done" => Outcome::Done,
        _ => Outcome::Strange(format!("{}: {said}", output.status)),
    }
}

fn try_all(filter: &str) -> ExitCode {
    let mut runners = vec![Runner::Ordinary, Runner::CompilerOrdinary];
    if Uid::effective().is_root() {
        runners.extend([Runner::Apart, Runner::CompilerApart, Runner::Free]);
    } else {
        println!("not root: a runner with a root and a user of its own is NOT tried");
    }
    let mut failed = 0;
    for one in ATTEMPTS.iter().filter(|one| one.name.contains(filter)) {
        for runner in &runners {
            // Root in the open really mounts and unmounts: what has not to be shown is not done to the machine.
            if *runner == Runner::Free && one.rule == Rule::Forbidden {
                continue;
            }
            let outcome = attempt(one, *runner);
            let is_needed = matches!(one.rule, Rule::Needed | Rule::NeededByCompilers);
            let must_work = match runner {
                Runner::Free => true,
                Runner::Apart => is_needed,
                Runner::Ordinary => is_needed || one.rule == Rule::OpenWithoutRoot,
                Runner::CompilerApart | Runner::CompilerOrdinary => one.rule == Rule::NeededByCompilers,
            };
            let right = match &outcome {
                Outcome::Done => must_work,
                Outcome::Killed => !must_work,
                Outcome::Refused(_) => !must_work && one.rule != Rule::Forbidden,
                Outcome::Strange(_) => false,
            };
            if !right {
                failed += 1;
            }
            println!("{} {} [{runner:?}]: {outcome:?}", if right { "ok    " } else { "FAILED" }, one.name);
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
