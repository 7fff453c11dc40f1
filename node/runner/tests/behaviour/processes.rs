//! The life of a runner process, and what it holds.

use crate::fixture::{Context, Guest, exited, myself, proc_figure, until};
use coracle_runner::{
    compile,
    process::{RunnerConfig, RunnerError, RunnerProcess},
    protocol::ToRunner,
};
use nix::{
    fcntl::{OFlag, open},
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, Uid},
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::Arc,
};

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap())
}

/// A process that is gone, or only waits to be reaped.
pub(crate) fn is_dead(process: u32) -> bool {
    match fs::read_to_string(format!("/proc/{process}/stat")) {
        Ok(text) => text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => true,
    }
}

pub(crate) fn descriptors(process: u32) -> BTreeMap<u32, PathBuf> {
    let entries = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let entries = entries.map(|entry| entry.unwrap());
    entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, fs::read_link(entry.path()).ok()?)))
        .collect()
}

/// Inodes of the sockets that a process could reach the network with, or that somebody could connect to.
fn open_to_the_world(process: u32) -> Vec<String> {
    let mut inodes = Vec::new();
    for table in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"] {
        let text = fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default();
        inodes.extend(text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(9).map(str::to_owned)));
    }
    let text = fs::read_to_string(format!("/proc/{process}/net/unix")).unwrap();
    let listening = text.lines().skip(1).filter(|line| line.split_whitespace().nth(3) == Some("00010000"));
    inodes.extend(listening.filter_map(|line| line.split_whitespace().nth(6).map(str::to_owned)));
    inodes
}

/// A process with this much address space, in KiB, in the place of a runner.
fn held_to(address_space_kib: u64) -> Vec<OsString> {
    let script = format!("ulimit -v {address_space_kib}; exec \"$@\"");
    let shell = ["/bin/sh", "-c", &script, "sh"].map(OsString::from);
    shell.into_iter().chain(myself("runner")).collect()
}

pub(crate) async fn a_pool_fits_the_address_space(_context: Arc<Context>) {
    // What 39 bits address, as some processors and kernels do.
    let small_kib = 1 << 29;
    for (command, wanted, expected) in [
        (myself("runner"), 1000, 1000..=1000),
        // Each instance reserves four gibibytes and something: 250 do not fit.
        (held_to(small_kib), 1000, 62..=125),
        (held_to(small_kib / 32), 1000, 0..=0),
        (held_to(small_kib), 2, 2..=2),
    ] {
        let directory = tempfile::tempdir().unwrap();
        for name in ["volumes", "code"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let root = directory.path().to_owned();
        let config = RunnerConfig { command: command.clone(), root, max_instances: wanted, user: None };
        let (process, ..) = RunnerProcess::spawn(config).await.unwrap();
        assert!(expected.contains(&process.pooled()), "{} of {wanted}: {command:?}", process.pooled());
    }
}

pub(crate) async fn a_runner_has_nothing_to_steal(context: Arc<Context>) {
    // A descriptor that whoever opened it forgot to close on exec.
    let file = tempfile::NamedTempFile::new().unwrap();
    let leaky = open(file.path(), OFlag::O_RDONLY, Mode::empty()).unwrap();
    let mut runner = context.runner().await;
    let start = runner.guest(Guest::Toolbox, &["wait-eof"]).await;
    let run = runner.start(start).await;
    runner.until_written(&run, "waiting").await;
    let process = runner.process.pid();

    assert_eq!(fs::read(format!("/proc/{process}/environ")).unwrap(), b"");
    assert_eq!(proc_figure(process, "status", "NoNewPrivs"), 1);
    let status = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let group = status.rsplit(')').next().unwrap().split_whitespace().nth(2).unwrap();
    assert_eq!(group, process.to_string(), "its own process group");
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    assert!(limits.lines().any(|line| line.starts_with("Max core file size") && line.contains(" 0 ")), "{limits}");

    let open = descriptors(process);
    assert_eq!(open[&0], Path::new("/dev/null"));
    assert_eq!(open[&1], Path::new("/dev/null"));
    assert!(open[&2].to_str().unwrap().starts_with("pipe:"), "{open:?}");
    // The stream of frames and the network channel.
    assert!(open[&3].to_str().unwrap().starts_with("socket:"), "{open:?}");
    assert!(open[&4].to_str().unwrap().starts_with("socket:"), "{open:?}");
    let exposed = open_to_the_world(process);
    for (number, target) in &open {
        let target = target.to_str().unwrap();
        // wasmtime keeps compiled files open to map them into instances.
        let code = runner.root.path().join("code");
        // How much memory it has itself is one number, and how full the disk of its volumes is another.
        let harmless = *number <= 4
            || target == format!("/proc/{process}/statm")
            || target == runner.root.path().join("volumes").to_str().unwrap()
            || target.starts_with(code.to_str().unwrap())
            || target.starts_with("anon_inode:")
            || target.starts_with("socket:");
        assert!(harmless, "descriptor {number} is {target}");
        let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        assert!(!exposed.iter().any(|exposed| Some(exposed.as_str()) == inode), "descriptor {number} is exposed");
    }
    drop(leaky);
}

/// A namespace's user that owns nothing else.
const OWN_USER: u32 = 1_900_000_777;
/// What the kernel takes first when memory runs out has 1000.
const OOM_SCORE: &str = "900";

pub(crate) async fn a_runner_gives_up_what_its_starter_has(context: Arc<Context>) {
    let is_root = Uid::effective().is_root();
    if !is_root {
        println!("not root: a runner with a user of its own is NOT tried");
    }
    for user in [None, Some(OWN_USER)].into_iter().filter(|user| is_root || user.is_none()) {
        let runner = context.runner_as(user).await;
        let process = runner.process.pid();
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let mut expected = vec![("NoNewPrivs", "1".to_owned()), ("Seccomp", "2".to_owned())];
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            expected.push((set, "0".repeat(16)));
        }
        if is_root {
            expected.push(("CapBnd", "0".repeat(16)));
        }
        if let Some(user) = user {
            let ids = [user.to_string().as_str(); 4].join(" ");
            expected.extend([("Uid", ids.clone()), ("Gid", ids), ("Groups", String::new())]);
        }
        for (key, expected) in expected {
            assert_eq!(line(key), expected, "{key} as {user:?}");
        }
        let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
        // What it has now, and what it could give itself.
        let limit = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(limit("Max core file size"), ["0"; 2], "a core file would hold every guest's memory");
        assert!(user.is_none() || limit("Max processes") == ["4096"; 2], "{limits}");
        let score = fs::read_to_string(format!("/proc/{process}/oom_score_adj")).unwrap();
        assert_eq!(score.trim(), OOM_SCORE, "the kernel would take the agent first");
        if is_root {
            assert_eq!(fs::read_link(format!("/proc/{process}/root")).unwrap(), runner.root.path());
        }
    }
}

pub(crate) async fn a_runner_at_rest_gives_back_what_it_needed_before(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let process = runner.process.pid();
    let of_files = || proc_figure(process, "status", "RssFile");
    let started = of_files();
    until(|| of_files() < started / 2).await;
    // It works as before, and afterwards it rests again.
    let start = runner.guest(Guest::Toolbox, &["wait-eof"]).await;
    let run = runner.start(start).await;
    runner.until_written(&run, "waiting").await;
    let working = of_files();
    until(|| of_files() < working / 2).await;
}

pub(crate) async fn a_runner_that_dies_ends_its_frames(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let start = runner.guest(Guest::Toolbox, &["wait-eof"]).await;
    let run = runner.start(start).await;
    runner.until_written(&run, "waiting").await;
    kill(pid(runner.process.pid()), Signal::SIGKILL).unwrap();
    assert!(runner.frames.recv().await.is_none());
    // What is sent into the void fails once the void has been noticed.
    while runner.process.send(ToRunner::Kill(run.clone())).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn a_small_address_space_is_enough(context: Arc<Context>) {
    // Room for two or three instances, not for a pool of a hundred.
    let mut command = ["/bin/sh", "-c", "ulimit -v 16000000; exec \"$0\" \"$@\""].map(OsString::from).to_vec();
    command.extend(myself("runner"));
    let mut runner = context.runner_by(command, 100).await;
    for guest in [Guest::Toolbox, Guest::ToolboxP1] {
        let start = runner.guest(guest, &["alloc", "8"]).await;
        assert_eq!(runner.run(start).await.exit, exited(0));
    }
    // Instances that reserve less can be many, but code must be compiled for it.
    let small = ["--memory-reservation-bytes", "16777216"].map(OsString::from);
    let mut runner = context.runner_by([&myself("runner")[..], &small].concat(), 100).await;
    let mut start = runner.guest(Guest::ToolboxP1, &["alloc", "8"]).await;
    assert!(runner.refusal(start.clone()).await.contains("cannot load"));
    let code = runner.root.path().join("code");
    fs::write(code.join("small.wasm"), Guest::ToolboxP1.wasm()).unwrap();
    let compiler = [&myself("compile")[..], &small].concat();
    compile::compile(&compiler, &code.join("small.wasm"), &code.join("small.cwasm")).await.unwrap();
    start.code = PathBuf::from("code/small.cwasm");
    assert_eq!(runner.run(start).await.exit, exited(0));
}

pub(crate) async fn a_dropped_runner_dies(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let start = runner.guest(Guest::Toolbox, &["spin"]).await;
    let run = runner.start(start).await;
    runner.until_written(&run, "spinning").await;
    let process = runner.process.pid();
    drop(runner);
    until(|| is_dead(process)).await;
}

/// Starts a runner, says its process id, and waits to be killed.
pub(crate) fn agent(words: &[String]) -> ExitCode {
    crate::runtime().block_on(async {
        let config = RunnerConfig { root: PathBuf::from(&words[0]), command: myself("runner"), ..shell("") };
        let (process, _frames, _network) = RunnerProcess::spawn(config).await.unwrap();
        println!("{}", process.pid());
        std::io::stdout().flush().unwrap();
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}

pub(crate) async fn a_runner_dies_with_its_agent(_context: Arc<Context>) {
    let root = tempfile::tempdir().unwrap();
    for part in ["volumes", "code"] {
        fs::create_dir(root.path().join(part)).unwrap();
    }
    let mut command = Command::new(&myself("agent")[0]);
    let mut agent = command.arg("agent").arg(root.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(agent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let process = line.trim().parse().unwrap();
    assert!(!is_dead(process));
    agent.kill().unwrap();
    agent.wait().unwrap();
    until(|| is_dead(process)).await;
}

pub(crate) fn shell(script: &str) -> RunnerConfig {
    let command = ["/bin/sh", "-c", script].map(OsString::from).to_vec();
    RunnerConfig { command, root: PathBuf::from("/nonexistent"), max_instances: 1, user: None }
}

pub(crate) async fn what_is_no_runner_is_not_ready(_context: Arc<Context>) {
    let lost = RunnerConfig { command: myself("runner"), ..shell("") };
    match RunnerProcess::spawn(lost).await {
        Err(RunnerError::NotReady(text)) => assert!(text.contains("No such file or directory"), "{text}"),
        other => panic!("{:?}", other.err()),
    }
    for (script, expected) in [
        ("echo broken beyond repair >&2; exit 3", "broken beyond repair (exit status: 3)"),
        ("exit 0", "exit status: 0"),
        ("printf nonsense >&0; exit 4", "exit status: 4"),
    ] {
        match RunnerProcess::spawn(shell(script)).await {
            Err(RunnerError::NotReady(text)) => assert!(text.contains(expected), "{script}: {text}"),
            other => panic!("{script}: {:?}", other.err()),
        }
    }
    let missing = RunnerConfig { command: vec!["/none".into()], ..shell("") };
    assert!(matches!(RunnerProcess::spawn(missing).await, Err(RunnerError::Spawn(_))));
    let nothing = RunnerConfig { command: Vec::new(), ..shell("") };
    assert!(matches!(RunnerProcess::spawn(nothing).await, Err(RunnerError::Spawn(_))));
}

pub(crate) async fn a_runner_that_breaks_the_protocol_is_killed(context: Arc<Context>) {
    // `Ready`, and then a frame of 4 GB.
    let script = r"printf '\6\0\0\0\0\0\0\0\0\0\377\377\377\377' >&0; exec sleep 1000";
    let (process, mut frames, _network) = RunnerProcess::spawn(shell(script)).await.unwrap();
    assert!(frames.recv().await.is_none());
    until(|| is_dead(process.pid())).await;
    // And what the agent must not send is refused before it is sent.
    let mut runner = context.runner().await;
    let mut start = runner.guest(Guest::Toolbox, &["echo", "x"]).await;
    let good = start.clone();
    start.env = vec![("LARGE".into(), "x".repeat(5 << 20))];
    let result = runner.process.send(ToRunner::Start(Box::new(start))).await;
    assert!(matches!(result, Err(RunnerError::TooLarge { .. })), "{result:?}");
    assert_eq!(runner.run(good).await.exit, exited(0));
}
