//! A pod without guests: its ports, waits and bounds, with the agent's end of the channel in the tests' hands.

use super::*;
use crate::{
    network::{MAX_DATAGRAM_BYTES, NetworkChannel, ToRunnerNet, datagrams, listener::MAX_BACKLOG},
    protocol,
};
use futures::{FutureExt, poll};
use std::{io::ErrorKind, net::Shutdown, pin::pin};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ADDRESS: &str = "10.244.1.7";
const OUTSIDE: &str = "10.96.0.1:80";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A runner with one pod, and the agent's end.
struct World {
    agent: NetworkChannel,
    switch: Arc<Switch>,
    network: PodNetwork,
    stop: CancellationToken,
}

impl World {
    fn new(patience: Duration) -> Self {
        let (agent, runner) = NetworkChannel::pair().unwrap();
        let switch = Switch::new(runner, patience);
        let stop = CancellationToken::new();
        let network = open(&switch, stop.clone());
        Self { agent, switch, network, stop }
    }

    fn patient() -> Self {
        Self::new(Duration::from_mins(1))
    }

    async fn said(&self) -> FromRunnerNet {
        self.agent.recv().await.unwrap().unwrap().0
    }

    /// Everything that the agent was told so far about bounds.
    async fn refusals(&self) -> Vec<Bound> {
        // Behind everything else.
        self.switch.pass(&FromRunnerNet::Withdraw { id: u64::MAX }).unwrap();
        let mut refusals = Vec::new();
        loop {
            match self.said().await {
                FromRunnerNet::Refused { pod_uid, what } => {
                    assert_eq!(pod_uid, "pod");
                    refusals.push(what);
                }
                FromRunnerNet::Withdraw { id: u64::MAX } => return refusals,
                _ => {}
            }
        }
    }
}

fn open(switch: &Arc<Switch>, stop: CancellationToken) -> PodNetwork {
    let network = protocol::PodNetwork { addresses: vec![ADDRESS.parse().unwrap()], ..Default::default() };
    switch.open("pod", &network, stop, MemoryAccount::new(None, &Arc::default()))
}

#[tokio::test]
async fn an_agent_that_says_nothing_is_waited_for_only_so_long() {
    let world = World::new(Duration::from_millis(20));
    let failed = world.network.connect(None, at(OUTSIDE)).await.unwrap_err();
    assert_eq!(failed, SocketError::TimedOut);
    let FromRunnerNet::Dial { id, from, to, .. } = world.said().await else { panic!("no dial") };
    assert_eq!((from.ip(), to), (ADDRESS.parse().unwrap(), at(OUTSIDE)));
    assert_eq!(world.said().await, FromRunnerNet::Withdraw { id });
    assert!(world.network.pod.tcp.lock().reached(from).is_none(), "the port is free again");
}

#[tokio::test]
async fn a_dial_without_its_descriptor_fails() {
    let world = World::patient();
    let serve = world.switch.serve();
    let dialled = async {
        let connect = world.network.connect(None, at(OUTSIDE));
        let answer = async {
            let FromRunnerNet::Dial { id, .. } = world.said().await else { panic!("no dial") };
            world.agent.send(ToRunnerNet::Connected { id, result: Ok(()) }, None).await.unwrap();
        };
        tokio::join!(connect, answer).0
    };
    tokio::select! {
        () = serve => panic!("the channel is closed"),
        result = dialled => assert_eq!(result.unwrap_err(), SocketError::TooMany),
    }
    assert_eq!(world.refusals().await, [Bound::Descriptors]);
}

#[tokio::test]
async fn addresses_decide_where_a_connection_may_go() {
    let world = World::patient();
    let network = &world.network;
    for (from, to, error) in [
        (None, "[fd00::1]:80", SocketError::Unreachable),
        (None, "10.96.0.1:0", SocketError::InvalidArgument),
        (None, "0.0.0.0:80", SocketError::InvalidArgument),
        (None, "224.0.0.1:80", SocketError::InvalidArgument),
        (Some("127.0.0.1:0"), OUTSIDE, SocketError::InvalidArgument),
        (Some("0.0.0.0:0"), "[::1]:80", SocketError::InvalidArgument),
        (None, "127.0.0.1:80", SocketError::Refused),
        (None, "10.244.1.7:80", SocketError::Refused),
        (Some("127.0.0.1:0"), "10.244.1.7:80", SocketError::Refused),
    ] {
        let binding = from.map(|from| network.bind(at(from)).unwrap());
        assert_eq!(network.connect(binding, at(to)).await.unwrap_err(), error, "{from:?} to {to}");
    }
    assert_eq!(network.bind(at("10.244.1.8:80")).unwrap_err(), SocketError::AddressNotAvailable);
    // A pod that learns its address has it from then on.
    let other: IpAddr = "10.244.1.8".parse().unwrap();
    network.pod.set_addresses(&[other]);
    network.bind(SocketAddr::new(other, 80)).unwrap();
}

#[tokio::test]
async fn a_full_backlog_makes_the_pods_own_clients_wait() {
    let world = World::patient();
    let listener = world.network.listen(at("127.0.0.1:80"), 2).unwrap();
    let to = listener.local_addr();
    let mut waiting = Vec::new();
    for _ in 0..2 {
        waiting.push(world.network.connect(None, to).await.unwrap());
    }
    let mut third = pin!(world.network.connect(None, to));
    assert!(poll!(&mut third).is_pending());
    assert_eq!(world.refusals().await, [Bound::Backlog]);
    // Whoever waits longest comes first, also when it is accepted later.
    for client in &waiting {
        let accepted = listener.accept().await.unwrap();
        assert_eq!((accepted.remote, accepted.local), (client.local, to));
    }
    let third = third.await.unwrap();
    assert_eq!(listener.accept().await.unwrap().remote, third.local);

    // A listener that goes refuses who waits for it, and one that is never emptied lets them time out.
    for _ in 0..2 {
        world.network.connect(None, to).await.unwrap();
    }
    let mut late = pin!(world.network.connect(None, to));
    assert!(poll!(&mut late).is_pending());
    drop(listener);
    assert_eq!(late.await.unwrap_err(), SocketError::Refused);

    let hasty = World::new(Duration::from_millis(20));
    let listener = hasty.network.listen(at("127.0.0.1:80"), 1).unwrap();
    let _first = hasty.network.connect(None, listener.local_addr()).await.unwrap();
    assert_eq!(hasty.network.connect(None, listener.local_addr()).await.unwrap_err(), SocketError::TimedOut);
}

#[tokio::test]
async fn a_backlog_is_bounded_whatever_is_asked_for() {
    let world = World::patient();
    let listener = world.network.listen(at("0.0.0.0:80"), u32::MAX).unwrap();
    let backlog = world.network.pod.backlog(listener.local_addr()).unwrap();
    let rooms = std::iter::from_fn(|| backlog.room()).collect::<Vec<_>>();
    assert_eq!(rooms.len(), usize::try_from(MAX_BACKLOG).unwrap());
    let memory = MemoryAccount::new(None, &Arc::default());
    assert!(Backlog::new(0, CancellationToken::new(), memory).room().is_some(), "there is always room for one");
}

#[tokio::test]
async fn who_waits_to_be_accepted_counts_and_ends_nobody() {
    let memory = MemoryAccount::new(Some(3000), &Arc::default());
    let backlog = Backlog::new(8, CancellationToken::new(), Arc::clone(&memory));
    let waiting = std::iter::from_fn(|| backlog.room()).collect::<Vec<_>>();
    assert_eq!((waiting.len(), memory.used_bytes()), (2, 2048), "a third has no memory");
    assert!(backlog.wait_for_room().await.is_none() && memory.excess().is_none());
    drop(waiting);
    assert_eq!(memory.used_bytes(), 0);
}

#[tokio::test]
async fn a_run_that_should_stop_is_connected_to_no_more() {
    let world = World::patient();
    let stopping = world.network.listen(at("0.0.0.0:80"), 8).unwrap();
    let other = open(&world.switch, CancellationToken::new());
    let staying = other.listen(at("0.0.0.0:81"), 8).unwrap();
    let queued = world.network.connect(None, at("127.0.0.1:80")).await.unwrap();
    world.stop.cancel();
    assert_eq!(other.connect(None, at("127.0.0.1:80")).await.unwrap_err(), SocketError::Refused);
    assert_eq!(stopping.accept().await.unwrap().remote, queued.local);
    // What it does itself still works, and so does its neighbour.
    world.network.connect(None, at("127.0.0.1:81")).await.unwrap();
    staying.close();
    assert_eq!(other.connect(None, at("127.0.0.1:81")).await.unwrap_err(), SocketError::Refused);
    assert!(staying.try_accept().unwrap().is_some());
    assert_eq!(staying.try_accept().unwrap_err(), SocketError::InvalidArgument);
}

#[tokio::test]
async fn connections_of_a_pod_are_bounded() {
    let world = World::patient();
    let listener = world.network.listen(at("127.0.0.1:80"), 8).unwrap();
    let pod = &world.network.pod;
    let most = u32::try_from(MAX_CONNECTIONS).unwrap();
    let others = Arc::clone(&pod.connections).acquire_many_owned(most - 2).await.unwrap();
    let kept = world.network.connect(None, listener.local_addr()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(world.network.connect(None, listener.local_addr()).await.unwrap_err(), SocketError::TooMany);
        let offered = UnixStream::pair().unwrap().0;
        assert_eq!(pod.offer(at("10.244.1.7:80"), at(OUTSIDE), offered.into()), Err(DialFailure::Refused));
    }
    assert_eq!(world.refusals().await, [Bound::PodConnections], "told once");
    // Both ends of the first one count until they close.
    drop(listener.accept().await.unwrap());
    drop(kept);
    world.network.connect(None, listener.local_addr()).await.unwrap();
    drop(others);

    let _sockets = Arc::clone(&pod.sockets).acquire_many_owned(u32::try_from(MAX_SOCKETS).unwrap()).await.unwrap();
    assert!(world.network.socket().is_err());
    assert_eq!(world.refusals().await, [Bound::PodSockets]);
}

#[tokio::test]
async fn ports_and_connections_come_back() {
    let world = World::patient();
    let listener = world.network.listen(at("0.0.0.0:80"), 8).unwrap();
    for round in 0..2000 {
        let client = world.network.connect(None, at("127.0.0.1:80")).await.unwrap();
        let server = listener.accept().await.unwrap();
        assert_eq!((server.remote, server.local), (client.local, client.remote));
        // Either side closes first.
        if round % 2 == 0 {
            drop((client, server));
        } else {
            drop((server, client));
        }
    }
    let pod = Arc::clone(&world.network.pod);
    assert_eq!(pod.connections.available_permits(), MAX_CONNECTIONS);
    drop(listener);
    let free = pod.tcp.lock().claim(at("0.0.0.0:80"), None);
    assert_eq!(free, Ok(at("0.0.0.0:80")));
}

#[tokio::test]
async fn pods_live_as_long_as_their_runs() {
    let world = World::patient();
    let World { switch, network, agent: _agent, .. } = world;
    let again = open(&switch, CancellationToken::new());
    assert!(Arc::ptr_eq(&network.pod, &again.pod));
    let port = network.bind(at("127.0.0.1:80")).unwrap();
    assert_eq!(again.bind(at("127.0.0.1:80")).unwrap_err(), SocketError::AddressInUse);
    let account = MemoryAccount::new(None, &Arc::default());
    let neighbour = switch.open("other", &protocol::PodNetwork::default(), CancellationToken::new(), account);
    neighbour.bind(at("127.0.0.1:80")).unwrap();
    let weak = Arc::downgrade(&network.pod);
    drop((network, again));
    assert!(weak.upgrade().is_some(), "a port is held");
    drop(port);
    assert!(weak.upgrade().is_none());
    let fresh = open(&switch, CancellationToken::new());
    fresh.bind(at("127.0.0.1:80")).unwrap();
}

#[tokio::test]
async fn streams_say_what_sockets_would() {
    let world = World::patient();
    let listener = world.network.listen(at("127.0.0.1:80"), 8).unwrap();
    let mut client = world.network.connect(None, listener.local_addr()).await.unwrap().stream;
    let mut server = listener.accept().await.unwrap().stream;
    let mut buffer = [0; 16];
    assert_eq!(server.try_read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(!server.is_readable() && server.is_writable() && !server.has_unread());
    client.write_all(b"hello").await.unwrap();
    server.readable().await;
    assert!(server.has_unread());
    assert_eq!((server.try_peek(&mut buffer).unwrap(), server.try_read(&mut buffer).unwrap()), (5, 5));
    // Ready means ready: what was read is not there any more.
    assert!(poll!(pin!(server.readable())).is_pending());

    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut buffer).await.unwrap(), 0);
    assert_eq!(client.try_write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    let mut written = 0;
    while let Ok(count) = server.try_write(&[7; 8192]) {
        written += count;
    }
    assert!((ROOMY_BUFFER_BYTES / 4..ROOMY_BUFFER_BYTES * 2).contains(&written), "{written} bytes");
    assert!(poll!(pin!(server.writable())).is_pending());
    let clone = client.clone();
    drop(client);
    clone.shutdown(Shutdown::Read).unwrap();
    assert_eq!(clone.try_read(&mut buffer).unwrap(), 0, "no more input on this side");
    drop(clone);
    assert_eq!(server.try_read(&mut buffer).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn many_connections_hold_little_each() {
    let world = World::patient();
    let listener = world.network.listen(at("0.0.0.0:80"), 8).unwrap();
    let pod = &world.network.pod;
    let many = u32::try_from(ROOMY_CONNECTIONS).unwrap();
    let _many = Arc::clone(&pod.connections).acquire_many_owned(many).await.unwrap();
    let inside = world.network.connect(None, at("127.0.0.1:80")).await.unwrap();
    let (offered, _peer) = UnixStream::pair().unwrap();
    pod.offer(at("10.244.1.7:80"), at(OUTSIDE), offered.into()).unwrap();
    let (first, second) = (listener.accept().await.unwrap(), listener.accept().await.unwrap());
    for stream in [&inside.stream, &first.stream, &second.stream] {
        let mut written = 0;
        while let Ok(count) = stream.try_write(&[7; 1024]) {
            written += count;
        }
        assert!((1024..=TIGHT_BUFFER_BYTES * 2).contains(&written), "{written} bytes");
    }
}

#[tokio::test]
async fn only_the_node_itself_connects_to_loopback() {
    let world = World::patient();
    let listener = world.network.listen(at("127.0.0.1:80"), 8).unwrap();
    let offer = |from: &str| {
        let (offered, _) = UnixStream::pair().unwrap();
        world.network.pod.offer(at("127.0.0.1:80"), at(from), offered.into())
    };
    for stranger in [OUTSIDE, "10.244.1.7:4000", "10.244.0.1:4000"] {
        assert_eq!(offer(stranger), Err(DialFailure::Refused), "{stranger}");
    }
    offer("127.0.0.1:4000").unwrap();
    assert_eq!(listener.accept().await.unwrap().remote, at("127.0.0.1:4000"));
}

#[tokio::test]
async fn datagrams_wait_in_bounded_queues() {
    let world = World::patient();
    let inbox = world.network.bind_datagrams(at("127.0.0.1:0")).unwrap();
    let sender = world.network.bind_datagrams(at("0.0.0.0:0")).unwrap();
    let send = |size: usize| sender.send(inbox.local_addr(), &vec![7; size]);
    assert_eq!(send(MAX_DATAGRAM_BYTES + 1), Err(SocketError::TooLarge));
    for _ in 0..10_000 {
        send(0).unwrap();
    }
    let mut received = 0;
    while let Some((bytes, _)) = inbox.try_receive().unwrap() {
        assert!(bytes.is_empty());
        received += 1;
    }
    assert!((100..datagrams::MAX_QUEUED_BYTES / 100).contains(&received), "{received} datagrams");
    assert_eq!(world.network.pod.queued.available_permits(), MAX_QUEUED_BYTES, "what was received has left");
    assert_eq!(world.refusals().await, [Bound::QueuedDatagrams]);

    // All sockets of a pod together are bounded too, and what waits goes with its socket.
    let inboxes = (0..64).map(|_| world.network.bind_datagrams(at("127.0.0.1:0")).unwrap()).collect::<Vec<_>>();
    for inbox in &inboxes {
        for _ in 0..4 {
            sender.send(inbox.local_addr(), &vec![7; 50_000]).unwrap();
        }
    }
    let full = inboxes.iter().filter(|inbox| (0..4).all(|_| inbox.try_receive().unwrap().is_some())).count();
    assert!((1..64).contains(&full), "{full} of 64 got everything");
    drop(inboxes);
    assert_eq!(world.network.pod.queued.available_permits(), MAX_QUEUED_BYTES);
}

#[tokio::test]
async fn datagrams_count_for_who_receives_them_and_end_nobody() {
    let World { switch, network: sender, .. } = World::patient();
    let account = MemoryAccount::new(Some(4096), &Arc::default());
    let receiver = switch.open("pod", &protocol::PodNetwork::default(), CancellationToken::new(), Arc::clone(&account));
    let inbox = receiver.bind_datagrams(at("127.0.0.1:0")).unwrap();
    let sender = sender.bind_datagrams(at("127.0.0.1:0")).unwrap();
    for _ in 0..100 {
        sender.send(inbox.local_addr(), &[7; 1000]).unwrap();
    }
    assert!((3000..=4096).contains(&account.used_bytes()), "{}", account.used_bytes());
    assert!(account.exceeded().now_or_never().is_none(), "a sender cannot end who receives");
    let mut count = 0;
    while inbox.try_receive().unwrap().is_some() {
        count += 1;
    }
    assert_eq!((count, account.used_bytes()), (3, 0));
}

#[tokio::test]
async fn datagrams_to_outside_go_to_the_agent() {
    let world = World::patient();
    let socket = world.network.bind_datagrams(at("0.0.0.0:5353")).unwrap();
    socket.connect(Some(at(OUTSIDE))).unwrap();
    assert_eq!(socket.local_addr(), at("10.244.1.7:5353"));
    socket.send(at(OUTSIDE), b"question").unwrap();
    let expected = FromRunnerNet::Datagram {
        pod_uid: "pod".into(),
        from: at("10.244.1.7:5353"),
        to: at(OUTSIDE),
        bytes: b"question".to_vec(),
    };
    assert_eq!(world.said().await, expected);
    world.network.pod.datagram_refused(at("10.244.1.7:5353"), at(OUTSIDE));
    socket.readable().await;
    assert_eq!(socket.try_receive(), Err(SocketError::Refused));
    assert_eq!(socket.try_receive(), Ok(None));
    for (to, error) in [
        ("255.255.255.255:53", SocketError::Denied),
        ("224.0.0.251:5353", SocketError::Unreachable),
        ("0.0.0.0:53", SocketError::InvalidArgument),
        ("[fd00::1]:53", SocketError::InvalidArgument),
    ] {
        assert_eq!(socket.send(at(to), b"x"), Err(error), "{to}");
    }
    drop(world.agent);
    assert_eq!(socket.send(at(OUTSIDE), b"x"), Err(SocketError::Unreachable));
}

#[tokio::test]
async fn what_leaves_the_pod_is_counted() {
    let world = World::patient();
    let network = &world.network;
    let listener = network.listen(at("0.0.0.0:80"), 4).unwrap();

    let inside = network.connect(None, at("127.0.0.1:80")).await.unwrap();
    let accepted = listener.accept().await.unwrap();
    assert_eq!(inside.stream.try_write(b"to myself").unwrap(), 9);
    assert_eq!(accepted.stream.try_read_some(64).unwrap(), b"to myself");
    assert_eq!(network.pod.traffic().bytes(), (0, 0), "what stays inside does not count");

    let (theirs, ours) = UnixStream::pair().unwrap();
    network.pod.offer(at("10.244.1.7:80"), at(OUTSIDE), ours.into()).unwrap();
    let accepted = listener.accept().await.unwrap();
    io::Write::write_all(&mut &theirs, b"question").unwrap();
    let mut buffer = [0; 64];
    assert_eq!(accepted.stream.try_read(&mut buffer).unwrap(), 8);
    assert_eq!(accepted.stream.try_write(b"answer").unwrap(), 6);
    assert_eq!(network.pod.traffic().bytes(), (8, 6));

    let socket = network.bind_datagrams(at("0.0.0.0:5353")).unwrap();
    socket.send(at(OUTSIDE), b"datagram").unwrap();
    assert_eq!(network.pod.traffic().bytes(), (8, 14));
}
