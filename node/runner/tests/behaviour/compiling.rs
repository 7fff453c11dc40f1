//! The compiler process.

use crate::fixture::{Context, Guest, myself};
use coracle_runner::{
    compile::{self, CompileError},
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

pub(crate) async fn garbage_is_refused_with_the_reason(context: Arc<Context>) {
    let toolbox = Guest::Toolbox.wasm();
    for (wasm, expected) in [
        (b"#!/bin/sh".to_vec(), "not WebAssembly: it begins with 23 21 2f 62 (a script)"),
        (toolbox[..toolbox.len() / 2].to_vec(), "truncated WebAssembly: "),
        (ROCKET.wasm(), "the component imports \"acme:rocket/launch@1.2.3\", which this node does not provide"),
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
