//! Guests that take more than is theirs.

use super::{assert_out_of_memory, module, neighbour, visit};
use crate::fixture::{Context, Guest, Runner, exited, myself, proc_figure};
use coracle_runner::protocol::{ExitCause, ToRunner};
use std::sync::Arc;

/// How each guest grows, the least limit that lets it exit by itself, and the code that it then exits with.
const GROWERS: &[(&str, &str, &str, u64, i32)] = &[
    (
        "memory, page by page up to 48 MiB",
        "",
        "(loop (br_if 0 (i32.and (i32.ne (memory.grow (i32.const 1)) (i32.const -1))
                                 (i32.lt_u (memory.size) (i32.const 768)))))
         (call $exit (i32.const 1))",
        48 << 20,
        1,
    ),
    (
        "all memory at once, and going on without",
        "",
        "(drop (memory.grow (i32.const 65535))) (call $exit (i32.const 2))",
        4 << 30,
        2,
    ),
    (
        "a table until there is no more",
        "(table $t 0 funcref)",
        "(loop (br_if 0 (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1))))
         (call $exit (i32.const 3))",
        (64 << 10) + 65_000 * 8,
        3,
    ),
    (
        "many tables at once",
        "(table $a 60000 funcref) (table $b 60000 funcref) (table $c 60000 funcref) (table $d 60000 funcref)",
        "(call $exit (i32.const 4))",
        (64 << 10) + 4 * 60_000 * 8,
        4,
    ),
    (
        "a table that is too large at once",
        "(table $t 0 funcref)",
        "(call $exit (i32.eq (table.grow $t (ref.null func) (i32.const 0x7fffffff)) (i32.const -1)))",
        64 << 10,
        1,
    ),
    (
        "memory that is filled and copied over and over",
        "",
        "(local $i i32)
         (drop (memory.grow (i32.const 511)))
         (loop (memory.fill (i32.const 0) (i32.const 7) (i32.const 0x2000000))
               (memory.copy (i32.const 1) (i32.const 0) (i32.const 0x1ffffff))
               (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 20))))
         (call $exit (i32.const 5))",
        32 << 20,
        5,
    ),
];

pub(crate) async fn growing_is_ended_there_and_then(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for (what, more, start, least, code) in GROWERS {
        let wasm = module(&[], more, start);
        let run = visit(&mut runner, &wasm, Some(least + 4096), &[], &[]).await;
        assert_eq!(run.exit, exited(*code), "{what} within its limit");
        // The module begins with one page, and needs some bytes for its name.
        if *least > 65_536 {
            let run = visit(&mut runner, &wasm, Some(least - 4096), &[], &[]).await;
            assert_out_of_memory(&run, what);
        }
    }
}

/// A call that calls itself without end: with little on the stack, with much of it, and through a table.
const RECURSIONS: &[(&str, &str, &str)] = &[
    ("small frames", "(func $again (call $again))", "(call $again)"),
    (
        "large frames",
        "(func $again (param i64 i64 i64 i64 i64 i64 i64 i64) (result i64)
            (i64.add (local.get 0) (call $again (local.get 1) (local.get 2) (local.get 3) (local.get 4)
                (local.get 5) (local.get 6) (local.get 7) (local.get 0))))",
        "(drop (call $again (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4) (i64.const 5) (i64.const 6)
            (i64.const 7) (i64.const 8)))",
    ),
    (
        "through a table",
        "(table 1 funcref) (elem (i32.const 0) $again) (func $again (call_indirect (i32.const 0)))",
        "(call $again)",
    ),
];
/// What a stack without a bound would soon exceed; a guest's has a MiB.
const STACK_KIB_MAX: u64 = 16 << 10;

pub(crate) async fn recursion_ends_soon_and_costs_little(context: Arc<Context>) {
    let mut runner = context.runner().await;
    neighbour(&mut runner).await;
    let peak = |runner: &Runner| proc_figure(runner.process.pid(), "status", "VmHWM");
    let before = peak(&runner);
    for (what, more, start) in RECURSIONS {
        let run = visit(&mut runner, &module(&[], more, start), Some(1 << 20), &[], &[]).await;
        assert_eq!(run.exit.cause, ExitCause::Trapped, "{what}: {:?}", run.exit);
        assert!(run.exit.message.contains("call stack exhausted"), "{what}: {}", run.exit.message);
    }
    let grown = peak(&runner) - before;
    assert!(grown < STACK_KIB_MAX, "recursion took {grown} KiB");
}

/// Opens the directory that it was given again and again, and exits with the error that ends it.
const OPENER: &str = "(local $error i32)
    (loop (br_if 0 (i32.eqz (local.tee $error
        (call $path_open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 0)
                         (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 0))))))
    (call $exit (local.get $error))";

/// Makes timers until it is ended.
const TIMERS: Guest = Guest::Text(
    r#"(component
        (import "wasi:io/poll@0.2.6" (instance $poll (export "pollable" (type (sub resource)))))
        (alias export $poll "pollable" (type $pollable))
        (import "wasi:clocks/monotonic-clock@0.2.6" (instance $clock
            (alias outer 1 $pollable (type $given))
            (export "pollable" (type $timer (eq $given)))
            (export "subscribe-duration" (func (param "when" u64) (result (own $timer))))))
        (core func $subscribe (canon lower (func $clock "subscribe-duration")))
        (core module $m
            (import "host" "subscribe" (func $subscribe (param i64) (result i32)))
            (func (export "run") (result i32)
                (loop (drop (call $subscribe (i64.const -1))) (br 0)) i32.const 0))
        (core instance $i (instantiate $m
            (with "host" (instance (export "subscribe" (func $subscribe))))))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $cli (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $cli)))"#,
);

pub(crate) async fn what_the_runner_keeps_counts(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let opener =
        module(&[("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32")], r#"(data (i32.const 16) ".")"#, OPENER);
    let mount = [runner.volume("opened", "/data")];
    let run = visit(&mut runner, &opener, None, &mount, &[]).await;
    // EMFILE: as many descriptors as there may be.
    assert_eq!(run.exit, exited(33));
    let run = visit(&mut runner, &opener, Some(1 << 20), &mount, &[]).await;
    assert_out_of_memory(&run, "descriptors");

    let timers = TIMERS.wasm();
    let run = visit(&mut runner, &timers, Some(4 << 20), &[], &[]).await;
    assert_out_of_memory(&run, "timers");
    let run = visit(&mut runner, &timers, None, &[], &[]).await;
    assert_eq!(run.exit.cause, ExitCause::Trapped, "there is an end of resources: {}", run.exit.message);
    assert!(run.exit.message.contains("table"), "{}", run.exit.message);
}

/// A component with so many core instances, each with a table, and so many of them with a memory.
fn crowd(instances: usize, memories: usize) -> Vec<u8> {
    let instances = (0..instances).map(|index| {
        let kind = if index < memories { "$memory" } else { "$table" };
        format!("(core instance (instantiate {kind}))\n")
    });
    component(&instances.collect::<String>())
}

/// One with so many core instances that have nothing.
fn crowd_of_instances(instances: usize) -> Vec<u8> {
    component(&"(core instance (instantiate $nothing))\n".repeat(instances))
}

fn component(instances: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
            (core module $memory (memory 1))
            (core module $table (table 1 funcref))
            (core module $nothing)
            {instances}
            (core module $m (func (export "run") (result i32) (loop (br 0)) unreachable))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $cli (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $cli)))"#
    );
    wat::parse_str(text).unwrap()
}

pub(crate) async fn one_guest_takes_only_its_share_of_the_pool(context: Arc<Context>) {
    let mut runner = context.runner_for(8).await;
    // As much as one may have of the tables that nobody has a right to: no second one has room for that, everybody
    // else has for what is usual.
    let greedy = crowd(60, 0);
    let start = runner.wasm(&greedy, &[]).await;
    let first = runner.start(start).await;
    runner.until_started(&first).await;
    let start = runner.wasm(&greedy, &[]).await;
    let second = runner.refusal(start).await;
    assert!(second.contains("tables more than usual"), "{second}");
    neighbour(&mut runner).await;
    // Memories are slots.
    let start = runner.wasm(&crowd(4, 4), &[]).await;
    let third = runner.start(start).await;
    runner.until_started(&third).await;
    let start = runner.wasm(&crowd(5, 5), &[]).await;
    let message = runner.refusal(start).await;
    assert!(message.contains("no room for another instance with 5 memories"), "{message}");
    neighbour(&mut runner).await;
    for run in [first, third] {
        runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
        runner.end(&run).await;
    }
    // More core instances than one may have end who asks for them.
    let run = visit(&mut runner, &crowd_of_instances(200), None, &[], &[]).await;
    assert_eq!(run.exit.cause, ExitCause::Trapped);
    assert!(run.exit.message.contains("instance count too high"), "{}", run.exit.message);
}

pub(crate) async fn together_they_have_a_ceiling(context: Arc<Context>) {
    let mut command = myself("runner");
    command.extend(["--memory-ceiling-bytes".into(), (256 << 20).to_string().into()]);
    let mut runner = context.runner_by(command, 20).await;
    let start = runner.guest(Guest::Toolbox, &["alloc", "8", "--", "wait-eof"]).await;
    let modest = runner.start(start).await;
    runner.until_written(&modest, "waiting").await;
    let start = runner.guest(Guest::ToolboxP1, &["alloc", "1000", "--", "wait-eof"]).await;
    let greedy = runner.start(start).await;
    let run = runner.end(&greedy).await;
    assert_out_of_memory(&run, "without a limit");
    assert!(run.exit.message.contains("may have together"), "{}", run.exit.message);
    neighbour(&mut runner).await;
    runner.process.send(ToRunner::Stop(modest.clone())).await.unwrap();
    assert_eq!(runner.end(&modest).await.exit, exited(0));
}
