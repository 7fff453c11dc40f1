//! Servers and clients that each do one thing.

use crate::kind;
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

const PIECE: usize = 8 << 10;

fn bind(address: &str) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    Ok(listener)
}

fn until_asked_to_stop() -> io::Result<()> {
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

pub fn listen(address: &str, count: usize) -> io::Result<()> {
    let listener = bind(address)?;
    for _ in 0..count {
        let (mut stream, from) = listener.accept()?;
        println!("accepted {from} at {}", stream.local_addr()?);
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes) {
            Ok(_) => stream.write_all(&bytes)?,
            Err(error) => println!("read failed: {}", kind(&error)),
        }
    }
    Ok(())
}

pub fn answer(address: &str) -> io::Result<()> {
    let mut stream = bind(address)?.accept()?.0;
    let mut piece = [0; PIECE];
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            count => stream.write_all(&piece[..count])?,
        }
    }
}

/// One connection of an echo: what it still has to send, and whether its input has ended.
struct Echo {
    stream: TcpStream,
    rest: Vec<u8>,
    ended: bool,
}

impl Echo {
    /// Does what can be done now; `Ok(true)` when it is finished.
    fn step(&mut self, worked: &mut bool) -> io::Result<bool> {
        if self.rest.is_empty() && !self.ended {
            let mut piece = vec![0; PIECE];
            let count = self.stream.read(&mut piece)?;
            piece.truncate(count);
            self.ended = count == 0;
            self.rest = piece;
            *worked = true;
        }
        while !self.rest.is_empty() {
            let count = self.stream.write(&self.rest)?;
            self.rest.drain(..count);
            *worked = true;
        }
        Ok(self.ended)
    }
}

pub fn echo(address: &str, count: usize) -> io::Result<()> {
    let listener = bind(address)?;
    listener.set_nonblocking(true)?;
    let (mut accepted, mut failed, mut open) = (0, 0, Vec::<Echo>::new());
    while accepted < count || !open.is_empty() {
        let mut worked = false;
        while accepted < count {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    open.push(Echo { stream, rest: Vec::new(), ended: false });
                    accepted += 1;
                    worked = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        open.retain_mut(|echo| match echo.step(&mut worked) {
            Ok(finished) => !finished,
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            Err(_) => {
                failed += 1;
                false
            }
        });
        if !worked {
            thread::sleep(Duration::from_millis(1));
        }
    }
    println!("echoed {accepted} connections, {failed} failed");
    Ok(())
}

pub fn connect(address: &str, text: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    println!("connected from {} to {}", stream.local_addr()?, stream.peer_addr()?);
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    let result = stream.read_to_string(&mut answer);
    println!("answer: {answer}");
    result.map(drop)
}

pub fn fetch(address: &str, bytes: usize) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let (mut sent, mut received, mut right) = (0, 0, true);
    let mut piece = [0; PIECE];
    while received < bytes {
        let part = PIECE.min(bytes - sent);
        let begin = sent;
        piece[..part].iter_mut().enumerate().for_each(|(index, byte)| *byte = pattern(begin + index));
        stream.write_all(&piece[..part])?;
        sent += part;
        let mut expected = part;
        while expected > 0 {
            let count = stream.read(&mut piece[..expected])?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            right &= piece[..count].iter().enumerate().all(|(index, byte)| *byte == pattern(received + index));
            received += count;
            expected -= count;
        }
    }
    println!("received {received} bytes, {}", if right { "all right" } else { "not what was sent" });
    Ok(())
}

fn pattern(index: usize) -> u8 {
    (index % 251) as u8
}

pub fn round_trips(address: &str, count: usize) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let mut nanos = Vec::with_capacity(count);
    for _ in 0..count {
        let before = Instant::now();
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        nanos.push(before.elapsed().as_nanos());
    }
    nanos.sort_unstable();
    println!("{count} round trips: p50 {} ns, p99 {} ns", nanos[count / 2], nanos[count * 99 / 100]);
    Ok(())
}

pub fn hold(address: &str, count: usize) -> io::Result<()> {
    let streams = (0..count).map(|_| TcpStream::connect(address)).collect::<io::Result<Vec<_>>>()?;
    println!("holding {} connections", streams.len());
    until_asked_to_stop()
}

pub fn never_read(address: &str) -> io::Result<()> {
    let listener = bind(address)?;
    let stream = listener.accept()?.0;
    println!("accepted {}", stream.peer_addr()?);
    until_asked_to_stop()
}

pub fn flood(address: &str) {
    let mut streams = Vec::new();
    let error = loop {
        match TcpStream::connect(address) {
            Ok(stream) => streams.push(stream),
            Err(error) => break error,
        }
    };
    println!("{} connections, then {}", streams.len(), kind(&error));
}

pub fn fill(address: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nonblocking(true)?;
    let (mut written, mut refusals) = (0, 0);
    while refusals < 100 {
        match stream.write(&[7; PIECE]) {
            Ok(count) => (written, refusals) = (written + count, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refusals += 1;
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
    println!("wrote {written} bytes");
    until_asked_to_stop()
}

pub fn serve_until_stop(address: &str) -> io::Result<()> {
    let listener = bind(address)?;
    until_asked_to_stop()?;
    println!("asked to stop");
    let (mut stream, from) = listener.accept()?;
    stream.write_all(b"bye")?;
    println!("served {from}");
    Ok(())
}

pub fn write_and_leave(address: &str, bytes: usize) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let mut rest = bytes;
    while rest > 0 {
        let part = PIECE.min(rest);
        let begin = bytes - rest;
        let piece = (begin..begin + part).map(pattern).collect::<Vec<_>>();
        stream.write_all(&piece)?;
        rest -= part;
    }
    println!("wrote {bytes} bytes");
    Ok(())
}
