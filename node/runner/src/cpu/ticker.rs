//! Advances the engine's epoch while guests compute, so that none of them computes for long without giving way.
//!
//! An idle runner must not wake up a thousand times a second: the thread sleeps while no guest has a turn.

use super::{clock::ThreadClock, drive::Shared, line::Line};
use parking_lot::Mutex;
use std::{
    sync::Arc,
    task::Waker,
    thread::{self, Thread},
    time::Duration,
};
use wasmtime::Engine;

/// The longest that a guest computes before others get their turn.
pub(super) const TICK: Duration = Duration::from_millis(2);

/// What the thread and those who compute share: the line, and whether the thread sleeps.
#[derive(Debug)]
pub(super) struct Ticking {
    pub(super) line: Line,
    /// The thread sleeps, or is about to, until somebody clears this and wakes it.
    pub(super) resting: bool,
}

/// Starts the thread. It ends with the process.
pub(super) fn start(engine: &Engine, shared: Arc<Shared>) -> std::io::Result<Thread> {
    let engine = engine.clone();
    let thread = thread::Builder::new().name("ticker".into()).spawn(move || tick(&engine, &shared))?;
    Ok(thread.thread().clone())
}

fn tick(engine: &Engine, shared: &Shared) {
    loop {
        thread::sleep(TICK);
        engine.increment_epoch();
        shared.overhead.found_work();
        let (woken, busy) = {
            let mut ticking = shared.ticking.lock();
            let woken = ticking.line.tick(ThreadClock::nanos);
            ticking.resting = !ticking.line.is_busy();
            (woken, !ticking.resting)
        };
        woken.into_iter().for_each(Waker::wake);
        if busy {
            // Whoever looked for timers and connections may be busy with a guest now, and nobody looks.
            shared.lookout.notify_one();
            continue;
        }
        while is_resting(&shared.ticking) {
            thread::park();
        }
    }
}

fn is_resting(ticking: &Mutex<Ticking>) -> bool {
    ticking.lock().resting
}
