//! Standard streams.

use crate::fixture::{Context, Guest, exited, killed, proc_figure};
use coracle_runner::protocol::{FromRunner, LogStream, ToRunner};
use std::{fs, sync::Arc, time::Duration};

/// What a runner may have on its way at most: both lanes, the socket's buffers and the agent's queue.
const MAX_ON_THE_WAY_BYTES: usize = 8 << 20;

pub(crate) async fn streams_arrive_in_order_and_before_the_end(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for guest in [Guest::Toolbox, Guest::ToolboxP1] {
        let words = ["echo", "one", "--", "warn", "two", "--", "echo", "three", "--", "flood", "20000", "--", "fail"];
        let start = runner.guest(guest, &words).await;
        let run = runner.start(start).await;
        assert_eq!(runner.frame().await, FromRunner::Started(run.clone()), "first of all");
        let ended = runner.end(&run).await;
        assert_eq!(ended.exit, exited(1));
        assert!(ended.stderr.starts_with("two\n") && ended.stderr.contains("told to fail"), "{}", ended.stderr);
        let mut lines = ended.stdout.lines();
        assert_eq!((lines.next(), lines.next()), (Some("one"), Some("three")));
        for number in 0..20_000 {
            let line = lines.next().unwrap();
            assert!(line.starts_with(&format!("line {number:09} ")), "{number}: {line}");
        }
        assert_eq!(lines.next(), None);
    }
    assert!(runner.frames.try_recv().is_err(), "nothing follows Exited");
}

pub(crate) async fn end_of_input_asks_to_stop(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for guest in [Guest::Toolbox, Guest::ToolboxP1] {
        let start = runner.guest(guest, &["wait-eof"]).await;
        let run = runner.start(start).await;
        runner.until_written(&run, "waiting\n").await;
        runner.process.send(ToRunner::Stop(run.clone())).await.unwrap();
        let ended = runner.end(&run).await;
        assert_eq!((ended.stdout.as_str(), ended.exit), ("bye\n", exited(0)));
        // Signals to what has ended are nothing.
        runner.process.send(ToRunner::Stop(run.clone())).await.unwrap();
        runner.process.send(ToRunner::Kill(run)).await.unwrap();
    }
}

pub(crate) async fn large_writes_are_cut_in_pieces(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for guest in [Guest::Toolbox, Guest::ToolboxP1] {
        let start = runner.guest(guest, &["fill", "1000000"]).await;
        let run = runner.start(start).await;
        let mut total = 0;
        loop {
            match runner.frame().await {
                FromRunner::Log { bytes, stream, .. } => {
                    assert!(bytes.len() <= 16 << 10, "{} bytes in a frame", bytes.len());
                    assert_eq!(stream, LogStream::Stdout);
                    total += bytes.len();
                }
                FromRunner::Exited { run: of, exit } => {
                    assert_eq!((of, exit), (run, exited(0)));
                    break;
                }
                frame => assert!(matches!(frame, FromRunner::Started(_)), "{frame:?}"),
            }
        }
        assert_eq!(total, 1_000_000);
    }
}

/// Processor time that a process has used, in ticks.
fn processor_ticks(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = text.rsplit(')').next().unwrap().split_whitespace().collect::<Vec<_>>();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

pub(crate) async fn a_flood_waits_for_the_agent(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let pid = runner.process.pid();
    let mut runs = Vec::new();
    for guest in [Guest::Toolbox, Guest::ToolboxP1] {
        let start = runner.guest(guest, &["flood", "1000000000"]).await;
        runs.push(runner.start(start).await);
    }
    for run in &runs {
        runner.until_written(run, "line ").await;
    }
    // The agent takes nothing more: the runner comes to rest.
    let mut before = u64::MAX;
    loop {
        let now = processor_ticks(pid);
        if now == before {
            break;
        }
        before = now;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let resident = proc_figure(pid, "smaps_rollup", "Pss");
    assert!(resident < 64 << 10, "{resident} kB");
    // Meanwhile it hears what the agent says, and the floods can be ended.
    for run in &runs {
        runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
    }
    let (mut rest, mut ended) = (0, 0);
    while ended < runs.len() {
        match runner.frame().await {
            FromRunner::Log { bytes, .. } => rest += bytes.len(),
            FromRunner::Exited { exit, .. } => {
                assert_eq!(exit, killed());
                ended += 1;
            }
            _ => {}
        }
    }
    assert!(rest < MAX_ON_THE_WAY_BYTES, "{rest} bytes were on their way");
}
