//! What a guest can find out about names and sockets. See the usage for its commands; each says on standard output what
//! happened.

mod checks;
mod tcp;
mod udp;

use std::{
    env, io,
    net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket},
    thread,
    time::Duration,
};

const USAGE: &str = "usage: network COMMAND
  resolve NAME...          the addresses of names
  wait-for NAME            the same, once there are any
  sockets                  tries every way to a socket
  checks                   what must hold inside one pod
  listen ADDR COUNT        sends each of COUNT connections what it sent, after its end, one after the other
  echo ADDR COUNT          echoes COUNT connections at once, as it comes
  answer ADDR              echoes one connection, waiting for each piece
  connect ADDR TEXT        sends a text, ends its direction, prints what comes back
  fetch ADDR BYTES         asks an echo for that many bytes, in pieces, and compares
  round-trips ADDR COUNT   the same with one byte each time, and says how long that took
  hold ADDR COUNT          opens connections and keeps them until it is asked to stop
  never-read ADDR          accepts one connection and does nothing with it until it is asked to stop
  flood ADDR               opens connections until that fails
  fill ADDR                writes to a connection until it is not taken any more
  serve-until-stop ADDR    accepts connections until it is asked to stop, and one that waits then
  write-and-leave ADDR N   writes N bytes to a connection and ends
  udp-echo ADDR COUNT      answers COUNT datagrams
  udp-ask ADDR TEXT        sends a datagram from a connected socket and prints the answer
  udp-flood ADDR COUNT     sends COUNT datagrams of 1000 bytes";

fn main() -> Result<(), String> {
    let words = env::args().skip(1).collect::<Vec<_>>();
    let words = words.iter().map(String::as_str).collect::<Vec<_>>();
    let count = |word: &str| word.parse::<usize>().map_err(|error| format!("{word}: {error}"));
    let result = match words.as_slice() {
        ["resolve", names @ ..] => {
            names.iter().for_each(|name| resolve(name));
            Ok(())
        }
        ["wait-for", name] => {
            wait_for(name);
            Ok(())
        }
        ["sockets"] => {
            sockets();
            Ok(())
        }
        ["checks"] => return checks::run(),
        ["listen", address, connections] => tcp::listen(address, count(connections)?),
        ["echo", address, connections] => tcp::echo(address, count(connections)?),
        ["answer", address] => tcp::answer(address),
        ["connect", address, text] => tcp::connect(address, text),
        ["fetch", address, bytes] => tcp::fetch(address, count(bytes)?),
        ["round-trips", address, times] => tcp::round_trips(address, count(times)?),
        ["hold", address, connections] => tcp::hold(address, count(connections)?),
        ["never-read", address] => tcp::never_read(address),
        ["flood", address] => {
            tcp::flood(address);
            Ok(())
        }
        ["fill", address] => tcp::fill(address),
        ["serve-until-stop", address] => tcp::serve_until_stop(address),
        ["write-and-leave", address, bytes] => tcp::write_and_leave(address, count(bytes)?),
        ["udp-echo", address, datagrams] => udp::echo(address, count(datagrams)?),
        ["udp-ask", address, text] => udp::ask(address, text),
        ["udp-flood", address, datagrams] => udp::flood(address, count(datagrams)?),
        _ => return Err(USAGE.to_owned()),
    };
    // What went wrong is part of what happened.
    if let Err(error) = result {
        println!("failed: {}", kind(&error));
    }
    Ok(())
}

/// The name of an error that does not depend on the system.
pub(crate) fn kind(error: &io::Error) -> String {
    match error.kind() {
        // Rust has no stable name for some errors of sockets.
        io::ErrorKind::Other => format!("{error}"),
        kind => match format!("{kind:?}").as_str() {
            "Uncategorized" => format!("error {}", error.raw_os_error().unwrap_or(0)),
            name => name.to_owned(),
        },
    }
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
