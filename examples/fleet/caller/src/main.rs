//! Calls a web server by name, again and again, and says who answered and what failed.
//!
//! Usage: `caller HOST PORT MILLISECONDS`. Every ten calls make a line; a call that fails, or takes longer than a second,
//! makes one of its own.

use std::{
    collections::BTreeMap,
    env,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

/// Longest answer that is looked at, in bytes.
const ANSWER_LENGTH_MAX: u64 = 64 << 10;
/// Calls of one line.
const CALLS_PER_LINE: u64 = 10;
/// A call that takes longer is worth a line.
const SLOW: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments = env::args().skip(1).collect::<Vec<_>>();
    let parsed = match arguments.as_slice() {
        [host, port, pause] => port.parse::<u16>().ok().zip(pause.parse().ok()).map(|found| (host, found)),
        _ => None,
    };
    let Some((host, (port, pause))) = parsed else {
        eprintln!("usage: caller HOST PORT MILLISECONDS");
        return ExitCode::from(2);
    };
    let mut answered = BTreeMap::<String, u64>::new();
    for number in 1_u64.. {
        let begun = Instant::now();
        let answer = call(host, port);
        let took = begun.elapsed();
        match answer {
            Ok(name) => {
                if took > SLOW {
                    println!("call {number} took {} ms", took.as_millis());
                }
                *answered.entry(name).or_default() += 1;
            }
            Err(error) => println!("call {number} FAILED after {} ms: {error}", took.as_millis()),
        }
        if number % CALLS_PER_LINE == 0 {
            let names = answered.iter().map(|(name, times)| format!("{times} {name}")).collect::<Vec<_>>();
            println!("calls to {number}: {}", names.join(", "));
            answered.clear();
        }
        thread::sleep(Duration::from_millis(pause));
    }
    ExitCode::SUCCESS
}

/// The name of the pod that answers, as its header says.
fn call(host: &str, port: u16) -> io::Result<String> {
    let mut server = TcpStream::connect((host, port))?;
    write!(server, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    server.take(ANSWER_LENGTH_MAX).read_to_string(&mut answer)?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("not the whole answer: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(wrong)?;
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
    if value("Content-Length: ").and_then(|length| length.parse().ok()) != Some(body.len()) {
        return Err(wrong());
    }
    let served_by = value("X-Served-By: ").and_then(|name| name.split(' ').next());
    served_by.map(str::to_owned).ok_or_else(wrong)
}
