//! Container create → first guest instruction, beside wasmtime's own instantiation in the same run.
//!
//! Figures are printed, never asserted.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a bench, which clippy does not see has its own main")]

use coracle_runner::{compile, measure};
use std::{env, fs, path::Path, process::ExitCode, time::Duration};

fn main() -> ExitCode {
    let words = env::args().skip(1).collect::<Vec<_>>();
    if words.first().is_some_and(|word| word == "compile") {
        return compile::main(&words[1..]);
    }
    let rounds = if env::var_os("CORACLE_BENCH_SHORT").is_some() { 100 } else { 2000 };
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let code = Path::new("code/probe.cwasm");
    for part in ["code", "volumes"] {
        fs::create_dir(root.path().join(part)).expect("a directory");
    }
    let wasm = root.path().join("probe.wasm");
    fs::write(&wasm, wat::parse_str(measure::PROBE).expect("a module")).expect("a file");
    let myself = [env::current_exe().expect("a program").into(), "compile".into()];
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(compile::compile(&myself, &wasm, &root.path().join(code))).expect("compiled code");

    let mut figures = measure::first_instruction(root.path(), code, rounds).expect("figures");
    println!("create -> first guest instruction, {rounds} rounds, module of one page:");
    for (what, times) in [("wasmtime alone", &mut figures.bare), ("a container here", &mut figures.container)] {
        times.sort();
        println!("  {what:<17} p50 {:>9.1?}   p99 {:>9.1?}", at(times, 50), at(times, 99));
    }
    let beyond = at(&figures.container, 50).saturating_sub(at(&figures.bare, 50));
    println!("  beyond it (p50)   {beyond:.1?}");
    ExitCode::SUCCESS
}

fn at(sorted: &[Duration], hundredths: usize) -> Duration {
    sorted[(sorted.len() * hundredths / 100).min(sorted.len() - 1)]
}
