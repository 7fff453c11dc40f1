//! One end of a connection: a descriptor, made here or received from the agent.
//!
//! Reading and writing go to the kernel directly and never wait; nothing is buffered in between, so what a guest has not
//! read is unread for the peer too: closing then resets the connection, as TCP does. Waiting asks the kernel again once
//! the reactor says that something changed, because a guest takes "ready" at its word.

use super::{channel::registered, pod::Binding, switch::Permits, traffic::Traffic};
use nix::{
    libc,
    sys::socket::{MsgFlags, recv, send, shutdown},
};
use std::{
    fmt,
    io::{self, ErrorKind},
    net::{Shutdown, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd};

/// A stream and who is at its ends.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    /// The guest's end.
    pub(crate) local: SocketAddr,
    /// The other end, as the guest sees it.
    pub(crate) remote: SocketAddr,
}

/// What goes with a connection and is given back when it closes.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) _permits: Permits,
    /// The port that it left from, if it was made here.
    pub(crate) _binding: Option<Binding>,
    /// Where its bytes count, if they leave the pod.
    pub(crate) traffic: Option<Arc<Traffic>>,
}

impl Held {
    fn received(&self, bytes: usize) {
        if let Some(traffic) = &self.traffic {
            traffic.receive(bytes);
        }
    }

    fn sent(&self, bytes: usize) {
        if let Some(traffic) = &self.traffic {
            traffic.send(bytes);
        }
    }
}

/// One end of a connection. Clones are the same end, which closes when the last of them is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Stream(Arc<Inner>);

struct Inner {
    // Closed before its port is free again.
    socket: AsyncFd<OwnedFd>,
    /// The guest wants no more input. The peer does not hear of it, as with TCP.
    input_closed: AtomicBool,
    /// The peer broke off. The kernel says so once; whoever reads again must not take what follows for a proper end.
    reset: AtomicBool,
    held: Held,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Stream {
    /// Within the runtime of those who will wait for it.
    pub(crate) fn new(socket: OwnedFd, held: Held) -> io::Result<Self> {
        let socket = registered(socket)?;
        let (input_closed, reset) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self(Arc::new(Inner { socket, input_closed, reset, held })))
    }

    /// Reads what is there; 0 at the end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there, `ConnectionReset`.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive(buffer, MsgFlags::empty()).inspect(|count| self.0.held.received(*count))
    }

    /// The same into memory of its own, at most `max` bytes; empty at the end.
    pub(crate) fn try_read_some(&self, max: usize) -> io::Result<Vec<u8>> {
        if self.0.input_closed.load(Relaxed) {
            return Ok(Vec::new());
        }
        // Guests ask for much and get little: clearing it all first would cost more than the rest of a short read.
        let mut bytes = Vec::<u8>::with_capacity(max);
        let room = bytes.spare_capacity_mut();
        // SAFETY: the kernel writes at most `max` bytes, which the vector has room for.
        let count = unsafe {
            libc::recv(self.0.socket.get_ref().as_raw_fd(), room.as_mut_ptr().cast(), max, libc::MSG_DONTWAIT)
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error());
        let count = self.unless_reset(count)?;
        // SAFETY: the kernel has written that many.
        unsafe { bytes.set_len(count) };
        self.0.held.received(count);
        Ok(bytes)
    }

    /// As [`Self::try_read`], and leaves it there.
    pub(crate) fn try_peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive(buffer, MsgFlags::MSG_PEEK)
    }

    fn receive(&self, buffer: &mut [u8], flags: MsgFlags) -> io::Result<usize> {
        if self.0.input_closed.load(Relaxed) {
            return Ok(0);
        }
        let count = recv(self.0.socket.get_ref().as_raw_fd(), buffer, flags | MsgFlags::MSG_DONTWAIT);
        self.unless_reset(count.map_err(io::Error::from))
    }

    /// What came of a read, knowing how earlier ones ended.
    fn unless_reset(&self, count: io::Result<usize>) -> io::Result<usize> {
        match count {
            Ok(0) if self.0.reset.load(Relaxed) => Err(ErrorKind::ConnectionReset.into()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                self.0.reset.store(true, Relaxed);
                Err(error)
            }
            count => count,
        }
    }

    /// Writes as much as there is room for.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room, `BrokenPipe`, `ConnectionReset`.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let count = send(self.0.socket.get_ref().as_raw_fd(), bytes, flags)?;
        self.0.held.sent(count);
        Ok(count)
    }

    /// Whether reading would not block: there is something, the end, or an error.
    pub(crate) fn is_readable(&self) -> bool {
        self.0.input_closed.load(Relaxed) || self.is_ready(libc::POLLIN)
    }

    /// Whether there is room for more than a few bytes.
    pub(crate) fn is_writable(&self) -> bool {
        self.is_ready(libc::POLLOUT)
    }

    fn is_ready(&self, events: libc::c_short) -> bool {
        let mut question = libc::pollfd { fd: self.0.socket.get_ref().as_raw_fd(), events, revents: 0 };
        // SAFETY: one entry, which lives for the call, about a descriptor that `self` keeps open. It does not wait.
        let count = unsafe { libc::poll(&raw mut question, 1, 0) };
        // A question that cannot be asked is settled by reading or writing.
        count != 0
    }

    /// Whether input waits to be read. If it still does when the connection closes, the peer's is reset.
    pub(crate) fn has_unread(&self) -> bool {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the request writes one integer, to a place that lives for the call.
        let known = unsafe { libc::ioctl(self.0.socket.get_ref().as_raw_fd(), libc::FIONREAD, &raw mut bytes) } == 0;
        known && bytes > 0
    }

    /// Waits until [`Self::is_readable`].
    pub(crate) async fn readable(&self) {
        // What the reactor knows comes first: it costs nothing for the many streams on which nothing happens.
        while !self.0.input_closed.load(Relaxed) {
            match self.0.socket.readable().await {
                Ok(mut guard) if !self.is_readable() => guard.clear_ready(),
                _ => return,
            }
        }
    }

    /// Waits until [`Self::is_writable`].
    pub(crate) async fn writable(&self) {
        loop {
            match self.0.socket.writable().await {
                Ok(mut guard) if !self.is_writable() => guard.clear_ready(),
                _ => return,
            }
        }
    }

    /// Ends one direction or both. The end of input only concerns this side.
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Write {
            self.0.input_closed.store(true, Relaxed);
        }
        if how != Shutdown::Read {
            shutdown(self.0.socket.get_ref().as_raw_fd(), nix::sys::socket::Shutdown::Write)?;
        }
        Ok(())
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.socket.poll_read_ready(context))?;
            match self.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.socket.poll_write_ready(context))?;
            match self.try_write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => guard.clear_ready(),
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shutdown(Shutdown::Write))
    }
}
