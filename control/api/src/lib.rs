//! The door: Kubernetes' HTTP API, gRPC and the registry on one TLS port; authentication, authorization, admission.

mod admission;
pub mod auth;
mod client;
pub mod door;
pub mod grpc;
pub mod http;
pub mod identity;
pub mod listener;
mod metrics;
pub mod nodelink;
pub mod registry;
mod sessions;
#[cfg(test)]
mod testing;

pub use admission::default_tolerations::TolerationDefaults;
pub use door::{Door, DoorConfig};
