//! The virtual network: addresses, services, names, and who may talk to whom. No wasmtime. All modules but two are pure
//! tables: no I/O, no clock; the agent feeds them objects and asks them questions. [`fabric`] acts on them: it makes connections
//! and passes on datagrams; [`tunnel`] carries both to other nodes.

pub mod addresses;
pub mod balance;
pub mod class;
pub mod dns;
pub mod fabric;
pub mod names;
pub mod policy;
pub mod range;
pub mod services;
pub mod tunnel;

pub use names::{NameError, Names};
