//! Guests whose single calls make the runner copy or keep much. What a call needs while it waits is the container's.

use super::{assert_out_of_memory, module, visit};
use crate::fixture::{Context, Guest, exited};
use coracle_runner::protocol::{FromRunner, INPUT_WINDOW_BYTES, Mount, RunId, StdinMode, ToRunner};
use std::{fs, sync::Arc};

/// Memory of a module whose memory has 200 pages, and 64 KiB for what is kept for it from its start on.
const LARGE_BYTES: u64 = (200 << 16) + (64 << 10);
/// What its calls are about: 8 MiB from the second page on.
const PIECE_BYTES: u64 = 8 << 20;

/// Opens or makes "f" in the directory that it was given, as number 4, and calls what is asked for on it. Exits with the
/// error, and with 99 when the call did less than all of the piece.
fn on_a_file(call: &str) -> Vec<u8> {
    module(
        &[
            ("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32"),
            ("fd_write", "i32 i32 i32 i32"),
            ("fd_pwrite", "i32 i32 i32 i64 i32"),
            ("fd_read", "i32 i32 i32 i32"),
        ],
        r#"(data (i32.const 16) "f") (data (i32.const 32) "\00\00\01\00\00\00\80\00")"#,
        &format!(
            "(local $error i32)
             (drop (memory.grow (i32.const 199)))
             (if (local.tee $error (call $path_open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 1)
                     (i32.const 1) (i64.const 0x42) (i64.const 0) (i32.const 0) (i32.const 0)))
                 (then (call $exit (local.get $error))))
             (if (local.tee $error {call}) (then (call $exit (local.get $error))))
             (if (i32.ne (i32.load (i32.const 8)) (i32.const 0x800000)) (then (call $exit (i32.const 99))))"
        ),
    )
}

pub(crate) async fn what_a_file_call_copies_counts(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let mount = [runner.volume("files", "/data")];
    for (name, call) in [
        ("fd_write", "(call $fd_write (i32.const 4) (i32.const 32) (i32.const 1) (i32.const 8))"),
        ("fd_pwrite", "(call $fd_pwrite (i32.const 4) (i32.const 32) (i32.const 1) (i64.const 0) (i32.const 8))"),
        ("fd_read", "(call $fd_read (i32.const 4) (i32.const 32) (i32.const 1) (i32.const 8))"),
    ] {
        let wasm = on_a_file(call);
        let run = visit(&mut runner, &wasm, Some(LARGE_BYTES + PIECE_BYTES), &mount, &[]).await;
        assert_eq!(run.exit, exited(0), "{name} with room for its copy");
        let run = visit(&mut runner, &wasm, Some(LARGE_BYTES + PIECE_BYTES / 2), &mount, &[]).await;
        assert_out_of_memory(&run, name);
    }
    // A large buffer for a small file is nothing.
    fs::write(runner.volume_path("files").join("f"), "small").unwrap();
    let wasm = on_a_file("(call $fd_read (i32.const 4) (i32.const 32) (i32.const 1) (i32.const 8))");
    let run = visit(&mut runner, &wasm, Some(LARGE_BYTES + PIECE_BYTES / 2), &mount, &[]).await;
    assert_eq!(run.exit, exited(99));
}

pub(crate) async fn waits_and_listings_count(context: Arc<Context>) {
    let mut runner = context.runner().await;
    // Sixteen thousand timers that are over at once. All of them are read before the first is waited for.
    let many = module(
        &[("poll_oneoff", "i32 i32 i32 i32")],
        "",
        "(drop (memory.grow (i32.const 199)))
         (call $exit (call $poll_oneoff (i32.const 0x10000) (i32.const 0x200000) (i32.const 16000) (i32.const 8)))",
    );
    let run = visit(&mut runner, &many, None, &[], &[]).await;
    assert_eq!(run.exit, exited(0));
    let run = visit(&mut runner, &many, Some(LARGE_BYTES + (4 << 20)), &[], &[]).await;
    assert_out_of_memory(&run, "things waited for");

    let lister = module(
        &[("fd_readdir", "i32 i32 i32 i64 i32")],
        "",
        "(call $exit (call $fd_readdir (i32.const 3) (i32.const 1024) (i32.const 1024) (i64.const 0) (i32.const 8)))",
    );
    let mount = [runner.volume("names", "/data")];
    for number in 0..2000 {
        fs::write(runner.volume_path("names").join(number.to_string()), "").unwrap();
    }
    let page = 64 << 10;
    let run = visit(&mut runner, &lister, Some(page + (512 << 10)), &mount, &[]).await;
    assert_eq!(run.exit, exited(0));
    let run = visit(&mut runner, &lister, Some(page + (128 << 10)), &mount, &[]).await;
    assert_out_of_memory(&run, "a listing");
}

pub(crate) async fn paths_that_no_kernel_takes_are_refused(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let mount = [runner.volume("paths", "/data")];
    for (name, parameters, call) in [
        ("path_create_directory", "i32 i32 i32", "(i32.const 3) (i32.const 1024) (i32.const 4097)"),
        ("path_unlink_file", "i32 i32 i32", "(i32.const 3) (i32.const 1024) (i32.const 4097)"),
        (
            "path_filestat_get",
            "i32 i32 i32 i32 i32",
            "(i32.const 3) (i32.const 0) (i32.const 1024) (i32.const 4097) (i32.const 8)",
        ),
    ] {
        let fill = "(memory.fill (i32.const 1024) (i32.const 47) (i32.const 4097))";
        let wasm = module(&[(name, parameters)], "", &format!("{fill} (call $exit (call ${name} {call}))"));
        let run = visit(&mut runner, &wasm, None, &mount, &[]).await;
        // ENAMETOOLONG.
        assert_eq!(run.exit, exited(37), "{name}");
    }
}

/// What a run counts while it waits.
async fn counted(runner: &mut crate::fixture::Runner, run: &RunId) -> u64 {
    runner.until_written(run, "waiting").await;
    runner.samples().await[run].memory_bytes
}

pub(crate) async fn what_a_run_is_given_counts(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let start = runner.guest(Guest::ToolboxP1, &["wait-eof"]).await;
    let run = runner.start(start).await;
    let plain = counted(&mut runner, &run).await;

    let mut start = runner.guest(Guest::ToolboxP1, &["wait-eof"]).await;
    start.stdin = StdinMode::Open;
    let with_input = runner.start(start).await;
    assert!(counted(&mut runner, &with_input).await >= plain + u64::from(INPUT_WINDOW_BYTES));

    let mut start = runner.guest(Guest::ToolboxP1, &["wait-eof"]).await;
    start.mounts = (0..50).map(|number| Mount { target: format!("/{number}"), ..runner.volume("v", "/") }).collect();
    let mounted = runner.start(start).await;
    assert!(counted(&mut runner, &mounted).await >= plain + 50 * (2 * 256 + 1024), "paths, and a descriptor each");

    // A command's input is its container's, and no reason to end that.
    let mut start = runner.guest(Guest::ToolboxP1, &["wait-eof"]).await;
    start.memory_limit_bytes = Some(plain + 4096);
    let tight = runner.start(start).await;
    runner.until_written(&tight, "waiting").await;
    let mut start = runner.guest(Guest::ToolboxP1, &["tally"]).await;
    start.joins = Some(tight.clone());
    start.stdin = StdinMode::Open;
    assert!(runner.refusal(start).await.contains("no memory left for the input"));
    for run in [run, with_input, mounted, tight] {
        runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
        while !matches!(runner.frame_of(&run).await, FromRunner::Exited { .. }) {}
    }
}
