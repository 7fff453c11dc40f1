//! One guest that does to a network whatever a test wants: `probe COMMAND [ARGUMENT…]`.
//!
//! Several commands may be given, separated by `--`; they run one after another. What comes of each is printed on
//! standard output, failures too: a test reads all of it. Nothing here uses threads; a server is one loop over `poll`.

mod content;
mod datagrams;
mod dns;
mod fetch;
mod front;
mod hostile;
mod readiness;
mod serve;
mod soak;

use std::{
    env, io,
    net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket},
    thread,
    time::{Duration, Instant},
};

const USAGE: &str = "commands: serve ROLE=PORT… (http echo sink mute idle udp) | get HOST PORT PATH [COUNT] | \
    post HOST PORT BYTES SEED | keep HOST PORT MILLISECONDS | echo HOST PORT BYTES SEED [COUNT] | udp HOST PORT TEXT | \
    resolve NAME… | dns udp|tcp SERVER TYPE NAME… | connect HOST PORT… | until HOST PORT | scan HOST FROM TO | \
    flood HOST PORT COUNT | stuff HOST PORT | oversized HOST PORT BYTES | storm HOST PORT COUNT | \
    soak HOST ECHO-PORT SINK-PORT COUNT SEED | datagrams HOST PORT SEED | front PORT DIRECTORY | hold";
/// How long a reply to a datagram may take.
const DATAGRAM_WAIT: Duration = Duration::from_secs(5);
/// How long somebody who is to come may take.
const ARRIVAL_WAIT: Duration = Duration::from_secs(60);
const ARRIVAL_PAUSE: Duration = Duration::from_millis(50);

/// What a command answers: a failure ends the guest.
pub type Outcome = Result<(), String>;

fn main() -> Outcome {
    let words = env::args().skip(1).collect::<Vec<_>>();
    if words.is_empty() {
        return Err(USAGE.to_owned());
    }
    words.split(|word| word == "--").try_for_each(run)
}

fn run(words: &[String]) -> Outcome {
    let words = words.iter().map(String::as_str).collect::<Vec<_>>();
    match words.as_slice() {
        ["serve", roles @ ..] => serve::serve(roles).map_err(|error| error.to_string()),
        ["get", host, port, path] => Ok(fetch::get((host, number(port)?), path, 1)),
        ["get", host, port, path, count] => Ok(fetch::get((host, number(port)?), path, number(count)?)),
        ["post", host, port, bytes, seed] => Ok(fetch::post((host, number(port)?), number(bytes)?, number(seed)?)),
        ["keep", host, port, pause] => Ok(fetch::keep((host, number(port)?), number(pause)?)),
        ["echo", host, port, bytes, seed] => Ok(soak::echo((host, number(port)?), number(bytes)?, number(seed)?, 1)),
        ["echo", host, port, bytes, seed, count] => {
            Ok(soak::echo((host, number(port)?), number(bytes)?, number(seed)?, number(count)?))
        }
        ["udp", host, port, text] => Ok(say("udp", udp((host, number(port)?), text.as_bytes()))),
        ["resolve", names @ ..] => Ok(names.iter().for_each(|name| resolve(name))),
        ["dns", transport, server, kind, names @ ..] => dns::ask(transport, server, kind, names),
        ["connect", host, ports @ ..] => ports.iter().try_for_each(|port| Ok(connect((host, number(port)?)))),
        ["until", host, port] => until((host, number(port)?)),
        ["scan", host, from, to] => Ok(hostile::scan(host, number(from)?, number(to)?)),
        ["flood", host, port, count] => {
            let _kept = hostile::flood((host, number(port)?), number(count)?);
            hold()
        }
        ["stuff", host, port] => Ok(say("stuff", hostile::stuff((host, number(port)?)))),
        ["storm", host, port, count] => Ok(hostile::storm((host, number(port)?), number(count)?)),
        ["oversized", host, port, bytes] => Ok(say("oversized", hostile::oversized((host, number(port)?), number(bytes)?))),
        ["soak", host, echo, sink, count, seed] => {
            Ok(soak::soak(host, number(echo)?, number(sink)?, number(count)?, number(seed)?))
        }
        ["datagrams", host, port, seed] => datagrams::datagrams(host, number(port)?, number(seed)?),
        ["front", port, directory] => front::front(number(port)?, directory).map_err(|error| error.to_string()),
        ["hold"] => hold(),
        _ => Err(format!("what is {words:?}?\n{USAGE}")),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number\n{USAGE}"))
}

/// Prints what came of it: the text, or the kind of the error.
fn say(what: &str, result: io::Result<String>) {
    match result {
        Ok(text) => println!("{what}: {text}"),
        Err(error) => println!("{what}: failed: {}", error.kind()),
    }
}

fn resolve(name: &str) {
    match (name, 0).to_socket_addrs() {
        Ok(addresses) => {
            let mut addresses = addresses.map(|address| address.ip().to_string()).collect::<Vec<_>>();
            addresses.sort();
            println!("{name} is at {}", addresses.join(" "));
        }
        Err(error) => println!("{name}: {}", error.kind()),
    }
}

fn connect((host, port): (&str, u16)) {
    match TcpStream::connect((host, port)) {
        Ok(_) => println!("{host}:{port}: connected"),
        Err(error) => println!("{host}:{port}: {}", error.kind()),
    }
}

fn until((host, port): (&str, u16)) -> Outcome {
    let begun = Instant::now();
    while let Err(error) = TcpStream::connect((host, port)) {
        if begun.elapsed() > ARRIVAL_WAIT {
            return Err(format!("nobody came to {host}:{port}: {error}"));
        }
        thread::sleep(ARRIVAL_PAUSE);
    }
    Ok(println!("{host}:{port} is there"))
}

/// Sends one datagram and answers the reply and whom it came from.
fn udp((host, port): (&str, u16), payload: &[u8]) -> io::Result<String> {
    let (reply, from) = exchange((host, port), payload)?;
    Ok(format!("{} from {from}", String::from_utf8_lossy(&reply)))
}

/// One datagram there, one back.
fn exchange((host, port): (&str, u16), payload: &[u8]) -> io::Result<(Vec<u8>, SocketAddr)> {
    let to = (host, port).to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.send_to(payload, to)?;
    socket.set_nonblocking(true)?;
    if !readiness::readable(&socket, DATAGRAM_WAIT)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut reply = vec![0; 64 << 10];
    let (length, from) = socket.recv_from(&mut reply)?;
    reply.truncate(length);
    Ok((reply, from))
}

/// Keeps everything open until the guest is ended.
fn hold() -> Outcome {
    println!("holding");
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}
