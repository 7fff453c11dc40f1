//! What a module does with its listeners and connections.

use super::{Preview1, table::Descriptor};
use crate::network::{error::SocketError, stream::Stream};
use std::{
    io::{self, ErrorKind},
    net::Shutdown,
};
use tokio::task::coop::consume_budget;
use wasmtime_wasi::p1::types::{self, Errno, Error, Fd, Fdflags, Riflags};
use wiggle::{GuestMemory, GuestPtr};

/// Pieces of one read or write, as on Linux.
const MAX_PIECES: u32 = 1024;
/// Bytes that one read or write moves at most. Pieces may lie on top of each other, so the guest's memory is no bound.
const MAX_BYTES: u32 = 64 << 20;

impl Preview1 {
    /// The next connection of a listener. Waits for it unless the listener is non-blocking.
    pub(super) async fn accept(&mut self, fd: Fd, flags: Fdflags) -> Result<Fd, Error> {
        let (listener, nonblocking) = match self.table.get(fd)? {
            Descriptor::Listener { listener, nonblocking } => (listener.clone(), *nonblocking),
            Descriptor::Stream { .. } => return Err(Errno::Inval.into()),
            Descriptor::Inner(_) => return Err(Errno::Notsock.into()),
        };
        only_nonblocking(flags)?;
        // Before a connection is taken that nothing could be done with.
        self.table.room()?;
        let accepted = if nonblocking {
            listener.try_accept().map_err(accept_error)?.ok_or(Errno::Again)?
        } else {
            listener.accept().await.map_err(accept_error)?
        };
        let nonblocking = flags.contains(Fdflags::NONBLOCK);
        Ok(self.table.add(Descriptor::Stream { stream: accepted.stream, nonblocking })?)
    }

    fn stream(&self, fd: Fd) -> Result<(Stream, bool), Errno> {
        match self.table.get(fd)? {
            Descriptor::Stream { stream, nonblocking } => Ok((stream.clone(), *nonblocking)),
            Descriptor::Listener { .. } => Err(Errno::Notconn),
            Descriptor::Inner(_) => Err(Errno::Notsock),
        }
    }

    /// Reads into the pieces one after the other: what is there up to a bound, at least a byte, unless the end has come.
    pub(super) async fn receive(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        data: types::IovecArray,
        flags: Riflags,
    ) -> Result<types::Size, Error> {
        let (stream, nonblocking) = self.stream(fd)?;
        if data.len() > MAX_PIECES {
            return Err(Errno::Inval.into());
        }
        let peek = flags.contains(Riflags::RECV_PEEK);
        let all = flags.contains(Riflags::RECV_WAITALL) && !peek && !nonblocking;
        let mut total = 0_u32;
        for piece in data.iter() {
            let piece = memory.read(piece?)?;
            let length = piece.buf_len.min(MAX_BYTES - total);
            let mut filled = 0;
            while filled < length {
                // A peer that never rests must not keep this guest from being ended, nor its neighbours from their turn.
                consume_budget().await;
                let rest = piece.buf.add(filled)?.as_array(length - filled);
                let buffer = memory.as_slice_mut(rest)?.ok_or(Errno::Notsup)?;
                let result = if peek { stream.try_peek(buffer) } else { stream.try_read(buffer) };
                match result {
                    Ok(0) => return Ok(total),
                    Ok(count) => {
                        let count = u32::try_from(count)?;
                        filled += count;
                        total = total.checked_add(count).ok_or(Errno::Overflow)?;
                        // What was only looked at would be seen again in the next piece.
                        if peek {
                            return Ok(total);
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if total > 0 && !all {
                            return Ok(total);
                        }
                        if nonblocking {
                            return Err(Errno::Again.into());
                        }
                        stream.readable().await;
                    }
                    Err(_) if total > 0 => return Ok(total),
                    Err(error) => return Err(errno(&error).into()),
                }
            }
        }
        Ok(total)
    }

    /// Writes the pieces one after the other: all of it up to a bound, or as much as there is room for when it must not
    /// wait.
    pub(super) async fn send(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        data: types::CiovecArray,
    ) -> Result<types::Size, Error> {
        let (stream, nonblocking) = self.stream(fd)?;
        if data.len() > MAX_PIECES {
            return Err(Errno::Inval.into());
        }
        let mut total = 0_u32;
        for piece in data.iter() {
            let piece = memory.read(piece?)?;
            let length = piece.buf_len.min(MAX_BYTES - total);
            let mut written = 0;
            while written < length {
                // As for reading.
                consume_budget().await;
                let rest: GuestPtr<[u8]> = piece.buf.add(written)?.as_array(length - written);
                let bytes = memory.as_slice(rest)?.ok_or(Errno::Notsup)?;
                match stream.try_write(bytes) {
                    Ok(count) => {
                        let count = u32::try_from(count)?;
                        written += count;
                        total = total.checked_add(count).ok_or(Errno::Overflow)?;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if nonblocking {
                            return if total > 0 { Ok(total) } else { Err(Errno::Again.into()) };
                        }
                        stream.writable().await;
                    }
                    Err(_) if total > 0 => return Ok(total),
                    Err(error) => return Err(errno(&error).into()),
                }
            }
        }
        Ok(total)
    }
}

impl Descriptor {
    /// What `fd_fdstat_get` says of a socket.
    pub(super) fn status(&self) -> types::Fdstat {
        use types::Rights;
        let common = Rights::FD_FDSTAT_SET_FLAGS | Rights::FD_FILESTAT_GET | Rights::POLL_FD_READWRITE;
        let connection = common | Rights::FD_READ | Rights::FD_WRITE | Rights::SOCK_SHUTDOWN;
        let (base, inheriting, nonblocking) = match self {
            Self::Inner(_) => (Rights::empty(), Rights::empty(), false),
            Self::Listener { nonblocking, .. } => {
                (common | Rights::SOCK_ACCEPT | Rights::FD_READ, connection, *nonblocking)
            }
            Self::Stream { nonblocking, .. } => (connection, connection, *nonblocking),
        };
        types::Fdstat {
            fs_filetype: types::Filetype::SocketStream,
            fs_flags: if nonblocking { Fdflags::NONBLOCK } else { Fdflags::empty() },
            fs_rights_base: base,
            fs_rights_inheriting: inheriting,
        }
    }

    /// Makes a socket blocking or not; it has no other flags.
    pub(super) fn set_flags(&mut self, flags: Fdflags) -> Result<(), Errno> {
        only_nonblocking(flags)?;
        match self {
            Self::Inner(_) => return Err(Errno::Badf),
            Self::Listener { nonblocking, .. } | Self::Stream { nonblocking, .. } => {
                *nonblocking = flags.contains(Fdflags::NONBLOCK);
            }
        }
        Ok(())
    }

    /// Ends one direction of a connection, or both.
    pub(super) fn shut_down(&self, how: types::Sdflags) -> Result<(), Errno> {
        let how = match (how.contains(types::Sdflags::RD), how.contains(types::Sdflags::WR)) {
            (true, true) => Shutdown::Both,
            (true, false) => Shutdown::Read,
            (false, true) => Shutdown::Write,
            (false, false) => return Err(Errno::Inval),
        };
        match self {
            Self::Stream { stream, .. } => stream.shutdown(how).map_err(|error| errno(&error)),
            Self::Listener { .. } => Err(Errno::Notconn),
            Self::Inner(_) => Err(Errno::Notsock),
        }
    }
}

fn only_nonblocking(flags: Fdflags) -> Result<(), Errno> {
    if flags.difference(Fdflags::NONBLOCK).is_empty() { Ok(()) } else { Err(Errno::Inval) }
}

fn accept_error(error: SocketError) -> Errno {
    match error {
        SocketError::TooMany => Errno::Mfile,
        // The run was asked to stop.
        SocketError::InvalidArgument => Errno::Inval,
        _ => Errno::Io,
    }
}

fn errno(error: &io::Error) -> Errno {
    match error.kind() {
        ErrorKind::WouldBlock => Errno::Again,
        ErrorKind::BrokenPipe => Errno::Pipe,
        ErrorKind::ConnectionReset => Errno::Connreset,
        ErrorKind::ConnectionAborted => Errno::Connaborted,
        ErrorKind::NotConnected => Errno::Notconn,
        ErrorKind::TimedOut => Errno::Timedout,
        _ => Errno::Io,
    }
}

#[cfg(test)]
#[path = "sockets_tests.rs"]
mod tests;
