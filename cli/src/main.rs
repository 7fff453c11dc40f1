//! The `coracle` binary: reads the command line and composes server, agent and SDK. Nothing is decided here.

mod banner;
mod dev;
mod patience;
mod server;
mod verbs;

use anyhow::Result;
use clap::{Parser, Subcommand};
use coracle_node::{Node, process};
use std::process::ExitCode;

/// Runs WebAssembly workloads the way Kubernetes runs containers
#[derive(Debug, Parser)]
#[command(name = "coracle", version, max_term_width = 120, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole cluster, control plane and one node or several, in one go
    Dev(Box<dev::Dev>),
    /// Run a server of the control plane
    Server(server::Server),
    /// Run a node
    Node(Box<Node>),
    #[command(flatten)]
    Verb(verbs::Verb),
}

fn main() -> ExitCode {
    process::child().unwrap_or_else(|| process::run(run(Cli::parse())))
}

async fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Dev(dev) => dev.run().await,
        Command::Server(server) => server.run().await,
        Command::Node(node) => node.run().await,
        Command::Verb(verb) => verbs::run(verb).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn addresses_are_read_and_names_resolved() {
        let listen = |text: &str| match Cli::try_parse_from(["coracle", "dev", "--data-dir", "d", "--listen", text]) {
            Ok(Cli { command: Command::Dev(dev) }) => Some(dev.listen.to_string()),
            _ => None,
        };
        let cases = [
            ("127.0.0.1:0", Some("127.0.0.1:0")),
            ("localhost:1", Some("127.0.0.1:1")),
            ("[::1]:2", Some("[::1]:2")),
            ("127.0.0.1", None),
            ("127.0.0.1:x", None),
            (":1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(listen(text).as_deref(), expected, "{text}");
        }
    }
}
