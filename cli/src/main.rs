//! The `coracle` binary: reads the command line and composes server, agent and SDK. Nothing is decided here.

mod banner;
mod dev;
mod logging;
mod node;
mod server;
mod signals;
mod verbs;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use std::{env, process::ExitCode};

/// Runs WebAssembly workloads the way Kubernetes runs containers
#[derive(Debug, Parser)]
#[command(name = "coracle", version, max_term_width = 120, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole cluster, control plane and one node, in one go
    Dev(dev::Dev),
    /// Run a server of the control plane
    Server(server::Server),
    /// Run a node
    Node(node::Node),
    #[command(flatten)]
    Verb(verbs::Verb),
}

fn main() -> ExitCode {
    // Children first: a runner confines itself before any thread exists, and its environment is empty.
    let mut arguments = env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    let child: Option<fn(&[String]) -> ExitCode> = match arguments.next().as_deref() {
        Some("runner") => Some(coracle_runner::child::main),
        Some("compile") => Some(coracle_runner::compile::main),
        _ => None,
    };
    if let Some(child) = child {
        return child(&arguments.collect::<Vec<_>>());
    }
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    logging::init();
    // HTTP clients of several crates look for the process's default; ours name it, but theirs cannot.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(async {
        match cli.command {
            Command::Dev(dev) => dev.run().await,
            Command::Server(server) => server.run().await,
            Command::Node(node) => node.run().await,
            Command::Verb(verb) => verbs::run(verb).await,
        }
    })
}

#[expect(clippy::print_stderr, reason = "the one place that tells a person what went wrong")]
fn print_error(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
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
