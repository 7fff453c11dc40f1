//! What a guest can find out about names and sockets: `network resolve NAME… | wait-for NAME | sockets`.

use std::{
    env, io,
    net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket},
    thread,
    time::Duration,
};

fn main() -> Result<(), String> {
    let words = env::args().skip(1).collect::<Vec<_>>();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["resolve", names @ ..] => names.iter().for_each(|name| resolve(name)),
        ["wait-for", name] => wait_for(name),
        ["sockets"] => sockets(),
        _ => return Err("usage: network resolve NAME... | wait-for NAME | sockets".to_owned()),
    }
    Ok(())
}

fn resolve(name: &str) {
    match (name, 0).to_socket_addrs() {
        Ok(addresses) => addresses.for_each(|address| println!("{name} is at {}", address.ip())),
        Err(error) => println!("{name}: {error}"),
    }
}

fn wait_for(name: &str) {
    while (name, 0).to_socket_addrs().is_err() {
        println!("waiting for {name}");
        thread::sleep(Duration::from_millis(100));
    }
    resolve(name);
}

/// Tries every way to a socket and says what came of it.
fn sockets() {
    let say = |what: &str, result: io::Result<()>| match result {
        Ok(()) => println!("{what}: it worked"),
        Err(error) => println!("{what}: {}", error.kind()),
    };
    say("connect", TcpStream::connect("127.0.0.1:6443").map(drop));
    say("listen", TcpListener::bind("127.0.0.1:0").map(drop));
    say("udp", UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(b"x", "127.0.0.1:53")).map(drop));
}
