//! Names are the agent's to answer.

use crate::fixture::{Context, Guest, exited, killed};
use coracle_runner::protocol::{FromRunner, LookupFailure, ToRunner};
use std::sync::Arc;

pub(crate) async fn the_agent_answers(context: Arc<Context>) {
    let mut runner = context.runner().await;
    runner.names.insert("myservice".into(), Ok(vec![[10, 96, 0, 7].into()]));
    runner.names.insert("two.ns.svc".into(), Ok(vec![[10, 96, 0, 8].into(), "fd00::1".parse().unwrap()]));
    runner.names.insert("later".into(), Err(LookupFailure::Temporary));
    runner.names.insert("odd".into(), Err(LookupFailure::Invalid));
    let start = runner.guest(Guest::Network, &["resolve", "myservice", "two.ns.svc", "127.0.0.1"]).await;
    let run = runner.run(start).await;
    assert_eq!(
        run.stdout,
        "myservice is at 10.96.0.7\ntwo.ns.svc is at 10.96.0.8\ntwo.ns.svc is at fd00::1\n127.0.0.1 is at 127.0.0.1\n"
    );
    let start = runner.guest(Guest::Network, &["resolve", "nobody", "later", "odd", "localhost.localdomain"]).await;
    let run = runner.run(start).await;
    assert_eq!(run.stdout.lines().count(), 4, "{run:?}");
    assert!(!run.stdout.contains(" is at "), "{run:?}");
}

pub(crate) async fn a_guest_can_wait_for_a_name(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for (guest, words) in [(Guest::Network, &["wait-for", "mydb"][..]), (Guest::WaitFor, &["mydb"])] {
        let start = runner.guest(guest, words).await;
        runner.names.clear();
        let run = runner.start(start).await;
        runner.until_written(&run, "waiting for mydb\n").await;
        runner.names.insert("mydb".into(), Ok(vec![[10, 96, 0, 9].into()]));
        let run = runner.end(&run).await;
        assert!(run.stdout.ends_with("mydb is at 10.96.0.9\n"), "{run:?}");
        assert_eq!(run.exit, exited(0));
    }
}

pub(crate) async fn a_guest_that_waits_for_an_answer_can_be_killed(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let start = runner.guest(Guest::Network, &["resolve", "silence"]).await;
    let run = runner.start(start).await;
    let question = loop {
        match runner.frames.recv().await.unwrap() {
            FromRunner::Lookup { question, pod_uid, name } => {
                assert_eq!((pod_uid.as_str(), name.as_str()), ("pod-1", "silence"));
                break question;
            }
            frame => assert!(matches!(frame, FromRunner::Started(_)), "{frame:?}"),
        }
    };
    runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
    assert_eq!(runner.end(&run).await.exit, killed());
    // An answer that comes too late hurts nobody.
    runner.process.send(ToRunner::LookupAnswer { question, result: Ok(Vec::new()) }).await.unwrap();
    let start = runner.guest(Guest::Toolbox, &["echo", "x"]).await;
    assert_eq!(runner.run(start).await.exit, exited(0));
}
