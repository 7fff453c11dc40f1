//! Hostile guests at the runner's door. Each gets what it deserves, and after each the runner is alive and a neighbour in
//! it is answered promptly.

mod calls;
mod copies;
mod memory;
mod paths;

pub(crate) use calls::{bad_pointers_harm_nobody, waiting_for_too_much_is_refused};
pub(crate) use copies::{
    paths_that_no_kernel_takes_are_refused, waits_and_listings_count, what_a_file_call_copies_counts,
    what_a_run_is_given_counts, what_calls_of_components_copy_counts,
};
pub(crate) use memory::{
    growing_is_ended_there_and_then, one_guest_takes_only_its_share_of_the_pool, recursion_ends_soon_and_costs_little,
    together_they_have_a_ceiling, what_the_runner_keeps_counts,
};
pub(crate) use paths::{
    directories_may_move_while_they_are_read, names_that_lead_elsewhere, special_files_hold_nobody_up,
};

use crate::fixture::{Guest, Run, Runner};
use coracle_runner::protocol::{ExitCause, Mount};
use std::time::Duration;
use tokio::time::timeout;

/// How long a neighbour may take from its start to its end, on a machine that does other things too.
const PROMPT: Duration = Duration::from_secs(20);

/// A module of preview 1: `imports` names the functions that `start` and `more` call.
fn module(imports: &[(&str, &str)], more: &str, start: &str) -> Vec<u8> {
    let imports = imports.iter().map(|(name, parameters)| {
        format!("(import \"wasi_snapshot_preview1\" \"{name}\" (func ${name} (param {parameters}) (result i32)))\n")
    });
    let text = format!(
        r#"(module {imports}
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            {more}
            (func (export "_start") {start}))"#,
        imports = imports.collect::<String>(),
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs a guest of this zoo to its end, and sees that nobody else suffers.
async fn visit(runner: &mut Runner, wasm: &[u8], limit_bytes: Option<u64>, mounts: &[Mount], words: &[&str]) -> Run {
    let mut start = runner.wasm(wasm, words).await;
    start.memory_limit_bytes = limit_bytes;
    start.mounts = mounts.to_vec();
    let run = runner.run(start).await;
    neighbour(runner).await;
    run
}

/// A neighbour that does its work although others misbehave.
async fn neighbour(runner: &mut Runner) {
    let mut start = runner.guest(Guest::ToolboxP1, &["write", "/data/file", "text", "--", "cat", "/data/file"]).await;
    start.mounts = vec![runner.volume("of-the-neighbour", "/data")];
    let run = timeout(PROMPT, runner.run(start)).await.expect("the neighbour is held up");
    assert_eq!((run.exit.code, run.stdout.as_str()), (0, "done\ntext\n"), "{}", run.exit.message);
}

fn assert_out_of_memory(run: &Run, what: &str) {
    assert_eq!((run.exit.code, run.exit.cause), (137, ExitCause::OutOfMemory), "{what}: {:?}", run.exit);
}
