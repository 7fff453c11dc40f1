//! What each kind means: defaults, preparation, validation and table cells, one module per kind.

pub mod config_map;
pub mod endpoint_slice;
pub mod endpoints;
pub mod event;
pub mod lease;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod secret;
pub mod service;
