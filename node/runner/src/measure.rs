//! For the bench `instantiate`, which cannot see inside: how long it takes from the order to start a container to the
//! guest's first instruction, here and with wasmtime alone. No part of what a runner does.

use crate::{
    child,
    cpu::Threads,
    engine::{Allocation, EngineOptions},
    guests::{Guests, MachineShare},
    link::{self, Outgoing},
    memory::Ceiling,
    network::{RunnerEnd, channel, switch::Switch},
    protocol::{FromRunner, GuestKind, PodNetwork, RunId, StartGuest, StdinMode, ToRunner},
};
use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use wasmtime::{Caller, Engine, InstancePre, Linker, Module, Store};

/// A guest that asks what time it is before anything else, and writes the eight bytes of the answer.
pub const PROBE: &str = r#"(module
    (import "wasi_snapshot_preview1" "clock_time_get" (func $now (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (drop (call $now (i32.const 0) (i64.const 1) (i32.const 16)))
        (i32.store (i32.const 0) (i32.const 16))
        (i32.store (i32.const 4) (i32.const 8))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))))"#;

/// Room for guests in the engine's pool.
const INSTANCES: u32 = 64;
/// How long a dial would be waited for; there are none.
const NO_DIALS: Duration = Duration::from_secs(1);

/// What was measured, in the order of the rounds.
#[derive(Debug)]
pub struct Figures {
    /// wasmtime alone, same engine, same code: from before its store is made to the guest's first call.
    pub bare: Vec<Duration>,
    /// A container with a memory and a CPU limit: from the order to start it to the guest's first call.
    pub container: Vec<Duration>,
}

/// Runs [`PROBE`], compiled in `code` below `root`, so many times in each way, by turns.
///
/// # Errors
/// Whatever goes wrong.
pub fn first_instruction(root: &Path, code: &Path, rounds: usize) -> Result<Figures, Box<dyn Error>> {
    let engine = EngineOptions::default().engine(Allocation::Pooled(INSTANCES))?;
    let threads = Threads::of_this_machine();
    let runtime = child::guests_runtime(threads)?;
    let _in_runtime = runtime.enter();
    let (_agent, ours) = channel::sockets()?;
    let switch = Switch::new(RunnerEnd::new(ours, None)?, NO_DIALS);
    let (outbox, mut outgoing) = link::outbox();
    let bare = bare(&engine, &root.join(code))?;
    let share = MachineShare { threads, ceiling: Arc::new(Ceiling::new(u64::MAX)) };
    let guests = Guests::new(engine, root.to_owned(), INSTANCES, outbox, switch, share, runtime.handle().clone())?;
    let mut figures = Figures { bare: Vec::new(), container: Vec::new() };
    for round in 0..rounds {
        figures.bare.push(runtime.block_on(runtime.spawn(once(Arc::clone(&bare))))??);
        let asked = SystemTime::now();
        guests.handle(ToRunner::Start(Box::new(start(round, code.to_owned()))));
        let first = runtime.block_on(first_call(&mut outgoing)).ok_or("the guest said nothing")?;
        figures.container.push(first.duration_since(asked)?);
    }
    runtime.shutdown_background();
    Ok(figures)
}

fn start(round: usize, code: PathBuf) -> StartGuest {
    StartGuest {
        run: RunId(round.to_string()),
        pod_uid: round.to_string(),
        network: PodNetwork::default(),
        code,
        kind: GuestKind::Module,
        argv: vec!["probe".to_owned()],
        env: vec![("HOSTNAME".to_owned(), "probe".to_owned())],
        mounts: Vec::new(),
        working_dir: None,
        memory_limit_bytes: Some(64 << 20),
        cpu_limit_millis: Some(1000),
        stdin: StdinMode::default(),
        joins: None,
        cpu_request_millis: Some(100),
        terminal: false,
    }
}

/// When the guest made its first call, as it said before it ended.
async fn first_call(outgoing: &mut Outgoing) -> Option<SystemTime> {
    let mut said = None;
    loop {
        tokio::select! {
            _ = outgoing.prompt.recv() => {}
            frame = outgoing.ordered.recv() => match frame? {
                FromRunner::Log { bytes, .. } => {
                    let nanos = u64::from_le_bytes(bytes.try_into().ok()?);
                    said = Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos));
                }
                FromRunner::Exited { .. } => return said,
                _ => {}
            },
        }
    }
}

/// Holds when the guest made its first call.
type Called = Option<SystemTime>;

fn bare(engine: &Engine, code: &Path) -> wasmtime::Result<Arc<InstancePre<Called>>> {
    const WASI: &str = "wasi_snapshot_preview1";
    let mut linker = Linker::<Called>::new(engine);
    linker.func_wrap(WASI, "clock_time_get", |mut caller: Caller<'_, Called>, _: i32, _: i64, _: i32| {
        caller.data_mut().get_or_insert_with(SystemTime::now);
        0
    })?;
    linker.func_wrap(WASI, "fd_write", |_: i32, _: i32, _: i32, _: i32| 0)?;
    // SAFETY: the caller vouches that the file was compiled by this program and is nobody else's to change.
    let module = unsafe { Module::deserialize_file(engine, code)? };
    Ok(Arc::new(linker.instantiate_pre(&module)?))
}

async fn once(code: Arc<InstancePre<Called>>) -> wasmtime::Result<Duration> {
    let began = SystemTime::now();
    let mut store = Store::new(code.module().engine(), None);
    store.set_epoch_deadline(u64::from(u32::MAX));
    let instance = code.instantiate_async(&mut store).await?;
    instance.get_typed_func::<(), ()>(&mut store, "_start")?.call_async(&mut store, ()).await?;
    let called = store.data().ok_or_else(|| wasmtime::Error::msg("it did not ask for the time"))?;
    Ok(called.duration_since(began)?)
}
