//! Every way to trap: the exit, the message, and the end of the log, by name where the module has names.

use crate::fixture::{Context, Guest, Run, Runner};
use coracle_runner::protocol::ExitCause;
use std::sync::Arc;

/// What `_start` calls, what it needs beside it, and what the runner says of it.
const TRAPS: &[(&str, &str, &str)] = &[
    ("unreachable", "", "wasm `unreachable` instruction executed"),
    ("i32.const 65536 i32.load drop", "", "out of bounds memory access"),
    ("i32.const 65533 i32.const 1 i32.store", "", "out of bounds memory access"),
    ("i32.const 0 i32.const 7 i32.const 65537 memory.fill", "", "out of bounds memory access"),
    ("i32.const 0 i32.const 65535 i32.const 2 memory.copy", "", "out of bounds memory access"),
    ("i32.const 1 i32.const 0 i32.div_s drop", "", "integer divide by zero"),
    ("i64.const 1 i64.const 0 i64.rem_u drop", "", "integer divide by zero"),
    ("i32.const 0x80000000 i32.const -1 i32.div_s drop", "", "integer overflow"),
    ("f64.const 1e30 i32.trunc_f64_s drop", "", "integer overflow"),
    ("f32.const nan i32.trunc_f32_s drop", "", "invalid conversion to integer"),
    ("i32.const 0 call_indirect (result i32) drop", "(elem (i32.const 0) $main)", "indirect call type mismatch"),
    ("i32.const 1 call_indirect", "", "uninitialized element"),
    ("i32.const 99 call_indirect", "", "undefined element: out of bounds table access"),
    ("i32.const 99 table.get drop", "", "out of bounds table access"),
    ("i32.const 1 i32.const 99 i32.const 1 table.copy", "", "out of bounds table access"),
    ("call $culprit", "", "call stack exhausted"),
];

fn module(body: &str, more: &str, start: bool) -> Vec<u8> {
    let start = if start { "(start $main)" } else { "" };
    let text = format!(
        r#"(module $victim (memory (export "memory") 1) (table 10 funcref) {more} {start}
            (func $culprit {body})
            (func $main call $culprit)
            (func (export "_start") call $main))"#
    );
    wat::parse_str(text).unwrap()
}

fn assert_trapped(run: &Run, expected: &[&str], what: &str) {
    assert_eq!((run.exit.code, run.exit.cause), (134, ExitCause::Trapped), "{what}: {}", run.exit.message);
    for part in expected {
        assert!(run.exit.message.contains(part), "{what}: {part:?} is not in {}", run.exit.message);
    }
    assert!(run.exit.message.len() <= 4096, "{what}: {} bytes", run.exit.message.len());
    assert_eq!(run.stderr, format!("{}\n", run.exit.message), "{what}: the log does not end with the trap");
}

async fn run(runner: &mut Runner, wasm: &[u8]) -> Run {
    let start = runner.wasm(wasm, &[]).await;
    runner.run(start).await
}

pub(crate) async fn each_kind_says_what_and_where(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for (body, more, expected) in TRAPS {
        let run = run(&mut runner, &module(body, more, false)).await;
        assert_trapped(&run, &[expected, "wasm backtrace:", "victim!culprit"], body);
    }
    for (body, more, expected) in &TRAPS[..6] {
        let run = run(&mut runner, &module(body, more, true)).await;
        assert_trapped(&run, &[expected, "victim!culprit", "victim!main"], body);
    }
}

pub(crate) async fn without_names_it_is_the_offset(context: Arc<Context>) {
    let mut runner = context.runner().await;
    // Stripped: no names but that of the export.
    let wasm =
        wat::parse_str("(module (func (export \"_start\") call 1) (func i32.const 7 drop unreachable))").unwrap();
    let run = run(&mut runner, &wasm).await;
    // Where the second function begins: no locals, then its first instruction.
    let offset = wasm.windows(3).position(|code| code == b"\0\x41\x07").unwrap();
    assert_trapped(&run, &["unreachable", &format!("{offset:#x}"), "<wasm function 1>"], "stripped");
}

pub(crate) async fn data_that_does_not_fit_is_a_trap(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for more in ["(data (i32.const 65535) \"too long\")", "(elem (i32.const 9) $main $main)"] {
        let run = run(&mut runner, &module("nop", more, false)).await;
        assert_eq!((run.exit.code, run.exit.cause), (134, ExitCause::Trapped), "{more}");
        assert!(run.exit.message.contains("out of bounds"), "{more}: {}", run.exit.message);
        assert_eq!(run.stderr, format!("{}\n", run.exit.message));
    }
}

pub(crate) async fn names_are_readable_and_bounded(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for guest in [Guest::Toolbox, Guest::ToolboxP1] {
        let start = runner.guest(guest, &["panic"]).await;
        let run = runner.run(start).await;
        assert_eq!(run.exit.code, 134, "{guest:?}");
        // What the guest wrote comes first, the trap last.
        let (said, trap) = run.stderr.split_once("wasm trap").unwrap();
        assert!(said.contains("told to panic") && trap.ends_with('\n'), "{guest:?}: {}", run.stderr);
        assert!(run.stderr.contains("panic"), "{guest:?}: {}", run.stderr);
        assert!(!run.stderr.contains("_ZN"), "{guest:?}: {}", run.stderr);
    }
    let long = "n".repeat(90_000);
    let wasm = wat::parse_str(format!("(module (func ${long} unreachable) (func (export \"_start\") call ${long}))"));
    let run = run(&mut runner, &wasm.unwrap()).await;
    assert_trapped(&run, &["unreachable", "nnnn"], "a long name");
    assert_eq!(run.exit.message.len(), 4096);
}

/// A component that does not catch what its core module does.
const COMPONENT: Guest = Guest::Text(
    r#"(component
        (core module $inner (func $deep_down unreachable)
            (func (export "run") (result i32) call $deep_down i32.const 0))
        (core instance $i (instantiate $inner))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $cli (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $cli)))"#,
);

pub(crate) async fn components_trap_as_well(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let run = run(&mut runner, &COMPONENT.wasm()).await;
    assert_trapped(&run, &["unreachable", "deep_down"], "a component");
}
