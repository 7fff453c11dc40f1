//! What the end-to-end suites share: a cluster started from the built binary, real kubectls, bounded waiting.
//!
//! Nothing here looks inside the system: everything goes through the doors that users have.

pub mod apart;
pub mod by_hand;
pub mod bystanders;
pub mod chaos;
pub mod churn;
pub mod cluster;
pub mod connections;
pub mod crossing;
pub mod crowd;
mod daemon;
pub mod device;
pub mod fleet;
pub mod footprint;
pub mod hosts;
pub mod kubectl;
pub mod mount;
pub mod network;
pub mod older_kernel;
pub mod pods;
pub mod processes;
pub mod pty;
pub mod random;
pub mod registry;
pub mod site;
pub mod storm;
pub mod wait;

pub use apart::Apart;
pub use cluster::Cluster;
pub use device::Device;
pub use fleet::Fleet;
pub use footprint::Footprint;
pub use kubectl::Kubectl;
pub use wait::eventually;

use std::path::{Path, PathBuf};

/// The root of the checkout.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// A file below `examples/`.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    repository().join("examples").join(name)
}

/// A fixture below `tests/guests/`.
#[must_use]
pub fn guest(name: &str) -> PathBuf {
    repository().join("tests/guests").join(name)
}
