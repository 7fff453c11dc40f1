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
//! The store and everything in it is gone before `Exited` is sent. The log of a run that trapped ends with the trap.

use crate::{
    blueprint::Blueprint,
    code::{Code, START},
    cpu::Account,
    endings,
    guests::{Seat, Shared},
    host::state::GuestState,
    http_server::Server,
    network::listener::Listener,
    protocol::{Exit, ExitCause, FromRunner, StartGuest},
    storage::volume::Volume,
};
use futures::FutureExt;
use std::{panic::AssertUnwindSafe, sync::Arc};
use wasmtime::Store;

/// How an attempt to run ended.
enum Ending {
    NotStarted(String),
    Ended(Exit),
}

/// Runs a container from `Start` to its last frame.
pub(crate) async fn run(shared: &Arc<Shared>, start: &Arc<StartGuest>, seat: &Seat) {
    let attempt = AssertUnwindSafe(attempt(shared, start, seat)).catch_unwind();
    let ending = tokio::select! {
        ending = attempt => ending,
        never = seat.stdin.tell_taken(&start.run, &shared.outbox.prompt) => match never {},
    };
    let ending =
        ending.unwrap_or_else(|_| Ending::Ended(endings::trapped("the runner has a defect: it panicked".to_owned())));
    shared.forget(start);
    match ending {
        Ending::NotStarted(message) => {
            let frame = FromRunner::StartFailed { run: start.run.clone(), message: endings::bounded(message) };
            let _ = shared.outbox.prompt.send(frame).await;
        }
        Ending::Ended(exit) => {
            let exit = seat.signals.named(exit);
            let _ = shared.outbox.ordered.send(FromRunner::Exited { run: start.run.clone(), exit }).await;
        }
    }
}

async fn attempt(shared: &Arc<Shared>, start: &Arc<StartGuest>, seat: &Seat) -> Ending {
    match begin(shared, start, seat).await {
        Ok(exit) => Ending::Ended(exit),
        Err(message) => Ending::NotStarted(message),
    }
}

/// Runs to the end, or says why it did not begin.
async fn begin(shared: &Arc<Shared>, start: &Arc<StartGuest>, seat: &Seat) -> Result<Exit, String> {
    let code = load(shared, start, &seat.cpu).await?;
    let _pass = shared.room.enter(code.share())?;
    let volumes = accounts(shared, start).await?;
    let blueprint = Blueprint::new(shared, start, seat, volumes);
    match &*code {
        Code::Component(..) => command(&blueprint, &code, Vec::new()).await,
        Code::Module(..) => command(&blueprint, &code, blueprint.listeners()?).await,
        Code::Http(code, share) => {
            let listener = blueprint.http_listener()?;
            // What cannot be set up for the first request cannot be for any.
            let trial = || blueprint.store(blueprint.outputs(), Vec::new()).map(drop);
            shared.cpu.charged(&blueprint.account, trial).map_err(|error| error.to_string())?;
            let _ = shared.outbox.prompt.send(FromRunner::Started(start.run.clone())).await;
            Ok(Server::new(blueprint, code.clone(), *share).serve(listener).await)
        }
    }
}

/// A guest that is called once.
async fn command(blueprint: &Blueprint, code: &Code, listeners: Vec<Listener>) -> Result<Exit, String> {
    let outputs = blueprint.outputs();
    let shared = &blueprint.shared;
    let make = || blueprint.store(outputs.clone(), listeners);
    let mut store = shared.cpu.charged(&blueprint.account, make).map_err(|error| error.to_string())?;
    let _ = shared.outbox.prompt.send(FromRunner::Started(blueprint.start.run.clone())).await;
    let guest = shared.cpu.drive(&blueprint.account, execute(code, &mut store));
    let exit = tokio::select! {
        biased;
        () = blueprint.signals.kill.cancelled() => endings::killed(),
        out = blueprint.memory.exceeded() => endings::out_of_memory(&out),
        // It may have ended by itself, but because of what it was refused.
        result = guest => match blueprint.memory.excess() {
            Some(out) => endings::out_of_memory(&out),
            None => endings::of_command(result),
        },
    };
    drop(store);
    for output in &outputs {
        output.drained().await;
    }
    if exit.cause == ExitCause::Trapped {
        blueprint.complain(format!("{}\n", exit.message)).await;
    }
    Ok(exit)
}

/// The accounts of the mounts. What is on a volume already may take its time to count.
async fn accounts(shared: &Arc<Shared>, start: &Arc<StartGuest>) -> Result<Vec<Option<Arc<Volume>>>, String> {
    if start.mounts.iter().all(|mount| mount.read_only) {
        return Ok(start.mounts.iter().map(|_| None).collect());
    }
    let (shared, start) = (Arc::clone(shared), Arc::clone(start));
    let opened = tokio::task::spawn_blocking(move || shared.accounts.open(&start.pod_uid, &start.mounts)).await;
    opened.map_err(|error| error.to_string())?.map_err(|error| format!("cannot measure a volume: {error}"))
}

/// Whoever comes first pays.
async fn load(shared: &Arc<Shared>, start: &StartGuest, account: &Arc<Account>) -> Result<Arc<Code>, String> {
    if let Some(code) = shared.code.get(&start.code, start.kind) {
        return Ok(code);
    }
    let (shared, account, path, kind) = (Arc::clone(shared), Arc::clone(account), start.code.clone(), start.kind);
    let load = move || shared.cpu.charged(&account, || shared.code.load(&path, kind));
    match tokio::task::spawn_blocking(load).await {
        Ok(loaded) => loaded.map_err(|error| format!("cannot load \"{}\": {error:#}", start.code.display())),
        Err(error) => Err(error.to_string()),
    }
}

/// Instantiates and runs.
async fn execute(code: &Code, store: &mut Store<GuestState>) -> wasmtime::Result<Result<(), ()>> {
    match code {
        Code::Component(component, _) => {
            let command = component.instantiate_async(&mut *store).await?;
            command.wasi_cli_run().call_run(store).await
        }
        Code::Http(..) => Err(wasmtime::Error::msg("it answers requests and is not called by itself")),
        Code::Module(module, _) => {
            let instance = module.instantiate_async(&mut *store).await?;
            let start = instance.get_typed_func::<(), ()>(&mut *store, START)?;
            start.call_async(store, ()).await.map(Ok)
        }
    }
}
