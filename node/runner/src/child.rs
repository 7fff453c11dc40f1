//! The runner process itself.

use crate::{
    confine,
    cpu::{self, Threads},
    engine::{Allocation, EngineOptions},
    guests::{Guests, MachineShare},
    host::files::{CODE, VOLUMES},
    link,
    memory::Ceiling,
    network::{
        RunnerEnd,
        switch::{DIAL_TIMEOUT, Switch},
    },
    process::CEILING_FLAG,
    protocol::FromRunner,
    resident::{self, Resident},
    rest,
};
use std::{
    error::Error,
    fs,
    io::{self, Write},
    iter,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};
use thiserror::Error;
use tokio::{runtime::Runtime, sync::Notify};
use wasmtime::Engine;

/// How many task polls a worker makes between looks at timers and sockets. A poll of a guest that computes lasts a
/// whole tick, so tokio's default of 61 would make sleeping guests wait for a tenth of a second and more.
const POLLS_PER_LOOK: u32 = 8;
/// Threads for what cannot be asynchronous: files. They come and go with the work.
const MAX_FILE_THREADS: usize = 32;
/// What all guests of a runner may use together of the machine's memory, unless the command line says it in bytes.
const CEILING_QUARTERS: u64 = 3;

/// A smaller pool is not worth its while, unless no more was asked for.
const POOL_LEAST: u32 = 8;

/// Flag of the user that a runner or compiler becomes.
pub(crate) const USER_FLAG: &str = "--user";

/// Why a runner cannot serve.
#[derive(Debug, Error)]
enum ChildError {
    #[error(
        "usage: --root DIR --max-instances N [--memory-reservation-bytes N] [--memory-ceiling-bytes N] [--user N], not \
         {0:?}"
    )]
    Usage(String),
    #[error("cannot confine the runner")]
    Confine(#[source] io::Error),
    #[error("cannot set up the wasm engine: {0}")]
    Engine(String),
    #[error("a runner's root needs a directory \"{directory}\", which cannot be used in {}", .root.display())]
    Root {
        root: PathBuf,
        directory: &'static str,
        #[source]
        error: io::Error,
    },
    #[error("cannot set the guests' side of the runner up: {0}")]
    Guests(String),
    #[error("cannot use the network channel")]
    Network(#[source] io::Error),
    #[error("cannot start a tokio runtime")]
    Runtime(#[source] io::Error),
}

struct Arguments {
    root: PathBuf,
    max_instances: u32,
    user: Option<u32>,
    engine: EngineOptions,
    ceiling_bytes: Option<u64>,
}

/// Entry point of the runner process: its standard input is the stream to the agent, which moves to descriptor 3, its
/// standard output the network channel, which moves to descriptor 4; runs until the stream ends. Arguments are those
/// behind `runner` on the command line; the agent's end appends `--root DIR --max-instances N`.
/// `--user N` says whom it becomes.
/// `--memory-reservation-bytes N` before them shrinks the address space that each instance reserves, and must be given
/// to the compiler process alike; `--memory-ceiling-bytes N` says what all guests may use together.
#[must_use]
pub fn main(arguments: &[String]) -> ExitCode {
    match prepare(arguments).map(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// For `tests/escape` and nobody else: a runner up to the moment at which a guest could run, and then `intruder` in the
/// place of guests and in a thread of theirs, which is what a guest that broke out of wasm would be. No command line leads
/// here. The test is a program of its own, so this cannot be private.
#[doc(hidden)]
#[must_use]
pub fn main_taken_over_for_tests(arguments: &[String], intruder: fn() -> ExitCode) -> ExitCode {
    let end = prepare(arguments).and_then(|prepared| {
        let thread = prepared.guests_runtime.spawn(async move { intruder() });
        let ended = prepared.guests_runtime.block_on(thread);
        ended.map_err(|error| ChildError::Runtime(io::Error::other(error)))
    });
    end.unwrap_or_else(|error| failed(&error))
}

fn failed(error: &ChildError) -> ExitCode {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    complain(&text);
    ExitCode::FAILURE
}

/// Says something to the agent's log. A runner has no other.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn parse(arguments: &[String]) -> Result<Arguments, ChildError> {
    let usage = |word: &str| ChildError::Usage(word.to_owned());
    let (mut root, mut max_instances, mut engine) = (None, None, EngineOptions::default());
    let (mut user, mut ceiling_bytes) = (None, None);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| usage(word))?;
        match word.as_str() {
            "--root" => root = Some(PathBuf::from(value)),
            "--max-instances" => max_instances = Some(value.parse().map_err(|_| usage(value))?),
            USER_FLAG => user = Some(value.parse().map_err(|_| usage(value))?),
            CEILING_FLAG => ceiling_bytes = Some(value.parse().map_err(|_| usage(value))?),
            EngineOptions::FLAG => engine = EngineOptions::parse(value).ok_or_else(|| usage(value))?,
            _ => return Err(usage(word)),
        }
    }
    Ok(Arguments {
        root: root.ok_or_else(|| usage("no --root"))?,
        max_instances: max_instances.ok_or_else(|| usage("no --max-instances"))?,
        user,
        engine,
        ceiling_bytes,
    })
}

/// The ceiling over all guests, and what it is held against. Where the machine does not say what it has, there is none.
fn ceiling(arguments: &Arguments) -> (Ceiling, Option<Resident>) {
    let known = Resident::open().and_then(|resident| {
        let machine = || resident::machine_bytes().map(|bytes| bytes / 4 * CEILING_QUARTERS);
        Ok((arguments.ceiling_bytes.map_or_else(machine, Ok)?, resident))
    });
    match known {
        Ok((bytes, resident)) => (Ceiling::new(bytes), Some(resident)),
        Err(error) => {
            complain(&format!("no ceiling over the memory of all guests: {error}"));
            (Ceiling::default(), None)
        }
    }
}

/// A runner that has given up all that it will, and has no guest yet.
struct Prepared {
    stream: OwnedFd,
    /// What is to be said first.
    ready: FromRunner,
    guests: Guests,
    ceiling: Arc<Ceiling>,
    resident: Option<Resident>,
    switch: Arc<Switch>,
    outgoing: link::Outgoing,
    link_runtime: Runtime,
    guests_runtime: Runtime,
}

/// The order matters: what confines a process must come before what could be abused, and some of it only works while
/// there is a single thread.
fn prepare(arguments: &[String]) -> Result<Prepared, ChildError> {
    let arguments = parse(arguments)?;
    let (stream, network) = confine::take_sockets().map_err(ChildError::Confine)?;
    // What is missing is said here, by its name; later it would be an error of whoever needs it first.
    for directory in [VOLUMES, CODE] {
        let found = fs::read_dir(arguments.root.join(directory));
        found.map_err(|error| ChildError::Root { root: arguments.root.clone(), directory, error })?;
    }
    // Later, procfs is out of reach.
    let (ceiling, resident) = ceiling(&arguments);
    // While it can still be asked: it looks into files of the system.
    let threads = Threads::of_this_machine();
    let confining = confine::before_threads(&arguments.root, arguments.user);
    let confining = confining.map_err(ChildError::Confine)?;

    let (engine, pooled) = largest_pool(arguments.engine, arguments.max_instances)?;
    let guests_runtime = guests_runtime(threads).map_err(ChildError::Runtime)?;
    // Stream and channel have a thread and a reactor of their own: however busy the guests are, a kill arrives at once.
    let link_runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ChildError::Runtime)?;
    let channel = {
        let _reactor = link_runtime.enter();
        RunnerEnd::new(network, None).map_err(ChildError::Network)?
    };
    let switch = Switch::new(channel, DIAL_TIMEOUT);
    let (outbox, outgoing) = link::outbox();
    let ceiling = Arc::new(ceiling);
    let guests = Guests::new(
        engine,
        confining.root().to_owned(),
        if pooled == 0 { arguments.max_instances } else { pooled },
        outbox,
        Arc::clone(&switch),
        MachineShare { threads, ceiling: Arc::clone(&ceiling) },
        guests_runtime.handle().clone(),
    )
    .map_err(|error| ChildError::Guests(format!("{error:#}")))?;
    let confinement = confining.before_guests().map_err(ChildError::Confine)?;
    let ready = FromRunner::Ready { confinement, pooled };
    Ok(Prepared { stream, ready, guests, ceiling, resident, switch, outgoing, link_runtime, guests_runtime })
}

/// The engine with the largest pool that this process's address space has room for, of `wanted` instances, half of them and
/// so on; and how many it has. 0: it has none, and instances get their memory one by one.
fn largest_pool(options: EngineOptions, wanted: u32) -> Result<(Engine, u32), ChildError> {
    let sizes =
        iter::successors(Some(wanted), |size| Some(size / 2)).take_while(|size| *size >= POOL_LEAST.min(wanted));
    for size in sizes.filter(|size| *size > 0) {
        match options.engine(Allocation::Pooled(size)) {
            Ok(engine) => return Ok((engine, size)),
            Err(error) => complain(&format!("no pool of {size} instances: {error:#}")),
        }
    }
    let engine = options.engine(Allocation::OnDemand).map_err(|error| ChildError::Engine(format!("{error:#}")))?;
    Ok((engine, 0))
}

fn serve(prepared: Prepared) {
    let Prepared { stream, ready, guests, switch, outgoing, link_runtime, guests_runtime, ceiling, resident } =
        prepared;
    let work = Notify::new();
    link_runtime.block_on(async {
        tokio::select! {
            () = ceiling.guard(|| resident.as_ref().and_then(Resident::bytes)) => {}
            () = rest::after(&work) => {}
            () = link::serve(UnixStream::from(stream), ready, guests, &work, (&switch, outgoing)) => {}
        }
    });
    // The agent is gone, and so are the guests: nobody waits for them.
    guests_runtime.shutdown_background();
}

/// The runtime of the guests, whose threads stand back: agent, link and ticker go first when all want the processors.
///
/// Threads begin with the niceness of the one that makes them, so a thread that exists for this makes the first ones,
/// and they make the rest.
pub(crate) fn guests_runtime(threads: Threads) -> io::Result<Runtime> {
    let build = move || {
        if let Err(error) = cpu::set_niceness(cpu::SERVING) {
            complain(&format!("guests are as important as the agent: {error}"));
        }
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.count())
            .max_blocking_threads(MAX_FILE_THREADS)
            .event_interval(POLLS_PER_LOOK)
            .thread_name("guests")
            .enable_all()
            .build()
    };
    let builder = std::thread::Builder::new().name("guests".into()).spawn(build)?;
    builder.join().map_err(|_| io::Error::other("the thread that makes the others panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn arguments_are_read() {
        let line = "--memory-reservation-bytes 1048576 --memory-ceiling-bytes 5 --root /r --max-instances 7";
        let arguments = parse(&words(line)).ok().unwrap();
        assert_eq!(arguments.ceiling_bytes, Some(5));
        assert_eq!(arguments.root, PathBuf::from("/r"));
        assert_eq!(arguments.max_instances, 7);
        assert_ne!(arguments.engine, EngineOptions::default());
    }

    #[test]
    fn bad_arguments_are_named() {
        for (line, named) in [
            ("--root", "--root"),
            ("--root /r", "no --max-instances"),
            ("--root /r --max-instances many", "many"),
            ("--root /r --max-instances 1 --color red", "--color"),
            ("--root /r --max-instances 1 --memory-ceiling-bytes all", "all"),
            ("--max-instances 1", "no --root"),
        ] {
            let error = parse(&words(line)).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(named), "{line}: {error}");
        }
    }
}
