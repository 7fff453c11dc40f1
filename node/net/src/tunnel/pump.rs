//! Carries bytes between a descriptor and a QUIC stream, both ways, until both ways are over. Bytes are never lost in between:
//! where they cannot be delivered the connection is broken, at both ends. What waits is bounded by QUIC's windows and the
//! kernel's buffers; nothing is kept here.

use super::{
    marked::{Look, Marked, READ_BYTES_MAX, readable_bytes},
    stalls::Stalls,
};
use bytes::Bytes;
use nix::{
    errno::Errno,
    libc,
    sys::socket::{MsgFlags, Shutdown, sendmsg, setsockopt, shutdown, sockopt},
};
use quinn::{RecvStream, SendStream, VarInt, WriteError};
use std::{
    io::{self, IoSlice},
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::unix::{AsyncFd, AsyncFdReadyGuard},
    sync::Notify,
};

/// The connection broke at the other end.
pub(super) const BROKEN: VarInt = VarInt::from_u32(1);
/// Nobody reads any more.
pub(super) const UNREAD: VarInt = VarInt::from_u32(2);
/// Pieces that are written at once.
const PIECES: usize = 64;
/// How often it is looked whether anybody is left to read, where one side has ended and the other is silent.
const HUNG_UP_CHECK: Duration = Duration::from_secs(5);
/// First read of a socket that does not say how much it has, in bytes.
const READ_BYTES_MIN: usize = 2048;

/// The sending half of a stream. Unless it was finished it is reset when it goes: half of what was to be sent must not look
/// like the whole.
#[derive(Debug)]
pub(super) struct Sending {
    stream: SendStream,
    is_finished: bool,
}

impl Sending {
    pub(super) fn new(stream: SendStream) -> Self {
        Self { stream, is_finished: false }
    }

    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.stream.write_all(bytes).await
    }

    pub(super) fn finish(&mut self) {
        self.is_finished = true;
        // Fails when the other side has stopped it: then nobody wants to know.
        let _stopped = self.stream.finish();
    }

    /// Ends when the other side reads no more.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let stopped = self.stream.stopped();
        async move {
            let _either = stopped.await;
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.is_finished {
            let _over = self.stream.reset(BROKEN);
        }
    }
}

/// This machine's side.
#[derive(Debug)]
pub(super) enum End {
    /// A pod's, through a marked pair.
    Pod(Marked),
    /// A socket of somebody outside: made by [`End::socket`].
    Socket(OwnedFd),
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Pod(marked) => marked.as_fd(),
            Self::Socket(socket) => socket.as_fd(),
        }
    }
}

impl AsRawFd for End {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl End {
    /// A connected socket. From now on whoever just drops it resets the connection: half of a download must not look whole.
    pub(super) fn socket(socket: OwnedFd) -> Self {
        linger(&socket, libc::linger { l_onoff: 1, l_linger: 0 });
        Self::Socket(socket)
    }

    fn look(&self, no_more: bool) -> io::Result<Look> {
        match self {
            Self::Pod(marked) => marked.look(no_more),
            Self::Socket(socket) => look_at_socket(socket),
        }
    }

    fn shut(&self, how: Shutdown) {
        // Fails when the other end is gone, which reading and writing find out.
        let _gone = shutdown(self.as_raw_fd(), how);
    }

    /// In good order: what was written still arrives, and then the end.
    fn close(self) {
        match self {
            Self::Pod(marked) => marked.close(),
            Self::Socket(socket) => linger(&socket, libc::linger { l_onoff: 0, l_linger: 0 }),
        }
    }
}

fn linger(socket: &OwnedFd, how: libc::linger) {
    // Not a TCP socket: then closing has to do.
    let _unknown = setsockopt(socket, sockopt::Linger, &how);
}

fn look_at_socket(socket: &OwnedFd) -> io::Result<Look> {
    let wanted = readable_bytes(socket)?.clamp(READ_BYTES_MIN, READ_BYTES_MAX);
    let mut bytes = vec![0; wanted];
    match nix::sys::socket::recv(socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
        Ok(0) => Ok(Look::End),
        Ok(count) => {
            bytes.truncate(count);
            Ok(Look::Bytes(bytes.into()))
        }
        Err(Errno::EAGAIN) => Ok(Look::Nothing),
        Err(error) => Err(error.into()),
    }
}

/// The connection broke, at one end or in between.
struct Broken;

/// When a pod has stopped to read, and who has to know.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    pub(super) stall: Duration,
    pub(super) stalls: Arc<Stalls>,
    /// Whose connection it is.
    pub(super) pod: IpAddr,
}

/// Carries both ways until both are over, or one breaks, which breaks the other.
pub(super) async fn pump(end: End, mut sending: Sending, mut receiving: RecvStream, patience: Patience) {
    // SAFETY: the descriptor is owned by what is registered, stays the same, and is closed with it.
    let Ok(end) = (unsafe { AsyncFd::register(end) }) else {
        // The system takes no more descriptors: all three were dropped, which breaks the connection at both ends.
        return;
    };
    let read_all = Notify::new();
    let both =
        tokio::try_join!(outward(&end, &mut sending, &read_all), inward(&end, &mut receiving, &read_all, &patience));
    let end = end.into_inner();
    if both.is_ok() {
        end.close();
    } else {
        drop(sending);
        let _over = receiving.stop(BROKEN);
        drop(end);
    }
}

async fn outward(end: &AsyncFd<End>, sending: &mut Sending, read_all: &Notify) -> Result<(), Broken> {
    loop {
        let bytes = match read(end).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => break,
            Err(_) => return Err(Broken),
        };
        match sending.stream.write_chunk(bytes).await {
            Ok(()) => {}
            Err(WriteError::Stopped(code)) if code == UNREAD => {
                // As after a connection's other end was closed: who writes more hears of it.
                end.get_ref().shut(Shutdown::Read);
                break;
            }
            Err(_) => return Err(Broken),
        }
    }
    sending.finish();
    read_all.notify_one();
    Ok(())
}

async fn inward(
    end: &AsyncFd<End>,
    receiving: &mut RecvStream,
    read_all: &Notify,
    patience: &Patience,
) -> Result<(), Broken> {
    let hung_up = async {
        read_all.notified().await;
        hung_up(end).await;
    };
    tokio::pin!(hung_up);
    let mut pieces: [Bytes; PIECES] = std::array::from_fn(|_| Bytes::new());
    loop {
        let count = tokio::select! {
            biased;
            read = receiving.read_chunks(&mut pieces) => match read {
                Ok(Some(count)) => count,
                Ok(None) => {
                    end.get_ref().shut(Shutdown::Write);
                    return Ok(());
                }
                Err(_) => return Err(Broken),
            },
            () = &mut hung_up => {
                let _over = receiving.stop(UNREAD);
                return Ok(());
            }
        };
        match write(end, &mut pieces[..count], patience).await {
            Ok(()) => {}
            // Nobody reads any more, and who wrote may have more to say.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {
                let _over = receiving.stop(UNREAD);
                return Ok(());
            }
            // The kernel says once that a connection broke: who reads would take it for an orderly end from now on.
            Err(_) => return Err(Broken),
        }
    }
}

/// Some bytes; `None` at the end.
async fn read(end: &AsyncFd<End>) -> io::Result<Option<Bytes>> {
    loop {
        let mut guard = end.readable().await?;
        let no_more = guard.ready().is_read_closed();
        match end.get_ref().look(no_more)? {
            Look::Bytes(bytes) => return Ok(Some(bytes)),
            Look::End => return Ok(None),
            Look::Nothing => guard.clear_ready(),
        }
    }
}

/// Ends when nobody has the other end any more. Bytes that come tell that at once; this is for when none come.
async fn hung_up(end: &AsyncFd<End>) {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    while nix::sys::socket::send(end.get_ref().as_raw_fd(), &[], flags) != Err(Errno::EPIPE) {
        tokio::time::sleep(HUNG_UP_CHECK).await;
    }
}

/// Ends when something can be written, however long it takes, unless too many wait: see [`Stalls`].
async fn writable<'end>(end: &'end AsyncFd<End>, patience: &Patience) -> io::Result<AsyncFdReadyGuard<'end, End>> {
    let mut waiting = std::pin::pin!(end.writable());
    if let Ok(guard) = tokio::time::timeout(patience.stall, &mut waiting).await {
        return guard;
    }
    let stalled = patience.stalls.enter(patience.pod);
    tokio::select! {
        biased;
        guard = waiting => guard,
        () = stalled.over.cancelled() => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Writes all of it, and lets go of the pieces. Slow is not stalled: each wait has its own patience.
async fn write(end: &AsyncFd<End>, pieces: &mut [Bytes], patience: &Patience) -> io::Result<()> {
    let mut first = 0;
    while first < pieces.len() {
        let mut guard = writable(end, patience).await?;
        match send(end.get_ref(), &pieces[first..]) {
            Ok(mut written) => {
                while let Some(piece) = pieces.get_mut(first).filter(|piece| piece.len() <= written) {
                    written -= piece.len();
                    *piece = Bytes::new();
                    first += 1;
                }
                if let Some(piece) = pieces.get_mut(first) {
                    let _sent = piece.split_to(written);
                }
            }
            Err(Errno::EAGAIN) => guard.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn send(end: &End, pieces: &[Bytes]) -> Result<usize, Errno> {
    let mut slices = [IoSlice::new(&[]); PIECES];
    for (slice, piece) in slices.iter_mut().zip(pieces) {
        *slice = IoSlice::new(piece);
    }
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(end.as_raw_fd(), &slices[..pieces.len().min(PIECES)], &[], flags, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{ErrorKind, Read},
        net::{TcpListener, TcpStream},
    };

    #[test]
    fn a_socket_that_is_dropped_is_reset_and_one_that_is_closed_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for is_closed in [false, true] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let end = End::socket(listener.accept().unwrap().0.into());
            if is_closed {
                end.close();
            } else {
                drop(end);
            }
            let seen = client.read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(seen, if is_closed { Ok(0) } else { Err(ErrorKind::ConnectionReset) });
        }
    }
}
