//! What each kind means: defaults, preparation, validation and table cells, one module per kind.
//!
//! Every function here is total: whatever JSON it is given, it returns, in time and memory bounded by the object's size.

mod access;
pub mod age;
mod causes;
mod metadata;
mod network;
mod print;
mod taint;

pub mod certificate_signing_request;
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

use causes::{Causes, Path};

#[cfg(test)]
mod tests;
