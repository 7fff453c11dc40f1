//! Packaging: looking into workload files, and pushing them to a registry as OCI artifacts.

pub mod inspect;
pub mod push;
pub mod registry;

/// Media type of a wasm layer, as the CNCF working group's layout has it.
pub const WASM_LAYER: &str = "application/wasm";
/// Media type of the config of a wasm artifact.
pub const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
