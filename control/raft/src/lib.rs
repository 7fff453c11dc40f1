//! Replicates commands: the raft log over the store's backend, the state machine behind it, the way to peers.
//!
//! [`Replica`] is what a server opens. It owns one thread, which drains all waiting proposals into one synced write (many
//! writers, one fsync), applies what is committed and answers. All decisions are made in [`core::Core`], a step function without
//! threads or clocks, which simulation drives over the memory backend.
//!
//! Must never: answer a proposal that is not on the disks of a majority and applied here; let anything but a committed
//! entry change an object; start on a database that is somebody else's.

pub mod core;
mod error;
mod identity;
mod inbox;
mod log;
mod logger;
mod reads;
mod replica;
mod transport;

pub use error::{OpenError, ReplicaError};
pub use log::LogLimits;
pub use replica::{COMMAND_BYTES_MAX, Replica, ReplicaConfig};
pub use transport::{NoPeers, Transport};
