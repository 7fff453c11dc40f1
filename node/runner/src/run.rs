//! One run of one container.
//!
//! ```text
//!   Start ── no slot, bad mount, code does not load ──▶ StartFailed
//!     │
//!     ▼
//!  instantiate ── no memory of its pool left ─────────▶ StartFailed
//!     │ Started (before the first wait, so a start function that never ends counts as started)
//!     ▼
//!   runs ── ends, traps, outgrows its memory, is killed ──▶ its last output, then Exited
//! ```
//!
//! The store and everything in it is gone before `Exited` is sent.

use crate::{
    code::{Code, START},
    guests::{Shared, Signals},
    host::{memory::OutOfMemory, state::GuestState, stdio::Output},
    protocol::{Exit, ExitCause, FromRunner, LogStream, StartGuest},
};
use futures::{FutureExt, poll};
use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
};
use wasmtime::{PoolConcurrencyLimitError, Store, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// What a host call may copy out of a guest at once.
const HOST_CALL_BYTES: usize = 16 << 20;
/// Kubernetes keeps at most this much of a termination message.
const MAX_MESSAGE_BYTES: usize = 4096;
const TRAPPED: i32 = 134;
const KILLED: i32 = 137;

/// How an attempt to run ended.
enum Ending {
    NotStarted(String),
    Ended(Exit),
}

/// Runs a container from `Start` to its last frame.
pub(crate) async fn run(shared: &Arc<Shared>, start: &StartGuest, signals: &Signals) {
    let lane = &shared.outbox.ordered;
    let stdout = Output::new(start.run.clone(), LogStream::Stdout, lane.clone());
    let stderr = Output::new(start.run.clone(), LogStream::Stderr, lane.clone());
    let started = AtomicBool::new(false);

    let outputs = [stdout.clone(), stderr.clone()];
    let attempt = AssertUnwindSafe(attempt(shared, start, signals, outputs, &started)).catch_unwind();
    let ending = attempt.await.unwrap_or_else(|_| Ending::Ended(trapped("the runner has a defect: it panicked")));
    shared.forget(&start.run);
    match ending {
        Ending::NotStarted(message) => {
            let frame = FromRunner::StartFailed { run: start.run.clone(), message: bounded(message) };
            let _ = shared.outbox.prompt.send(frame).await;
        }
        Ending::Ended(exit) => {
            if !started.load(Relaxed) {
                announce(shared, start, &started).await;
            }
            stdout.drained().await;
            stderr.drained().await;
            let _ = lane.send(FromRunner::Exited { run: start.run.clone(), exit }).await;
        }
    }
}

async fn attempt(
    shared: &Arc<Shared>,
    start: &StartGuest,
    signals: &Signals,
    outputs: [Output; 2],
    started: &AtomicBool,
) -> Ending {
    let Ok(_slot) = shared.slots.try_acquire() else {
        return Ending::NotStarted("the runner has no room for another instance".to_owned());
    };
    let code = match load(shared, start).await {
        Ok(code) => code,
        Err(message) => return Ending::NotStarted(message),
    };
    let state = match GuestState::new(start, &shared.root, &shared.questions, signals.stop.clone(), outputs) {
        Ok(state) => state,
        Err(error) => return Ending::NotStarted(error.to_string()),
    };
    let mut store = shared.code.store(state);
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(HOST_CALL_BYTES);
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);

    let guest = shared.ticker.drive(execute(&code, &mut store, announce(shared, start, started)));
    tokio::select! {
        biased;
        () = signals.kill.cancelled() => {
            Ending::Ended(Exit { code: KILLED, cause: ExitCause::Killed, message: String::new() })
        }
        result = guest => match result {
            Err(error) if !started.load(Relaxed) => Ending::NotStarted(format!("{error:#}")),
            result => Ending::Ended(exit(result)),
        },
    }
}

async fn load(shared: &Arc<Shared>, start: &StartGuest) -> Result<Arc<Code>, String> {
    if let Some(code) = shared.code.get(&start.code, start.kind) {
        return Ok(code);
    }
    let (shared, path, kind) = (Arc::clone(shared), start.code.clone(), start.kind);
    match tokio::task::spawn_blocking(move || shared.code.load(&path, kind)).await {
        Ok(loaded) => loaded.map_err(|error| format!("cannot load \"{}\": {error:#}", start.code.display())),
        Err(error) => Err(error.to_string()),
    }
}

async fn announce(shared: &Shared, start: &StartGuest, started: &AtomicBool) {
    started.store(true, Relaxed);
    let _ = shared.outbox.prompt.send(FromRunner::Started(start.run.clone())).await;
}

/// Instantiates and runs. `announce` is awaited before the guest has computed for longer than a tick; when it has not
/// been, an error means that the guest could not start.
async fn execute(
    code: &Code,
    store: &mut Store<GuestState>,
    announce: impl Future<Output = ()>,
) -> wasmtime::Result<Result<(), ()>> {
    match code {
        Code::Component(component) => {
            let command = started(component.instantiate_async(&mut *store), announce).await?;
            command.wasi_cli_run().call_run(store).await
        }
        Code::Module(module) => {
            let instance = started(module.instantiate_async(&mut *store), announce).await?;
            let start = instance.get_typed_func::<(), ()>(&mut *store, START)?;
            start.call_async(store, ()).await.map(Ok)
        }
    }
}

async fn started<T>(
    instantiation: impl Future<Output = wasmtime::Result<T>>,
    announce: impl Future<Output = ()>,
) -> wasmtime::Result<T> {
    let mut instantiation = pin!(instantiation);
    let first = poll!(&mut instantiation);
    if let Poll::Ready(Err(error)) = &first
        && error.downcast_ref::<PoolConcurrencyLimitError>().is_some()
    {
        return match first {
            Poll::Ready(result) => result,
            Poll::Pending => instantiation.await,
        };
    }
    announce.await;
    match first {
        Poll::Ready(result) => result,
        Poll::Pending => instantiation.await,
    }
}

/// Exit codes as the design has them.
fn exit(result: wasmtime::Result<Result<(), ()>>) -> Exit {
    let exited = |code| Exit { code, cause: ExitCause::Exited, message: String::new() };
    match result {
        Ok(Ok(())) => exited(0),
        Ok(Err(())) => exited(1),
        Err(error) => {
            if let Some(&I32Exit(code)) = error.downcast_ref() {
                exited(code)
            } else if let Some(out) = error.downcast_ref::<OutOfMemory>() {
                Exit { code: KILLED, cause: ExitCause::OutOfMemory, message: out.to_string() }
            } else {
                trapped(&explanation(&error))
            }
        }
    }
}

fn trapped(message: &str) -> Exit {
    Exit { code: TRAPPED, cause: ExitCause::Trapped, message: bounded(message.to_owned()) }
}

/// What happened, then where: the frames of the guest, innermost first.
fn explanation(error: &wasmtime::Error) -> String {
    let cause = error.root_cause();
    match error.downcast_ref::<WasmBacktrace>() {
        Some(backtrace) => format!("{cause}\n{backtrace}"),
        None => format!("{error:#}"),
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > MAX_MESSAGE_BYTES {
        let end = (0..=MAX_MESSAGE_BYTES).rev().find(|&index| text.is_char_boundary(index)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
