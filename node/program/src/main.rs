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

    #[test]
    fn a_node_joins_or_runs_with_what_it_has() {
        let understood = |words: &str| {
            let words = words.split_whitespace();
            Program::try_parse_from(std::iter::once("coracle-node").chain(words)).map(|program| format!("{program:?}"))
        };
        for words in ["--data-dir d", "--data-dir d --name n", "--server https://a:1 --credentials c --data-dir d"] {
            let understood = understood(words).unwrap();
            assert!(understood.contains("data_dir: \"d\"") && !understood.contains("Join"), "{words}: {understood}");
        }
        let invited = "join https://a:1 --token t --ca-cert-hash sha256:h --data-dir e";
        let joins = understood(&format!("{invited} --name n")).unwrap();
        assert!(joins.contains("Join") && joins.contains("data_dir: \"e\""), "{joins}");
        for words in
            ["", "--server https://a:1", "--credentials c --data-dir d", "join https://a:1 --token t --data-dir d"]
        {
            assert!(understood(words).is_err(), "{words}");
        }
        for (option, says) in [
            ("--address 0.0.0.0", "others reach"),
            ("--label node-role.kubernetes.io/edge=", "kubectl label node"),
            ("--name Bad_Name", "lower case"),
        ] {
            for words in [format!("--data-dir d {option}"), format!("{invited} {option}")] {
                assert!(understood(&words).is_err_and(|error| error.to_string().contains(says)), "{words}");
            }
        }
        assert!(understood(&format!("--data-dir d {invited}")).is_err(), "a directory is named once");
    }
}
