//! Calls with arguments that mean nothing, and waits that never end.

use super::{module, neighbour, visit};
use crate::fixture::{Context, exited, killed};
use coracle_runner::protocol::{ExitCause, ToRunner};
use std::{fmt::Write, sync::Arc};

/// Every function of preview 1 but `proc_exit`, and its parameters: `i` and `l` for 32 and 64 bits.
const FUNCTIONS: &[(&str, &str)] = &[
    ("args_get", "ii"),
    ("args_sizes_get", "ii"),
    ("environ_get", "ii"),
    ("environ_sizes_get", "ii"),
    ("clock_res_get", "ii"),
    ("clock_time_get", "ili"),
    ("fd_advise", "illi"),
    ("fd_allocate", "ill"),
    ("fd_close", "i"),
    ("fd_datasync", "i"),
    ("fd_fdstat_get", "ii"),
    ("fd_fdstat_set_flags", "ii"),
    ("fd_fdstat_set_rights", "ill"),
    ("fd_filestat_get", "ii"),
    ("fd_filestat_set_size", "il"),
    ("fd_filestat_set_times", "illi"),
    ("fd_pread", "iiili"),
    ("fd_prestat_get", "ii"),
    ("fd_prestat_dir_name", "iii"),
    ("fd_pwrite", "iiili"),
    ("fd_read", "iiii"),
    ("fd_readdir", "iiili"),
    ("fd_renumber", "ii"),
    ("fd_seek", "ilii"),
    ("fd_sync", "i"),
    ("fd_tell", "ii"),
    ("fd_write", "iiii"),
    ("path_create_directory", "iii"),
    ("path_filestat_get", "iiiii"),
    ("path_filestat_set_times", "iiiilli"),
    ("path_link", "iiiiiii"),
    ("path_open", "iiiiillii"),
    ("path_readlink", "iiiiii"),
    ("path_remove_directory", "iii"),
    ("path_rename", "iiiiii"),
    ("path_symlink", "iiiii"),
    ("path_unlink_file", "iii"),
    ("poll_oneoff", "iiii"),
    ("proc_raise", "i"),
    ("sched_yield", ""),
    ("random_get", "ii"),
    ("sock_accept", "iii"),
    ("sock_recv", "iiiiii"),
    ("sock_send", "iiiii"),
    ("sock_shutdown", "ii"),
];

/// What all arguments are, or all but the first.
const ARGUMENTS: &[(Option<i64>, i64)] = &[
    (None, -1),
    (None, 0x7fff_ffff),
    (None, 0xfff0),
    // The directory that it was given, and standard input.
    (Some(3), -1),
    (Some(3), 0x7fff_fff8),
    (Some(3), 0xfff8),
    (Some(0), -16),
    (Some(1), -16),
];

fn types(parameters: &str) -> String {
    parameters.chars().map(|kind| if kind == 'l' { "i64 " } else { "i32 " }).collect()
}

/// A module that makes the one of all those calls whose number, in three digits, is its argument.
fn caller() -> (Vec<u8>, usize) {
    let (mut calls, mut table) = (String::new(), String::new());
    let combinations = FUNCTIONS.iter().flat_map(|function| ARGUMENTS.iter().map(move |values| (function, values)));
    let mut count = 0;
    for ((name, parameters), (first, rest)) in combinations {
        write!(calls, "(func $call{count} (drop (call ${name}").unwrap();
        for (index, kind) in parameters.chars().enumerate() {
            let value = if index == 0 { first.unwrap_or(*rest) } else { *rest };
            let (kind, value) = if kind == 'l' { ("i64", value) } else { ("i32", value & 0xffff_ffff) };
            write!(calls, " ({kind}.const {value})").unwrap();
        }
        calls.push_str(")))\n");
        write!(table, " $call{count}").unwrap();
        count += 1;
    }
    let imports = FUNCTIONS.iter().map(|(name, parameters)| (*name, types(parameters))).collect::<Vec<_>>();
    let imports = imports.iter().map(|(name, parameters)| (*name, parameters.as_str())).collect::<Vec<_>>();
    let digit = |at: u32| format!("(i32.sub (i32.load8_u (i32.const {at})) (i32.const 48))");
    // The first argument is the name, five letters and a zero.
    let start = format!(
        "(drop (call $args_get (i32.const 0) (i32.const 512)))
         (call_indirect (i32.add (i32.mul (i32.const 100) {}) (i32.add (i32.mul (i32.const 10) {}) {})))",
        digit(518),
        digit(519),
        digit(520),
    );
    (module(&imports, &format!("(table funcref (elem {table}))\n{calls}"), &start), count)
}

pub(crate) async fn bad_pointers_harm_nobody(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let mount = [runner.volume("pointed-at", "/data")];
    let (wasm, count) = caller();
    for number in 0..count {
        let mut start = runner.wasm(&wasm, &[&format!("{number:03}")]).await;
        start.mounts = mount.to_vec();
        start.memory_limit_bytes = Some(8 << 20);
        let run = tokio::time::timeout(super::PROMPT, runner.run(start)).await;
        let what = FUNCTIONS[number / ARGUMENTS.len()].0;
        let run =
            run.unwrap_or_else(|_| panic!("{what} waits, with arguments {:?}", ARGUMENTS[number % ARGUMENTS.len()]));
        assert!(matches!(run.exit.cause, ExitCause::Exited | ExitCause::Trapped), "{what}: {:?}", run.exit);
        assert!(!run.exit.message.contains("defect"), "{what}: {}", run.exit.message);
        if number % ARGUMENTS.len() == 0 {
            neighbour(&mut runner).await;
        }
    }
    assert_eq!(std::fs::read_dir(runner.volume_path("pointed-at")).unwrap().count(), 0);
}

/// What asks for too much, and the error number that it exits with; none if it traps.
const EXCESSES: &[(&str, &str, &str, Option<i32>)] = &[
    // EINVAL
    ("poll_oneoff", "i32 i32 i32 i32", "(i32.const 0) (i32.const 0) (i32.const 1000000) (i32.const 8)", Some(28)),
    // ENOMEM: more pieces than may be copied.
    ("fd_write", "i32 i32 i32 i32", "(i32.const 1) (i32.const 0) (i32.const 4000000) (i32.const 8)", Some(48)),
    ("fd_read", "i32 i32 i32 i32", "(i32.const 0) (i32.const 0) (i32.const 4000000) (i32.const 8)", Some(48)),
    ("random_get", "i32 i32", "(i32.const 0) (i32.const -1)", None),
];

/// Sleeps for as long as a number can say.
const SLEEPER: &str = "(i64.store (i32.const 24) (i64.const -1))
    (drop (call $poll_oneoff (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 200)))";

pub(crate) async fn waiting_for_too_much_is_refused(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for (name, parameters, arguments, code) in EXCESSES {
        let wasm = module(&[(name, parameters)], "", &format!("(call $exit (call ${name} {arguments}))"));
        let run = visit(&mut runner, &wasm, Some(4 << 20), &[], &[]).await;
        match code {
            Some(code) => assert_eq!(run.exit, exited(*code), "{name}"),
            None => assert_eq!(run.exit.cause, ExitCause::Trapped, "{name}: {:?}", run.exit),
        }
    }
    // The clock is the real one, then the monotonic one.
    for clock in [0, 1] {
        let wasm =
            module(&[("poll_oneoff", "i32 i32 i32 i32")], &format!("(data (i32.const 16) \"\\{clock:02}\")"), SLEEPER);
        let start = runner.wasm(&wasm, &[]).await;
        let run = runner.start(start).await;
        neighbour(&mut runner).await;
        runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
        assert_eq!(runner.end(&run).await.exit, killed());
    }
}
