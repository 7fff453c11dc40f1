//! Advances the engine's epoch while guests compute, so that none of them computes for long without giving way.
//!
//! An idle runner must not wake up a thousand times a second: the thread sleeps while no guest is being polled.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    thread::{self, Thread},
    time::Duration,
};
use wasmtime::Engine;

/// The longest that a guest computes before others get their turn.
const TICK: Duration = Duration::from_millis(2);

#[derive(Debug, Default)]
struct State {
    /// Guests that are being polled now.
    polling: AtomicUsize,
    /// The thread sleeps, or is about to, until somebody clears this and wakes it.
    resting: AtomicBool,
}

/// The thread that advances the epoch. It ends with the process.
#[derive(Debug, Clone)]
pub(crate) struct Ticker {
    state: Arc<State>,
    thread: Thread,
}

impl Ticker {
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Self> {
        let state = Arc::new(State::default());
        let (engine, seen) = (engine.clone(), Arc::clone(&state));
        let thread = thread::Builder::new().name("ticker".into()).spawn(move || tick(&engine, &seen))?;
        Ok(Self { state, thread: thread.thread().clone() })
    }

    /// Wraps the future that runs a guest: the epoch advances while it is being polled.
    ///
    /// Every moment in which a guest computes passes through this `poll`. This is where a CPU limit measures.
    pub(crate) fn drive<F: Future>(&self, guest: F) -> Driven<F> {
        Driven { guest: Box::pin(guest), ticker: self.clone() }
    }

    fn enter(&self) -> Polling<'_> {
        if self.state.polling.fetch_add(1, SeqCst) == 0 && self.state.resting.swap(false, SeqCst) {
            self.thread.unpark();
        }
        Polling(&self.state)
    }
}

/// See [`Ticker::drive`].
pub(crate) struct Driven<F> {
    guest: Pin<Box<F>>,
    ticker: Ticker,
}

impl<F: Future> Future for Driven<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let _polling = this.ticker.enter();
        this.guest.as_mut().poll(context)
    }
}

/// A poll that goes on; also ends when the poll panics.
struct Polling<'a>(&'a State);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.polling.fetch_sub(1, SeqCst);
    }
}

fn tick(engine: &Engine, state: &State) {
    loop {
        thread::sleep(TICK);
        engine.increment_epoch();
        if state.polling.load(SeqCst) > 0 {
            continue;
        }
        // Announce the rest first, then look again: a guest that starts in between sees the announcement or is seen.
        state.resting.store(true, SeqCst);
        if state.polling.load(SeqCst) > 0 {
            state.resting.store(false, SeqCst);
        }
        while state.resting.load(SeqCst) {
            thread::park();
        }
    }
}
