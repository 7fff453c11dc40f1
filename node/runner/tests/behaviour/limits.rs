//! Limits: memory, time, room.

use crate::fixture::{Context, Guest, exited, killed};
use coracle_runner::protocol::{ExitCause, ToRunner};
use std::sync::Arc;

pub(crate) async fn memory_beyond_the_limit_kills(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for guest in [Guest::Toolbox, Guest::ToolboxP1] {
        for (words, limit_mib, oom) in [
            (&["alloc", "8"][..], Some(64), false),
            (&["alloc", "64"], Some(32), true),
            // It would have gone on without the memory; it does not get to.
            (&["grab", "64"], Some(32), true),
            (&["grab", "64"], None, false),
            // Not even what the module asks for to begin with.
            (&["echo", "x"], Some(0), true),
        ] {
            let mut start = runner.guest(guest, words).await;
            start.memory_limit_bytes = limit_mib.map(|mib: u64| mib << 20);
            let run = runner.run(start).await;
            if oom {
                assert_eq!((run.exit.code, run.exit.cause), (137, ExitCause::OutOfMemory), "{guest:?} {words:?}");
                assert!(run.exit.message.contains("memory limit of"), "{}", run.exit.message);
                assert_eq!(run.stdout, "", "{guest:?} {words:?}");
            } else {
                assert_eq!(run.exit, exited(0), "{guest:?} {words:?}");
            }
        }
    }
}

pub(crate) async fn a_spinning_guest_starves_nobody_and_dies_at_once(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let mut spinners = Vec::new();
    // More than there are processors.
    for guest in [Guest::Toolbox, Guest::ToolboxP1].into_iter().cycle().take(8) {
        let start = runner.guest(guest, &["spin"]).await;
        let run = runner.start(start).await;
        runner.until_written(&run, "spinning").await;
        spinners.push(run);
    }
    let start = runner.guest(Guest::Toolbox, &["sleep", "0.01", "--", "echo", "here"]).await;
    assert_eq!(runner.run(start).await.stdout, "here\n");
    for run in spinners {
        // The polite way means nothing to it.
        runner.process.send(ToRunner::Stop(run.clone())).await.unwrap();
        runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
        assert_eq!(runner.end(&run).await.exit, killed());
    }
}

pub(crate) async fn a_full_runner_refuses(context: Arc<Context>) {
    let mut runner = context.runner_for(2).await;
    let mut runs = Vec::new();
    for _ in 0..2 {
        let start = runner.guest(Guest::Toolbox, &["wait-eof"]).await;
        let run = runner.start(start).await;
        runner.until_written(&run, "waiting").await;
        runs.push(run);
    }
    let start = runner.guest(Guest::Toolbox, &["echo", "x"]).await;
    assert!(runner.refusal(start).await.contains("no room"));
    runner.process.send(ToRunner::Kill(runs[0].clone())).await.unwrap();
    assert_eq!(runner.end(&runs[0]).await.exit, killed());
    let start = runner.guest(Guest::Toolbox, &["echo", "x"]).await;
    assert_eq!(runner.run(start).await.exit, exited(0));
}
