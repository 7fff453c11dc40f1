//! Runs guests. wasmtime lives only here.
//!
//! The agent spawns a runner process per namespace ([`process::RunnerProcess`]) and talks to it in frames
//! ([`protocol`]); the child runs [`child::main`]. Compiling happens in yet another, short-lived process.

pub mod child;
pub mod compile;
pub mod process;
pub mod protocol;
