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
    // The names that the volume has elsewhere are no matter.
    let mount = [runner.volume("deep", "/data")];
    let elsewhere = runner.volume_path("deep").join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for number in 0..12_000 {
        fs::write(elsewhere.join(number.to_string()), "").unwrap();
    }
    let run = visit(&mut runner, &lister, Some(page + (1 << 20)), &mount, &[]).await;
    assert_eq!(run.exit, exited(0));
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

/// A component that waits for so many timers at once, all of them over.
fn waiter(timers: u32) -> Vec<u8> {
    let text = format!(
        r#"(component
            (import "wasi:io/poll@0.2.6" (instance $poll
                (export "pollable" (type $given (sub resource)))
                (export "poll" (func (param "in" (list (borrow $given))) (result (list u32))))))
            (alias export $poll "pollable" (type $pollable))
            (import "wasi:clocks/monotonic-clock@0.2.6" (instance $clock
                (alias outer 1 $pollable (type $given))
                (export "pollable" (type $timer (eq $given)))
                (export "subscribe-duration" (func (param "when" u64) (result (own $timer))))))
            (core module $room
                (memory (export "memory") 2)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0x10000))
            (core instance $kept (instantiate $room))
            (core func $subscribe (canon lower (func $clock "subscribe-duration")))
            (core func $poll (canon lower (func $poll "poll")
                (memory $kept "memory") (realloc (func $kept "realloc"))))
            (core module $m
                (import "kept" "memory" (memory 2))
                (import "host" "subscribe" (func $subscribe (param i64) (result i32)))
                (import "host" "poll" (func $poll (param i32 i32 i32)))
                (func (export "run") (result i32) (local $i i32)
                    (loop
                        (i32.store offset=64 (i32.mul (local.get $i) (i32.const 4)) (call $subscribe (i64.const 0)))
                        (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {timers}))))
                    (call $poll (i32.const 64) (i32.const {timers}) (i32.const 8))
                    i32.const 0))
            (core instance $i (instantiate $m
                (with "kept" (instance $kept))
                (with "host" (instance (export "subscribe" (func $subscribe)) (export "poll" (func $poll))))))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $cli (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $cli)))"#
    );
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

/// A component that writes 8 MiB to the file "f" in the directory that it was given, in one call. Fails when it is refused.
const WRITER: Guest = Guest::Text(
    r#"(component
        (import "wasi:filesystem/types@0.2.6" (instance $types
            (export "descriptor" (type $fd (sub resource)))
            (type $codes (enum "access" "would-block" "already" "bad-descriptor" "busy" "deadlock" "quota" "exist"
                "file-too-large" "illegal-byte-sequence" "in-progress" "interrupted" "invalid" "io" "is-directory" "loop"
                "too-many-links" "message-size" "name-too-long" "no-device" "no-entry" "no-lock" "insufficient-memory"
                "insufficient-space" "not-directory" "not-empty" "not-recoverable" "unsupported" "no-tty"
                "no-such-device" "overflow" "not-permitted" "pipe" "read-only" "invalid-seek" "text-file-busy"
                "cross-device"))
            (export "error-code" (type $code (eq $codes)))
            (type $flags-of-paths (flags "symlink-follow"))
            (export "path-flags" (type $follow (eq $flags-of-paths)))
            (type $flags-of-opening (flags "create" "directory" "exclusive" "truncate"))
            (export "open-flags" (type $open (eq $flags-of-opening)))
            (type $flags-of-descriptors (flags "read" "write" "file-integrity-sync" "data-integrity-sync"
                "requested-write-sync" "mutate-directory"))
            (export "descriptor-flags" (type $how (eq $flags-of-descriptors)))
            (export "[method]descriptor.open-at" (func (param "self" (borrow $fd)) (param "path-flags" $follow)
                (param "path" string) (param "open-flags" $open) (param "flags" $how)
                (result (result (own $fd) (error $code)))))
            (export "[method]descriptor.write" (func (param "self" (borrow $fd)) (param "buffer" (list u8))
                (param "offset" u64) (result (result u64 (error $code)))))))
        (alias export $types "descriptor" (type $descriptor))
        (import "wasi:filesystem/preopens@0.2.6" (instance $preopens
            (alias outer 1 $descriptor (type $given))
            (export "descriptor" (type $fd (eq $given)))
            (export "get-directories" (func (result (list (tuple (own $fd) string)))))))
        (core module $room
            (memory (export "memory") 140)
            (global $next (mut i32) (i32.const 1024))
            (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                (global.set $next (i32.add (global.get $next) (i32.const 64)))
                (i32.sub (global.get $next) (i32.const 64)))
            (data (i32.const 16) "f"))
        (core instance $kept (instantiate $room))
        (core func $directories (canon lower (func $preopens "get-directories")
            (memory $kept "memory") (realloc (func $kept "realloc"))))
        (core func $open (canon lower (func $types "[method]descriptor.open-at") (memory $kept "memory")))
        (core func $write (canon lower (func $types "[method]descriptor.write") (memory $kept "memory")))
        (core module $m
            (import "kept" "memory" (memory 140))
            (import "host" "directories" (func $directories (param i32)))
            (import "host" "open" (func $open (param i32 i32 i32 i32 i32 i32 i32)))
            (import "host" "write" (func $write (param i32 i32 i32 i64 i32)))
            (func (export "run") (result i32)
                (call $directories (i32.const 128))
                (call $open (i32.load (i32.load (i32.const 128))) (i32.const 0) (i32.const 16) (i32.const 1)
                    (i32.const 1) (i32.const 3) (i32.const 136))
                (if (i32.load8_u (i32.const 136)) (then (return (i32.const 1))))
                (call $write (i32.load (i32.const 140)) (i32.const 65536) (i32.const 0x800000) (i64.const 0)
                    (i32.const 144))
                (i32.load8_u (i32.const 144))))
        (core instance $i (instantiate $m
            (with "kept" (instance $kept))
            (with "host" (instance (export "directories" (func $directories)) (export "open" (func $open))
                (export "write" (func $write))))))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $cli (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $cli)))"#,
);

pub(crate) async fn what_calls_of_components_copy_counts(context: Arc<Context>) {
    let mut runner = context.runner().await;
    // Each timer is two resources of 256 bytes, and 512 more while it is waited for.
    let plain = (2 << 16) + (64 << 10) + 4000 * 512;
    let run = visit(&mut runner, &waiter(4000), Some(plain + 4000 * 512), &[], &[]).await;
    assert_eq!(run.exit, exited(0));
    let run = visit(&mut runner, &waiter(4000), Some(plain + 4000 * 256), &[], &[]).await;
    assert_out_of_memory(&run, "pollables");

    let mount = [runner.volume("written", "/data")];
    let plain = (140 << 16) + (64 << 10);
    let run = visit(&mut runner, &WRITER.wasm(), Some(plain + PIECE_BYTES), &mount, &[]).await;
    assert_eq!(run.exit, exited(0));
    assert_eq!(fs::metadata(runner.volume_path("written").join("f")).unwrap().len(), PIECE_BYTES);
    let run = visit(&mut runner, &WRITER.wasm(), Some(plain + PIECE_BYTES / 2), &mount, &[]).await;
    assert_out_of_memory(&run, "a write of a component");
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
