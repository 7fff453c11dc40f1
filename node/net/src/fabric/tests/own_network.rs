//! The real machine below the fabric: the kernel's own answers, in a network that the test makes for itself. Where the test
//! may not make one (it is not root), it has nothing to say.
//!
//! ```text
//! the node 198.51.100.1 ── veth ── 198.51.100.9 somebody outside
//! ```

use super::*;
use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use std::{io::Write, net::TcpListener as StdTcpListener, process::Command, sync::mpsc as std_mpsc, thread};
use tokio::net::TcpStream;

const OUTSIDE_PORT: u16 = 7000;

fn run(command: &str) -> bool {
    Command::new("sh").args(["-ec", command]).status().is_ok_and(|done| done.success())
}

/// A thread in a network of its own, with somebody who greets whoever comes. Ends with the sender that it gets back.
fn outside(link: &std_mpsc::Receiver<()>, ready: &std_mpsc::Sender<Option<i32>>) {
    let made = unshare(CloneFlags::CLONE_NEWNET).is_ok();
    ready.send(made.then(|| gettid().as_raw())).unwrap();
    // The other side has put an end of the link here.
    if link.recv().is_err() || !run("ip address add 198.51.100.9/24 dev v1; ip link set v1 up") {
        return;
    }
    let listener = StdTcpListener::bind(("198.51.100.9", OUTSIDE_PORT)).unwrap();
    let echo = std::net::UdpSocket::bind(("198.51.100.9", OUTSIDE_PORT)).unwrap();
    ready.send(Some(0)).unwrap();
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
        let Some(id) = is_ready.recv().unwrap() else { return };
        let setup = format!(
            "ip link set lo up; ip link add v0 type veth peer name v1 netns {id}; \
             ip address add 198.51.100.1/24 dev v0; ip link set v0 up"
        );
        if unshare(CloneFlags::CLONE_NEWNET).is_err() || !run(&setup) {
            return;
        }
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
