//! Datagrams.

use std::{io, net::UdpSocket};

const DATAGRAM_BYTES_MAX: usize = 64 << 10;

pub fn echo(address: &str, count: usize) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    println!("receiving at {}", socket.local_addr()?);
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    for _ in 0..count {
        let (size, from) = socket.recv_from(&mut buffer)?;
        println!("{size} bytes from {from}");
        socket.send_to(&buffer[..size], from)?;
    }
    Ok(())
}

pub fn ask(address: &str, text: &str) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    println!("asking from {}", socket.local_addr()?.ip());
    socket.send(text.as_bytes())?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let size = socket.recv(&mut buffer)?;
    println!("answer: {}", String::from_utf8_lossy(&buffer[..size]));
    Ok(())
}

pub fn flood(address: &str, count: usize) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    for _ in 0..count {
        socket.send_to(&[7; 1000], address)?;
    }
    println!("sent {count} datagrams");
    Ok(())
}
