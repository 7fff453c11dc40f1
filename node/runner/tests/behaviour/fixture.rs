//! A runner with a root of its own, guests compiled once, and what became of a run.

use coracle_runner::{
    compile::{self, CompileError},
    network::NetworkChannel,
    process::{RunnerConfig, RunnerProcess},
    protocol::{
        Exit, ExitCause, FromRunner, GuestKind, LogStream, LookupFailure, LookupResult, Mount, PodNetwork, RunId,
        RunSample, StartGuest, StdinMode, ToRunner,
    },
};
use nix::libc;
use std::{
    collections::HashMap,
    env,
    ffi::OsString,
    fs::{self, Permissions},
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::sync::{Mutex, mpsc};

/// The address of pods that have one.
pub(crate) const POD_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 7));

/// What all cases share.
pub(crate) struct Context {
    scratch: TempDir,
    compiled: Mutex<HashMap<Vec<u8>, (PathBuf, GuestKind)>>,
}

/// Where a guest comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Guest {
    /// tests/guests/toolbox.wasm
    Toolbox,
    /// The same as a preview 1 module.
    ToolboxP1,
    /// tests/guests/network.wasm
    Network,
    /// examples/init-pod/wait-for.wasm
    WaitFor,
    /// tests/guests/http.wasm
    Http,
    /// tests/guests/listener-p1.wasm
    Listener,
    /// WebAssembly text.
    Text(&'static str),
}

impl Guest {
    pub(crate) fn wasm(self) -> Vec<u8> {
        let file = |path: &str| fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)).unwrap();
        match self {
            Self::Toolbox => file("tests/guests/toolbox.wasm"),
            Self::ToolboxP1 => file("tests/guests/toolbox-p1.wasm"),
            Self::Network => file("tests/guests/network.wasm"),
            Self::WaitFor => file("examples/init-pod/wait-for.wasm"),
            Self::Http => file("tests/guests/http.wasm"),
            Self::Listener => file("tests/guests/listener-p1.wasm"),
            Self::Text(text) => wat::parse_str(text).unwrap(),
        }
    }
}

/// This program in one of its other roles.
pub(crate) fn myself(role: &str) -> Vec<OsString> {
    vec![env::current_exe().unwrap().into(), role.into()]
}

impl Context {
    pub(crate) fn new() -> Self {
        Self { scratch: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(), compiled: Mutex::default() }
    }

    /// Compiles bytes in a process; what came out lies in the scratch directory.
    pub(crate) async fn compile(&self, wasm: &[u8]) -> Result<(PathBuf, GuestKind), CompileError> {
        let mut compiled = self.compiled.lock().await;
        if let Some(known) = compiled.get(wasm) {
            return Ok(known.clone());
        }
        let input = self.scratch.path().join(format!("{}.wasm", compiled.len()));
        fs::write(&input, wasm).unwrap();
        let output = input.with_extension("cwasm");
        let kind = compile::compile(&myself("compile"), &input, &output).await?;
        compiled.insert(wasm.to_vec(), (output.clone(), kind));
        Ok((output, kind))
    }

    pub(crate) async fn runner(self: &Arc<Self>) -> Runner {
        self.runner_for(20).await
    }

    pub(crate) async fn runner_for(self: &Arc<Self>, max_instances: u32) -> Runner {
        self.runner_by(myself("runner"), max_instances).await
    }

    pub(crate) async fn runner_by(self: &Arc<Self>, command: Vec<OsString>, max_instances: u32) -> Runner {
        self.runner_with(command, max_instances, None).await
    }

    /// One that becomes another user, which only root can ask for.
    pub(crate) async fn runner_as(self: &Arc<Self>, user: Option<u32>) -> Runner {
        self.runner_with(myself("runner"), 2, user).await
    }

    async fn runner_with(self: &Arc<Self>, command: Vec<OsString>, max_instances: u32, user: Option<u32>) -> Runner {
        let root = tempfile::tempdir_in(self.scratch.path()).unwrap();
        // Whoever the runner becomes reaches what is its own.
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        for part in ["code", "volumes"] {
            fs::create_dir(root.path().join(part)).unwrap();
        }
        let config = RunnerConfig { command, root: root.path().to_owned(), max_instances, user };
        let (process, frames, network) = RunnerProcess::spawn(config).await.unwrap();
        Runner {
            context: Arc::clone(self),
            root,
            process,
            frames,
            network: Arc::new(network),
            names: HashMap::new(),
            aside: Vec::new(),
            runs: 0,
        }
    }
}

/// A runner process and the agent's side of the conversation with it.
pub(crate) struct Runner {
    context: Arc<Context>,
    pub(crate) root: TempDir,
    pub(crate) process: RunnerProcess,
    pub(crate) frames: mpsc::Receiver<FromRunner>,
    pub(crate) network: Arc<NetworkChannel>,
    /// What lookups are answered with; other names are not found.
    pub(crate) names: HashMap<String, LookupResult>,
    /// Frames of other runs than the one that was waited for.
    aside: Vec<FromRunner>,
    runs: u32,
}

/// All that a run did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exit: Exit,
}

impl Runner {
    /// What to start; `words` are the command line behind the name.
    pub(crate) async fn guest(&mut self, guest: Guest, words: &[&str]) -> StartGuest {
        self.wasm(&guest.wasm(), words).await
    }

    /// The same for a file of somebody else's.
    pub(crate) async fn wasm(&mut self, wasm: &[u8], words: &[&str]) -> StartGuest {
        let (compiled, kind) = self.context.compile(wasm).await.unwrap();
        let code = Path::new("code").join(compiled.file_name().unwrap());
        if !self.root.path().join(&code).exists() {
            fs::hard_link(&compiled, self.root.path().join(&code)).unwrap();
        }
        self.runs += 1;
        StartGuest {
            run: RunId(format!("run-{}", self.runs)),
            pod_uid: "pod-1".to_owned(),
            network: PodNetwork::default(),
            code,
            kind,
            argv: [&["guest"], words].concat().into_iter().map(str::to_owned).collect(),
            env: Vec::new(),
            mounts: Vec::new(),
            working_dir: None,
            memory_limit_bytes: None,
            cpu_limit_millis: None,
            cpu_request_millis: None,
            stdin: StdinMode::default(),
            joins: None,
            terminal: false,
        }
    }

    /// The same in a pod with an address, which the guest finds in `POD_IP`.
    pub(crate) async fn networked(&mut self, words: &[&str]) -> StartGuest {
        let mut start = self.guest(Guest::Network, words).await;
        start.network.addresses = vec![POD_IP];
        start.env.push(("POD_IP".to_owned(), POD_IP.to_string()));
        start
    }

    pub(crate) async fn start(&mut self, start: StartGuest) -> RunId {
        let run = start.run.clone();
        self.process.send(ToRunner::Start(Box::new(start))).await.unwrap();
        run
    }

    /// The next frame that is not a question; questions are answered from `names`.
    pub(crate) async fn frame(&mut self) -> FromRunner {
        loop {
            match self.frames.recv().await.expect("the runner died") {
                FromRunner::Lookup { question, name, .. } => {
                    let result = self.names.get(&name).cloned().unwrap_or(Err(LookupFailure::NotFound));
                    self.process.send(ToRunner::LookupAnswer { question, result }).await.unwrap();
                }
                frame => return frame,
            }
        }
    }

    /// The next frame of `run`; those of others are kept for whoever waits for them.
    pub(crate) async fn frame_of(&mut self, run: &RunId) -> FromRunner {
        let of = |frame: &FromRunner| match frame {
            FromRunner::Started(of)
            | FromRunner::StartFailed { run: of, .. }
            | FromRunner::Log { run: of, .. }
            | FromRunner::InputTaken { run: of, .. }
            | FromRunner::Exited { run: of, .. } => of == run,
            _ => false,
        };
        if let Some(index) = self.aside.iter().position(of) {
            return self.aside.remove(index);
        }
        loop {
            let frame = self.frame().await;
            if of(&frame) {
                return frame;
            }
            self.aside.push(frame);
        }
    }

    /// Bytes that `run` has written while others were waited for.
    pub(crate) fn written_aside(&self, run: &RunId) -> usize {
        let of = |frame: &FromRunner| match frame {
            FromRunner::Log { run: of, bytes, .. } if of == run => bytes.len(),
            _ => 0,
        };
        self.aside.iter().map(of).sum()
    }

    /// Waits until `run` has been started.
    pub(crate) async fn until_started(&mut self, run: &RunId) {
        match self.frame_of(run).await {
            FromRunner::Started(_) => {}
            other => panic!("not started: {other:?}"),
        }
    }

    /// What every run has used so far.
    pub(crate) async fn samples(&mut self) -> HashMap<RunId, RunSample> {
        self.runs += 1;
        let asked = u64::from(self.runs);
        self.process.send(ToRunner::Sample { question: asked }).await.unwrap();
        let mut samples = HashMap::new();
        loop {
            match self.frame().await {
                FromRunner::Sampled { question, runs, more } => {
                    assert_eq!(question, asked);
                    samples.extend(runs.into_iter().map(|sample| (sample.run.clone(), sample)));
                    if !more {
                        return samples;
                    }
                }
                frame => self.aside.push(frame),
            }
        }
    }

    /// Waits until `run` has written `text` to standard output.
    pub(crate) async fn until_written(&mut self, run: &RunId, text: &str) {
        let mut seen = String::new();
        while !seen.contains(text) {
            match self.frame_of(run).await {
                FromRunner::Log { bytes, .. } => seen += &String::from_utf8_lossy(&bytes),
                FromRunner::Exited { exit, .. } => panic!("ended: {exit:?} after {seen}"),
                _ => {}
            }
        }
    }

    /// Waits for the end of `run`, gathering what it still writes.
    pub(crate) async fn end(&mut self, run: &RunId) -> Run {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match self.frame_of(run).await {
                FromRunner::Log { stream, bytes, .. } => match stream {
                    LogStream::Stdout => stdout.extend(bytes),
                    LogStream::Stderr => stderr.extend(bytes),
                },
                FromRunner::StartFailed { message, .. } => panic!("not started: {message}"),
                FromRunner::Exited { exit, .. } => {
                    let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
                    return Run { stdout, stderr, exit };
                }
                _ => {}
            }
        }
    }

    /// Runs from start to end.
    pub(crate) async fn run(&mut self, start: StartGuest) -> Run {
        let run = self.start(start).await;
        self.end(&run).await
    }

    /// Starts what must not start, and says why it did not.
    pub(crate) async fn refusal(&mut self, start: StartGuest) -> String {
        let run = self.start(start).await;
        loop {
            match self.frame().await {
                FromRunner::StartFailed { run: of, message } if of == run => return message,
                FromRunner::Started(of) if of == run => panic!("it started"),
                _ => {}
            }
        }
    }

    /// Makes a volume and says how to mount it.
    pub(crate) fn volume(&self, name: &str, target: &str) -> Mount {
        let source = Path::new("volumes/pod-1").join(name);
        fs::create_dir_all(self.root.path().join(&source)).unwrap();
        Mount { source, target: target.to_owned(), read_only: false, quota: None }
    }

    /// The directory of a volume.
    pub(crate) fn volume_path(&self, name: &str) -> PathBuf {
        self.root.path().join("volumes/pod-1").join(name)
    }
}

pub(crate) fn exited(code: i32) -> Exit {
    Exit { code, cause: ExitCause::Exited, message: String::new() }
}

pub(crate) fn killed() -> Exit {
    Exit { code: 137, cause: ExitCause::Killed, message: String::new() }
}

/// Looks again and again until `condition` holds; the case's own patience is the bound.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A figure from `/proc/PID/FILE`, in the unit that the kernel gives.
pub(crate) fn proc_figure(pid: u32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

/// CPU time of a whole process, as anybody can read it, in nanoseconds.
pub(crate) fn cpu_nanos(pid: u32) -> u64 {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both calls write to what is there.
    let results = unsafe {
        [libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock), libc::clock_gettime(clock, &raw mut time)]
    };
    assert_eq!(results, [0, 0], "process {pid} has a clock");
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}

/// Round trips inside a pod, and what connections cost.
async fn measure_sockets(context: &Arc<Context>) {
    let mut runner = context.runner().await;
    let start = runner.networked(&["answer", "127.0.0.1:8080"]).await;
    let server = runner.start(start).await;
    runner.until_written(&server, "listening").await;
    let start = runner.networked(&["round-trips", "127.0.0.1:8080", "20000"]).await;
    print!("localhost of a pod: {}", runner.run(start).await.stdout);
    for count in [500, 3000] {
        let mut runner = context.runner().await;
        let start = runner.networked(&["echo", "127.0.0.1:8080", "100000"]).await;
        let server = runner.start(start).await;
        runner.until_written(&server, "listening").await;
        let before = proc_figure(runner.process.pid(), "smaps_rollup", "Pss");
        let start = runner.networked(&["hold", "127.0.0.1:8080", &count.to_string()]).await;
        let client = runner.start(start).await;
        runner.until_written(&client, "holding").await;
        let after = proc_figure(runner.process.pid(), "smaps_rollup", "Pss");
        println!("PSS with {count} connections, both ends in guests: {before} kB, then {after} kB");
    }
}

/// Prints what the note wants to know; not a test.
pub(crate) async fn measure(context: Arc<Context>) -> ExitCode {
    measure_sockets(&context).await;
    for slots in [1_000, 10_000] {
        let before = Instant::now();
        let mut runner = context.runner_for(slots).await;
        let ready = before.elapsed();
        let pss = proc_figure(runner.process.pid(), "smaps_rollup", "Pss");
        println!("{slots} slots: ready after {ready:?}, idle PSS {pss} kB");
        for guest in [Guest::Toolbox, Guest::ToolboxP1] {
            let mut times = Vec::new();
            for _ in 0..200 {
                let start = runner.guest(guest, &["echo", "x"]).await;
                let before = Instant::now();
                let run = runner.start(start).await;
                while runner.frame().await != FromRunner::Started(run.clone()) {}
                times.push(before.elapsed());
                runner.end(&run).await;
            }
            times.sort();
            println!(
                "  {guest:?}: Start to Started p50 {:?}, p99 {:?}, first {:?}",
                times[100], times[198], times[199]
            );
        }
        let pss = proc_figure(runner.process.pid(), "smaps_rollup", "Pss");
        println!("  PSS after 400 runs {pss} kB");
        let mut sleepers = Vec::new();
        for _ in 0..500 {
            let start = runner.guest(Guest::Toolbox, &["wait-eof"]).await;
            sleepers.push(runner.start(start).await);
        }
        for run in &sleepers {
            let _ = run;
            while !matches!(runner.frame().await, FromRunner::Log { .. }) {}
        }
        let more = proc_figure(runner.process.pid(), "smaps_rollup", "Pss");
        println!("  PSS with 500 sleeping components {more} kB");
    }
    ExitCode::SUCCESS
}
