//! An HTTP client by hand: one request, many, or one connection kept for ever.

use crate::{
    content::Content,
    readiness::{Interest, wait},
};
use std::{
    io::{self, BufRead, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

/// Longest body that is read, in bytes.
const BODY_LENGTH_MAX: usize = 64 << 20;
const CHUNK: usize = 64 << 10;
/// A server that neither takes nor gives anything for so long has hung.
const SILENCE: Duration = Duration::from_secs(30);

/// `GET`, a connection each; prints the first line of every answer.
pub fn get(to: (&str, u16), path: &str, count: usize) {
    for _ in 0..count {
        let answered = TcpStream::connect(to).and_then(|server| {
            request(&server, "GET", to.0, path, b"", true)?;
            answer(&mut BufReader::new(&server))
        });
        match answered {
            Ok((status, body)) => println!("{status} {}", first_line(&body)),
            Err(error) => println!("get: failed: {}", error.kind()),
        }
    }
}

/// `POST /echo` of a body that the seed decides; says whether it came back as it was.
pub fn post(to: (&str, u16), bytes: usize, seed: u64) {
    let body = Content::new(seed).take(bytes);
    let answered = TcpStream::connect(to).and_then(|server| {
        let request = [head("POST", to.0, "/echo", bytes, true).as_bytes(), &body].concat();
        answer(&mut converse(&server, &request)?.as_slice())
    });
    match answered {
        Ok((200, back)) if back == body => println!("post: {bytes} bytes came back"),
        Ok((status, back)) => println!("post: {status}: {} of {bytes} bytes, changed", back.len()),
        Err(error) => println!("post: failed: {}", error.kind()),
    }
}

/// One connection, a request every so often until it fails.
pub fn keep(to: (&str, u16), pause_milliseconds: u64) {
    let kept = TcpStream::connect(to).and_then(|server| {
        let mut answers = BufReader::new(&server);
        for turn in 0_u64.. {
            request(&server, "GET", to.0, "/", b"", false)?;
            let (status, body) = answer(&mut answers)?;
            println!("turn {turn}: {status} {}", first_line(&body));
            thread::sleep(Duration::from_millis(pause_milliseconds));
        }
        Ok(())
    });
    if let Err(error) = kept {
        println!("keep: lost: {}", error.kind());
    }
}

fn first_line(body: &[u8]) -> String {
    String::from_utf8_lossy(body).lines().next().unwrap_or_default().to_owned()
}

fn request(mut server: &TcpStream, method: &str, host: &str, path: &str, body: &[u8], last: bool) -> io::Result<()> {
    server.write_all(head(method, host, path, body.len(), last).as_bytes())?;
    server.write_all(body)
}

fn head(method: &str, host: &str, path: &str, length: usize, last: bool) -> String {
    let connection = if last { "close" } else { "keep-alive" };
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n")
}

/// Sends and receives at once until the server has said everything: a large body does not fit into what lies between.
fn converse(mut server: &TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    server.set_nonblocking(true)?;
    let (mut unsent, mut received, mut chunk) = (request, Vec::new(), vec![0; CHUNK]);
    loop {
        let mut interests = [Interest::new(server.as_raw_fd(), true, !unsent.is_empty())];
        if !wait(&mut interests, Some(SILENCE))? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if !unsent.is_empty() {
            match server.write(unsent) {
                Ok(length) => unsent = &unsent[length..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        match server.read(&mut chunk) {
            Ok(0) => return Ok(received),
            Ok(length) => received.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if received.len() > BODY_LENGTH_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}

/// Status and body of the next answer.
fn answer(server: &mut impl BufRead) -> io::Result<(u16, Vec<u8>)> {
    let malformed = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut line = String::new();
    if server.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let status = line.split(' ').nth(1).and_then(|text| text.parse().ok()).ok_or_else(|| malformed("no status"))?;
    let (mut length, mut chunked) = (None, false);
    loop {
        line.clear();
        if server.read_line(&mut line)? <= 2 {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| malformed("a header"))?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse::<usize>().ok(),
            "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        while let size @ 1.. = chunk_size(server)? {
            exactly(server, size, &mut body)?;
            line.clear();
            server.read_line(&mut line)?;
        }
        line.clear();
        server.read_line(&mut line)?;
    } else if let Some(length) = length {
        exactly(server, length, &mut body)?;
    } else {
        server.take(BODY_LENGTH_MAX as u64).read_to_end(&mut body)?;
    }
    Ok((status, body))
}

fn chunk_size(server: &mut impl BufRead) -> io::Result<usize> {
    let mut line = String::new();
    server.read_line(&mut line)?;
    let digits = line.split(';').next().unwrap_or_default().trim();
    usize::from_str_radix(digits, 16).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn exactly(server: &mut impl BufRead, count: usize, body: &mut Vec<u8>) -> io::Result<()> {
    if body.len() + count > BODY_LENGTH_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let before = body.len();
    server.by_ref().take(count as u64).read_to_end(body)?;
    if body.len() - before == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
