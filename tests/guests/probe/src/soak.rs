//! Connections at random, decided by a seed: every byte comes back in order, or the connection fails and is counted.

use crate::{
    content::Content,
    readiness::{Interest, wait},
    serve::sum,
};
use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::fd::AsRawFd as _,
    time::Duration,
};

const CHUNK: usize = 32 << 10;
/// Most bytes of one connection.
const TRANSFER_MAX: u64 = 200_000;
/// A connection on which nothing moves for so long has failed, silently: that is an error of the network, which gives a node
/// up after 30 s.
const SILENCE: Duration = Duration::from_secs(75);
const PROGRESS_EVERY: usize = 100;

/// Transfers to an echo server, one after another; says for each whether everything came back.
pub fn echo(to: (&str, u16), bytes: usize, seed: u64, count: u64) {
    for turn in 0..count {
        match transfer(to, bytes, seed.wrapping_add(turn)) {
            Ok(()) => println!("echo: {bytes} bytes came back"),
            Err(error) => println!("echo: {error}"),
        }
    }
}

/// `count` connections: transfers with half-close, uploads, connections dropped at once and in the middle. The last line
/// is `soak: done COUNT, whole W, dropped D, WHAT: N…`; `WRONG` in it means that a byte was not what it had to be. Lines
/// before it are `soak: so far TURNS, …`.
pub fn soak(host: &str, echo_port: u16, sink_port: u16, count: usize, seed: u64) {
    let mut random = Content::new(seed);
    let (mut whole, mut dropped, mut failed) = (0_usize, 0_usize, BTreeMap::<String, usize>::new());
    for turn in 0..count {
        let (kind, bytes, seed) = (random.below(10), random.below(TRANSFER_MAX), random.number());
        let bytes = usize::try_from(if kind < 5 { bytes } else { bytes / 16 }).unwrap_or_default();
        let ended = match kind {
            0..=5 => transfer((host, echo_port), bytes, seed).map(|()| true),
            6 | 7 => upload((host, sink_port), bytes, seed).map(|()| true),
            8 => TcpStream::connect((host, echo_port)).map(|_| false).map_err(|error| kind_of(&error)),
            _ => cut((host, echo_port), bytes, seed).map(|()| false),
        };
        match ended {
            Ok(true) => whole += 1,
            Ok(false) => dropped += 1,
            Err(error) => {
                if error.contains("WRONG") {
                    println!("connection {turn}: {error}");
                }
                *failed.entry(error).or_default() += 1;
            }
        }
        if (turn + 1) % PROGRESS_EVERY == 0 && turn + 1 < count {
            println!("soak: so far {}, {}", turn + 1, came_of_it(whole, dropped, &failed));
        }
    }
    println!("soak: done {count}, {}", came_of_it(whole, dropped, &failed));
}

fn came_of_it(whole: usize, dropped: usize, failed: &BTreeMap<String, usize>) -> String {
    let failures: String = failed.iter().map(|(what, times)| format!(", {what}: {times}")).collect();
    format!("whole {whole}, dropped {dropped}{failures}")
}

/// What went wrong, whatever the connection; where Rust has no name for it, as the system says it.
fn kind_of(error: &io::Error) -> String {
    match error.kind().to_string().as_str() {
        "uncategorized error" => error.to_string(),
        kind => kind.to_owned(),
    }
}

/// Sends, half-closes, and reads everything back; both at once, as neither end may wait for the other.
fn transfer(to: (&str, u16), bytes: usize, seed: u64) -> Result<(), String> {
    let mut stream = TcpStream::connect(to).map_err(|error| kind_of(&error))?;
    stream.set_nonblocking(true).map_err(|error| kind_of(&error))?;
    let (mut source, mut expected) = (Content::new(seed), Content::new(seed));
    let mut outgoing = Vec::new();
    let (mut taken, mut back) = (0, 0);
    let mut half_closed = false;
    let mut chunk = vec![0; CHUNK];
    loop {
        if outgoing.is_empty() && taken < bytes {
            outgoing = source.take(CHUNK.min(bytes - taken));
            taken += outgoing.len();
        }
        if outgoing.is_empty() && !half_closed {
            stream.shutdown(Shutdown::Write).map_err(|error| kind_of(&error))?;
            half_closed = true;
        }
        let mut interests = [Interest::new(stream.as_raw_fd(), true, !outgoing.is_empty())];
        if !wait(&mut interests, Some(SILENCE)).map_err(|error| kind_of(&error))? {
            return Err(format!("WRONG: nothing moved for {} s after {back} bytes", SILENCE.as_secs()));
        }
        if !outgoing.is_empty() {
            match stream.write(&outgoing) {
                Ok(length) => drop(outgoing.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(kind_of(&error)),
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) if back == bytes && half_closed => return Ok(()),
            Ok(0) => return Err("cut off".to_owned()),
            Ok(length) => {
                if back + length > bytes || !expected.goes_on_with(&chunk[..length]) {
                    return Err(format!("WRONG: other bytes came back after {back}"));
                }
                back += length;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(kind_of(&error)),
        }
    }
}

/// Sends, half-closes, and compares what the sink says it got.
fn upload(to: (&str, u16), bytes: usize, seed: u64) -> Result<(), String> {
    let body = Content::new(seed).take(bytes);
    let said = TcpStream::connect(to).and_then(|mut stream| {
        stream.write_all(&body)?;
        stream.shutdown(Shutdown::Write)?;
        let mut said = String::new();
        stream.read_to_string(&mut said).map(|_| said)
    });
    match said {
        Ok(said) if said == format!("{bytes} bytes, sum {}\n", sum(0, &body)) => Ok(()),
        Ok(said) if said.is_empty() => Err("cut off".to_owned()),
        Ok(said) => Err(format!("WRONG: of {bytes} bytes the sink got {said:?}")),
        Err(error) => Err(kind_of(&error)),
    }
}

/// Sends and goes away without reading: the peer sees a reset.
fn cut(to: (&str, u16), bytes: usize, seed: u64) -> Result<(), String> {
    let sent = TcpStream::connect(to).and_then(|mut stream| {
        stream.set_nonblocking(true)?;
        match stream.write(&Content::new(seed).take(bytes)) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    });
    sent.map_err(|error| kind_of(&error))
}
