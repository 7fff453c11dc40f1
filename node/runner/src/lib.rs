//! Runs guests. wasmtime lives only here.
//!
//! The agent spawns a runner process per namespace ([`process::RunnerProcess`]) and talks to it in frames
//! ([`protocol`]), and in messages that may carry connections ([`network`]); the child runs [`child::main`]. Compiling
//! happens in yet another, short-lived process ([`compile`]).
//!
//! What must never happen here: a guest that reaches a file outside its mounts, a socket, or a name that the agent did
//! not answer; a queue or buffer that grows with what a guest does; a runner that outlives its agent.

pub mod child;
pub mod compile;
#[doc(hidden)]
pub mod measure;
pub mod network;
pub mod process;
pub mod protocol;
pub mod rest;
pub mod tree;

mod blueprint;
mod code;
mod confine;
mod cpu;
mod endings;
mod engine;
mod frame;
mod guests;
mod host;
mod http_server;
mod link;
mod memory;
mod resident;
mod run;
mod spawner;
mod storage;
mod threads;
