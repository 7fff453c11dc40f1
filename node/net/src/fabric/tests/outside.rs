//! Real sockets: connections and datagrams to addresses that are outside.

use super::*;
use crate::fabric::Bound;
use nix::sys::socket::{getsockopt, sockopt};
use std::net::TcpStream as StdTcpStream;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

impl World {
    /// Somebody outside has the address, and is really on loopback.
    fn outside(&self, address: &str, way: SocketAddr) {
        self.machine.ways.lock().insert(at(address), way);
    }
}

#[tokio::test]
async fn a_real_connection_is_handed_over() {
    let world = World::new();
    let server = TcpListener::bind((own_loopback(), 0)).await.unwrap();
    world.outside("203.0.113.7:443", server.local_addr().unwrap());
    let socket = world.dial("203.0.113.7:443").await.unwrap();
    assert!(getsockopt(&socket, sockopt::TcpNoDelay).unwrap());
    let mut near = TcpStream::from_std(StdTcpStream::from(socket)).unwrap();
    let (mut far, _) = soon(server.accept()).await.unwrap();
    carries(&mut near, &mut far, &vec![1; 300_000]).await;
    carries(&mut far, &mut near, b"and back").await;
    assert_eq!(world.fabric.statistics().connected_outside, 1);
}

#[tokio::test]
async fn failures_outside_are_told_apart() {
    assert_eq!(World::new().dial("203.0.113.8:80").await.unwrap_err(), DialFailure::Refused);
    // Its queue is full: the kernel answers nobody more.
    let world = World::with(Limits { outside_dial_timeout: Duration::from_millis(50), ..Limits::default() });
    let (full, _held) = listener_with_full_queue();
    world.outside("203.0.113.9:80", full.local_addr().unwrap());
    assert_eq!(world.dial("203.0.113.9:80").await.unwrap_err(), DialFailure::TimedOut);
}

/// A listener that nobody accepts from, and the connections that fill its queue.
fn listener_with_full_queue() -> (TcpListener, Vec<StdTcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(own_loopback(), 0)).unwrap();
    let listener = socket.listen(1).unwrap();
    let mut held = Vec::new();
    while let Ok(one) = StdTcpStream::connect_timeout(&listener.local_addr().unwrap(), Duration::from_millis(100)) {
        held.push(one);
    }
    (listener, held)
}

#[tokio::test]
async fn whoever_ends_up_on_this_machine_is_denied() {
    let world = World::new();
    let address = own_loopback();
    let server = TcpListener::bind((address, 0)).await.unwrap();
    // The kernel gives a connection to 127.0.0.1 the same source.
    let itself = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.outside("203.0.113.7:80", itself.local_addr().unwrap());
    assert_eq!(world.dial("203.0.113.7:80").await.unwrap_err(), DialFailure::Denied);
    world.outside("203.0.113.8:80", server.local_addr().unwrap());
    assert!(world.dial("203.0.113.8:80").await.is_ok());
    world.machine.own.lock().push("203.0.113.8".parse().unwrap());
    assert_eq!(world.dial("203.0.113.8:80").await.unwrap_err(), DialFailure::Denied, "it has become the machine's");
}

#[tokio::test]
async fn dials_to_outside_have_bounds_of_their_own() {
    let began = Instant::now();
    let world = World::with(Limits { outside_dials_per_second: 3, ..Limits::default() });
    let mut made = 0;
    for _ in 0..30 {
        made += usize::from(world.dial("203.0.113.8:80").await.unwrap_err() != DialFailure::TooMany);
    }
    let allowed = allowed(3, began);
    assert!((1..=allowed).contains(&made), "{made} dials, {allowed} are allowed");
    assert!(world.dial("10.244.0.2:80").await.is_ok(), "inside goes on");
}

#[tokio::test]
async fn connections_to_outside_are_bounded_as_long_as_they_are_open() {
    let mut world = World::with(Limits { outside_streams: 3, ..Limits::default() });
    let server = TcpListener::bind((own_loopback(), 0)).await.unwrap();
    world.outside("203.0.113.7:80", server.local_addr().unwrap());
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(world.dial("203.0.113.7:80").await.unwrap());
    }
    assert_eq!(world.dial("203.0.113.7:80").await.unwrap_err(), DialFailure::TooMany);
    assert_eq!(world.notice().await.message, "refused: too many connections to outside");
    let other = soon(world.fabric.dial("b", at("10.244.0.2:1"), at("203.0.113.7:80"))).await;
    assert!(other.is_ok(), "another pod does not notice");
    // Whoever has the socket closes it, and says nothing.
    held.pop();
    soon(async {
        while world.dial("203.0.113.7:80").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    world.fabric.remove_pod("a");
}

#[tokio::test]
async fn datagrams_go_out_and_answers_come_back_from_those_who_were_asked() {
    let mut world = World::new();
    let server = UdpSocket::bind((own_loopback(), 0)).await.unwrap();
    let stranger = UdpSocket::bind((own_loopback(), 0)).await.unwrap();
    world.outside("203.0.113.7:53", server.local_addr().unwrap());
    world.outside("203.0.113.66:53", stranger.local_addr().unwrap());
    let mut buffer = [0; 100];
    let mut sources = Vec::new();
    for port in ["1000", "1000", "1001"] {
        world.send("a", &format!("10.244.0.1:{port}"), "203.0.113.7:53", "question");
        let (length, from) = soon(server.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(&buffer[..length], b"question");
        sources.push(from);
    }
    assert_eq!(sources[0], sources[1], "one port of a pod is one port outside");
    assert_ne!(sources[0], sources[2]);
    stranger.send_to(b"guess", ("127.0.0.1", sources[2].port())).await.unwrap();
    server.send_to(b"answer", ("127.0.0.1", sources[2].port())).await.unwrap();
    let answer = world.delivered().await;
    assert_eq!((&*answer.uid, answer.to, answer.from), ("a", at("10.244.0.1:1001"), at("203.0.113.7:53")));
    assert_eq!(&*answer.bytes, b"answer");
    assert!(world.delivered.try_recv().is_err(), "the stranger was not asked");
}

#[tokio::test]
async fn sockets_for_datagrams_are_bounded_and_close_when_idle_or_with_their_pod() {
    let limits = Limits { outside_sockets: 2, flow_idle: Duration::from_millis(300), ..Limits::default() };
    let world = World::with(limits);
    let server = UdpSocket::bind((own_loopback(), 0)).await.unwrap();
    world.outside("203.0.113.7:53", server.local_addr().unwrap());
    let mut buffer = [0; 100];
    for port in 1000..1010 {
        world.send("a", &format!("10.244.0.1:{port}"), "203.0.113.7:53", "x");
        soon(server.recv_from(&mut buffer)).await.unwrap();
    }
    world.send("b", "10.244.0.2:1000", "203.0.113.7:53", "x");
    soon(server.recv_from(&mut buffer)).await.unwrap();
    assert!(world.fabric.0.outside_sockets.len() <= 3);
    world.fabric.remove_pod("b");
    assert!(world.fabric.0.outside_sockets.len() <= 2);
    until(|| world.fabric.0.outside_sockets.len() == 0).await;
    soon(world.fabric.shutdown()).await;
}

#[tokio::test]
async fn a_scan_of_the_outside_by_datagrams_is_bounded() {
    let mut world = World::with(Limits { outside_peers: 5, ..Limits::default() });
    for last in 0..50 {
        world.send("a", "10.244.0.1:1000", &format!("203.0.113.{last}:53"), "x");
    }
    let hits = world.fabric.statistics().bounds;
    assert!(hits.contains(&(Bound::OutsidePeers, 45)), "{hits:?}");
    assert_eq!(world.notice().await.message, "refused: too many peers of a datagram socket to outside");
    world.machine.own.lock().push("203.0.113.200".parse().unwrap());
    world.send("a", "10.244.0.1:1000", "203.0.113.200:53", "x");
    assert_eq!(world.fabric.statistics().denied, 1, "this machine is not outside");
}

#[tokio::test]
async fn a_pod_that_sends_from_ever_new_ports_gets_no_more_sockets_than_its_rate_of_peers() {
    let mut world = World::with(Limits { outside_peers_per_second: 1, ..Limits::default() });
    for port in 1000..1200 {
        world.send("a", &format!("10.244.0.1:{port}"), "203.0.113.1:53", "x");
    }
    // A slow machine takes some seconds for it.
    assert!(world.fabric.0.outside_sockets.len() < 50, "{}", world.fabric.0.outside_sockets.len());
    assert_eq!(world.notice().await.message, "refused: too many peers of a datagram socket to outside");
}
