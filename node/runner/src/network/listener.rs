//! Listeners, and the connections that wait in them to be accepted.

use super::{
    error::SocketError,
    pod::Binding,
    stream::{Connection, Held, Stream},
};
use crate::memory::{MemoryAccount, Reservation};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The longest backlog, whatever a guest asks for.
pub(crate) const MAX_BACKLOG: u32 = 1024;

/// What a connection that waits counts as the container's memory.
const WAITING_BYTES: u64 = 1 << 10;

/// A place in the queue.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    _held: Reservation,
}

/// A connection that waits.
#[derive(Debug)]
struct Waiting {
    socket: OwnedFd,
    local: SocketAddr,
    remote: SocketAddr,
    held: Held,
    _place: Place,
}

/// Where connections wait for a listener. Whoever connects has this, the guest has the [`Listener`].
#[derive(Debug)]
pub(crate) struct Backlog {
    waiting: Mutex<VecDeque<Waiting>>,
    arrived: Notify,
    room: Arc<Semaphore>,
    memory: Arc<MemoryAccount>,
    closed: AtomicBool,
    stop: CancellationToken,
}

impl Backlog {
    /// What waits in it is `memory`'s.
    pub(crate) fn new(size: u32, stop: CancellationToken, memory: Arc<MemoryAccount>) -> Self {
        let size = usize::try_from(size.clamp(1, MAX_BACKLOG)).unwrap_or(1);
        Self {
            waiting: Mutex::default(),
            arrived: Notify::new(),
            room: Arc::new(Semaphore::new(size)),
            memory,
            closed: AtomicBool::new(false),
            stop,
        }
    }

    /// Whether it takes connections.
    pub(crate) fn is_open(&self) -> bool {
        !self.closed.load(Relaxed) && !self.stop.is_cancelled()
    }

    /// A place in the queue, if there is one, and memory for who waits there.
    pub(crate) fn room(&self) -> Option<Place> {
        self.place(Arc::clone(&self.room).try_acquire_owned().ok()?)
    }

    /// Others make who waits; so what there is no memory for is turned away.
    fn place(&self, permit: OwnedSemaphorePermit) -> Option<Place> {
        Some(Place { _permit: permit, _held: self.memory.try_reserve(WAITING_BYTES)? })
    }

    /// A place in the queue once there is one; `None` when the listener closes, or there is no memory for it.
    pub(crate) async fn wait_for_room(&self) -> Option<Place> {
        tokio::select! {
            room = Arc::clone(&self.room).acquire_owned() => self.place(room.ok()?),
            () = self.stop.cancelled() => None,
        }
    }

    /// Puts a connection into the queue; one that comes after the listener has closed is closed as well.
    pub(crate) fn push(&self, socket: OwnedFd, local: SocketAddr, remote: SocketAddr, held: Held, place: Place) {
        let mut waiting = self.waiting.lock();
        if !self.closed.load(Relaxed) {
            waiting.push_back(Waiting { socket, local, remote, held, _place: place });
        }
        drop(waiting);
        self.arrived.notify_waiters();
    }

    fn close(&self) {
        self.closed.store(true, Relaxed);
        // Ends the waits for room, and for connections.
        self.room.close();
        self.arrived.notify_waiters();
    }
}

/// What a guest listens with. Clones are the same listener, which closes when the last of them is dropped: connections
/// that wait in it then close, and its port is free.
#[derive(Debug, Clone)]
pub(crate) struct Listener(Arc<Listening>);

#[derive(Debug)]
struct Listening {
    backlog: Arc<Backlog>,
    binding: Binding,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.backlog.close();
        // In a variable of its own: the connections must not be closed while the queue is locked.
        let waiting = std::mem::take(&mut *self.backlog.waiting.lock());
        drop(waiting);
    }
}

impl Listener {
    pub(crate) fn new(backlog: Arc<Backlog>, binding: Binding) -> Self {
        Self(Arc::new(Listening { backlog, binding }))
    }

    /// The address and port that it listens on.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.0.binding.local_addr()
    }

    /// The next connection, if one waits. Within the runtime of those who will wait for it.
    ///
    /// # Errors
    /// `TooMany` when the process has as many descriptors as it may have; `InvalidArgument` once it is closed and nobody
    /// waits any more, as Linux answers for a listener that was shut down: so a server learns that it is to end.
    pub(crate) fn try_accept(&self) -> Result<Option<Connection>, SocketError> {
        // Looked at first: who came before it closed is still accepted.
        let is_open = self.0.backlog.is_open();
        let next = self.0.backlog.waiting.lock().pop_front();
        let Some(Waiting { socket, local, remote, held, _place }) = next else {
            return if is_open { Ok(None) } else { Err(SocketError::InvalidArgument) };
        };
        let stream = Stream::new(socket, held).map_err(|_| SocketError::TooMany)?;
        Ok(Some(Connection { stream, local, remote }))
    }

    /// The next connection, once there is one.
    ///
    /// # Errors
    /// As [`Self::try_accept`].
    pub(crate) async fn accept(&self) -> Result<Connection, SocketError> {
        loop {
            self.readable().await;
            if let Some(connection) = self.try_accept()? {
                return Ok(connection);
            }
        }
    }

    /// Waits until a connection waits, or none will come any more.
    pub(crate) async fn readable(&self) {
        let backlog = &self.0.backlog;
        loop {
            let arrived = backlog.arrived.notified();
            tokio::pin!(arrived);
            // From here on no arrival is missed.
            arrived.as_mut().enable();
            if !backlog.waiting.lock().is_empty() || !backlog.is_open() {
                return;
            }
            tokio::select! {
                () = arrived => {}
                () = backlog.stop.cancelled() => return,
            }
        }
    }

    /// Takes no new connections; those that wait may be accepted.
    pub(crate) fn close(&self) {
        self.0.backlog.close();
    }
}
