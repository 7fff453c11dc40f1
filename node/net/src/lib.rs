//! The virtual network. In this issue: names. No wasmtime, no real sockets, no I/O: the agent feeds it objects and
//! asks it questions.

pub mod names;

pub use names::{NameError, Names};
