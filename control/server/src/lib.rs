//! Composition root of the control plane: configuration, certificates, wiring, shutdown.

use std::{net::SocketAddr, path::PathBuf};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// How a server runs.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Everything it keeps lies below.
    pub data_dir: PathBuf,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Its name among the servers.
    pub name: String,
}

/// What a node needs to join; written at `DIR/nodes/NAME/` by [`node_credentials`].
#[derive(Debug, Clone)]
pub struct NodeCredentials {
    /// PEM of the cluster's CA.
    pub ca_pem: String,
    /// PEM of the client certificate.
    pub certificate_pem: String,
    /// PEM of its key.
    pub key_pem: String,
    /// Token for the registry.
    pub registry_token: String,
}

/// Why a server could not start or ended.
#[derive(Debug, Error)]
pub enum ServerError {
    /// owner: server
    #[error("{0}")]
    Start(String),
}

/// A started server.
pub struct RunningServer {
    /// Where it really listens.
    pub address: SocketAddr,
    // owner: server
}

/// Makes certificates where there are none, opens the store, and starts API, controllers and scheduler.
///
/// # Errors
/// When something in the data directory or the address cannot be used.
pub async fn start(_config: ServerConfig, _shutdown: CancellationToken) -> Result<RunningServer, ServerError> {
    unimplemented!("owner: server")
}

/// Credentials for a node of this cluster, made with the CA in `data_dir`.
///
/// # Errors
/// When the CA is not there or cannot be read.
pub fn node_credentials(_data_dir: &std::path::Path, _node: &str) -> Result<NodeCredentials, ServerError> {
    unimplemented!("owner: server")
}

impl RunningServer {
    /// Waits until everything has stopped after the shutdown token was cancelled.
    pub async fn stopped(self) {
        unimplemented!("owner: server")
    }
}
