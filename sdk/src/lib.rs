//! The client side of Coracle: credentials, the gRPC connection, manifests, and packaging workloads as OCI artifacts.
//!
//! Nothing here prints or exits; the `coracle` command does that.

pub mod connection;
pub mod kubeconfig;
pub mod manifest;
pub mod package;
pub mod sessions;

pub use connection::Connection;
pub use kubeconfig::Credentials;
