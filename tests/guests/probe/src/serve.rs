//! Servers in one loop: `serve http=8080 echo=9000 sink=9001 mute=9002 idle=9003 udp=9004`.
//!
//! - `http` answers `GET /` with who it is and whom it sees, `POST /echo` with the body, `GET /exit` by ending,
//!   `GET /spin` never, and nobody else from then on; `GET /health` is well until `GET /sick`, and again after `GET /well`;
//! - `echo` sends back what comes, until end-of-file; `sink` swallows it and answers how many bytes and their sum;
//! - `mute` accepts and never reads; `idle` listens and never accepts; `udp` sends datagrams back.
//!
//! It ends well when its listeners are closed, as a pod that is to stop sees it.

use crate::readiness::{Interest, wait};
use std::{
    env, io,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    process,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// How much a connection holds for a peer that does not read, in bytes.
const PENDING_BYTES_MAX: usize = 256 << 10;
/// Longest request line and headers, in bytes.
const HEAD_LENGTH_MAX: usize = 16 << 10;
const CHUNK: usize = 64 << 10;

/// What `GET /health` says.
static IS_SICK: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Http,
    Echo,
    Sink,
    Mute,
    Idle,
}

struct Client {
    stream: TcpStream,
    role: Role,
    /// HTTP: a head that is not complete.
    head: Vec<u8>,
    /// HTTP: what is still to come of a body.
    body_left: usize,
    pending: Vec<u8>,
    received: u64,
    sum: u64,
    read_ended: bool,
    close_when_sent: bool,
}

pub fn serve(roles: &[&str]) -> io::Result<()> {
    let (mut listeners, mut datagrams) = (Vec::new(), Vec::new());
    for one in roles {
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("{one}: ROLE=PORT is wanted"));
        let (name, port) = one.split_once('=').ok_or_else(invalid)?;
        let port: u16 = port.parse().map_err(|_| invalid())?;
        let role = match name {
            "http" => Role::Http,
            "echo" => Role::Echo,
            "sink" => Role::Sink,
            "mute" => Role::Mute,
            "idle" => Role::Idle,
            "udp" => {
                let socket = UdpSocket::bind(("0.0.0.0", port))?;
                socket.set_nonblocking(true)?;
                datagrams.push(socket);
                continue;
            }
            _ => return Err(invalid()),
        };
        let listener = TcpListener::bind(("0.0.0.0", port))?;
        listener.set_nonblocking(true)?;
        listeners.push((role, listener));
    }
    println!("serving {}", roles.join(" "));
    let mut clients: Vec<Client> = Vec::new();
    // Those that nobody reads from are not waited for either: there may be thousands.
    let mut unread = Vec::new();
    let only_datagrams = listeners.is_empty();
    while only_datagrams || !listeners.is_empty() {
        let mut interests: Vec<_> = listeners
            .iter()
            .map(|(role, listener)| Interest::new(listener.as_raw_fd(), *role != Role::Idle, false))
            .collect();
        interests.extend(datagrams.iter().map(|socket| Interest::new(socket.as_raw_fd(), true, false)));
        interests.extend(clients.iter().map(Client::interest));
        wait(&mut interests, None)?;
        let (of_listeners, rest) = interests.split_at(listeners.len());
        let (of_datagrams, of_clients) = rest.split_at(datagrams.len());
        let mut is_ready = of_clients.iter().map(Interest::is_ready);
        clients.retain_mut(|client| !is_ready.next().unwrap_or(false) || client.proceed().unwrap_or(false));
        for (socket, _) in datagrams.iter().zip(of_datagrams).filter(|(_, interest)| interest.is_ready()) {
            send_back(socket);
        }
        let mut is_ready = of_listeners.iter().map(Interest::is_ready);
        listeners.retain(|(role, listener)| !is_ready.next().unwrap_or(false) || accept(*role, listener, &mut clients, &mut unread));
    }
    println!("listeners are closed, bye");
    Ok(())
}

/// `false` when the listener is closed.
fn accept(role: Role, listener: &TcpListener, clients: &mut Vec<Client>, unread: &mut Vec<TcpStream>) -> bool {
    if role == Role::Idle {
        return true;
    }
    loop {
        match listener.accept() {
            Ok((stream, _)) if role == Role::Mute => unread.push(stream),
            Ok((stream, _)) => {
                if stream.set_nonblocking(true).is_ok() {
                    clients.push(Client::new(stream, role));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            // Somebody who was gone before he was greeted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                println!("{role:?} is closed: {}", error.kind());
                return false;
            }
        }
    }
}

fn send_back(socket: &UdpSocket) {
    let mut datagram = vec![0; 64 << 10];
    while let Ok((length, from)) = socket.recv_from(&mut datagram) {
        // A datagram may be lost.
        drop(socket.send_to(&datagram[..length], from));
    }
}

impl Client {
    fn new(stream: TcpStream, role: Role) -> Self {
        Self {
            stream,
            role,
            head: Vec::new(),
            body_left: 0,
            pending: Vec::new(),
            received: 0,
            sum: 0,
            read_ended: false,
            close_when_sent: false,
        }
    }

    fn interest(&self) -> Interest {
        let read = !self.read_ended && self.pending.len() < PENDING_BYTES_MAX;
        Interest::new(self.stream.as_raw_fd(), read, !self.pending.is_empty())
    }

    /// Reads and writes what can be; `false` when the connection is to be closed.
    fn proceed(&mut self) -> io::Result<bool> {
        let mut chunk = [0; CHUNK];
        while !self.read_ended && self.pending.len() < PENDING_BYTES_MAX {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.read_ended = true;
                    self.end_of_input();
                }
                Ok(length) => self.take(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        while !self.pending.is_empty() {
            match self.stream.write(&self.pending) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        // A body that is still to come is to be answered first.
        let done = self.close_when_sent && (self.body_left == 0 || self.read_ended);
        if done {
            self.stream.shutdown(Shutdown::Write)?;
        }
        Ok(!(done && (self.read_ended || self.role == Role::Http)))
    }

    fn end_of_input(&mut self) {
        if self.role == Role::Sink {
            self.pending = format!("{} bytes, sum {}\n", self.received, self.sum).into_bytes();
        }
        self.close_when_sent = true;
    }

    fn take(&mut self, bytes: &[u8]) {
        self.received += bytes.len() as u64;
        match self.role {
            Role::Echo => self.pending.extend_from_slice(bytes),
            Role::Sink => self.sum = sum(self.sum, bytes),
            Role::Http => self.take_http(bytes),
            Role::Mute | Role::Idle => {}
        }
    }

    fn take_http(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.body_left > 0 {
                let (body, after) = rest.split_at(self.body_left.min(rest.len()));
                self.pending.extend_from_slice(body);
                self.body_left -= body.len();
                rest = after;
                continue;
            }
            self.head.push(rest[0]);
            rest = &rest[1..];
            if self.head.ends_with(b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&std::mem::take(&mut self.head)).into_owned();
                self.answer(&head);
            } else if self.head.len() > HEAD_LENGTH_MAX {
                self.respond("431 Request Header Fields Too Large", "", 0);
                self.close_when_sent = true;
                return;
            }
        }
    }

    fn answer(&mut self, head: &str) {
        let mut lines = head.lines();
        let request = lines.next().unwrap_or_default().split(' ').collect::<Vec<_>>();
        let value_of = |wanted: &str| {
            let mut headers = head.lines().skip(1).filter_map(|line| line.split_once(':'));
            headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim().to_owned())
        };
        let length = value_of("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        if value_of("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.close_when_sent = true;
        }
        match request.as_slice() {
            ["GET", "/exit", _] => process::exit(1),
            ["GET", "/spin", _] => loop {
                std::hint::black_box(self.received);
            },
            ["GET", "/health", _] if IS_SICK.load(Relaxed) => self.respond("500 Internal Server Error", "sick\n", 5),
            ["GET", "/health", _] => self.respond("200 OK", "well\n", 5),
            ["GET", word @ ("/sick" | "/well"), _] => {
                println!("told to be {}", &word[1..]);
                IS_SICK.store(*word == "/sick", Relaxed);
                self.respond("200 OK", "so be it\n", 9);
            }
            ["GET", "/", _] => {
                let body = self.who_and_whom();
                self.respond("200 OK", &body, body.len());
            }
            ["POST", "/echo", _] => {
                self.body_left = length;
                self.respond("200 OK", "", length);
            }
            _ => self.respond("404 Not Found", "nothing here\n", 13),
        }
    }

    fn respond(&mut self, status: &str, body: &str, length: usize) {
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}");
        self.pending.extend_from_slice(head.as_bytes());
    }

    fn who_and_whom(&self) -> String {
        let name = env::var("POD_NAME").or_else(|_| env::var("HOSTNAME")).unwrap_or_default();
        let unknown = |_| "unknown".to_owned();
        let here = self.stream.local_addr().map_or_else(unknown, |address| address.to_string());
        let peer = self.stream.peer_addr().map_or_else(unknown, |address| address.to_string());
        format!("hello from {name}, here {here}, you {peer}\n")
    }
}

/// A sum that notices bytes that are lost, changed or in another order.
pub fn sum(before: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(before, |sum, byte| sum.wrapping_mul(0x0100_0000_01b3).wrapping_add(u64::from(*byte) + 1))
}
