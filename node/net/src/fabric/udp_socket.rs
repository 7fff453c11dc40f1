//! A real datagram socket that never makes its sender wait. Sends go straight to the kernel: a runtime that first waits to
//! hear that a new socket is writable would lose the first datagram of each.

use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    io,
    net::{SocketAddr, UdpSocket as StdUdpSocket},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Longest datagram that is received, in bytes: none is longer.
const RECEIVE_BYTES: usize = 65_535;

/// Where datagrams are received: one for all sockets, since those that wait need no memory of their own.
pub(crate) struct ReceiveBuffer(Mutex<Box<[u8]>>);

impl Default for ReceiveBuffer {
    fn default() -> Self {
        Self(Mutex::new(vec![0; RECEIVE_BYTES].into()))
    }
}

#[derive(Debug)]
pub(crate) struct UdpSocket(AsyncFd<StdUdpSocket>);

impl UdpSocket {
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = StdUdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        // SAFETY: a UdpSocket keeps one open descriptor for its whole life, and this one is never taken out or replaced.
        let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// Sends, or loses, a datagram.
    ///
    /// # Errors
    /// It was not sent.
    pub(crate) fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.0.get_ref().send_to(bytes, to).map(drop)
    }

    /// Waits for a datagram; may be dropped without losing one.
    pub(crate) async fn receive(&self, buffer: &ReceiveBuffer) -> io::Result<(Bytes, SocketAddr)> {
        loop {
            let mut ready = self.0.readable().await?;
            let received = ready.try_io(|socket| {
                let mut buffer = buffer.0.lock();
                let (length, from) = socket.get_ref().recv_from(&mut buffer)?;
                Ok((Bytes::copy_from_slice(&buffer[..length]), from))
            });
            if let Ok(result) = received {
                return result;
            }
        }
    }
}
