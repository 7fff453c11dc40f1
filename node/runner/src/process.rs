//! The agent's end of a runner process.

use crate::{
    child,
    frame::{self, FrameError, MAX_FROM_RUNNER_BYTES, MAX_TO_RUNNER_BYTES},
    network::{NetworkChannel, channel},
    protocol::{Confinement, FromRunner, ToRunner},
    spawner, threads,
};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, ChildStderr, Command},
    sync::{mpsc, watch},
    task::JoinHandle,
    time,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a runner may take to confine itself and build its engine.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// Frames that wait for the runner to read them.
const OUTGOING_FRAMES: usize = 64;
/// Frames that wait for the agent; behind them the socket fills, and then guests' writes wait.
const INCOMING_FRAMES: usize = 128;
/// How much of a runner's standard error is kept.
const STDERR_TAIL_BYTES: usize = 4 << 10;
/// How long the last words of a runner that ended early are waited for.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(2);

/// What a runner's guests may have of the memory together, as an option of its command line: bytes follow.
pub const CEILING_FLAG: &str = "--memory-ceiling-bytes";

/// How to start a runner.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// Program and first arguments that end up in [`crate::child::main`], e.g. `[current_exe, "runner"]`.
    pub command: Vec<OsString>,
    /// The runner's root: holds `volumes/` and `code/`.
    pub root: PathBuf,
    /// How many instances the pool is sized for.
    pub max_instances: u32,
    /// User and group that it becomes; none where it stays whoever the agent is.
    pub user: Option<u32>,
}

/// A running runner. Dropping it kills the process.
#[derive(Debug)]
pub struct RunnerProcess {
    outgoing: mpsc::Sender<Vec<u8>>,
    pid: u32,
    confinement: Confinement,
    pooled: u32,
    end: watch::Receiver<Option<RunnerEnd>>,
    kill: CancellationToken,
    _kill_when_dropped: DropGuard,
}

/// How a runner's process ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunnerEnd {
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Its exit code, where no signal did.
    pub code: Option<i32>,
    /// The last of what it wrote to standard error.
    pub last_words: String,
}

/// Why a runner does not answer.
#[derive(Debug, Error)]
pub enum RunnerError {
    /// The process could not be started.
    #[error("cannot start a runner process")]
    Spawn(#[source] io::Error),
    /// It ended before it was ready; the text is what it wrote to standard error.
    #[error("the runner ended before it was ready: {0}")]
    NotReady(String),
    /// The frame exceeds what a runner accepts: an environment of several MiB, for example.
    #[error("a message of {size} bytes to the runner exceeds the limit of {limit}")]
    TooLarge {
        /// Encoded size.
        size: usize,
        /// What would be accepted.
        limit: usize,
    },
    /// It has ended.
    #[error("the runner process has ended")]
    Gone,
}

impl RunnerProcess {
    /// Spawns a runner and waits until it is ready. The receiver yields its frames (all but `Ready`) and ends when it
    /// dies. An agent that does not empty the receiver slows the guests' output down, and nothing else grows. The
    /// channel is the guests' way out of their pods; it must be emptied as well, and a runner that breaks its rules is
    /// killed.
    ///
    /// # Errors
    /// When it cannot be started or does not become ready.
    pub async fn spawn(
        config: RunnerConfig,
    ) -> Result<(Self, mpsc::Receiver<FromRunner>, NetworkChannel), RunnerError> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(RunnerError::Spawn)?;
        ours.set_nonblocking(true).map_err(RunnerError::Spawn)?;
        let stream = UnixStream::from_std(ours).map_err(RunnerError::Spawn)?;
        let kill = CancellationToken::new();
        let (network, their_network) = channel::sockets().map_err(RunnerError::Spawn)?;
        let network = NetworkChannel::new(network, Some(kill.clone())).map_err(RunnerError::Spawn)?;
        let command = command(&config, theirs.into(), their_network)?;
        let mut child = spawner::spawn(command).await.map_err(RunnerError::Spawn)?;
        let pid = child.id().ok_or(RunnerError::Gone)?;
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let stderr = child.stderr.take().map(|pipe| tokio::spawn(keep_tail(pipe, pid, Arc::clone(&tail))));

        let (reader, writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let ready = time::timeout(READY_TIMEOUT, frame::read(&mut reader, MAX_FROM_RUNNER_BYTES)).await;
        let (confinement, pooled) = match ready {
            Ok(Ok(Some(FromRunner::Ready { confinement, pooled }))) => (confinement, pooled),
            Ok(_) => return Err(RunnerError::NotReady(last_words(child, stderr, &tail).await)),
            Err(_) => return Err(RunnerError::NotReady(format!("nothing within {} s", READY_TIMEOUT.as_secs()))),
        };

        let (outgoing, frames) = mpsc::channel(OUTGOING_FRAMES);
        let (incoming, receiver) = mpsc::channel(INCOMING_FRAMES);
        tokio::spawn(write_frames(writer, frames));
        tokio::spawn(read_frames(reader, incoming, pid, kill.clone()));
        let (ended, end) = watch::channel(None);
        tokio::spawn(reap(child, pid, kill.clone(), (stderr, tail), ended));
        Ok((
            Self { outgoing, pid, confinement, pooled, end, kill: kill.clone(), _kill_when_dropped: kill.drop_guard() },
            receiver,
            network,
        ))
    }

    /// Sends a frame, waiting while the runner is busy reading earlier ones.
    ///
    /// # Errors
    /// `Gone` when the process has ended, `TooLarge` when no runner would take the frame.
    pub async fn send(&self, frame: ToRunner) -> Result<(), RunnerError> {
        let mut bytes = Vec::new();
        match frame::encode(&frame, MAX_TO_RUNNER_BYTES, &mut bytes) {
            Ok(()) => self.outgoing.send(bytes).await.map_err(|_| RunnerError::Gone),
            Err(FrameError::TooLarge { size, limit }) => Err(RunnerError::TooLarge { size, limit }),
            Err(_) => Err(RunnerError::Gone),
        }
    }

    /// Has its guests' threads stand back so far once they compute more than was requested: see [`ToRunner::StandBack`].
    /// Those that stand back further come forward, which takes `CAP_SYS_NICE`; `false` where they could not. A thread that goes back just
    /// now may be missed, so this is to be said again a little later.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn stand_back(&self, niceness: u8) -> Result<bool, RunnerError> {
        self.send(ToRunner::StandBack { niceness }).await?;
        Ok(threads::bring_forward(self.pid, niceness).is_ok())
    }

    /// Ends the process at once, whatever it does; its frames end soon after.
    pub fn kill(&self) {
        self.kill.cancel();
    }

    /// How it ended, once it has.
    pub async fn ended(&self) -> RunnerEnd {
        let mut end = self.end.clone();
        // The task that waits for the process says it before it ends itself.
        end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone()).unwrap_or_default()
    }

    /// What holds it in, as it says itself before any guest could make it say something else.
    #[must_use]
    pub fn confinement(&self) -> Confinement {
        self.confinement
    }

    /// Instances that its pool has room for, at most those asked for; 0 where it has no pool.
    #[must_use]
    pub fn pooled(&self) -> u32 {
        self.pooled
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

/// The sockets travel as the child's standard input and output, which needs no code between fork and exec; the child
/// moves them to descriptors 3 and 4 before anything else. Everything that the agent has open is close-on-exec, and the child closes the
/// rest.
fn command(config: &RunnerConfig, stream: OwnedFd, network: OwnedFd) -> Result<Command, RunnerError> {
    let no_program = || RunnerError::Spawn(io::Error::new(io::ErrorKind::InvalidInput, "no program to run"));
    let (program, arguments) = config.command.split_first().ok_or_else(no_program)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg("--root")
        .arg(&config.root)
        .arg("--max-instances")
        .arg(config.max_instances.to_string());
    if let Some(user) = config.user {
        command.arg(child::USER_FLAG).arg(user.to_string());
    }
    command
        .env_clear()
        .stdin(Stdio::from(stream))
        .stdout(Stdio::from(network))
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}

async fn write_frames(mut stream: OwnedWriteHalf, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = frames.recv().await {
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn read_frames(
    mut stream: BufReader<OwnedReadHalf>,
    incoming: mpsc::Sender<FromRunner>,
    pid: u32,
    kill: CancellationToken,
) {
    loop {
        match frame::read(&mut stream, MAX_FROM_RUNNER_BYTES).await {
            Ok(Some(frame)) => {
                if incoming.send(frame).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::error!(pid, %error, "the runner does not keep to the protocol, killing it");
                kill.cancel();
                return;
            }
        }
    }
}

async fn reap(
    mut child: Child,
    pid: u32,
    kill: CancellationToken,
    (stderr, tail): (Option<JoinHandle<()>>, Arc<Mutex<VecDeque<u8>>>),
    ended: watch::Sender<Option<RunnerEnd>>,
) {
    let exit = tokio::select! {
        exit = child.wait() => exit,
        () = kill.cancelled() => {
            let _ = child.start_kill();
            child.wait().await
        }
    };
    let mut end = RunnerEnd::default();
    match exit {
        Ok(status) => {
            tracing::info!(pid, %status, "runner ended");
            (end.signal, end.code) = (status.signal(), status.code());
        }
        Err(error) => tracing::warn!(pid, %error, "cannot tell how the runner ended"),
    }
    end.last_words = words(stderr, &tail).await;
    ended.send_replace(Some(end));
}

/// Reads standard error to its end, keeping only the last part.
async fn keep_tail(mut pipe: ChildStderr, pid: u32, tail: Arc<Mutex<VecDeque<u8>>>) {
    let mut chunk = [0; 1024];
    while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
        tracing::warn!(pid, text = %String::from_utf8_lossy(&chunk[..count]).trim_end(), "runner wrote to stderr");
        let mut tail = tail.lock();
        tail.extend(&chunk[..count]);
        let surplus = tail.len().saturating_sub(STDERR_TAIL_BYTES);
        tail.drain(..surplus);
    }
}

async fn last_words(mut child: Child, stderr: Option<JoinHandle<()>>, tail: &Mutex<VecDeque<u8>>) -> String {
    if time::timeout(LAST_WORDS_TIMEOUT, child.wait()).await.is_err() {
        let _ = child.start_kill();
    }
    let status = child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
    match words(stderr, tail).await.trim() {
        "" => status,
        text => format!("{text} ({status})"),
    }
}

/// What a process that has ended wrote last.
async fn words(stderr: Option<JoinHandle<()>>, tail: &Mutex<VecDeque<u8>>) -> String {
    if let Some(stderr) = stderr {
        let _ = time::timeout(LAST_WORDS_TIMEOUT, stderr).await;
    }
    let text = tail.lock().iter().copied().collect::<Vec<u8>>();
    String::from_utf8_lossy(&text).into_owned()
}
