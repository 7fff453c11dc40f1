//! Who has no business here: strangers, removed nodes, and nodes that speak for others.

use super::*;
use quinn::{ClientConfig, EndpointConfig, crypto::rustls::QuicClientConfig};
use std::net::UdpSocket;

fn turned_away(notice: &Notice) -> Option<(Option<String>, String)> {
    match notice {
        Notice::Refused { node, why, .. } => Some((node.clone(), why.clone())),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_turned_away_both_ways() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let listen = "127.0.0.1:0".parse().unwrap();
    let client = || ExtendedKeyUsagePurpose::ClientAuth;
    let mut one = Node::start(&ours, "one", 1);
    let cases = [
        ("another cluster's", theirs.node("two", 0)),
        ("a server's", ours.issue("system:node:two", "system:nodes", 0, ExtendedKeyUsagePurpose::ServerAuth)),
        ("a user's", ours.issue("admin", "system:masters", 0, client())),
        ("a user's with a node's name", ours.issue("system:node:two", "system:masters", 0, client())),
        ("an unknown node's", ours.node("three", 0)),
    ];
    for (what, credentials) in cases {
        let two = Node::with("two", 2, listen, credentials, limits(), None);
        introduce(&[&one, &two]);
        // A dial from there fails, and says why here.
        let failure = two.connect("one", address(2, 1), address(1, ECHO)).await.unwrap_err();
        assert_eq!(failure, DialFailure::Unreachable, "{what}");
        // A dial to there fails too: it is not who it should be.
        let failure = one.connect("two", address(1, 1), address(2, ECHO)).await.unwrap_err();
        assert_eq!(failure, DialFailure::Unreachable, "{what}");
        assert!(one.pods.asked.lock().is_empty() && two.pods.asked.lock().is_empty(), "{what}");
        two.tunnel.shutdown().await;
    }
    // Each in its turn.
    let named = "its certificate is that of node \"three\": it is no node that this one knows";
    for expected in ["says: invalid peer certificate", "key usage", "is no node's", named] {
        let (_, why) = one.hears(|notice| turned_away(notice).filter(|(_, why)| why.contains(expected))).await;
        assert!(!why.contains("unexpected error"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_only_who_its_certificate_says() {
    let authority = Authority::new();
    let listen = "127.0.0.1:0".parse().unwrap();
    let (mut one, three) = (Node::start(&authority, "one", 1), Node::start(&authority, "three", 3));
    // Three sits at the address that one takes for two's.
    let two = Peer { node: "two".to_owned(), addresses: three.peer.addresses.clone(), ..three.peer.clone() };
    one.tunnel.set_peers(vec![two, Peer { ranges: Vec::new(), ..three.peer.clone() }]);
    three.tunnel.set_peers(vec![one.peer.clone()]);
    let failure = one.connect("two", address(1, 1), address(3, ECHO)).await.unwrap_err();
    assert_eq!(failure, DialFailure::Unreachable);
    let why = one.hears(|notice| match notice {
        Notice::Unreachable { node, why } if node == "two" => Some(why.clone()),
        _ => None,
    });
    let why = why.await;
    assert!(why.contains("node \"three\""), "{why}");
    // A name in the configuration is none: what counts is the certificate.
    let liar = Node::with("one", 1, listen, authority.node("four", 0), limits(), None);
    liar.tunnel.set_peers(vec![three.peer.clone()]);
    assert!(liar.connect("three", address(1, 1), address(3, ECHO)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_is_out_at_once_and_its_old_certificate_stays_out() {
    let authority = Authority::new();
    let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let one = Node::start(&authority, "one", 1);
    let mut old = Node::with("two", 2, listen, authority.node("two", 7), limits(), None);
    introduce(&[&one, &old]);
    let mut stream = old.connect("one", address(2, 1), address(1, ECHO)).await.unwrap();
    echoes(&mut stream, b"in").await;
    one.tunnel.set_peers(Vec::new());
    let error = tokio::time::timeout(LIMIT, stream.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(old.connect("one", address(2, 1), address(1, ECHO)).await.is_err());
    // Made anew: certificates from before do not count, new ones do.
    one.tunnel.set_peers(vec![Peer { credentials_since: 8, ..old.peer.clone() }]);
    let is_out = old.connect("one", address(2, 1), address(1, ECHO)).await;
    assert_eq!(is_out.unwrap_err(), DialFailure::Unreachable);
    old.tunnel.set_credentials(authority.node("two", 8)).unwrap();
    until("it is in again", || !old.tunnel.seems_gone("one")).await;
    let mut stream = old.connect("one", address(2, 1), address(1, ECHO)).await.unwrap();
    echoes(&mut stream, b"in again").await;
    // Raised while it is connected: out at once.
    one.tunnel.set_peers(vec![Peer { credentials_since: 9, ..old.peer.clone() }]);
    assert!(tokio::time::timeout(LIMIT, stream.read(&mut [0; 1])).await.unwrap().is_err());
    assert!(old.datagrams.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_speaks_for_its_own_pods_only() {
    let (mut one, mut two) = two();
    for from in [address(3, 1), address(1, 1), "192.0.2.1:1".parse().unwrap(), "[fd00::1]:1".parse().unwrap()] {
        let denied = two.connect("one", from, address(1, ECHO)).await.unwrap_err();
        assert_eq!(denied, DialFailure::Denied, "{from}");
        two.tunnel.send("one", from, address(1, 53), Bytes::from_static(b"spoofed"));
        two.tunnel.say_refused("one", address(1, 53), from);
    }
    let (node, why) = one.hears(turned_away).await;
    assert_eq!(node.as_deref(), Some("two"));
    assert!(why.contains("10.244.3.5"), "{why}");
    two.tunnel.send("one", address(2, 1), address(1, 53), Bytes::from_static(b"true"));
    assert_eq!(one.next_datagram().await.bytes.as_deref(), Some(&b"true"[..]));
    assert!(one.pods.asked.lock().is_empty());
    assert!(two.notices.try_recv().is_err());
}

/// A QUIC client with a node's certificate that says what it wants.
async fn hostile(authority: &Authority, name: &str, to: SocketAddr) -> quinn::Connection {
    let credentials = authority.node(name, 0);
    // What the other side shows is not its concern.
    let look_up = Arc::new(|node: &str| {
        Some(Peer { node: node.to_owned(), addresses: Vec::new(), ranges: Vec::new(), credentials_since: 0 })
    });
    let identity = Arc::new(Identity::new(credentials, look_up).unwrap());
    let tls = QuicClientConfig::try_from(identity.client("one").unwrap()).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime)).unwrap();
    endpoint.connect_with(ClientConfig::new(Arc::new(tls)), to, "node").unwrap().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_over_node_floods_in_vain() {
    let authority = Authority::new();
    let mut few = limits();
    few.streams_per_peer = 16;
    let listen = "127.0.0.1:0".parse().unwrap();
    let mut one = Node::with("one", 1, listen, authority.node("one", 0), few, None);
    let two = Node::start(&authority, "two", 2);
    let three = Node::start(&authority, "three", 3);
    introduce(&[&one, &two, &three]);
    let connection = hostile(&authority, "three", one.peer.addresses[0]).await;
    // Streams that say nothing, as many as it may; one more has to wait.
    let mut silent = Vec::new();
    for _ in 0..16 {
        let (mut sending, receiving) = connection.open_bi().await.unwrap();
        sending.write_all(&[4]).await.unwrap();
        silent.push((sending, receiving));
    }
    assert!(tokio::time::timeout(Duration::from_millis(200), connection.open_bi()).await.is_err());
    // Datagrams of garbage, parts of nothing, and too many.
    for number in 0..2_000_u32 {
        let mut part = vec![1];
        part.extend_from_slice(&number.to_be_bytes());
        part.extend_from_slice(&[0, 255]);
        part.extend_from_slice(&[0; 900]);
        for datagram in [vec![], vec![0], vec![9, 9, 9], vec![1, 0, 0], vec![0, 4, 1], part] {
            connection.send_datagram(datagram.into()).ok();
        }
    }
    // The others go on meanwhile.
    let mut stream = two.connect("one", address(2, 1), address(1, ECHO)).await.unwrap();
    echoes(&mut stream, b"undisturbed").await;
    let (node, _) = one.hears(turned_away).await;
    assert_eq!(node.as_deref(), Some("three"));
    drop(silent);
    // A stream that begins with garbage is answered with no, and over.
    let (mut sending, mut receiving) = connection.open_bi().await.unwrap();
    sending.write_all(&[77; 5_000]).await.ok();
    let answer = tokio::time::timeout(LIMIT, receiving.read_to_end(100)).await.unwrap();
    assert_eq!(answer.unwrap(), [4], "not allowed");
    assert!(one.datagrams.try_recv().is_err());
    assert_eq!(one.pods.asked.lock().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_that_is_given_up_is_no_offence() {
    let authority = Authority::new();
    let (mut one, two) = (Node::start(&authority, "one", 1), Node::start(&authority, "two", 2));
    introduce(&[&one, &two]);
    let connection = hostile(&authority, "two", one.peer.addresses[0]).await;
    for begun in [&[][..], &[4], &[4, 10, 244]] {
        let (mut sending, receiving) = connection.open_bi().await.unwrap();
        sending.write_all(begun).await.unwrap();
        sending.reset(1_u32.into()).unwrap();
        drop(receiving);
    }
    let foreign = [&[4, 192, 0, 2, 1, 0, 1, 10, 244, 1, 5][..], &ECHO.to_be_bytes()].concat();
    let (mut sending, mut receiving) = connection.open_bi().await.unwrap();
    sending.write_all(&foreign).await.unwrap();
    let answer = tokio::time::timeout(LIMIT, receiving.read_to_end(100)).await.unwrap();
    assert_eq!(answer.unwrap(), [4], "not allowed");
    let (_, why) = one.hears(turned_away).await;
    assert!(why.contains("192.0.2.1"), "the first that was turned away: {why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_begins_turns_nobody_away_before_it_knows_its_cluster() {
    let authority = Authority::new();
    let (mut one, two) = (Node::start(&authority, "one", 1), Node::start(&authority, "two", 2));
    two.tunnel.set_peers(vec![one.peer.clone()]);
    let dial = two.connect("one", address(2, 1), address(1, ECHO));
    let introduced = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        one.tunnel.set_peers(vec![two.peer.clone()]);
    };
    let (stream, ()) = tokio::join!(dial, introduced);
    echoes(&mut stream.unwrap(), b"welcome").await;
    assert!(one.notices.try_recv().is_err(), "nobody was turned away");
}
