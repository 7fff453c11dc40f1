//! Connections between pods: bytes, ends, breaks, and holding back.

use super::*;
use io::ErrorKind;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_both_ways_and_addresses_are_told() {
    let (one, two) = two();
    let mut stream = one.connect("two", address(1, 1234), address(2, ECHO)).await.unwrap();
    echoes(&mut stream, b"hello").await;
    echoes(&mut stream, &pattern(100_000)).await;
    assert_eq!(*two.pods.asked.lock(), [("one".to_owned(), address(1, 1234), address(2, ECHO))]);
    let mut back = two.connect("one", address(2, 1234), address(1, ECHO)).await.unwrap();
    echoes(&mut back, b"and back").await;
    assert_eq!((one.path_to("two"), two.path_to("one")), (Path::Direct, Path::Direct));
    assert_eq!(one.tunnel.0.endpoint.open_connections(), 1, "one connection serves both directions");
    assert_eq!(one.tunnel.node_of("10.244.2.9".parse().unwrap()).as_deref(), Some("two"));
    assert_eq!(one.tunnel.node_of("10.244.1.9".parse().unwrap()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn megabytes_arrive_in_order_both_ways_at_once() {
    let (one, mut two) = two();
    let mine = one.connect("two", address(1, 1), address(2, TAKEN)).await.unwrap();
    let theirs = two.next_taken().await;
    let data = Arc::new(pattern(8 << 20));
    let exchange = |stream: UnixStream, data: Arc<Vec<u8>>| async move {
        let (mut reader, mut writer) = stream.into_split();
        let expected = Arc::clone(&data);
        let writing = tokio::spawn(async move {
            writer.write_all(&data).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.unwrap();
        writing.await.unwrap();
        assert!(all == *expected);
    };
    let both = async { tokio::join!(exchange(mine, Arc::clone(&data)), exchange(theirs, data)) };
    tokio::time::timeout(LIMIT, both).await.unwrap();
    until("both tunnels are done with it", || one.tunnel.0.tasks.len() <= 3 && two.tunnel.0.tasks.len() <= 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_direction_may_end_before_the_other() {
    let (one, mut two) = two();
    let mut mine = one.connect("two", address(1, 1), address(2, TAKEN)).await.unwrap();
    let mut theirs = two.next_taken().await;
    mine.write_all(b"question").await.unwrap();
    mine.shutdown().await.unwrap();
    let mut question = Vec::new();
    theirs.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    theirs.write_all(&pattern(500_000)).await.unwrap_or_else(|error| panic!("{error}"));
    drop(theirs);
    let mut answer = Vec::new();
    mine.read_to_end(&mut answer).await.unwrap();
    assert!(answer == pattern(500_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_is_no_end() {
    let (one, mut two) = two();
    // The other pod goes away with bytes unread.
    let mut mine = one.connect("two", address(1, 1), address(2, TAKEN)).await.unwrap();
    let theirs = two.next_taken().await;
    mine.write_all(b"never read").await.unwrap();
    tokio::time::timeout(LIMIT, theirs.readable()).await.unwrap().unwrap();
    drop(theirs);
    let error = tokio::time::timeout(LIMIT, mine.read(&mut [0; 8])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // The other node goes away in the middle of an answer.
    let mut mine = one.connect("two", address(1, 1), address(2, TAKEN)).await.unwrap();
    let mut theirs = two.next_taken().await;
    theirs.write_all(b"half").await.unwrap();
    let mut half = [0; 4];
    mine.read_exact(&mut half).await.unwrap();
    two.tunnel.shutdown().await;
    let error = tokio::time::timeout(LIMIT, mine.read(&mut [0; 8])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let error = tokio::time::timeout(LIMIT, theirs.read(&mut [0; 8])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_to_nobody_hears_of_it() {
    let (one, mut two) = two();
    let mut mine = one.connect("two", address(1, 1), address(2, TAKEN)).await.unwrap();
    drop(two.next_taken().await);
    let writing = async {
        while mine.write_all(&[0; 4096]).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, writing).await.unwrap();
    drop(mine);
    // A pod that has gone altogether stops the other, although it had ended its side properly.
    let mut mine = one.connect("two", address(1, 1), address(2, TAKEN)).await.unwrap();
    let mut theirs = two.next_taken().await;
    mine.shutdown().await.unwrap();
    assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 0);
    drop(mine);
    let writing = async {
        while theirs.write_all(&[0; 4096]).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, writing).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_holds_the_writer_back_and_nobody_else() {
    let (one, mut two) = two();
    let mine = one.connect("two", address(1, 1), address(2, TAKEN)).await.unwrap();
    let mut theirs = two.next_taken().await;
    let (mut reader, mut writer) = mine.into_split();
    let writing = tokio::spawn(async move {
        let mut written = 0_usize;
        let chunk = pattern(16 * 1024);
        // Stays refused once everything in between is full.
        while let Ok(result) = tokio::time::timeout(Duration::from_secs(1), writer.write(&chunk)).await {
            written += result.unwrap();
        }
        (written, writer)
    });
    let mut other = one.connect("two", address(1, 2), address(2, ECHO)).await.unwrap();
    for _ in 0..100 {
        echoes(&mut other, &pattern(10_000)).await;
    }
    let (written, writer) = tokio::time::timeout(LIMIT, writing).await.unwrap().unwrap();
    assert!(written < 4 << 20, "{written} bytes wait somewhere");
    let mut read = 0;
    let mut buffer = vec![0; 64 * 1024];
    while read < written {
        let states = || format!("{:?} {:?}", one.tunnel.states(), two.tunnel.states());
        let result = tokio::time::timeout(LIMIT, theirs.read(&mut buffer)).await.unwrap();
        read += result.unwrap_or_else(|error| panic!("{error} after {read} of {written} bytes: {}", states()));
    }
    drop(writer);
    assert_eq!(theirs.read(&mut buffer).await.unwrap(), 0);
    theirs.shutdown().await.unwrap();
    assert_eq!(reader.read(&mut buffer).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn few_may_stop_to_read_and_the_others_go_on() {
    let authority = Authority::new();
    let tight = TunnelLimits {
        stream_window_bytes: 64 * 1024,
        stalled_bytes: 4 * 64 * 1024,
        stall: Duration::from_secs(2),
        ..limits()
    };
    let listen = "127.0.0.1:0".parse().unwrap();
    let one = Node::start(&authority, "one", 1);
    let mut two = Node::with("two", 2, listen, authority.node("two", 0), tight, None);
    introduce(&[&one, &two]);
    let (mut unread, mut writers) = (Vec::new(), Vec::new());
    for number in 0..12 {
        let mut mine = one.connect("two", address(1, number + 1), address(2, TAKEN)).await.unwrap();
        unread.push(two.next_taken().await);
        writers.push(tokio::spawn(async move { while mine.write_all(&[0; 16 * 1024]).await.is_ok() {} }));
    }
    // More than may wait of one peer would wait: those that stalled first are broken, and room is made.
    until("all but those that may stall are broken", || {
        writers.iter().filter(|writer| writer.is_finished()).count() == 12 - 4
    })
    .await;
    let mut other = one.connect("two", address(1, 100), address(2, ECHO)).await.unwrap();
    echoes(&mut other, &pattern(1_000_000)).await;
    assert_eq!(writers.iter().filter(|writer| !writer.is_finished()).count(), 4);
    drop(unread);
    for writer in writers {
        tokio::time::timeout(LIMIT, writer).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_and_a_withdrawn_dial_forgotten() {
    let (one, two) = two();
    let refused = one.connect("two", address(1, 1), address(2, REFUSES)).await.unwrap_err();
    assert_eq!(refused, DialFailure::Refused);
    assert_eq!(one.connect("three", address(1, 1), address(3, ECHO)).await.unwrap_err(), DialFailure::Unreachable);
    let hangs = one.connect("two", address(1, 1), address(2, HANGS)).await.unwrap_err();
    assert_eq!(hangs, DialFailure::TimedOut);
    // The other node stops to offer what nobody waits for.
    until("the offers are withdrawn", || two.tunnel.0.tasks.len() <= 3).await;
    assert!(!one.tunnel.seems_gone("two"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_from_outside_is_carried_with_its_resets() {
    let (one, mut two) = two();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let accept = || async {
        let (client, server) =
            tokio::join!(tokio::net::TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let carrier = one.tunnel.connect("two", address(1, 1), address(2, TAKEN)).await.unwrap();
        carrier.carry(server.unwrap().0.into_std().unwrap().into());
        client.unwrap()
    };
    let mut client = accept().await;
    let mut pod = two.next_taken().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = Vec::new();
    pod.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    pod.write_all(&pattern(300_000)).await.unwrap();
    drop(pod);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(answer == pattern(300_000));
    // A pod that breaks the connection resets the client.
    let mut client = accept().await;
    let pod = two.next_taken().await;
    client.write_all(b"never read").await.unwrap();
    pod.readable().await.unwrap();
    drop(pod);
    let error = tokio::time::timeout(LIMIT, client.read(&mut [0; 8])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_cut_off_while_the_pod_did_not_read_looks_cut_off() {
    let (one, mut two) = two();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) =
        tokio::join!(tokio::net::TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let carrier = one.tunnel.connect("two", address(1, 1), address(2, TAKEN)).await.unwrap();
    carrier.carry(server.unwrap().0.into_std().unwrap().into());
    let (mut client, mut pod) = (client.unwrap(), two.next_taken().await);
    // Until nothing more goes in: nobody reads from the client's socket now.
    let upload = vec![7; 64 * 1024];
    while tokio::time::timeout(Duration::from_millis(500), client.write_all(&upload)).await.is_ok() {}
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&client, nix::sys::socket::sockopt::Linger, &at_once).unwrap();
    drop(client);
    // What the pod writes is the first to meet the broken connection.
    let failing = async { while pod.write_all(b"answer").await.is_ok() {} };
    tokio::time::timeout(LIMIT, failing).await.unwrap();
    let read = tokio::time::timeout(LIMIT, tokio::io::copy(&mut pod, &mut tokio::io::sink())).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn from_pod(pod: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 244, 1, pod], port))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pod_takes_all_connections_between_two_nodes() {
    let authority = Authority::new();
    let few = TunnelLimits { streams_per_peer: 8, ..limits() };
    let listen = "127.0.0.1:0".parse().unwrap();
    let one = Node::with("one", 1, listen, authority.node("one", 0), few, None);
    let two = Node::start(&authority, "two", 2);
    introduce(&[&one, &two]);
    let mut greedy = Vec::new();
    for port in 1..=4 {
        greedy.push(one.connect("two", from_pod(5, port), address(2, ECHO)).await.unwrap());
    }
    let over = one.connect("two", from_pod(5, 9), address(2, ECHO)).await.unwrap_err();
    assert_eq!(over, DialFailure::TooMany);
    let mut other = one.connect("two", from_pod(6, 1), address(2, ECHO)).await.unwrap();
    echoes(&mut other, b"there is some left").await;
    drop(greedy);
    let end = Instant::now() + LIMIT;
    while one.connect("two", from_pod(5, 9), address(2, ECHO)).await.is_err() {
        assert!(Instant::now() < end, "what was given back can be had");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_connection_is_not_taken_for_a_silent_one() {
    let authority = Authority::new();
    let few = TunnelLimits { streams_per_peer: 3, ..limits() };
    let listen = "127.0.0.1:0".parse().unwrap();
    let one = Node::start(&authority, "one", 1);
    let two = Node::with("two", 2, listen, authority.node("two", 0), few, None);
    introduce(&[&one, &two]);
    let mut open = Vec::new();
    for pod in 1..=3 {
        open.push(one.connect("two", from_pod(pod, 1), address(2, ECHO)).await.unwrap());
    }
    let since = one.tunnel.states()[0].since;
    let over = one.connect("two", from_pod(4, 1), address(2, ECHO)).await.unwrap_err();
    assert_eq!(over, DialFailure::TooMany);
    assert_eq!((one.tunnel.states()[0].since, one.tunnel.seems_gone("two")), (since, false));
    echoes(&mut open[0], b"goes on").await;
}
