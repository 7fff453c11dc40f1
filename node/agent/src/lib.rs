//! The node agent: one owner task per pod drives it from desired to actual and reports status.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// How a node runs.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Its name.
    pub node_name: String,
    /// Everything it keeps lies below.
    pub data_dir: PathBuf,
    /// API server, `https://HOST:PORT`.
    pub server: String,
    /// PEM of the cluster's CA.
    pub ca_pem: String,
    /// PEM of the node's client certificate (user `system:node:NAME`, group `system:nodes`).
    pub certificate_pem: String,
    /// PEM of its key.
    pub key_pem: String,
    /// Token for the cluster's registry.
    pub registry_token: String,
    /// The node's address as other hosts know it.
    pub address: String,
    /// Extra labels of the Node object.
    pub labels: BTreeMap<String, String>,
    /// This binary; `runner` and `compile` are appended to start child processes.
    pub program: Vec<OsString>,
}

/// Why an agent ended.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Its directory cannot be used.
    #[error("cannot use the data directory {0}")]
    DataDir(PathBuf, #[source] std::io::Error),
    /// Its credentials or the server's address cannot be used.
    #[error("cannot set up the connection to the control plane: {0}")]
    Connection(String),
}

/// Runs until `shutdown` is cancelled, then ends its pods with their grace and returns.
///
/// # Errors
/// Only what cannot be retried; a lost server is waited for.
pub async fn run(_config: AgentConfig, _shutdown: CancellationToken) -> Result<(), AgentError> {
    unimplemented!("owner: agent")
}
