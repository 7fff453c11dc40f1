//! Packaging: looking into workload files, and pushing them to and pulling them from registries as OCI artifacts.

pub mod docker;
pub mod inspect;
pub mod place;
pub mod pull;
pub mod push;
pub mod registry;

/// Media type of a wasm layer, as the CNCF working group's layout has it.
pub const WASM_LAYER: &str = "application/wasm";
/// Media type of the config of a wasm artifact.
pub const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
