//! What must hold of sockets inside one pod, checked by a guest that is both ends: connecting does not need the other
//! side to accept. Runs with the pod's address in `POD_IP`.

use crate::kind;
use std::{
    env,
    fmt::Debug,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

type Outcome = Result<(), String>;
type Check = fn() -> Outcome;

const CHECKS: &[(&str, Check)] = &[
    ("addresses", addresses),
    ("conflicts", conflicts),
    ("foreign addresses", foreign_addresses),
    ("refused", refused),
    ("echo", echo),
    ("half-close", half_close),
    ("end of stream", end_of_stream),
    ("reset", reset),
    ("write after close", write_after_close),
    ("back-pressure", back_pressure),
    ("would block", would_block),
    ("timeouts", timeouts),
    ("options", options),
    ("backlog", backlog),
    ("closing a listener", closing_a_listener),
    ("clones", clones),
    ("IPv6", ipv6),
    ("datagrams", datagrams),
    ("connected datagrams", connected_datagrams),
    ("refused datagrams", refused_datagrams),
    ("large datagrams", large_datagrams),
    ("lost datagrams", lost_datagrams),
];

/// Runs all of them, and fails if one does.
pub fn run() -> Result<(), String> {
    let mut failed = 0;
    for (name, check) in CHECKS {
        match check() {
            Ok(()) => println!("ok: {name}"),
            Err(what) => {
                println!("FAILED: {name}: {what}");
                failed += 1;
            }
        }
    }
    println!("{} checks, {failed} failed", CHECKS.len());
    if failed == 0 { Ok(()) } else { Err("not all checks hold".to_owned()) }
}

fn same<T: PartialEq + Debug>(what: &str, is: T, should_be: T) -> Outcome {
    if is == should_be { Ok(()) } else { Err(format!("{what} is {is:?} instead of {should_be:?}")) }
}

fn fails<T>(what: &str, result: io::Result<T>, expected: ErrorKind) -> Outcome {
    match result {
        Ok(_) => Err(format!("{what} worked")),
        Err(error) if error.kind() == expected => Ok(()),
        Err(error) => Err(format!("{what} failed with {} instead of {expected:?}", kind(&error))),
    }
}

fn works<T>(what: &str, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{what} failed with {}", kind(&error)))
}

fn pod_ip() -> String {
    env::var("POD_IP").unwrap_or_else(|_| "127.0.0.1".to_owned())
}

fn listener(address: &str) -> Result<(TcpListener, SocketAddr), String> {
    let listener = works("bind", TcpListener::bind(address))?;
    let address = works("local_addr", listener.local_addr())?;
    Ok((listener, address))
}

/// Both ends of a connection: the connecting one first.
fn pair() -> Result<(TcpStream, TcpStream), String> {
    let (listener, address) = listener("127.0.0.1:0")?;
    let client = works("connect", TcpStream::connect(address))?;
    let (server, _) = works("accept", listener.accept())?;
    Ok((client, server))
}

fn addresses() -> Outcome {
    let (listener, bound) = listener("0.0.0.0:0")?;
    same("an ephemeral port's range", (32_768..=60_999).contains(&bound.port()), true)?;
    for host in ["127.0.0.1", "127.8.9.10", &pod_ip()] {
        let to: SocketAddr = format!("{host}:{}", bound.port()).parse().unwrap();
        let client = works("connect", TcpStream::connect(to))?;
        let (server, from) = works("accept", listener.accept())?;
        same("the client's peer", works("peer_addr", client.peer_addr())?, to)?;
        same("the server's own address", works("local_addr", server.local_addr())?, to)?;
        same("the server's peer", works("peer_addr", server.peer_addr())?, from)?;
        same("the client's own address", works("local_addr", client.local_addr())?, from)?;
        let expected = if host == pod_ip() { host } else { "127.0.0.1" };
        same("where it comes from", from.ip().to_string(), expected.to_owned())?;
    }
    Ok(())
}

fn conflicts() -> Outcome {
    let (_first, address) = listener("127.0.0.1:0")?;
    fails("binding twice", TcpListener::bind(address), ErrorKind::AddrInUse)?;
    let all = format!("0.0.0.0:{}", address.port());
    fails("binding all", TcpListener::bind(&all), ErrorKind::AddrInUse)?;
    let other = format!("127.0.0.2:{}", address.port());
    works("binding another address", TcpListener::bind(other))?;
    works("binding the same for UDP", UdpSocket::bind(address))?;
    drop(_first);
    works("binding again", TcpListener::bind(all)).map(drop)
}

fn foreign_addresses() -> Outcome {
    fails("binding a foreign address", TcpListener::bind("192.0.2.1:80"), ErrorKind::AddrNotAvailable)?;
    fails("binding a foreign UDP address", UdpSocket::bind("192.0.2.1:80"), ErrorKind::AddrNotAvailable)
}

fn refused() -> Outcome {
    fails("connecting to nobody", TcpStream::connect("127.0.0.1:9"), ErrorKind::ConnectionRefused)?;
    fails("to nobody at the pod", TcpStream::connect((pod_ip(), 9)), ErrorKind::ConnectionRefused)?;
    let (_listener, address) = listener("127.0.0.1:0")?;
    let elsewhere = (pod_ip(), address.port());
    if pod_ip() == "127.0.0.1" {
        return Ok(());
    }
    fails("connecting past a listener", TcpStream::connect(elsewhere), ErrorKind::ConnectionRefused)
}

fn echo() -> Outcome {
    let (mut client, mut server) = pair()?;
    for size in [1, 100, 10_000] {
        works("write", client.write_all(&vec![7; size]))?;
        let mut bytes = vec![0; size];
        works("read", server.read_exact(&mut bytes))?;
        works("write back", server.write_all(&bytes))?;
        works("read back", client.read_exact(&mut bytes))?;
        same("what came back", bytes, vec![7; size])?;
    }
    Ok(())
}

fn half_close() -> Outcome {
    let (mut client, mut server) = pair()?;
    works("write", client.write_all(b"question"))?;
    works("shutdown", client.shutdown(Shutdown::Write))?;
    fails("writing after the end", client.write(b"x"), ErrorKind::BrokenPipe)?;
    let mut text = String::new();
    works("read", server.read_to_string(&mut text))?;
    same("the question", text.as_str(), "question")?;
    works("answer", server.write_all(b"answer"))?;
    drop(server);
    text.clear();
    works("read the answer", client.read_to_string(&mut text))?;
    same("the answer", text.as_str(), "answer")
}

fn end_of_stream() -> Outcome {
    let (mut client, mut server) = pair()?;
    works("write", server.write_all(b"last words"))?;
    drop(server);
    let mut text = String::new();
    works("read", client.read_to_string(&mut text))?;
    same("what was written before the end", text.as_str(), "last words")?;
    same("reading at the end", works("read", client.read(&mut [0]))?, 0)?;
    // The end of input is for one side only.
    let (mut client, mut server) = pair()?;
    works("shutdown", client.shutdown(Shutdown::Read))?;
    same("reading after the end", works("read", client.read(&mut [0]))?, 0)?;
    works("writing to who does not read", server.write_all(b"x"))?;
    works("writing by who does not read", client.write_all(b"y"))?;
    works("read", server.read_exact(&mut [0]))
}

fn reset() -> Outcome {
    let (mut client, server) = pair()?;
    works("write", client.write_all(b"never read"))?;
    drop(server);
    // An error, and not the end. Which one, the C library of WASI 0.2 does not say, whatever the host does.
    match client.read(&mut [0]) {
        Ok(count) => Err(format!("reading what was reset gave {count}")),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err("reading what was reset would block".to_owned()),
        Err(_) => Ok(()),
    }
}

fn write_after_close() -> Outcome {
    let (mut client, server) = pair()?;
    drop(server);
    // The first one may still be taken, as TCP would.
    let error = (0..10).find_map(|_| client.write(b"x").err());
    match error.as_ref().map(io::Error::kind) {
        Some(ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Ok(()),
        other => Err(format!("writing to nobody: {other:?}")),
    }
}

fn back_pressure() -> Outcome {
    let (mut client, mut server) = pair()?;
    works("set_nonblocking", client.set_nonblocking(true))?;
    let mut written = 0;
    let error = loop {
        match client.write(&[7; 4096]) {
            Ok(count) => written += count,
            Err(error) => break error,
        }
        if written > 16 << 20 {
            return Err("nothing bounds what is written".to_owned());
        }
    };
    same("the error", error.kind(), ErrorKind::WouldBlock)?;
    same("whether something was taken", written >= 16 << 10, true)?;
    works("set_nonblocking", client.set_nonblocking(false))?;
    let mut rest = written;
    let mut buffer = vec![0; 64 << 10];
    while rest > 0 {
        let count = works("read", server.read(&mut buffer))?;
        same("what is read", buffer[..count].iter().all(|byte| *byte == 7), true)?;
        rest -= count;
    }
    works("writing again", client.write_all(b"more"))?;
    works("reading again", server.read_exact(&mut [0; 4]))
}

fn would_block() -> Outcome {
    let (listener, address) = listener("127.0.0.1:0")?;
    works("set_nonblocking", listener.set_nonblocking(true))?;
    fails("accepting nothing", listener.accept(), ErrorKind::WouldBlock)?;
    let _client = works("connect", TcpStream::connect(address))?;
    let (mut server, _) = works("accept", listener.accept())?;
    works("set_nonblocking", server.set_nonblocking(true))?;
    fails("reading nothing", server.read(&mut [0]), ErrorKind::WouldBlock)
}

fn timeouts() -> Outcome {
    let (mut client, _server) = pair()?;
    works("set_read_timeout", client.set_read_timeout(Some(Duration::from_millis(20))))?;
    match client.read(&mut [0]).map_err(|error| error.kind()) {
        Err(ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
        other => Err(format!("reading with a timeout: {other:?}")),
    }
}

fn options() -> Outcome {
    let (client, _server) = pair()?;
    works("set_ttl", client.set_ttl(7))?;
    same("ttl", works("ttl", client.ttl())?, 7)?;
    works("set_nodelay", client.set_nodelay(true))?;
    same("error", works("take_error", client.take_error())?.map(|error| error.kind()), None)
}

fn backlog() -> Outcome {
    let (listener, address) = listener("127.0.0.1:0")?;
    // More than one waits, and they are accepted in order.
    let clients = (0..20).map(|_| TcpStream::connect(address)).collect::<io::Result<Vec<_>>>();
    for client in works("connect", clients)? {
        let (_, from) = works("accept", listener.accept())?;
        same("the next one", from, works("local_addr", client.local_addr())?)?;
    }
    Ok(())
}

fn closing_a_listener() -> Outcome {
    let (listener, address) = listener("127.0.0.1:0")?;
    let mut waiting = works("connect", TcpStream::connect(address))?;
    drop(listener);
    match waiting.read(&mut [0]).map_err(|error| error.kind()) {
        Ok(0) | Err(ErrorKind::ConnectionReset) => {}
        other => return Err(format!("whoever was not accepted reads {other:?}")),
    }
    fails("connecting afterwards", TcpStream::connect(address), ErrorKind::ConnectionRefused)
}

fn clones() -> Outcome {
    let (listener, address) = listener("127.0.0.1:0")?;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(works("connect", TcpStream::connect(address))?);
        works("accept", listener.accept())?;
    }
    let ports = clients.iter().map(|client| client.local_addr().map(|address| address.port()));
    let mut ports = works("local_addr", ports.collect::<io::Result<Vec<_>>>())?;
    ports.sort_unstable();
    ports.dedup();
    same("different ports", ports.len(), 50)
}

fn ipv6() -> Outcome {
    let (listener, address) = listener("[::]:0")?;
    let to: SocketAddr = format!("[::1]:{}", address.port()).parse().unwrap();
    let client = works("connect", TcpStream::connect(to))?;
    let (_, from) = works("accept", listener.accept())?;
    same("the peer", from, works("local_addr", client.local_addr())?)?;
    works("the same port of the other family", TcpListener::bind(("0.0.0.0", address.port())))?;
    works("UDP", UdpSocket::bind("[::1]:0")).map(drop)
}

fn datagrams() -> Outcome {
    let server = works("bind", UdpSocket::bind("0.0.0.0:0"))?;
    let port = works("local_addr", server.local_addr())?.port();
    let client = works("bind", UdpSocket::bind("0.0.0.0:0"))?;
    for (host, size) in [("127.0.0.1", 0), (&pod_ip(), 1), ("127.0.0.1", 1400), (&pod_ip(), 60_000)] {
        same("sent", works("send_to", client.send_to(&vec![7; size], (host, port)))?, size)?;
        let mut buffer = vec![0; 65_536];
        let (received, from) = works("recv_from", server.recv_from(&mut buffer))?;
        same("received", buffer[..received].to_vec(), vec![7; size])?;
        same("where from", from.ip().to_string(), host.to_owned())?;
        same("answered", works("send_to", server.send_to(b"answer", from))?, 6)?;
        let (received, _) = works("recv_from", client.recv_from(&mut buffer))?;
        same("the answer", &buffer[..received], b"answer")?;
    }
    Ok(())
}

fn connected_datagrams() -> Outcome {
    let (one, two, three) = (
        works("bind", UdpSocket::bind("127.0.0.1:0"))?,
        works("bind", UdpSocket::bind("127.0.0.1:0"))?,
        works("bind", UdpSocket::bind("127.0.0.1:0"))?,
    );
    let address = |socket: &UdpSocket| works("local_addr", socket.local_addr());
    works("connect", one.connect(address(&two)?))?;
    works("send_to", three.send_to(b"stranger", address(&one)?))?;
    works("send_to", two.send_to(b"friend", address(&one)?))?;
    let mut buffer = [0; 100];
    let size = works("recv", one.recv(&mut buffer))?;
    same("who is heard", &buffer[..size], b"friend")?;
    works("send", one.send(b"hello"))?;
    let (size, from) = works("recv_from", two.recv_from(&mut buffer))?;
    same("what is heard", (&buffer[..size], from), (&b"hello"[..], address(&one)?))
}

fn refused_datagrams() -> Outcome {
    let socket = works("bind", UdpSocket::bind("127.0.0.1:0"))?;
    works("connect", socket.connect("127.0.0.1:9"))?;
    works("the first datagram", socket.send(b"x"))?;
    fails("the next one", socket.send(b"x"), ErrorKind::ConnectionRefused)?;
    works("the one after it", socket.send(b"x"))?;
    works("set_nonblocking", socket.set_nonblocking(true))?;
    fails("receiving", socket.recv(&mut [0]), ErrorKind::ConnectionRefused)?;
    let stranger = works("bind", UdpSocket::bind("127.0.0.1:0"))?;
    works("a datagram of who is not connected", stranger.send_to(b"x", "127.0.0.1:9"))?;
    works("and another one", stranger.send_to(b"x", "127.0.0.1:9")).map(drop)
}

fn large_datagrams() -> Outcome {
    let socket = works("bind", UdpSocket::bind("127.0.0.1:0"))?;
    let address = works("local_addr", socket.local_addr())?;
    works("the largest datagram", socket.send_to(&[7; 65_507], address))?;
    match socket.send_to(&[7; 65_508], address) {
        Ok(_) => Err("too large a datagram was sent".to_owned()),
        Err(_) => Ok(()),
    }
}

fn lost_datagrams() -> Outcome {
    let server = works("bind", UdpSocket::bind("127.0.0.1:0"))?;
    let address = works("local_addr", server.local_addr())?;
    let client = works("bind", UdpSocket::bind("127.0.0.1:0"))?;
    for _ in 0..2000 {
        works("send_to", client.send_to(&[7; 1000], address))?;
    }
    works("set_nonblocking", server.set_nonblocking(true))?;
    let mut buffer = [0; 2000];
    let received = (0..2000).take_while(|_| server.recv(&mut buffer).is_ok()).count();
    same("whether some arrived and some did not", (50..1000).contains(&received), true)?;
    works("send_to", client.send_to(b"later", address))?;
    same("later ones", works("recv", server.recv(&mut buffer))?, 5)
}
