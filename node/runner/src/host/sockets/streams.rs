//! The two streams of a TCP connection as a guest has them.
//!
//! Input is read from the kernel as the guest asks for it. Output goes to the kernel at once; what it has no room for
//! (at most one write's permit) is sent by a task, because a guest may count on it although it waits for something else
//! or drops the stream. That task gives up some time after the guest has. What waits counts as the container's memory,
//! and permits are small once much of that is taken.

use crate::{
    memory::{MemoryAccount, Reservation},
    network::stream::Stream,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    io::{self, ErrorKind},
    net::Shutdown,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Notify, time};
use tokio_util::sync::{CancellationToken, DropGuard};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// Most bytes that a guest reads or writes at once.
const MAX_CHUNK_BYTES: usize = 64 << 10;
/// Most that it writes at once when its container's buffers take much already, as with many connections.
const SMALL_CHUNK_BYTES: usize = 8 << 10;
/// How long what a guest has written is still sent when it has dropped the connection, to a peer that does not read.
const LINGER: Duration = Duration::from_secs(10);

/// The guest's input stream.
#[derive(Debug)]
pub(super) struct Input {
    stream: Stream,
    ended: bool,
    output: Arc<Shared>,
}

impl Input {
    /// The other direction of `output`.
    pub(super) fn new(output: &Output) -> Self {
        Self { stream: output.shared.stream.clone(), ended: false, output: Arc::clone(&output.shared) }
    }
}

impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.output.end_if_dropped();
        if self.ended {
            return Err(StreamError::Closed);
        }
        if size == 0 {
            return Ok(Bytes::new());
        }
        match self.stream.try_read_some(size.min(MAX_CHUNK_BYTES)) {
            Ok(bytes) if bytes.is_empty() => {
                self.ended = true;
                Err(StreamError::Closed)
            }
            Ok(bytes) => Ok(bytes.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Bytes::new()),
            Err(error) => {
                self.ended = true;
                Err(StreamError::LastOperationFailed(error.into()))
            }
        }
    }
}

#[async_trait::async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        self.output.end_if_dropped();
        if !self.ended {
            self.stream.readable().await;
        }
    }
}

/// The guest's output stream. Clones are handles on the same stream.
#[derive(Debug, Clone)]
pub(super) struct Output {
    shared: Arc<Shared>,
    /// Tells the task that nobody is left who would wait for it.
    _here: Arc<DropGuard>,
}

#[derive(Debug)]
struct Shared {
    stream: Stream,
    memory: Arc<MemoryAccount>,
    state: Mutex<State>,
    sent: Notify,
    abandoned: CancellationToken,
}

#[derive(Debug)]
struct State {
    /// What the kernel had no room for. While there is something, a task is sending it.
    rest: Bytes,
    /// Counts the write that the rest is of.
    held: Option<Reservation>,
    /// What the guest may write at once, as it was told last.
    permitted: usize,
    /// The guest writes no more; what it has written is still sent.
    ended: bool,
    /// The guest has dropped the stream, and perhaps is about to drop the connection.
    dropped: bool,
    /// What went wrong and has not been said yet.
    failure: Option<io::Error>,
}

impl Output {
    /// What waits to be sent is `memory`'s.
    pub(super) fn new(stream: Stream, memory: &Arc<MemoryAccount>) -> Self {
        let abandoned = CancellationToken::new();
        let here = Arc::new(abandoned.clone().drop_guard());
        let state = State {
            rest: Bytes::new(),
            held: None,
            permitted: MAX_CHUNK_BYTES,
            ended: false,
            dropped: false,
            failure: None,
        };
        let memory = Arc::clone(memory);
        let shared = Shared { stream, memory, state: Mutex::new(state), sent: Notify::new(), abandoned };
        Self { shared: Arc::new(shared), _here: here }
    }

    /// Ends the direction once everything has been sent.
    pub(super) fn end(&self) {
        self.shared.end(&mut self.shared.state.lock());
    }
}

impl Shared {
    fn end(&self, state: &mut State) {
        if !state.ended {
            state.ended = true;
            if state.rest.is_empty() {
                let _ = self.stream.shutdown(Shutdown::Write);
            }
        }
    }

    /// A guest that goes on reading has not dropped the connection.
    fn end_if_dropped(&self) {
        let mut state = self.state.lock();
        if state.dropped {
            self.end(&mut state);
        }
    }

    /// What the guest is told before it may write.
    fn check(state: &mut State) -> StreamResult<()> {
        match state.failure.take() {
            Some(error) => {
                state.ended = true;
                Err(failure(error))
            }
            None if state.ended => Err(StreamError::Closed),
            None => Ok(()),
        }
    }

    /// Sends what is left; true when nothing is.
    fn send_rest(&self, state: &mut State) -> bool {
        while !state.rest.is_empty() {
            match self.stream.try_write(&state.rest) {
                Ok(count) => drop(state.rest.split_to(count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => {
                    state.rest.clear();
                    state.failure = Some(error);
                }
            }
        }
        state.held = None;
        if state.ended {
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        true
    }

    /// The task that sends what the kernel had no room for.
    async fn drain(self: Arc<Self>) {
        let all = async {
            loop {
                self.stream.writable().await;
                if self.send_rest(&mut self.state.lock()) {
                    return;
                }
            }
        };
        let impatience = async {
            self.abandoned.cancelled().await;
            time::sleep(LINGER).await;
        };
        tokio::select! {
            () = all => self.sent.notify_waiters(),
            () = impatience => {}
        }
    }
}

fn failure(error: io::Error) -> StreamError {
    if error.kind() == ErrorKind::BrokenPipe {
        StreamError::Closed
    } else {
        StreamError::LastOperationFailed(error.into())
    }
}

impl OutputStream for Output {
    fn write(&mut self, mut bytes: Bytes) -> StreamResult<()> {
        let mut state = self.shared.state.lock();
        Shared::check(&mut state)?;
        if !state.rest.is_empty() || bytes.len() > state.permitted {
            return Err(StreamError::trap("wrote more than was permitted"));
        }
        let kept_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        while !bytes.is_empty() {
            match self.shared.stream.try_write(&bytes) {
                Ok(count) => drop(bytes.split_to(count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // However little is left of it, all that was written is kept.
                    let held = self.shared.memory.reserve(kept_bytes).map_err(|out| StreamError::Trap(out.into()))?;
                    (state.rest, state.held) = (bytes, Some(held));
                    tokio::spawn(Arc::clone(&self.shared).drain());
                    return Ok(());
                }
                Err(error) => {
                    state.ended = true;
                    return Err(failure(error));
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Shared::check(&mut self.shared.state.lock())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let mut state = self.shared.state.lock();
        Shared::check(&mut state)?;
        // The kernel is asked too, so that a peer that does not read costs no memory here.
        if !state.rest.is_empty() || !self.shared.stream.is_writable() {
            return Ok(0);
        }
        state.permitted = if self.shared.memory.is_roomy() { MAX_CHUNK_BYTES } else { SMALL_CHUNK_BYTES };
        Ok(state.permitted)
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        loop {
            // From here on no end of the task is missed.
            let sent = self.shared.sent.notified();
            if self.shared.state.lock().rest.is_empty() {
                break;
            }
            sent.await;
        }
        if !self.shared.state.lock().ended {
            self.shared.stream.writable().await;
        }
    }
}

/// The guest's own handle. One that is dropped has written everything, so the direction ends. But whoever closes a
/// connection drops this first: with unread input, the peer must see a reset and not, for a moment, a proper end.
#[derive(Debug)]
pub(super) struct GuestOutput(pub(super) Output);

impl Drop for GuestOutput {
    fn drop(&mut self) {
        let mut state = self.0.shared.state.lock();
        state.dropped = true;
        if !self.0.shared.stream.has_unread() {
            self.0.shared.end(&mut state);
        }
    }
}

#[async_trait::async_trait]
impl Pollable for GuestOutput {
    async fn ready(&mut self) {
        self.0.ready().await;
    }
}

#[async_trait::async_trait]
impl OutputStream for GuestOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.0.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.0.check_write()
    }
}

#[cfg(test)]
mod tests;
