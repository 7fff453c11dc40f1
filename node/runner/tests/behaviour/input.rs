//! Standard input from the agent.

use crate::fixture::{Context, Guest, Runner, exited, proc_figure};
use coracle_runner::protocol::{FromRunner, INPUT_WINDOW_BYTES, RunId, StdinMode, ToRunner};
use std::sync::Arc;

async fn send(runner: &Runner, run: &RunId, bytes: &[u8], end: bool) {
    let frame = ToRunner::Input { run: run.clone(), bytes: bytes.to_vec(), end };
    runner.process.send(frame).await.unwrap();
}

pub(crate) async fn bytes_arrive_and_then_the_end(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for guest in [Guest::Toolbox, Guest::ToolboxP1] {
        let mut start = runner.guest(guest, &["tally"]).await;
        start.stdin = StdinMode::Open;
        let run = runner.start(start).await;
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
        let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
        let (mut credit, mut sent) = (INPUT_WINDOW_BYTES as usize, 0);
        while sent < bytes.len() {
            let piece = &bytes[sent..(sent + credit.min(20_000)).min(bytes.len())];
            if !piece.is_empty() {
                send(&runner, &run, piece, false).await;
                sent += piece.len();
                credit -= piece.len();
                continue;
            }
            match runner.frame().await {
                FromRunner::InputTaken { bytes, .. } => credit += bytes as usize,
                FromRunner::Started(_) => {}
                frame => panic!("{frame:?}"),
            }
        }
        send(&runner, &run, b"", true).await;
        let ended = runner.end(&run).await;
        assert_eq!((ended.stdout, ended.exit), (format!("3000000 bytes, sum {sum}\n"), exited(0)), "{guest:?}");
    }
}

pub(crate) async fn a_guest_that_does_not_read_fills_nothing(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let mut start = runner.guest(Guest::Toolbox, &["echo", "here", "--", "sleep", "100"]).await;
    start.stdin = StdinMode::Open;
    let run = runner.start(start).await;
    runner.until_written(&run, "here").await;
    let before = proc_figure(runner.process.pid(), "smaps_rollup", "Pss");
    // An agent that minds no credit: what is too much is dropped.
    let piece = vec![b'x'; 20_000];
    for _ in 0..3_000 {
        send(&runner, &run, &piece, false).await;
    }
    // Its answer shows that the runner has read all that.
    let other = runner.guest(Guest::Toolbox, &["echo", "x"]).await;
    assert_eq!(runner.run(other).await.exit, exited(0));
    let after = proc_figure(runner.process.pid(), "smaps_rollup", "Pss");
    assert!(after < before + (16 << 10), "{before} kB, then {after} kB");
    runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
    assert_eq!(runner.end(&run).await.exit.code, 137);
}

pub(crate) async fn a_stop_ends_it(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for guest in [Guest::Toolbox, Guest::ToolboxP1] {
        let mut start = runner.guest(guest, &["copy"]).await;
        start.stdin = StdinMode::Open;
        let run = runner.start(start).await;
        send(&runner, &run, b"hello", false).await;
        runner.until_written(&run, "hello").await;
        runner.process.send(ToRunner::Stop(run.clone())).await.unwrap();
        assert_eq!(runner.end(&run).await.exit, exited(0), "{guest:?}");
        let mut start = runner.guest(guest, &["copy"]).await;
        start.stdin = StdinMode::Empty;
        assert_eq!(runner.run(start).await.exit, exited(0), "{guest:?}: nothing to wait for");
    }
}
