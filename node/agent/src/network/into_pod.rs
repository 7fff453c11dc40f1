//! Connections that the node makes for a pod's probes and hooks, and for people: what a failed one is called.
//!
//! It must never open a socket of the machine by itself: where such a connection leads is the fabric's to decide.

use coracle_net::fabric::DialFailure;
use std::{io, os::fd::OwnedFd};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

/// A connection of any kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A failed dial as the system would put it.
pub(super) fn error(failure: DialFailure) -> io::Error {
    let kind = match failure {
        DialFailure::Refused => io::ErrorKind::ConnectionRefused,
        DialFailure::Unreachable => io::ErrorKind::HostUnreachable,
        DialFailure::TimedOut => io::ErrorKind::TimedOut,
        DialFailure::Denied => io::ErrorKind::PermissionDenied,
        DialFailure::TooMany => io::ErrorKind::WouldBlock,
    };
    io::Error::new(kind, failure)
}

/// A descriptor from the fabric as a stream: inside the cluster one end of a pair, outside a real socket.
pub(super) fn stream(descriptor: OwnedFd) -> io::Result<Box<dyn Stream>> {
    let std = std::net::TcpStream::from(descriptor);
    // Only a socket of the internet has an address of it.
    if std.local_addr().is_ok() {
        return Ok(Box::new(TcpStream::from_std(std)?));
    }
    Ok(Box::new(UnixStream::from_std(OwnedFd::from(std).into())?))
}
