//! Connections as they come and go: dials from both sides at once, restarts, unused ones, new credentials and addresses.

use super::*;
use std::time::SystemTime;

#[tokio::test(flavor = "multi_thread")]
async fn dials_from_both_sides_at_once_all_work() {
    for _ in 0..10 {
        let (one, two) = two();
        let dials = async {
            tokio::join!(
                one.connect("two", address(1, 1), address(2, ECHO)),
                two.connect("one", address(2, 1), address(1, ECHO)),
                one.connect("two", address(1, 2), address(2, ECHO)),
                two.connect("one", address(2, 2), address(1, ECHO)),
            )
        };
        let (a, b, c, d) = dials.await;
        for stream in [a, b, c, d] {
            echoes(&mut stream.unwrap(), b"hello").await;
        }
        // Both sides use the same one from now on.
        let best = |node: &Node, peer: &str| {
            let (record, _) = node.tunnel.0.peer(peer).unwrap();
            let link = record.best(&record.state.lock()).unwrap();
            link.has_dialled
        };
        until("they agree", || best(&one, "two") != best(&two, "one")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_was_started_anew_is_reached_at_once() {
    let authority = Authority::new();
    let one = Node::start(&authority, "one", 1);
    let credentials = authority.node("two", 0);
    let copy = |credentials: &Credentials| Credentials {
        ca: credentials.ca.clone(),
        chain: credentials.chain.clone(),
        key: credentials.key.clone_key(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let first = {
        let _inside = runtime.enter();
        Node::with("two", 2, "127.0.0.1:0".parse().unwrap(), copy(&credentials), limits(), None)
    };
    introduce(&[&one, &first]);
    let mut stream = one.connect("two", address(1, 1), address(2, ECHO)).await.unwrap();
    echoes(&mut stream, b"first life").await;
    // Killed: nobody says goodbye.
    let (listen, peer) = (first.tunnel.local_address().unwrap(), first.peer.clone());
    drop(first);
    runtime.shutdown_background();
    until("the port is free", || std::net::UdpSocket::bind(listen).is_ok()).await;
    let second = Node::with("two", 2, listen, credentials, limits(), None);
    second.tunnel.set_peers(vec![one.peer.clone()]);
    let start = Instant::now();
    let mut again = one.connect(&peer.node, address(1, 1), address(2, ECHO)).await.unwrap();
    echoes(&mut again, b"second life").await;
    assert!(start.elapsed() < limits().silence, "{:?}", start.elapsed());
    let error = tokio::time::timeout(LIMIT, stream.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "what the first life had is broken");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_uses_is_closed_and_opened_again() {
    let authority = Authority::new();
    let unused = Duration::from_secs(1);
    let quick = TunnelLimits { unused, ..limits() };
    let listen = "127.0.0.1:0".parse().unwrap();
    let one = Node::with("one", 1, listen, authority.node("one", 0), quick, None);
    let two = Node::start(&authority, "two", 2);
    introduce(&[&one, &two]);
    let mut stream = one.connect("two", address(1, 1), address(2, ECHO)).await.unwrap();
    // While a stream is there the connection is, however quiet.
    tokio::time::sleep(unused + 2 * limits::CARE).await;
    echoes(&mut stream, b"still there").await;
    drop(stream);
    until("it is closed", || one.path_to("two") == Path::None && two.path_to("one") == Path::None).await;
    assert!(!one.tunnel.seems_gone("two") && !two.tunnel.seems_gone("one"));
    echoes(&mut one.connect("two", address(1, 1), address(2, ECHO)).await.unwrap(), b"again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_only_dials_is_reached_by_its_own_connection() {
    let (one, mut two) = two();
    two.peer.addresses = Vec::new();
    introduce(&[&one, &two]);
    assert!(one.connect("two", address(1, 1), address(2, ECHO)).await.is_err(), "nobody knows where");
    let _kept = two.connect("one", address(2, 1), address(1, ECHO)).await.unwrap();
    let mut stream = one.connect("two", address(1, 1), address(2, ECHO)).await.unwrap();
    echoes(&mut stream, b"over its own").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moves_keeps_what_it_dialled_and_is_found_by_its_new_address() {
    let (one, mut two) = two();
    let mut stream = two.connect("one", address(2, 1), address(1, ECHO)).await.unwrap();
    echoes(&mut stream, b"here").await;
    two.tunnel.rebind("127.0.0.1:0".parse().unwrap()).unwrap();
    echoes(&mut stream, b"there").await;
    two.peer.addresses = vec![two.tunnel.local_address().unwrap()];
    introduce(&[&one, &two]);
    echoes(&mut one.connect("two", address(1, 1), address(2, ECHO)).await.unwrap(), b"found").await;
    assert!(two.tunnel.rebind("192.0.2.1:1".parse().unwrap()).is_err(), "no address of this machine");
    echoes(&mut stream, b"still there").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_at_once_are_all_served() {
    let (one, two) = two();
    let mut dials = tokio::task::JoinSet::new();
    for number in 0..300_u16 {
        let tunnel = one.tunnel.clone();
        dials.spawn(async move {
            let carrier = tunnel.connect("two", address(1, number + 1), address(2, ECHO)).await.unwrap();
            let mut stream = UnixStream::from_std(StdStream::from(carrier.stream().unwrap())).unwrap();
            echoes(&mut stream, &number.to_be_bytes()).await;
        });
    }
    tokio::time::timeout(LIMIT, dials.join_all()).await.unwrap();
    until("nothing is left of them", || one.tunnel.0.tasks.len() <= 3 && two.tunnel.0.tasks.len() <= 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_certificate_has_expired_is_cut_off_after_a_while() {
    let authority = Authority::new();
    let strict = TunnelLimits { expired_grace: Duration::from_millis(500), ..limits() };
    let listen = "127.0.0.1:0".parse().unwrap();
    let one = Node::with("one", 1, listen, authority.node("one", 0), strict, None);
    let until = SystemTime::now() + Duration::from_secs(10);
    let two = Node::with("two", 2, listen, authority.node_until("two", until), limits(), None);
    introduce(&[&one, &two]);
    let mut stream = one.connect("two", address(1, 1), address(2, ECHO)).await.unwrap();
    echoes(&mut stream, b"still good").await;
    let error = tokio::time::timeout(LIMIT, stream.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    // Certificates know whole seconds only.
    assert!(SystemTime::now() + Duration::from_secs(1) >= until);
    assert!(one.connect("two", address(1, 1), address(2, ECHO)).await.is_err());
}
