//! Frames between an agent and a runner.

use serde::{Deserialize, Serialize};
use std::{net::IpAddr, path::PathBuf};

/// One run of one container: unique within a runner's life.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunId(pub String);

/// Core module or component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestKind {
    /// Core module, WASI preview 1.
    Module,
    /// Component, WASI 0.2.
    Component,
}

/// A directory that the guest sees. Paths on the host lie below the runner's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Relative to the runner's root, e.g. `volumes/POD-UID/NAME`.
    pub source: PathBuf,
    /// Absolute path in the guest, e.g. `/data`.
    pub target: String,
    /// No writes.
    pub read_only: bool,
    /// How much the guests of this runner may write there, together.
    pub quota: Option<Quota>,
}

/// Limits on what guests write to a volume. All mounts of one volume name the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// The volume's own directory, of which the mount may be a part. Empty: it is the mount's source.
    pub volume: PathBuf,
    /// Most bytes in the volume, in whole blocks of 4 KiB, names included.
    pub bytes_max: Option<u64>,
    /// Most names in the volume; the runner has a bound of its own.
    pub entries_max: Option<u64>,
    /// Most bytes in all volumes of the pod that say so.
    pub pod_bytes_max: Option<u64>,
    /// What is there when the first run mounts it is not the guests', and does not count.
    pub counts_from_now: bool,
}

/// A pod as the network knows it: the same for all its containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNetwork {
    /// The pod's own addresses. Without one it has `localhost` and nothing else.
    pub addresses: Vec<IpAddr>,
    /// What it calls itself.
    pub hostname: String,
    /// The container's TCP ports, in the order of its specification.
    pub listen: Vec<u16>,
}

/// What a guest finds on standard input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StdinMode {
    /// Nothing; end-of-file comes when it is asked to stop.
    #[default]
    UntilStop,
    /// What `Input` frames bring, until one of them ends it or the guest is asked to stop.
    Open,
    /// End-of-file at once.
    Empty,
}

/// What the agent may send as `Input` before the guest has read any of it; `InputTaken` says what it has read.
pub const INPUT_WINDOW_BYTES: u32 = 64 << 10;

/// What a run that joins another may write before the agent has said with `OutputTaken` that it was passed on; frames
/// that were permitted already may exceed it by [`OUTPUT_OVERDRAFT_BYTES`].
pub const OUTPUT_WINDOW_BYTES: u32 = 256 << 10;

/// See [`OUTPUT_WINDOW_BYTES`].
pub const OUTPUT_OVERDRAFT_BYTES: u32 = 64 << 10;

/// Shares of a whole core, and the least and the most that anyone has: Kubernetes' and the kernel's numbers.
const SHARES_PER_CORE: u64 = 1024;
const SHARES_MIN: u64 = 2;
const SHARES_MAX: u64 = 262_144;

/// The weight of a container that requested so many thousandths of a core. Without a request it has the least.
#[must_use]
pub fn cpu_shares(request_millis: Option<u32>) -> u64 {
    (u64::from(request_millis.unwrap_or(0)) * SHARES_PER_CORE / 1000).clamp(SHARES_MIN, SHARES_MAX)
}

/// Least and most niceness of threads that compute for guests beyond what was requested for them. See [`ToRunner::StandBack`].
pub const NICENESS_MIN: u8 = 6;
/// See [`NICENESS_MIN`].
pub const NICENESS_MAX: u8 = 19;

/// Runs that may join one other at a time.
pub const JOINED_RUNS_MAX: u32 = 16;

/// Everything a runner must know to run a container once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartGuest {
    /// Which run.
    pub run: RunId,
    /// Uid of the pod: what shares its network.
    pub pod_uid: String,
    /// What its pod has of a network.
    pub network: PodNetwork,
    /// Compiled code, relative to the runner's root, e.g. `code/DIGEST.cwasm`.
    pub code: PathBuf,
    /// How to run it.
    pub kind: GuestKind,
    /// The complete argument vector.
    pub argv: Vec<String>,
    /// The complete environment, in order.
    pub env: Vec<(String, String)>,
    /// Mounts; later ones shadow earlier ones.
    pub mounts: Vec<Mount>,
    /// Where the guest begins, an absolute path: WASI 0.2's initial directory.
    pub working_dir: Option<String>,
    /// Hard limit on linear memory, tables, and what the runner keeps for the guest.
    pub memory_limit_bytes: Option<u64>,
    /// CPU limit in thousandths of a core.
    pub cpu_limit_millis: Option<u32>,
    /// What is on standard input.
    pub stdin: StdinMode,
    /// A run beside that of a container: in its pod's network, with its mounts and addresses instead of those above, its
    /// environment and such variables of the one above as it has not, counted into what it uses, listening on none of
    /// its ports, and over when it is. Somebody waits for its output and may be slow, so it writes no more than
    /// [`OUTPUT_WINDOW_BYTES`] ahead.
    pub joins: Option<RunId>,
    /// What it was promised of the CPU, in thousandths of a core: its weight against others when there is not enough.
    pub cpu_request_millis: Option<u32>,
    /// Its standard streams are a terminal, as far as it can tell.
    pub terminal: bool,
}

impl StartGuest {
    /// A run that joins `target`: everything else is the other's, without a terminal or variables of its own.
    #[must_use]
    pub fn joining(target: RunId, run: RunId, pod_uid: String, code: PathBuf, kind: GuestKind) -> Self {
        Self {
            run,
            pod_uid,
            network: PodNetwork::default(),
            code,
            kind,
            argv: Vec::new(),
            env: Vec::new(),
            mounts: Vec::new(),
            working_dir: None,
            memory_limit_bytes: None,
            cpu_limit_millis: None,
            stdin: StdinMode::Empty,
            joins: Some(target),
            cpu_request_millis: None,
            terminal: false,
        }
    }
}

/// Standard output or standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code: the guest's own, or 128 and the number of the signal that stands for what ended it.
    pub code: i32,
    /// Why.
    pub cause: ExitCause,
    /// Trap message with the wasm backtrace, or another explanation. A trap is the end of standard error as well.
    pub message: String,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitCause {
    /// It ended by itself, with `code`.
    Exited,
    /// A trap (134).
    Trapped,
    /// Grew beyond its memory limit (137).
    OutOfMemory,
    /// Killed by the agent (137).
    Killed,
}

/// What a name stands for, or why nothing does.
pub type LookupResult = Result<Vec<IpAddr>, LookupFailure>;

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LookupFailure {
    /// Nobody has that name.
    NotFound,
    /// It is not known now; asking again may help.
    Temporary,
    /// It is not a name.
    Invalid,
}

/// What holds a runner in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// The Landlock ABI that is enforced; 0 where the kernel has no Landlock.
    pub landlock_abi: u8,
    /// It can make no system call but those that it needs.
    pub seccomp: bool,
    /// It sees nothing above its own root.
    pub own_root: bool,
    /// It runs as a user of its own.
    pub own_user: bool,
}

/// Agent to runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToRunner {
    /// Run a container. Answered by `Started` or `StartFailed`.
    Start(Box<StartGuest>),
    /// Ask it to stop: end-of-file on stdin, and its listeners take no new connections.
    Stop(RunId),
    /// End it now. Followed by `Exited`, unless it has ended already or could not be started.
    Kill(RunId),
    /// Bytes for a run's standard input; more than [`INPUT_WINDOW_BYTES`] that it has not read are refused.
    Input {
        /// Which run.
        run: RunId,
        /// The bytes.
        #[serde(with = "crate::frame::octets")]
        bytes: Vec<u8>,
        /// Nothing follows.
        end: bool,
    },
    /// So much of what the run wrote was passed on since the last such frame.
    OutputTaken {
        /// Which run.
        run: RunId,
        /// How much.
        bytes: u32,
    },
    /// Answer to `Lookup`.
    LookupAnswer {
        /// Which question.
        question: u64,
        /// The answer.
        result: LookupResult,
    },
    /// What have the runs used? Answered by one or more `Sampled`.
    Sample {
        /// To match the answer.
        question: u64,
    },
    /// End it now, because of a signal that it does not handle: as `Kill`, but it has `Exited` with 128 and the signal's
    /// number.
    Interrupt {
        /// Which run.
        run: RunId,
        /// The signal's number, at most [`SIGNAL_MAX`].
        signal: u8,
    },
    /// All runners of the node together take more memory than they may, and this run's container goes for it. Followed
    /// by `Exited` as after [`ExitCause::OutOfMemory`], unless it has ended already.
    EndForMemory {
        /// Which run.
        run: RunId,
        /// What all take, in bytes.
        used_bytes: u64,
        /// What they may.
        ceiling_bytes: u64,
    },
    /// The niceness that threads take once they compute for guests beyond what was requested for them, [`NICENESS_MIN`] at
    /// first: how the requests of all containers in this runner weigh against those in others. The runner itself cannot
    /// bring threads forward again: see [`crate::process::RunnerProcess::stand_back`].
    StandBack {
        /// At least [`NICENESS_MIN`], at most [`NICENESS_MAX`].
        niceness: u8,
    },
}

/// The highest number of a signal.
pub const SIGNAL_MAX: u8 = 64;

/// What a run has used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSample {
    /// Which run.
    pub run: RunId,
    /// CPU time since it was started, in nanoseconds.
    pub cpu_nanos: u64,
    /// What counts against its memory limit now.
    pub memory_bytes: u64,
    /// What its pod has received over the network; the same for all runs of a pod.
    pub pod_received_bytes: u64,
    /// What its pod has sent.
    pub pod_sent_bytes: u64,
}

/// Runner to agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromRunner {
    /// The runner has confined itself as far as this machine lets it, and takes guests.
    Ready {
        /// What holds it in.
        confinement: Confinement,
        /// Instances that its pool has room for: as many as were asked for, or fewer where its address space is small. 0 where
        /// it has no pool, and instances get their memory one by one.
        pooled: u32,
    },
    /// The first guest instruction is about to run. Comes before anything else of this run, and `Exited` will follow.
    Started(RunId),
    /// It could not be started; nothing runs, and nothing else follows.
    StartFailed {
        /// Which run.
        run: RunId,
        /// Why, for people.
        message: String,
    },
    /// Output. Sent in order per run; never after `Exited`.
    Log {
        /// Which run.
        run: RunId,
        /// Which stream.
        stream: LogStream,
        /// The bytes, as the guest wrote them: not necessarily whole lines, nor UTF-8.
        #[serde(with = "crate::frame::octets")]
        bytes: Vec<u8>,
    },
    /// The guest has read so much of its standard input since the last such frame.
    InputTaken {
        /// Which run.
        run: RunId,
        /// How much.
        bytes: u32,
    },
    /// The run has ended; its resources are free.
    Exited {
        /// Which run.
        run: RunId,
        /// How.
        exit: Exit,
    },
    /// A guest looks up a name.
    Lookup {
        /// To match the answer.
        question: u64,
        /// Whose pod asks.
        pod_uid: String,
        /// The name as the guest wrote it.
        name: String,
    },
    /// Answer to `Sample`, or a part of it.
    Sampled {
        /// Which question.
        question: u64,
        /// Runs that have not ended, each once over all parts.
        runs: Vec<RunSample>,
        /// Another part follows.
        more: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_kubernetes() {
        for (request, shares) in [(None, 2), (Some(0), 2), (Some(1), 2), (Some(100), 102), (Some(1000), 1024)] {
            assert_eq!(cpu_shares(request), shares, "{request:?}");
        }
        assert_eq!(cpu_shares(Some(u32::MAX)), SHARES_MAX);
    }
}
