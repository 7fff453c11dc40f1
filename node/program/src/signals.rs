//! Being asked to stop.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// `SIGINT` and `SIGTERM`.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// Exit code of a process that was made to stop before it had tidied up.
const INTERRUPTED: i32 = 130;

impl Signals {
    /// From now on the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// When the system does not deliver them.
    pub fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Waits for `tidying`, which a further signal cuts short: the process ends at once.
    pub async fn or_exit<T>(&mut self, tidying: impl Future<Output = T>) -> T {
        tokio::select! {
            output = tidying => output,
            () = self.next() => std::process::exit(INTERRUPTED),
        }
    }
}
