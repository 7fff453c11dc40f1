//! Servers for one connection after another. The bench compiles this file too, to have the same natively.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

const CHUNK: usize = 64 << 10;

/// Serves connections until the listener is closed.
pub fn each(listener: &TcpListener, mut serve: impl FnMut(TcpStream) -> io::Result<()>) {
    while let Ok((stream, _)) = listener.accept() {
        // Whoever gives up knows it.
        drop(serve(stream));
    }
}

/// Sends back what comes.
pub fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = stream.read(&mut chunk)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&chunk[..length])?;
    }
}

/// Swallows what comes and says at its end how much that was.
pub fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut received = 0;
    loop {
        let length = stream.read(&mut chunk)?;
        if length == 0 {
            return stream.write_all(format!("{received}\n").as_bytes());
        }
        received += length;
    }
}
