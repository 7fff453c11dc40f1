//! Why a replica cannot be opened.

use coracle_store::MachineError;
use coracle_store::backend::BackendError;
use std::path::PathBuf;
use thiserror::Error;

/// Why a replica could not be opened or has stopped.
#[derive(Debug, Error)]
pub enum ReplicaError {
    /// The database cannot be opened.
    #[error("cannot open the database in {directory}")]
    Open {
        /// Where.
        directory: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why the state in a backend cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// In use, damaged, or the disk fails.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The state cannot be read.
    #[error("the state cannot be loaded")]
    Machine(#[from] MachineError),
    /// It is another server's: a raft id that is used twice breaks the promise of every vote and write.
    #[error("the database belongs to server {found}, this is server {expected}")]
    OtherServer {
        /// Whose it is.
        found: u64,
        /// Who we are.
        expected: u64,
    },
    /// It is another cluster's.
    #[error("the database belongs to cluster {found}, not to {expected}")]
    OtherCluster {
        /// Whose it is.
        found: String,
        /// Which was expected.
        expected: String,
    },
    /// The raft library refused the state.
    #[error("raft does not start")]
    Raft(#[from] raft::Error),
    /// The first steps failed.
    #[error("the log could not be replayed")]
    Replay(#[from] crate::core::CoreError),
    /// The machine has no more threads, or the task was cancelled.
    #[error("the raft thread could not be started: {0}")]
    Thread(String),
}
