//! `coracle-node`: the node alone. It holds the agent, the runner and the compiler of guests, and no control plane.

use clap::Parser;
use coracle_node::{Node, process};
use std::process::ExitCode;

/// Runs WebAssembly workloads of a Coracle cluster on this machine
#[derive(Debug, Parser)]
#[command(name = "coracle-node", version, max_term_width = 120, arg_required_else_help = true)]
struct Program {
    #[command(flatten)]
    node: Node,
}

fn main() -> ExitCode {
    process::child().unwrap_or_else(|| process::run(Program::parse().node.run()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Program::command().debug_assert();
    }
}
