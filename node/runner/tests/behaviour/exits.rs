//! Exit codes, command lines, and what does not start.

use crate::fixture::{Context, Guest, exited};
use coracle_runner::protocol::{ExitCause, GuestKind};
use std::{fs, sync::Arc};

pub(crate) async fn components(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for (words, code) in [
        (&["exit", "0"][..], 0),
        (&["exit", "1"], 1),
        // WASI 0.2's `exit` knows success and failure only.
        (&["exit", "3"], 1),
        (&["echo", "hello"], 0),
        (&["fail"], 1),
    ] {
        let start = runner.guest(Guest::Toolbox, words).await;
        assert_eq!(runner.run(start).await.exit, exited(code), "{words:?}");
    }
}

pub(crate) async fn modules(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for (words, code) in [
        (&["exit", "0"][..], 0),
        (&["exit", "1"], 1),
        (&["exit", "3"], 3),
        (&["exit", "125"], 125),
        (&["exit", "126"], 126),
        (&["exit", "255"], 255),
        (&["exit", "256"], 0),
        (&["exit", "-1"], 255),
        (&["echo", "hello"], 0),
        (&["fail"], 1),
    ] {
        let start = runner.guest(Guest::ToolboxP1, words).await;
        assert_eq!(runner.run(start).await.exit, exited(code), "{words:?}");
    }
}

/// Calls `exit-with-code` with 42.
const CHOOSY: Guest = Guest::Text(
    r#"(component
        (import "wasi:cli/exit@0.2.6" (instance $exit (export "exit-with-code" (func (param "status-code" u8)))))
        (core func $code (canon lower (func $exit "exit-with-code")))
        (core module $m
            (import "host" "exit" (func $exit (param i32)))
            (func (export "run") (result i32) i32.const 42 call $exit i32.const 0))
        (core instance $i (instantiate $m (with "host" (instance (export "exit" (func $code))))))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $cli (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $cli)))"#,
);

/// Returns an error from `run`.
const UNWILLING: Guest = Guest::Text(
    r#"(component
        (core module $m (func (export "run") (result i32) i32.const 1))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $cli (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $cli)))"#,
);

pub(crate) async fn components_may_choose_their_code(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for (guest, code) in [(CHOOSY, 42), (UNWILLING, 1)] {
        let start = runner.guest(guest, &[]).await;
        assert_eq!(runner.run(start).await.exit, exited(code), "{guest:?}");
    }
}

const DIVIDER: Guest = Guest::Text(
    r#"(module
        (func $divide_by_nothing (result i32) i32.const 1 i32.const 0 i32.div_s)
        (func $main (export "_start") call $divide_by_nothing drop))"#,
);

const STARTS_BADLY: Guest =
    Guest::Text(r#"(module (func $before_all unreachable) (start $before_all) (func (export "_start")))"#);

pub(crate) async fn traps_say_where(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let cases: [(Guest, &[&str], &[&str]); 5] = [
        (DIVIDER, &[], &["wasm trap: integer divide by zero", "divide_by_nothing", "main"]),
        (STARTS_BADLY, &[], &["unreachable", "before_all"]),
        (Guest::Toolbox, &["trap"], &["unreachable", "backtrace"]),
        (Guest::Toolbox, &["panic"], &["unreachable"]),
        (Guest::ToolboxP1, &["panic"], &["unreachable"]),
    ];
    for (guest, words, expected) in cases {
        let start = runner.guest(guest, words).await;
        let run = runner.run(start).await;
        assert_eq!((run.exit.code, run.exit.cause), (134, ExitCause::Trapped), "{guest:?}");
        for part in expected {
            assert!(run.exit.message.contains(part), "{part:?} is not in {}", run.exit.message);
        }
        if words == ["panic"] {
            assert!(run.stderr.contains("told to panic"), "{}", run.stderr);
        }
    }
}

pub(crate) async fn arguments_and_environment_arrive(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for guest in [Guest::Toolbox, Guest::ToolboxP1] {
        let start = runner.guest(guest, &["args", "--", "echo", "-c", "a b", "", "é"]).await;
        assert_eq!(runner.run(start).await.stdout, "guest\nargs\n--\necho\n-c\na b\n\né\n-c a b  é\n");
        let mut start = runner.guest(guest, &["env"]).await;
        start.env = vec![("B".into(), "2=2".into()), ("A".into(), String::new()), ("Ä".into(), "ü\n".into())];
        assert_eq!(runner.run(start).await.stdout, "A=\nB=2=2\nÄ=ü\n\n");
    }
}

pub(crate) async fn what_cannot_start_says_why(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let good = runner.guest(Guest::Toolbox, &["wait-eof"]).await;

    let mut start = good.clone();
    start.code = "code/none.cwasm".into();
    assert!(runner.refusal(start).await.contains("none.cwasm"));

    fs::write(runner.root.path().join("code/broken.cwasm"), b"not compiled").unwrap();
    let mut start = good.clone();
    start.code = "code/broken.cwasm".into();
    assert!(runner.refusal(start).await.contains("broken.cwasm"));

    let mut start = good.clone();
    start.kind = GuestKind::Module;
    assert!(runner.refusal(start).await.contains("cannot load"));

    for outside in ["volumes/x.cwasm", "code/../volumes/x.cwasm", "/etc/passwd", "code"] {
        let mut start = good.clone();
        start.code = outside.into();
        assert!(runner.refusal(start).await.contains("does not lie below code/"), "{outside}");
    }

    let run = runner.start(good.clone()).await;
    runner.until_written(&run, "waiting").await;
    assert!(runner.refusal(good).await.contains("already there"));
}
