//! What a guest must not get far with: scans, floods, half-open storms, peers that never read, huge datagrams.

use crate::readiness::{Interest, wait};
use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    net::{TcpStream, ToSocketAddrs as _, UdpSocket},
    os::fd::AsRawFd as _,
    time::Duration,
};

/// A peer that has not read anything for so long will not.
const STUCK: Duration = Duration::from_secs(1);
/// More than this goes into no pipe, in bytes.
const STUFFED_MAX: usize = 1 << 30;

/// Tries every port; prints which are open and how many ended how.
pub fn scan(host: &str, from: u16, to: u16) {
    let (mut open, mut ends) = (Vec::new(), BTreeMap::<String, usize>::new());
    for port in from..=to {
        match TcpStream::connect((host, port)) {
            Ok(_) => open.push(port),
            Err(error) => *ends.entry(error.kind().to_string()).or_default() += 1,
        }
    }
    println!("scan {host}: open {open:?}, otherwise {ends:?}");
}

/// Opens connections and prints how many there are and why there are not more; they stay open as long as they are kept.
pub fn flood(to: (&str, u16), count: usize) -> Vec<TcpStream> {
    let mut kept = Vec::new();
    let mut refused = None;
    for _ in 0..count {
        match TcpStream::connect(to) {
            Ok(stream) => kept.push(stream),
            Err(error) => {
                refused = Some(error.kind());
                break;
            }
        }
    }
    let end = refused.map_or_else(|| "enough".to_owned(), |kind| kind.to_string());
    println!("flood: {} open, then {end}", kept.len());
    kept
}

/// Connects to somebody who never accepts, again and again, without waiting for what comes of it.
pub fn storm(to: (&str, u16), count: usize) {
    let (mut through, mut ends) = (Vec::new(), BTreeMap::<String, usize>::new());
    let Some(address) = to.to_socket_addrs().ok().and_then(|mut found| found.next()) else {
        return println!("storm: no such host");
    };
    for _ in 0..count {
        match TcpStream::connect_timeout(&address, Duration::from_millis(5)) {
            // The C library reports some failures as readiness alone: only who has a peer is connected.
            Ok(stream) if stream.peer_addr().is_ok() => through.push(stream),
            Ok(_) => *ends.entry("no peer".to_owned()).or_default() += 1,
            Err(error) => *ends.entry(error.kind().to_string()).or_default() += 1,
        }
    }
    println!("storm: {} came through, otherwise {ends:?}", through.len());
}

/// Writes to a peer that never reads until nothing goes any more.
pub fn stuff(to: (&str, u16)) -> io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nonblocking(true)?;
    let chunk = vec![0x55; 64 << 10];
    let mut stuffed = 0;
    while stuffed < STUFFED_MAX {
        match stream.write(&chunk) {
            Ok(length) => stuffed += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !wait(&mut [Interest::new(stream.as_raw_fd(), false, true)], Some(STUCK))? {
                    return Ok(format!("{stuffed} bytes, then nothing more"));
                }
            }
            Err(error) => return Ok(format!("{stuffed} bytes, then {}", error.kind())),
        }
    }
    Ok(format!("{stuffed} bytes and no end"))
}

/// Sends one datagram of so many bytes.
pub fn oversized((host, port): (&str, u16), bytes: usize) -> io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let sent = socket.send_to(&vec![0x55; bytes], (host, port))?;
    Ok(format!("{sent} bytes went"))
}
