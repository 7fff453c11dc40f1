//! A node as a program: its options, its start and its end, for `coracle-node` and for the `coracle` binary, which is a
//! node too when it is asked to be.
//!
//! It must never know the control plane: a device carries this crate and nothing of that.

mod join;
mod logging;
mod node;
pub mod process;
mod signals;
mod supervisor;
mod workloads;

pub use coracle_agent::credentials::Credentials;
pub use node::{Node, config};
pub use process::absolute;
pub use signals::Signals;
pub use supervisor::Supervisor;
pub use workloads::WorkloadOptions;
