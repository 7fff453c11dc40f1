//! Datagrams between pods: short and long, refused, and before there is a connection.

use super::*;
use crate::fabric::DATAGRAM_BYTES_MAX;

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_arrive_also_the_first_and_the_longest() {
    let (one, mut two) = two();
    for length in [0, 1, 1_200, 1_500, 9_000, DATAGRAM_BYTES_MAX] {
        let bytes: Bytes = (0..length).map(|at| u8::try_from(at % 253).unwrap()).collect();
        one.tunnel.send("two", address(1, 7), address(2, 53), bytes.clone());
        let got = two.next_datagram().await;
        assert_eq!((got.from, got.to), (address(1, 7), address(2, 53)));
        assert!(got.bytes == Some(bytes), "{length}");
    }
    one.tunnel.send("two", address(1, 7), address(2, 53), Bytes::from(vec![0; DATAGRAM_BYTES_MAX + 1]));
    two.tunnel.say_refused("one", address(1, 7), address(2, 53));
    let mut one = one;
    assert_eq!(one.next_datagram().await, Got { from: address(1, 7), to: address(2, 53), bytes: None });
    assert!(two.datagrams.try_recv().is_err(), "one that is too long goes nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_to_nobody_is_not_kept() {
    let authority = Authority::new();
    let one = Node::start(&authority, "one", 1);
    let mut two = Node::start(&authority, "two", 2);
    // Nobody answers there, and nobody else gets the port meanwhile.
    let hole = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    two.peer.addresses = vec![hole.local_addr().unwrap()];
    introduce(&[&one, &two]);
    one.tunnel.send("nobody", address(1, 7), address(2, 53), Bytes::from_static(b"x"));
    one.tunnel.send("two", address(1, 7), address(2, 53), Bytes::from_static(b"x"));
    assert!(!one.tunnel.seems_gone("two"), "it is being tried");
    for _ in 0..10_000 {
        one.tunnel.send("two", address(1, 7), address(2, 53), Bytes::from_static(b"x"));
    }
    until("it seems gone", || one.tunnel.seems_gone("two")).await;
    let (record, _) = one.tunnel.0.peer("two").unwrap();
    assert!(record.state.lock().pending.is_empty());
    assert!(two.datagrams.try_recv().is_err());
}
