//! An HTTP client by hand: one request, many, or one connection kept for ever.

use crate::content::Content;
use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    thread,
    time::Duration,
};

/// Longest body that is read, in bytes.
const BODY_LENGTH_MAX: usize = 64 << 20;

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
        request(&server, "POST", to.0, "/echo", &body, true)?;
        answer(&mut BufReader::new(&server))
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
    let connection = if last { "close" } else { "keep-alive" };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
        body.len()
    );
    server.write_all(head.as_bytes())?;
    server.write_all(body)
}

/// Status and body of the next answer.
fn answer(server: &mut BufReader<&TcpStream>) -> io::Result<(u16, Vec<u8>)> {
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

fn chunk_size(server: &mut BufReader<&TcpStream>) -> io::Result<usize> {
    let mut line = String::new();
    server.read_line(&mut line)?;
    let digits = line.split(';').next().unwrap_or_default().trim();
    usize::from_str_radix(digits, 16).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn exactly(server: &mut BufReader<&TcpStream>, count: usize, body: &mut Vec<u8>) -> io::Result<()> {
    if body.len() + count > BODY_LENGTH_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let before = body.len();
    server.by_ref().take(count as u64).read_to_end(body)?;
    if body.len() - before == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
