//! The agent's end of a runner process.

use crate::protocol::{FromRunner, ToRunner};
use std::{ffi::OsString, path::PathBuf};
use thiserror::Error;
use tokio::sync::mpsc;

/// How to start a runner.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// Program and first arguments that end up in [`crate::child::main`], e.g. `[current_exe, "runner"]`.
    pub command: Vec<OsString>,
    /// The runner's root: holds `volumes/` and `code/`.
    pub root: PathBuf,
    /// How many instances the pool is sized for.
    pub max_instances: u32,
}

/// A running runner. Dropping it kills the process.
pub struct RunnerProcess {
    // owner: runner
}

/// Why a runner does not answer.
#[derive(Debug, Error)]
pub enum RunnerError {
    /// The process could not be started.
    #[error("cannot start a runner process")]
    Spawn(#[source] std::io::Error),
    /// It ended before it was ready; the text is what it wrote to standard error.
    #[error("the runner ended before it was ready: {0}")]
    NotReady(String),
    /// It has ended.
    #[error("the runner process has ended")]
    Gone,
}

impl RunnerProcess {
    /// Spawns a runner and waits until it is ready. The receiver yields its frames and ends when it dies.
    ///
    /// # Errors
    /// When it cannot be started or does not become ready.
    pub async fn spawn(_config: RunnerConfig) -> Result<(Self, mpsc::Receiver<FromRunner>), RunnerError> {
        unimplemented!("owner: runner")
    }

    /// Sends a frame, waiting while the runner is busy reading earlier ones.
    ///
    /// # Errors
    /// `Gone` when the process has ended.
    pub async fn send(&self, _frame: ToRunner) -> Result<(), RunnerError> {
        unimplemented!("owner: runner")
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        unimplemented!("owner: runner")
    }
}
