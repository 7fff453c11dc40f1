//! The object model, pure: what kinds exist, what their fields mean, and every rule that needs no I/O.
//!
//! Objects travel as [`serde_json::Value`]. Rules read them through `k8s-openapi` types where that is clearer;
//! the shape of a kind (types, required fields, list keys) comes only from the field table in [`fields`].
//! This crate must never read a clock, a file, a socket or a random number.

pub mod apply;
pub mod bootstrap;
pub mod catalogue;
pub mod decode;
pub mod discovery;
pub mod error;
pub mod fields;
pub mod kind;
pub mod meta;
pub mod metrics;
pub mod names;
pub mod node_affinity;
pub mod nodes;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod ranges;
pub mod references;
pub mod registry_auth;
pub mod resources;
pub mod reviews;
pub mod rules;
pub mod selector;
pub mod static_pods;
pub mod table;
pub mod taints;

pub use error::{ApiError, Cause, Reason};
pub use kind::Kind;
pub use names::ObjectKey;

/// `major.minor` of the Kubernetes release whose types (`k8s-openapi` feature) this build serves.
pub const KUBERNETES_VERSION: (&str, &str) = ("1", "33");
