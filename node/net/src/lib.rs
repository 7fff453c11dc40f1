//! The virtual network: addresses, services, names, and who may talk to whom. No wasmtime. The modules named here are pure
//! tables: no I/O, no clock; the agent feeds them objects and asks them questions.

pub mod addresses;
pub mod balance;
pub mod class;
pub mod dns;
pub mod names;
pub mod policy;
pub mod range;
pub mod services;

pub use names::{NameError, Names};
