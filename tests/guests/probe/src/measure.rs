//! Figures for benches: `NAME=VALUE` pairs on one line.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

/// Bytes of one question and of its answer.
const MESSAGE: usize = 64;
const CHUNK: usize = 64 << 10;
/// Round trips that are not counted, at the beginning.
const WARM_UP: usize = 100;

/// Round trips of small messages over one connection to an echo server.
pub fn round_trips(to: (&str, u16), count: usize) -> io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    let mut message = [0x2a; MESSAGE];
    let mut times = Vec::with_capacity(count);
    for turn in 0..count + WARM_UP {
        let begun = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        if turn >= WARM_UP {
            times.push(begun.elapsed());
        }
    }
    times.sort();
    let at = |hundredths: usize| microseconds(times[(times.len() * hundredths / 100).min(times.len() - 1)]);
    Ok(format!("p50_us={:.1} p99_us={:.1}", at(50), at(99)))
}

/// So many MiB to a sink, which says when it has them all.
pub fn throughput(to: (&str, u16), mib: usize) -> io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    let chunk = vec![0x2a; CHUNK];
    let begun = Instant::now();
    for _ in 0..mib * ((1 << 20) / CHUNK) {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    if !said.starts_with(&format!("{} bytes", mib << 20)) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, said));
    }
    Ok(format!("mib_per_s={:.1}", mib as f64 / begun.elapsed().as_secs_f64()))
}

/// So many connections one after another, each with one message there and back.
pub fn connects(to: (&str, u16), count: usize) -> io::Result<String> {
    let begun = Instant::now();
    let mut message = [0x2a; MESSAGE];
    for _ in 0..count {
        let mut stream = TcpStream::connect(to)?;
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
    }
    Ok(format!("per_s={:.1}", count as f64 / begun.elapsed().as_secs_f64()))
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
