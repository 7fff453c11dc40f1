//! Composition root of the control plane: configuration, certificates, wiring, shutdown.
//!
//! Nothing here decides anything about objects: what the server itself needs in the cluster (the first namespaces,
//! the `kubernetes` service) it creates through the door like everybody else.

mod bootstrap;
mod certificates;
mod credentials;
mod files;
mod kubeconfig;
mod patience;
mod pki;
mod start;

pub use credentials::node_directory;
pub use kubeconfig::reachable;
pub use patience::Patience;
pub use start::{RunningServer, start};

use coracle_objects::ApiError;
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};
use thiserror::Error;

/// IPv4 range from which Services get their cluster IPs.
pub use coracle_objects::ranges::SERVICE_RANGE;
/// Cluster IP of the service `kubernetes`: the first of the range.
pub const KUBERNETES_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// How long the certificates of nodes last where nobody says otherwise.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_hours(365 * 24);

/// How a server runs.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Everything it keeps lies below.
    pub data_dir: PathBuf,
    /// Where the API listens; with port 0 the system picks one.
    pub listen: SocketAddr,
    /// Its name among the servers.
    pub name: String,
    /// Nodes to make credentials for.
    pub nodes: Vec<String>,
    /// How patient the cluster is with its nodes.
    pub patience: Patience,
    /// Names and addresses under which it is reached, besides those that it knows itself.
    pub names: Vec<String>,
    /// How long the certificates of nodes last; [`CERTIFICATE_LIFETIME`] is usual.
    pub certificate_lifetime: Duration,
}

impl ServerConfig {
    /// With everything in `data_dir`, listening there, and all else as is usual.
    #[must_use]
    pub fn new(data_dir: PathBuf, listen: SocketAddr) -> Self {
        Self {
            data_dir,
            listen,
            name: "server-1".to_owned(),
            nodes: Vec::new(),
            names: Vec::new(),
            patience: Patience::default(),
            certificate_lifetime: CERTIFICATE_LIFETIME,
        }
    }
}

/// Why a server could not start, or ended.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Something under the data directory cannot be made, read or written.
    #[error("cannot use {path}")]
    DataDir {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another server runs on the data directory.
    #[error("{path} is in use by another coracle server (process {process}); stop it or choose another --data-dir")]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// Process id of the other server.
        process: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}; stop what uses it or choose another --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate or key is missing or cannot be used.
    #[error("{0}: {1}")]
    Pki(PathBuf, String),
    /// TLS cannot be set up with the certificates.
    #[error("TLS cannot be set up")]
    Tls(#[from] coracle_api::listener::TlsError),
    /// This build's gRPC descriptors cannot be read.
    #[error("gRPC reflection cannot be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Store(#[from] coracle_raft::ReplicaError),
    /// The first objects could not be created.
    #[error("the cluster's first objects could not be created")]
    Bootstrap(#[source] ApiError),
    /// It cannot go on; what was acknowledged is on disk.
    #[error("the server cannot go on: {0}")]
    Failed(String),
    /// The name of a node cannot be the name of an object.
    #[error("\"{0}\" cannot be a node's name: use lower-case letters, digits, '-' and '.'")]
    NodeName(String),
}
