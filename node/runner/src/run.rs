//! One run of one container.
//!
//! ```text
//!   Start ── no slot, bad mount, code does not load ──▶ StartFailed
//!     │
//!     ▼
//!  Started (before instantiation, which may run the guest's start functions)
//!     │
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
use futures::FutureExt;
use std::{panic::AssertUnwindSafe, sync::Arc};
use wasmtime::{Store, WasmBacktrace};
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
    let outputs =
        [LogStream::Stdout, LogStream::Stderr].map(|stream| Output::new(start.run.clone(), stream, lane.clone()));

    let attempt = AssertUnwindSafe(attempt(shared, start, signals, outputs.clone())).catch_unwind();
    let ending = attempt.await.unwrap_or_else(|_| Ending::Ended(trapped("the runner has a defect: it panicked")));
    shared.forget(&start.run);
    match ending {
        Ending::NotStarted(message) => {
            let frame = FromRunner::StartFailed { run: start.run.clone(), message: bounded(message) };
            let _ = shared.outbox.prompt.send(frame).await;
        }
        Ending::Ended(exit) => {
            for output in &outputs {
                output.drained().await;
            }
            let _ = lane.send(FromRunner::Exited { run: start.run.clone(), exit }).await;
        }
    }
}

async fn attempt(shared: &Arc<Shared>, start: &StartGuest, signals: &Signals, outputs: [Output; 2]) -> Ending {
    let Ok(_slot) = shared.slots.try_acquire() else {
        return Ending::NotStarted("the runner has no room for another instance".to_owned());
    };
    let code = match load(shared, start).await {
        Ok(code) => code,
        Err(message) => return Ending::NotStarted(message),
    };
    let network = shared.switch.open(&start.pod_uid, &start.network, signals.stop.clone());
    let state = match GuestState::new(start, &shared.root, &shared.questions, signals.stop.clone(), outputs, network) {
        Ok(state) => state,
        Err(error) => return Ending::NotStarted(error.to_string()),
    };
    let mut store = shared.code.store(state);
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(HOST_CALL_BYTES);
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);

    let _ = shared.outbox.prompt.send(FromRunner::Started(start.run.clone())).await;
    let guest = shared.ticker.drive(execute(&code, &mut store));
    Ending::Ended(tokio::select! {
        biased;
        () = signals.kill.cancelled() => {
            Exit { code: KILLED, cause: ExitCause::Killed, message: String::new() }
        }
        result = guest => exit(result),
    })
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

/// Instantiates and runs.
async fn execute(code: &Code, store: &mut Store<GuestState>) -> wasmtime::Result<Result<(), ()>> {
    match code {
        Code::Component(component) => {
            let command = component.instantiate_async(&mut *store).await?;
            command.wasi_cli_run().call_run(store).await
        }
        Code::Module(module) => {
            let instance = module.instantiate_async(&mut *store).await?;
            let start = instance.get_typed_func::<(), ()>(&mut *store, START)?;
            start.call_async(store, ()).await.map(Ok)
        }
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
