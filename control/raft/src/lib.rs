//! Replicates commands: the raft log over RocksDB, snapshots, membership, and the peers' transport.

use coracle_store::{Command, Outcome, ProposeError, Proposer, Store};
use std::path::PathBuf;
use thiserror::Error;

/// How to open a replica.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// Directory of the database.
    pub directory: PathBuf,
    /// This server's raft id, never reused.
    pub server_id: u64,
    /// The cluster that the database must belong to; `None`: whichever it says, or a new one.
    pub cluster_id: Option<String>,
}

impl ReplicaConfig {
    /// The replica of server `server_id` in `directory`, of whichever cluster it belongs to.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>, server_id: u64) -> Self {
        Self { directory: directory.into(), server_id, cluster_id: None }
    }
}

/// A running replica: one thread owns the raft state, others propose and read.
#[derive(Clone)]
pub struct Replica {
    // owner: store
}

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

impl Replica {
    /// Opens the database, replays what is committed but not applied, and starts the raft thread.
    ///
    /// # Errors
    /// When the database is locked, damaged, or belongs to another server.
    pub async fn open(_config: ReplicaConfig) -> Result<Self, ReplicaError> {
        unimplemented!("owner: store")
    }

    /// The reading side.
    #[must_use]
    pub fn store(&self) -> &Store {
        unimplemented!("owner: store")
    }

    /// Stops the raft thread; everything acknowledged is on disk.
    pub async fn shutdown(&self) {
        unimplemented!("owner: store")
    }
}

#[async_trait::async_trait]
impl Proposer for Replica {
    async fn propose(&self, _command: Command) -> Result<Outcome, ProposeError> {
        unimplemented!("owner: store")
    }

    async fn read_barrier(&self) -> Result<(), ProposeError> {
        unimplemented!("owner: store")
    }
}
