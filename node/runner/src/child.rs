//! The runner process itself.

use std::process::ExitCode;

/// Entry point of the runner process: takes over file descriptor 3, the stream to the agent, and runs until it ends.
/// Arguments are those behind `runner` on the command line.
#[must_use]
pub fn main(_arguments: &[String]) -> ExitCode {
    unimplemented!("owner: runner")
}
