//! The pod network inside one runner: sockets that never leave a pod.

use crate::{
    fixture::{Context, Guest, POD_IP, exited, killed, until},
    processes::descriptors,
};
use coracle_runner::{
    network::{Bound, FromRunnerNet, ToRunnerNet},
    protocol::{FromRunner, ToRunner},
};
use std::{os::unix::net::UnixStream, sync::Arc};

pub(crate) async fn what_must_hold_inside_a_pod_holds(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for with_address in [true, false] {
        let mut start = runner.networked(&["checks"]).await;
        if !with_address {
            start.network.addresses.clear();
            start.env.clear();
        }
        let run = runner.run(start).await;
        assert!(!run.stdout.contains("FAILED"), "with an address: {with_address}\n{}", run.stdout);
        assert_eq!(run.exit, exited(0), "{run:?}");
    }
}

pub(crate) async fn a_pod_without_an_address_has_localhost(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let start = runner.guest(Guest::Network, &["sockets"]).await;
    let run = runner.run(start).await;
    assert_eq!(run.stdout, "connect: connection refused\nlisten: it worked\nudp: it worked\n");
    for (words, error) in [
        (["connect", "10.96.0.1:80", "x"], "failed: HostUnreachable\n"),
        (["listen", "10.244.1.7:80", "1"], "failed: AddrNotAvailable\n"),
    ] {
        let start = runner.guest(Guest::Network, &words).await;
        assert_eq!(runner.run(start).await.stdout, error);
    }
}

pub(crate) async fn containers_of_a_pod_share_localhost(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let start = runner.networked(&["listen", "0.0.0.0:8080", "2"]).await;
    let server = runner.start(start).await;
    runner.until_written(&server, "listening on 0.0.0.0:8080").await;
    // Another pod of the namespace has another localhost, while this one is listened on.
    let mut start = runner.networked(&["connect", "127.0.0.1:8080", "x"]).await;
    "pod-2".clone_into(&mut start.pod_uid);
    assert_eq!(runner.run(start).await.stdout, "failed: ConnectionRefused\n");
    for host in ["127.0.0.1", &POD_IP.to_string()] {
        let start = runner.networked(&["connect", &format!("{host}:8080"), "to and fro"]).await;
        let run = runner.run(start).await;
        assert!(run.stdout.ends_with("answer: to and fro\n"), "{run:?}");
        assert!(run.stdout.starts_with(&format!("connected from {host}:")), "{run:?}");
    }
    assert_eq!(runner.end(&server).await.exit, exited(0));
    // The port is free again, for whoever comes next.
    let start = runner.networked(&["listen", "127.0.0.1:8080", "0"]).await;
    assert_eq!(runner.run(start).await.stdout, "listening on 127.0.0.1:8080\n");
}

pub(crate) async fn bytes_arrive_in_order_over_many_connections(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let start = runner.networked(&["echo", "0.0.0.0:8080", "8"]).await;
    let server = runner.start(start).await;
    runner.until_written(&server, "listening").await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let start = runner.networked(&["fetch", "127.0.0.1:8080", "3000000"]).await;
        clients.push(runner.start(start).await);
    }
    let mut right = 0;
    let mut running = clients.len() + 1;
    let mut report = String::new();
    while running > 0 {
        match runner.frame().await {
            FromRunner::Log { run, bytes, .. } if run == server => report += &String::from_utf8(bytes).unwrap(),
            FromRunner::Log { bytes, .. } => {
                right += usize::from(bytes == b"received 3000000 bytes, all right\n");
            }
            FromRunner::Exited { exit, .. } => {
                assert_eq!(exit, exited(0));
                running -= 1;
            }
            _ => {}
        }
    }
    assert_eq!(right, 8);
    assert!(report.ends_with("echoed 8 connections, 0 failed\n"), "{report}");
}

pub(crate) async fn blocked_guests_can_be_killed(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for (words, waiting) in
        [(&["listen", "127.0.0.1:8080", "1"][..], "listening"), (&["udp-echo", "127.0.0.1:8080", "1"], "receiving")]
    {
        let start = runner.networked(words).await;
        let run = runner.start(start).await;
        runner.until_written(&run, waiting).await;
        runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
        assert_eq!(runner.end(&run).await.exit, killed());
    }
    // And one that waits for its peer.
    let start = runner.networked(&["never-read", "127.0.0.1:8080"]).await;
    let silent = runner.start(start).await;
    runner.until_written(&silent, "listening").await;
    let start = runner.networked(&["connect", "127.0.0.1:8080", "x"]).await;
    let waiting = runner.start(start).await;
    runner.until_written(&waiting, "connected").await;
    runner.process.send(ToRunner::Kill(waiting.clone())).await.unwrap();
    assert_eq!(runner.end(&waiting).await.exit, killed());
}

pub(crate) async fn what_a_run_had_open_closes_with_it(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let process = runner.process.pid();
    let start = runner.networked(&["echo", "0.0.0.0:8080", "1000"]).await;
    let server = runner.start(start).await;
    runner.until_written(&server, "listening").await;
    let before = descriptors(process).len();
    let start = runner.networked(&["hold", "127.0.0.1:8080", "100"]).await;
    let client = runner.start(start).await;
    runner.until_written(&client, "holding 100").await;
    assert!(descriptors(process).len() >= before + 200);
    runner.process.send(ToRunner::Kill(client.clone())).await.unwrap();
    runner.end(&client).await;
    // The server sees the ends and closes its own.
    until(|| descriptors(process).len() <= before).await;
    runner.process.send(ToRunner::Kill(server.clone())).await.unwrap();
    runner.end(&server).await;
    let start = runner.networked(&["connect", "127.0.0.1:8080", "x"]).await;
    assert_eq!(runner.run(start).await.stdout, "failed: ConnectionRefused\n");
}

pub(crate) async fn a_flood_is_bounded_and_reported(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let before = descriptors(runner.process.pid()).len();
    let start = runner.networked(&["flood", "10.96.0.1:80"]).await;
    let run = runner.start(start).await;
    let mut dials = 0;
    loop {
        match runner.network.recv().await.unwrap().unwrap().0 {
            FromRunnerNet::Dial { id, .. } => {
                dials += 1;
                let (theirs, _ours) = UnixStream::pair().unwrap();
                let answer = ToRunnerNet::Connected { id, result: Ok(()) };
                runner.network.send(answer, Some(theirs.into())).await.unwrap();
            }
            FromRunnerNet::Refused { pod_uid, what } => {
                assert_eq!((pod_uid.as_str(), what), ("pod-1", Bound::PodConnections));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((1_000..20_000).contains(&dials), "{dials} connections");
    let run = runner.end(&run).await;
    assert!(run.stdout.starts_with(&format!("{dials} connections, then ")), "{run:?}");
    until(|| descriptors(runner.process.pid()).len() <= before + 2).await;
    // It is as if nothing had been.
    let start = runner.networked(&["checks"]).await;
    assert_eq!(runner.run(start).await.exit, exited(0));
}

pub(crate) async fn what_was_written_arrives_after_the_end(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let start = runner.networked(&["listen", "127.0.0.1:8080", "1"]).await;
    let server = runner.start(start).await;
    runner.until_written(&server, "listening").await;
    let start = runner.networked(&["write-and-leave", "127.0.0.1:8080", "40000"]).await;
    let run = runner.run(start).await;
    assert_eq!((run.stdout.as_str(), run.exit), ("wrote 40000 bytes\n", exited(0)));
    let server = runner.end(&server).await;
    // All of it was read; nobody is there for the answer.
    assert!(server.stdout.contains("accepted"), "{server:?}");
    assert!(!server.stdout.contains("read failed"), "{server:?}");
}
