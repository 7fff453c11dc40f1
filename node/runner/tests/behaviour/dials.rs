//! What leaves a pod and what comes in, with the agent's end of the network channel in the tests' hands.

use crate::{
    fixture::{Context, POD_IP, Runner, exited, killed, until},
    processes::{descriptors, is_dead, shell},
};
use coracle_runner::{
    network::{Bound, ChannelError, DialFailure, FromRunnerNet, ToRunnerNet},
    process::RunnerProcess,
    protocol::{RunId, ToRunner},
};
use std::{
    io::ErrorKind,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
};

const SERVICE: &str = "10.96.0.1:80";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn pod(port: u16) -> SocketAddr {
    SocketAddr::new(POD_IP, port)
}

/// A stream and the descriptor of its other end.
fn pair() -> (UnixStream, OwnedFd) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (UnixStream::from_std(ours).unwrap(), theirs.into())
}

impl Runner {
    async fn said(&self) -> FromRunnerNet {
        let (message, descriptor) = self.network.recv().await.unwrap().expect("the runner closed the channel");
        assert!(descriptor.is_none());
        message
    }

    /// The next dial, which must go to `to`: its number and where it comes from.
    async fn dial(&self, to: &str) -> (u64, SocketAddr) {
        match self.said().await {
            FromRunnerNet::Dial { id, pod_uid, from, to: dialled } => {
                assert_eq!((pod_uid.as_str(), dialled), ("pod-1", at(to)));
                (id, from)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn answer(&self, id: u64, result: Result<OwnedFd, DialFailure>) {
        let (result, descriptor) = match result {
            Ok(descriptor) => (Ok(()), Some(descriptor)),
            Err(failure) => (Err(failure), None),
        };
        self.network.send(ToRunnerNet::Connected { id, result }, descriptor).await.unwrap();
    }

    /// Offers a connection to a pod: our end of it, or why it was not taken.
    async fn offer(&self, pod_uid: &str, to: SocketAddr) -> Result<UnixStream, DialFailure> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Relaxed);
        let (ours, theirs) = pair();
        let offer = ToRunnerNet::Offer { id, pod_uid: pod_uid.to_owned(), to, from: at("10.244.1.99:40000") };
        self.network.send(offer, Some(theirs)).await.unwrap();
        match self.said().await {
            FromRunnerNet::Answer { id: answered, result } => {
                assert_eq!(answered, id);
                result.map(|()| ours)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn listening(&mut self, words: &[&str]) -> RunId {
        let start = self.networked(words).await;
        let run = self.start(start).await;
        self.until_written(&run, "listening").await;
        run
    }
}

async fn all_of(stream: &mut UnixStream) -> Result<String, ErrorKind> {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.map_err(|error| error.kind())?;
    Ok(text)
}

pub(crate) async fn the_agent_connects_guests(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let start = runner.networked(&["connect", SERVICE, "question"]).await;
    let run = runner.start(start).await;
    let (id, from) = runner.dial(SERVICE).await;
    assert_eq!(from.ip(), POD_IP);
    let (mut ours, theirs) = pair();
    runner.answer(id, Ok(theirs)).await;
    assert_eq!(all_of(&mut ours).await.unwrap(), "question");
    ours.write_all(b"answer").await.unwrap();
    drop(ours);
    let run = runner.end(&run).await;
    assert_eq!(run.stdout, format!("connected from {from} to {SERVICE}\nanswer: answer\n"));
}

pub(crate) async fn failures_have_their_own_errors(context: Arc<Context>) {
    let mut runner = context.runner().await;
    for (failure, error) in [
        (DialFailure::Refused, "ConnectionRefused"),
        (DialFailure::Unreachable, "HostUnreachable"),
        (DialFailure::TimedOut, "TimedOut"),
        (DialFailure::Denied, "PermissionDenied"),
    ] {
        let start = runner.networked(&["connect", SERVICE, "x"]).await;
        let run = runner.start(start).await;
        let (id, _) = runner.dial(SERVICE).await;
        runner.answer(id, Err(failure)).await;
        assert_eq!(runner.end(&run).await.stdout, format!("failed: {error}\n"));
    }
    let start = runner.networked(&["flood", SERVICE]).await;
    let run = runner.start(start).await;
    let (id, _) = runner.dial(SERVICE).await;
    runner.answer(id, Err(DialFailure::TooMany)).await;
    assert!(runner.end(&run).await.stdout.starts_with("0 connections, then "));
}

pub(crate) async fn a_killed_guest_withdraws(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let start = runner.networked(&["connect", SERVICE, "x"]).await;
    let run = runner.start(start).await;
    let (id, _) = runner.dial(SERVICE).await;
    runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
    assert_eq!(runner.end(&run).await.exit, killed());
    assert_eq!(runner.said().await, FromRunnerNet::Withdraw { id });
    // What comes too late is closed, and hurts nobody.
    let (mut ours, theirs) = pair();
    runner.answer(id, Ok(theirs)).await;
    assert_eq!(all_of(&mut ours).await.unwrap(), "");
    runner.answer(id, Err(DialFailure::Refused)).await;
    let start = runner.networked(&["checks"]).await;
    assert_eq!(runner.run(start).await.exit, exited(0));
}

pub(crate) async fn without_a_channel_nothing_is_reachable(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let start = runner.networked(&["connect", SERVICE, "x"]).await;
    let run = runner.start(start).await;
    runner.dial(SERVICE).await;
    // An end that belongs to nobody takes the place of the agent's.
    let (other, _) = coracle_runner::network::NetworkChannel::pair().unwrap();
    runner.network = Arc::new(other);
    assert_eq!(runner.end(&run).await.stdout, "failed: HostUnreachable\n");
    let start = runner.networked(&["connect", SERVICE, "x"]).await;
    assert_eq!(runner.run(start).await.stdout, "failed: HostUnreachable\n");
    let start = runner.networked(&["checks"]).await;
    assert_eq!(runner.run(start).await.exit, exited(0));
}

pub(crate) async fn connections_are_offered_to_listeners(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let run = runner.listening(&["listen", "0.0.0.0:8080", "1"]).await;
    let private = runner.listening(&["listen", "127.0.0.1:8081", "1"]).await;
    for (pod_uid, to) in [
        ("pod-1", pod(8082)),
        ("pod-1", pod(8081)),
        ("pod-1", at("127.0.0.1:8081")),
        ("pod-1", at("127.0.0.1:8080")),
        ("pod-2", pod(8080)),
    ] {
        assert_eq!(runner.offer(pod_uid, to).await.err(), Some(DialFailure::Refused), "{pod_uid} {to}");
    }
    let mut stream = runner.offer("pod-1", pod(8080)).await.unwrap();
    stream.write_all(b"from far away").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(all_of(&mut stream).await.unwrap(), "from far away");
    let run = runner.end(&run).await;
    assert!(run.stdout.ends_with("accepted 10.244.1.99:40000 at 10.244.1.7:8080\n"), "{run:?}");
    assert_eq!(runner.offer("pod-1", pod(8080)).await.err(), Some(DialFailure::Refused));
    runner.process.send(ToRunner::Kill(private)).await.unwrap();
}

pub(crate) async fn a_full_backlog_refuses(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let run = runner.listening(&["serve-until-stop", "0.0.0.0:8080"]).await;
    let mut waiting = Vec::new();
    let reported = loop {
        let (ours, theirs) = pair();
        let id = waiting.len() as u64;
        let offer =
            ToRunnerNet::Offer { id, pod_uid: "pod-1".to_owned(), to: pod(8080), from: at("10.244.1.99:40000") };
        runner.network.send(offer, Some(theirs)).await.unwrap();
        match runner.said().await {
            FromRunnerNet::Answer { result: Ok(()), .. } => waiting.push(ours),
            other => break other,
        }
        assert!(waiting.len() < 5000, "nothing bounds the backlog");
    };
    assert_eq!(reported, FromRunnerNet::Refused { pod_uid: "pod-1".to_owned(), what: Bound::Backlog });
    let refused = FromRunnerNet::Answer { id: waiting.len() as u64, result: Err(DialFailure::Refused) };
    assert_eq!(runner.said().await, refused);
    assert!(waiting.len() >= 128, "{} wait", waiting.len());
    // The next one is not reported again.
    assert_eq!(runner.offer("pod-1", pod(8080)).await.err(), Some(DialFailure::Refused));
    // Who was not accepted sees the end.
    runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
    runner.end(&run).await;
    for mut stream in waiting {
        assert_eq!(all_of(&mut stream).await.unwrap(), "");
    }
}

pub(crate) async fn a_stopping_guest_takes_no_new_connections(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let run = runner.listening(&["serve-until-stop", "0.0.0.0:8080"]).await;
    let mut waiting = runner.offer("pod-1", pod(8080)).await.unwrap();
    runner.process.send(ToRunner::Stop(run.clone())).await.unwrap();
    runner.until_written(&run, "served").await;
    assert_eq!(all_of(&mut waiting).await.unwrap(), "bye");
    assert_eq!(runner.end(&run).await.exit, exited(0));

    // The port is refused from the moment of the request on, although the guest does nothing about it.
    let run = runner.listening(&["listen", "0.0.0.0:8080", "1"]).await;
    runner.process.send(ToRunner::Stop(run.clone())).await.unwrap();
    while runner.offer("pod-1", pod(8080)).await.is_ok() {}
    let start = runner.networked(&["connect", "127.0.0.1:8080", "x"]).await;
    assert_eq!(runner.run(start).await.stdout, "failed: ConnectionRefused\n");
    runner.process.send(ToRunner::Kill(run)).await.unwrap();
}

pub(crate) async fn a_guest_that_waits_for_connections_learns_that_it_is_to_stop(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let run = runner.listening(&["listen", "0.0.0.0:8080", "1"]).await;
    runner.process.send(ToRunner::Stop(run.clone())).await.unwrap();
    let ended = runner.end(&run).await;
    assert_eq!((ended.exit, ended.stdout.as_str()), (exited(0), "failed: InvalidInput\n"));
}

pub(crate) async fn unread_input_resets_the_peer(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let run = runner.listening(&["never-read", "0.0.0.0:8080"]).await;
    let mut stream = runner.offer("pod-1", pod(8080)).await.unwrap();
    runner.until_written(&run, "accepted").await;
    stream.write_all(b"nobody reads this").await.unwrap();
    runner.process.send(ToRunner::Kill(run.clone())).await.unwrap();
    assert_eq!(all_of(&mut stream).await, Err(ErrorKind::ConnectionReset));
    runner.end(&run).await;
    // The other way round, the guest is told.
    let run = runner.listening(&["listen", "0.0.0.0:8080", "1"]).await;
    let start = runner.networked(&["connect", SERVICE, "nobody reads this"]).await;
    let client = runner.start(start).await;
    let (id, _) = runner.dial(SERVICE).await;
    let (ours, theirs) = pair();
    runner.answer(id, Ok(theirs)).await;
    ours.readable().await.unwrap();
    drop(ours);
    let client = runner.end(&client).await;
    // Which error, the guest's C library does not say.
    assert!(client.stdout.contains("answer: \nfailed: "), "{client:?}");
    runner.process.send(ToRunner::Kill(run)).await.unwrap();
}

pub(crate) async fn a_peer_that_never_reads_stops_the_writer(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let server = runner.listening(&["never-read", "0.0.0.0:8080"]).await;
    let start = runner.networked(&["fill", "127.0.0.1:8080"]).await;
    let writer = runner.start(start).await;
    runner.until_written(&writer, "wrote ").await;
    for run in [writer, server] {
        runner.process.send(ToRunner::Stop(run.clone())).await.unwrap();
        assert_eq!(runner.end(&run).await.exit, exited(0));
    }
}

pub(crate) async fn a_socket_of_the_machine_works_as_well(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let start = runner.networked(&["fetch", "192.0.2.1:80", "5000000"]).await;
    let run = runner.start(start).await;
    let (id, _) = runner.dial("192.0.2.1:80").await;
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap().into_std().unwrap();
    let (mut ours, _) = listener.accept().await.unwrap();
    runner.answer(id, Ok(theirs.into())).await;
    let echo = tokio::spawn(async move {
        let (mut reader, mut writer) = ours.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    });
    assert_eq!(runner.end(&run).await.stdout, "received 5000000 bytes, all right\n");
    echo.await.unwrap();
}

pub(crate) async fn datagrams_go_both_ways(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let start = runner.networked(&["udp-ask", "10.96.0.10:53", "question"]).await;
    let run = runner.start(start).await;
    let FromRunnerNet::Datagram { pod_uid, from, to, bytes } = runner.said().await else { panic!("no datagram") };
    assert_eq!((pod_uid.as_str(), to, bytes.as_slice()), ("pod-1", at("10.96.0.10:53"), &b"question"[..]));
    assert_eq!(from.ip(), POD_IP);
    let datagram = |from: SocketAddr, to: SocketAddr, bytes: &[u8]| ToRunnerNet::Datagram {
        pod_uid: "pod-1".to_owned(),
        to,
        from,
        bytes: bytes.to_vec(),
    };
    // A stranger is not heard by a connected socket; nor does a port that nobody has disturb anybody.
    for message in [
        datagram(at("10.96.0.11:53"), from, b"stranger"),
        datagram(at("10.96.0.10:53"), pod(1), b"nobody"),
        datagram(to, from, b"answer"),
    ] {
        runner.network.send(message, None).await.unwrap();
    }
    let run = runner.end(&run).await;
    assert_eq!(run.stdout, format!("asking from {POD_IP}\nanswer: answer\n"));

    let start = runner.networked(&["udp-echo", "0.0.0.0:5353", "2"]).await;
    let run = runner.start(start).await;
    runner.until_written(&run, "receiving").await;
    for size in [0, 65_507] {
        let bytes = vec![7; size];
        runner.network.send(datagram(at("10.244.1.99:999"), pod(5353), &bytes), None).await.unwrap();
        let expected =
            FromRunnerNet::Datagram { pod_uid: "pod-1".to_owned(), from: pod(5353), to: at("10.244.1.99:999"), bytes };
        assert_eq!(runner.said().await, expected);
    }
    assert_eq!(runner.end(&run).await.exit, exited(0));

    let start = runner.networked(&["udp-ask", "10.96.0.10:53", "question"]).await;
    let run = runner.start(start).await;
    let FromRunnerNet::Datagram { from, to, .. } = runner.said().await else { panic!("no datagram") };
    let refused = ToRunnerNet::DatagramRefused { pod_uid: "pod-1".to_owned(), from, to };
    runner.network.send(refused, None).await.unwrap();
    assert!(runner.end(&run).await.stdout.ends_with("failed: ConnectionRefused\n"));
}

pub(crate) async fn floods_of_datagrams_are_lost(context: Arc<Context>) {
    let mut runner = context.runner().await;
    // Outwards: nobody empties the channel, and the guest does not wait.
    let start = runner.networked(&["udp-flood", "10.96.0.10:53", "5000"]).await;
    assert_eq!(runner.run(start).await.stdout, "sent 5000 datagrams\n");
    // A dial gets through behind what is on its way.
    let start = runner.networked(&["connect", SERVICE, "x"]).await;
    let run = runner.start(start).await;
    let mut datagrams = 0;
    let id = loop {
        match runner.said().await {
            FromRunnerNet::Datagram { .. } => datagrams += 1,
            FromRunnerNet::Dial { id, .. } => break id,
            other => panic!("{other:?}"),
        }
    };
    assert!((10..1000).contains(&datagrams), "{datagrams} datagrams");
    runner.answer(id, Err(DialFailure::Refused)).await;
    runner.end(&run).await;
    // Inwards: a socket that does not receive.
    let run = runner.listening(&["serve-until-stop", "0.0.0.0:8080"]).await;
    for _ in 0..5000 {
        let flood = ToRunnerNet::Datagram {
            pod_uid: "pod-1".to_owned(),
            to: pod(5353),
            from: at("10.244.1.99:999"),
            bytes: vec![7; 1000],
        };
        match runner.network.try_send(&flood) {
            Ok(()) | Err(ChannelError::Full) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(runner.offer("pod-1", pod(8080)).await.is_ok());
    runner.process.send(ToRunner::Kill(run)).await.unwrap();
}

pub(crate) async fn nothing_leaks(context: Arc<Context>) {
    let mut runner = context.runner().await;
    let process = runner.process.pid();
    let run = runner.listening(&["echo", "0.0.0.0:8080", "100000"]).await;
    let before = descriptors(process).len();
    for round in 0..500 {
        let mut stream = runner.offer("pod-1", pod(8080)).await.unwrap();
        stream.write_all(b"here").await.unwrap();
        if round % 2 == 0 {
            stream.shutdown().await.unwrap();
            assert_eq!(all_of(&mut stream).await.unwrap(), "here");
        }
    }
    until(|| descriptors(process).len() <= before).await;
    for _ in 0..5 {
        // A hundred that are made, and are dropped by their guest.
        let start = runner.networked(&["hold", SERVICE, "100"]).await;
        let client = runner.start(start).await;
        let mut ours = Vec::new();
        for _ in 0..100 {
            let (id, _) = runner.dial(SERVICE).await;
            let (our, their) = pair();
            runner.answer(id, Ok(their)).await;
            ours.push(our);
        }
        runner.until_written(&client, "holding 100").await;
        runner.process.send(ToRunner::Stop(client.clone())).await.unwrap();
        assert_eq!(runner.end(&client).await.exit, exited(0));
        for mut stream in ours {
            assert_eq!(all_of(&mut stream).await.unwrap(), "");
        }
    }
    until(|| descriptors(process).len() <= before).await;
    runner.process.send(ToRunner::Kill(run)).await.unwrap();
}

pub(crate) async fn garbage_ends_the_runner(_context: Arc<Context>) {
    // `Ready`, and then a packet that means nothing.
    let script = r"printf '\6\0\0\0\0\0\0\0\0\0' >&0; printf '\377\377\377'; exec sleep 1000";
    let (process, _frames, network) = RunnerProcess::spawn(shell(script)).await.unwrap();
    let received = tokio::time::timeout(Duration::from_secs(30), network.recv()).await.unwrap();
    assert!(matches!(received, Err(ChannelError::Malformed(_))));
    until(|| is_dead(process.pid())).await;
}
