//! What a client measures. The bench compiles this file too, to have the same natively.
//!
//! - `round-trips HOST:PORT COUNT`, `throughput HOST:PORT MIB`, `connects HOST:PORT COUNT`: figures as `NAME=VALUE` words;
//! - `open HOST:PORT COUNT` keeps so many connections more; `close` drops them.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

const CHUNK: usize = 64 << 10;
const CHUNKS_PER_MIB: u32 = 16;
/// Bytes of one question and of its answer.
const MESSAGE: usize = 64;
/// Round trips that are not counted, at the beginning.
const WARM_UP: u32 = 100;

/// Does what a line asks for.
pub fn run(line: &str, held: &mut Vec<TcpStream>) -> io::Result<String> {
    let number = |word: &str| word.parse::<u32>().map_err(|_| io::Error::from(ErrorKind::InvalidInput));
    match line.split(' ').collect::<Vec<_>>().as_slice() {
        ["round-trips", to, count] => round_trips(to, number(count)?),
        ["throughput", to, mib] => throughput(to, number(mib)?),
        ["connects", to, count] => connects(to, number(count)?),
        ["open", to, count] => open(to, number(count)?, held),
        ["close"] => {
            held.clear();
            Ok("open=0".to_owned())
        }
        _ => Err(ErrorKind::InvalidInput.into()),
    }
}

/// Small messages there and back over one connection to an echo.
fn round_trips(to: &str, count: u32) -> io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    let mut message = [0x2a; MESSAGE];
    let mut times = Vec::new();
    for turn in 0..count + WARM_UP {
        let begun = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        if turn >= WARM_UP {
            times.push(begun.elapsed());
        }
    }
    times.sort();
    let at = |hundredths: usize| times[(times.len() * hundredths / 100).min(times.len() - 1)];
    Ok(format!("p50_us={:.3} p99_us={:.3}", microseconds(at(50)), microseconds(at(99))))
}

/// So many MiB to a sink, until it has said that it has them all.
fn throughput(to: &str, mib: u32) -> io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    let chunk = vec![0x2a; CHUNK];
    let begun = Instant::now();
    for _ in 0..mib * CHUNKS_PER_MIB {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    if said.trim() != (u64::from(mib) << 20).to_string() {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("the sink has {said:?}")));
    }
    Ok(format!("mib_per_s={:.3}", f64::from(mib) / begun.elapsed().as_secs_f64()))
}

/// So many connections to an echo one after another, each for one message there and back.
fn connects(to: &str, count: u32) -> io::Result<String> {
    let mut message = [0x2a; MESSAGE];
    let begun = Instant::now();
    for _ in 0..count {
        let mut stream = TcpStream::connect(to)?;
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
    }
    Ok(format!("per_s={:.3}", f64::from(count) / begun.elapsed().as_secs_f64()))
}

/// Connections to a holder, each of which it has accepted.
fn open(to: &str, count: u32, held: &mut Vec<TcpStream>) -> io::Result<String> {
    for _ in 0..count {
        let mut stream = TcpStream::connect(to)?;
        stream.read_exact(&mut [0])?;
        held.push(stream);
    }
    Ok(format!("open={}", held.len()))
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
