//! The real machine below the fabric: the kernel's own answers, in networks that the tests make for themselves. They must run
//! as root and find `ip`: without them they fail.
//!
//! ```text
//! the node 198.51.100.1 ── veth ── 198.51.100.9 somebody outside
//! ```

use super::*;
use crate::fabric::machine::NONLOCAL_BIND;
use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use std::{fs, io::Write, net::TcpListener as StdTcpListener, process::Command, sync::mpsc as std_mpsc, thread};
use tokio::net::TcpStream;

const OUTSIDE_PORT: u16 = 7000;

fn run(command: &str) {
    let done = Command::new("sh").args(["-ec", command]).status().unwrap();
    assert!(done.success(), "{done}: {command}");
}

/// Gives the thread a network of its own.
fn own_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("no network namespace: these tests must run as root");
}

#[test]
fn addresses_that_come_later_are_known_whatever_may_be_bound() {
    let in_own_network = || {
        own_network();
        run("ip link set lo up; ip address add 198.51.100.2/32 dev lo; ip address add 198.51.100.3/32 dev lo; \
             ip route add local 203.0.113.0/24 dev lo");
        for nonlocal_bind in ["0", "1"] {
            fs::write(NONLOCAL_BIND[0], nonlocal_bind).unwrap();
            for own in ["198.51.100.2", "198.51.100.3", "203.0.113.77"] {
                assert!(ThisMachine.is_own(own.parse().unwrap()), "{own}, nonlocal bind {nonlocal_bind}");
            }
            for other in ["198.51.100.4", "203.0.114.1"] {
                assert!(!ThisMachine.is_own(other.parse().unwrap()), "{other}, nonlocal bind {nonlocal_bind}");
            }
        }
        run("ip address del 198.51.100.3/32 dev lo");
        assert!(!ThisMachine.is_own("198.51.100.3".parse().unwrap()));
    };
    thread::spawn(in_own_network).join().unwrap();
}

/// A thread in a network of its own, with somebody who greets whoever comes. Ends with the sender that it gets back.
fn outside(link: &std_mpsc::Receiver<()>, ready: &std_mpsc::Sender<i32>) {
    own_network();
    ready.send(gettid().as_raw()).unwrap();
    // The other side has put an end of the link here.
    if link.recv().is_err() {
        return;
    }
    run("ip address add 198.51.100.9/24 dev v1; ip link set v1 up");
    let listener = StdTcpListener::bind(("198.51.100.9", OUTSIDE_PORT)).unwrap();
    let echo = std::net::UdpSocket::bind(("198.51.100.9", OUTSIDE_PORT)).unwrap();
    ready.send(0).unwrap();
    let (mut stream, peer) = listener.accept().unwrap();
    stream.write_all(format!("hello {}", peer.ip()).as_bytes()).unwrap();
    drop(stream);
    let mut buffer = [0; 100];
    let (length, from) = echo.recv_from(&mut buffer).unwrap();
    echo.send_to(&buffer[..length], from).unwrap();
    // Stays until nobody needs it any more.
    assert!(link.recv().is_err());
}

#[test]
fn the_kernel_says_what_is_outside() {
    let (link, at_link) = std_mpsc::channel();
    let (ready, is_ready) = std_mpsc::channel();
    let somebody = thread::spawn(move || outside(&at_link, &ready));
    let node = thread::spawn(move || {
        let id = is_ready.recv().unwrap();
        own_network();
        run(&format!(
            "ip link set lo up; ip link add v0 type veth peer name v1 netns {id}; \
             ip address add 198.51.100.1/24 dev v0; ip link set v0 up"
        ));
        link.send(()).unwrap();
        is_ready.recv().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(dial_all());
        drop(link);
    });
    node.join().unwrap();
    somebody.join().unwrap();
}

async fn dial_all() {
    let limits = Limits { outside_dial_timeout: Duration::from_secs(10), ..Limits::default() };
    let mut world = World::on(limits, Arc::new(ThisMachine));
    for (to, expected) in [
        // The machine's own address, whoever listens there; the node's list does not have it.
        ("198.51.100.1:22", DialFailure::Denied),
        ("[64:ff9b::c633:6401]:22", DialFailure::Unreachable),
        ("198.51.100.9:1", DialFailure::Refused),
        // Nobody has that address on the link.
        ("198.51.100.77:80", DialFailure::Unreachable),
        // No route leads there.
        ("203.0.113.1:80", DialFailure::Unreachable),
        ("[2001:db8::1]:80", DialFailure::Unreachable),
    ] {
        assert_eq!(world.dial(to).await.unwrap_err(), expected, "{to}");
    }
    let greeted = world.dial(&format!("198.51.100.9:{OUTSIDE_PORT}")).await.unwrap();
    let mut greeted = TcpStream::from_std(std::net::TcpStream::from(greeted)).unwrap();
    let mut text = String::new();
    soon(greeted.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "hello 198.51.100.1");

    let echo = format!("198.51.100.9:{OUTSIDE_PORT}");
    world.send("a", "10.244.0.1:1000", "198.51.100.1:1000", "to the machine");
    assert_eq!(world.fabric.statistics().datagrams_outside, 0);
    world.send("a", "10.244.0.1:1000", &echo, "ping");
    let answer = world.delivered().await;
    assert_eq!((answer.to, answer.from, &*answer.bytes), (at("10.244.0.1:1000"), at(&echo), &b"ping"[..]));
    soon(world.fabric.shutdown()).await;
}
