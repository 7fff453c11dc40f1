//! Runs that join another: commands in a container that runs already.

use crate::fixture::{Context, Guest, Run, Runner, exited, killed};
use coracle_runner::protocol::{
    ExitCause, FromRunner, JOINED_RUNS_MAX, OUTPUT_OVERDRAFT_BYTES, OUTPUT_WINDOW_BYTES, RunId, SIGNAL_MAX, StartGuest,
    StdinMode, ToRunner,
};
use std::sync::Arc;

/// A command in `target`; everything but the command itself is wrong, to see whose is taken.
async fn command(runner: &mut Runner, target: &RunId, guest: Guest, words: &[&str]) -> StartGuest {
    let mut start = runner.guest(guest, words).await;
    start.joins = Some(target.clone());
    start.stdin = StdinMode::Empty;
    start.memory_limit_bytes = Some(1);
    start.env = vec![("WHOSE".to_owned(), "its own".to_owned())];
    start
}

/// A container that does nothing but be there.
async fn container(runner: &mut Runner, limit_bytes: Option<u64>) -> RunId {
    let mut start = runner.guest(Guest::Toolbox, &["wait-eof"]).await;
    start.env = vec![("WHOSE".to_owned(), "the container's".to_owned())];
    start.mounts = vec![runner.volume("data", "/data")];
    start.memory_limit_bytes = limit_bytes;
    let run = runner.start(start).await;
    runner.until_written(&run, "waiting").await;
    run
}

pub(crate) async fn it_has_what_its_target_has(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let target = container(&mut runner, None).await;
    for guest in [Guest::Toolbox, Guest::ToolboxP1] {
        let words = ["env", "--", "write", "/data/file", "text", "--", "list", "/data", "--", "exit", "1"];
        let start = command(&mut runner, &target, guest, &words).await;
        let Run { stdout, exit, .. } = runner.run(start).await;
        assert_eq!((stdout.as_str(), exit), ("WHOSE=the container's\ndone\nfile\n", exited(1)), "{guest:?}");
    }
    runner.process.send(ToRunner::Stop(target.clone())).await.unwrap();
    assert_eq!(runner.end(&target).await.exit, exited(0), "it goes on as before");
}

pub(crate) async fn it_ends_with_its_target(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for by_kill in [false, true] {
        let target = container(&mut runner, None).await;
        let mut joined = Vec::new();
        for words in [&["spin"][..], &["echo", "sleeping", "--", "sleep", "1000"]] {
            let start = command(&mut runner, &target, Guest::Toolbox, words).await;
            let run = runner.start(start).await;
            runner.until_written(&run, "ing").await;
            joined.push(run);
        }
        let end = if by_kill { ToRunner::Kill(target.clone()) } else { ToRunner::Stop(target.clone()) };
        runner.process.send(end).await.unwrap();
        assert_eq!(runner.end(&target).await.exit.code, if by_kill { 137 } else { 0 });
        for run in joined {
            assert_eq!(runner.end(&run).await.exit, killed());
        }
    }
}

pub(crate) async fn it_counts_into_its_targets_memory(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let target = container(&mut runner, Some(32 << 20)).await;
    let start = command(&mut runner, &target, Guest::Toolbox, &["alloc", "8"]).await;
    assert_eq!(runner.run(start).await.exit, exited(0), "there is room");
    let start = command(&mut runner, &target, Guest::Toolbox, &["echo", "held", "--", "grab", "20", "--", "exit", "0"]);
    let start = start.await;
    assert_eq!(runner.run(start).await.exit, exited(0), "and again: what has ended counts no more");
    // Each by itself would fit, and so would each beside the container.
    let words = ["alloc", "18", "--", "echo", "held", "--", "sleep", "1000"];
    let start = command(&mut runner, &target, Guest::Toolbox, &words).await;
    let first = runner.start(start).await;
    runner.until_written(&first, "held").await;
    let start = command(&mut runner, &target, Guest::Toolbox, &["alloc", "18"]).await;
    let second = runner.start(start).await;
    let exit = runner.end(&second).await.exit;
    assert_eq!(exit.code, 137, "{exit:?}");
    let exit = runner.end(&target).await.exit;
    assert_eq!((exit.code, exit.cause), (137, ExitCause::OutOfMemory), "{}", exit.message);
}

pub(crate) async fn it_writes_no_more_than_is_read(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let target = container(&mut runner, None).await;
    for guest in [Guest::Toolbox, Guest::ToolboxP1] {
        let start = command(&mut runner, &target, guest, &["fill", "3000000"]).await;
        let run = runner.start(start).await;
        let (mut received, mut unread) = (0, 0);
        loop {
            match runner.frame_of(&run).await {
                FromRunner::Log { bytes, .. } => {
                    received += bytes.len();
                    unread += bytes.len();
                    assert!(unread <= (OUTPUT_WINDOW_BYTES + OUTPUT_OVERDRAFT_BYTES) as usize, "{unread} unread bytes");
                    if unread >= OUTPUT_WINDOW_BYTES as usize {
                        // Others write and end meanwhile.
                        let other = runner.guest(Guest::Toolbox, &["echo", "x"]).await;
                        assert_eq!(runner.run(other).await.exit, exited(0));
                        let more = runner.written_aside(&run);
                        assert!(more <= OUTPUT_OVERDRAFT_BYTES as usize, "{more} bytes more although nobody read");
                        let bytes = u32::try_from(unread).unwrap();
                        runner.process.send(ToRunner::OutputTaken { run: run.clone(), bytes }).await.unwrap();
                        unread = 0;
                    }
                }
                FromRunner::Exited { exit, .. } => {
                    assert_eq!(exit, exited(0));
                    break;
                }
                _ => {}
            }
        }
        assert_eq!(received, 3_000_000, "{guest:?}");
    }
}

pub(crate) async fn there_is_a_bound_and_a_condition(context: Arc<Context>) {
    let mut runner = context.runner_for(100).await;
    let nobody = RunId("nobody".to_owned());
    let start = command(&mut runner, &nobody, Guest::Toolbox, &["echo", "x"]).await;
    assert_eq!(runner.refusal(start).await, "the container is not running");
    let target = container(&mut runner, None).await;
    let mut joined = Vec::new();
    for _ in 0..JOINED_RUNS_MAX {
        let start = command(&mut runner, &target, Guest::Toolbox, &["echo", "x", "--", "sleep", "1000"]).await;
        let run = runner.start(start).await;
        runner.until_written(&run, "x").await;
        joined.push(run);
    }
    let start = command(&mut runner, &target, Guest::Toolbox, &["echo", "x"]).await;
    assert!(runner.refusal(start).await.contains("16 commands run in the container already"));
    let start = command(&mut runner, &joined[0], Guest::Toolbox, &["echo", "x"]).await;
    assert!(runner.refusal(start).await.contains("cannot be joined"));
    runner.process.send(ToRunner::Kill(joined[0].clone())).await.unwrap();
    assert_eq!(runner.end(&joined[0]).await.exit, killed());
    let start = command(&mut runner, &target, Guest::Toolbox, &["echo", "x"]).await;
    assert_eq!(runner.run(start).await.exit, exited(0), "there is room again");
}

pub(crate) async fn it_has_a_terminal_and_variables_of_its_own(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let target = container(&mut runner, None).await;
    for guest in [Guest::Toolbox, Guest::ToolboxP1] {
        for (terminal, terminals) in [(true, "stdin stdout stderr"), (false, "none")] {
            let mut start = command(&mut runner, &target, guest, &["env", "--", "terminal"]).await;
            start.env.push(("TERM".to_owned(), "xterm".to_owned()));
            start.terminal = terminal;
            let Run { stdout, exit, .. } = runner.run(start).await;
            let expected = format!("TERM=xterm\nWHOSE=the container's\nterminals: {terminals}\n");
            assert_eq!((stdout, exit), (expected, exited(0)), "{guest:?}");
            // A container's own run.
            let mut start = runner.guest(guest, &["terminal"]).await;
            start.terminal = terminal;
            assert_eq!(runner.run(start).await.stdout, format!("terminals: {terminals}\n"), "{guest:?}");
        }
    }
}

pub(crate) async fn a_signal_ends_it_and_is_told(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let target = container(&mut runner, None).await;
    for (signal, code) in [(2, 130), (3, 131), (u8::MAX, 128 + i32::from(SIGNAL_MAX))] {
        let start = command(&mut runner, &target, Guest::Toolbox, &["spin"]).await;
        let run = runner.start(start).await;
        runner.until_written(&run, "ing").await;
        runner.process.send(ToRunner::Interrupt { run: run.clone(), signal }).await.unwrap();
        // The first one counts.
        runner.process.send(ToRunner::Interrupt { run: run.clone(), signal: 9 }).await.unwrap();
        assert_eq!(runner.end(&run).await.exit, exited(code));
    }
    runner.process.send(ToRunner::Interrupt { run: target.clone(), signal: 2 }).await.unwrap();
    assert_eq!(runner.end(&target).await.exit, exited(130), "a container's own run as well");
}
