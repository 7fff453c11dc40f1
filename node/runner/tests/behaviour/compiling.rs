//! The compiler process.

use crate::fixture::{Context, Guest, myself};
use coracle_runner::{
    compile::{self, CompileError, CompileLimits},
    protocol::GuestKind,
};
use std::{fs, sync::Arc};

pub(crate) async fn guests_compile_and_say_their_kind(context: Arc<Context>) {
    for (guest, kind) in [
        (Guest::Toolbox, GuestKind::Component),
        (Guest::ToolboxP1, GuestKind::Module),
        (Guest::WaitFor, GuestKind::Component),
    ] {
        assert_eq!(context.compile(&guest.wasm()).await.unwrap().1, kind, "{guest:?}");
    }
}

const ROCKET: Guest = Guest::Text(
    r#"(component
        (import "acme:rocket/launch@1.2.3" (instance (export "go" (func))))
        (core module $m (func (export "run") (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $cli (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $cli)))"#,
);

/// One component gives another a string.
const COMPOSED: Guest = Guest::Text(
    r#"(component
        (component $taker
            (core module $m (memory (export "memory") 1) (func (export "take") (param i32 i32))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func (export "take") (param "text" string)
                (canon lift (core func $i "take") (memory $i "memory") (realloc (func $i "realloc")))))
        (instance $taker (instantiate $taker))
        (component $giver
            (import "take" (func $take (param "text" string)))
            (core module $memory (memory (export "memory") 1))
            (core instance $memory (instantiate $memory))
            (core func $give (canon lower (func $take) (memory $memory "memory")))
            (core module $m (import "" "give" (func $give (param i32 i32)))
                (func (export "run") (result i32) (call $give (i32.const 0) (i32.const 9)) i32.const 0))
            (core instance $i (instantiate $m (with "" (instance (export "give" (func $give))))))
            (func (export "run") (result (result)) (canon lift (core func $i "run"))))
        (instance $giver (instantiate $giver (with "take" (func $taker "take"))))
        (instance $cli (export "run" (func $giver "run")))
        (export "wasi:cli/run@0.2.0" (instance $cli)))"#,
);

pub(crate) async fn garbage_is_refused_with_the_reason(context: Arc<Context>) {
    let toolbox = Guest::Toolbox.wasm();
    for (wasm, expected) in [
        (b"#!/bin/sh".to_vec(), "not WebAssembly: it begins with 23 21 2f 62 (a script)"),
        (toolbox[..toolbox.len() / 2].to_vec(), "truncated WebAssembly: "),
        (ROCKET.wasm(), "the component imports \"acme:rocket/launch@1.2.3\", which this node does not provide"),
        (COMPOSED.wasm(), "the components that it is composed of pass strings or lists to each other, which"),
        (Guest::Text("(module)").wasm(), "the module does not export \"_start\""),
        (Guest::Text("(component)").wasm(), "the component exports nothing"),
    ] {
        match context.compile(&wasm).await {
            Err(CompileError::Rejected(text)) => assert!(text.starts_with(expected), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) async fn what_is_no_compiler_has_failed(_context: Arc<Context>) {
    let directory = tempfile::tempdir().unwrap();
    let (wasm, output) = (directory.path().join("in.wasm"), directory.path().join("out.cwasm"));
    fs::write(&wasm, Guest::Text("(module (func (export \"_start\")))").wasm()).unwrap();
    let sh = |script: &str| vec!["/bin/sh".into(), "-c".into(), script.into()];
    for (command, expected) in [
        (vec!["/none".into()], "No such file"),
        (sh("echo why >&2; exit 3"), "exit status: 3; why"),
        (sh("kill -9 $$"), "signal: 9"),
        (sh("echo something"), "exit status: 0"),
    ] {
        match compile::compile(&command, &wasm, &output).await {
            Err(CompileError::Failed(text)) => assert!(text.contains(expected), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(!output.exists());
    assert_eq!(compile::compile(&myself("compile"), &wasm, &output).await, Ok(GuestKind::Module));
    let missing = directory.path().join("none.wasm");
    let result = compile::compile(&myself("compile"), &missing, &output).await;
    assert!(matches!(result, Err(CompileError::Failed(_))), "{result:?}");
}

fn length(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// A valid command with so many functions of this body besides, which takes and gives 64-bit numbers.
fn bomb(functions: usize, body: &[u8]) -> Vec<u8> {
    let section = |id: u8, content: Vec<u8>| [vec![id], length(content.len()), content].concat();
    let sized = |bytes: &[u8]| [length(bytes.len()), bytes.to_vec()].concat();
    let count = length(functions + 1);
    let (no_locals, end) = ([0], [0x20, 1, 0x0b]);
    let body = sized(&[&no_locals, body, &end[..]].concat());
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, b"\x02\x60\0\0\x60\x02\x7e\x7e\x01\x7e".to_vec()),
        section(3, [count.clone(), vec![0], vec![1; functions]].concat()),
        section(7, b"\x01\x06_start\0\0".to_vec()),
        section(10, [count, sized(b"\0\x0b"), body.repeat(functions)].concat()),
    ]
    .concat()
}

/// `a = a * b + b`, so many times.
fn additions(count: usize) -> Vec<u8> {
    b"\x20\0\x20\x01\x7e\x20\0\x7c\x21\x01".repeat(count)
}

/// Blocks inside each other.
fn nested(depth: usize) -> Vec<u8> {
    [b"\x02\x40".repeat(depth), vec![0x0b; depth]].concat()
}

pub(crate) async fn bombs_hit_their_limit(_context: Arc<Context>) {
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (directory.path().join("in.wasm"), directory.path().join("out.cwasm"));
    let usual = CompileLimits::default();
    let short = CompileLimits { cpu_seconds: 2, ..usual };
    let small = CompileLimits { memory_bytes: 256 << 20, ..usual };
    let tight = CompileLimits { own_bytes: 128 << 20, ..usual };
    // On a busy machine the clock may come first.
    let time = &["more than 2 s of processor time", "more than 8 s"][..];
    for (what, wasm, limits, expected) in [
        ("many functions", bomb(60_000, &additions(60)), short, time),
        ("deep nesting", bomb(1, &nested(1_000_000)), short, time),
        ("large functions", bomb(4, &additions(200_000)), small, &["more than 256 MiB of memory"]),
        ("the same on a small machine", bomb(4, &additions(200_000)), tight, &["more than 128 MiB of memory"]),
    ] {
        fs::write(&input, wasm).unwrap();
        match compile::compile_within(&myself("compile"), &input, &output, &limits).await {
            Err(CompileError::TooCostly(text)) => {
                assert!(expected.iter().any(|words| text.contains(words)), "{what}: {text}");
            }
            other => panic!("{what}: {other:?}"),
        }
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(left, ["in.wasm"], "{what} leaves something");
    }
    fs::write(&input, bomb(100, &additions(100))).unwrap();
    assert_eq!(compile::compile_within(&myself("compile"), &input, &output, &usual).await, Ok(GuestKind::Module));
}
