//! What waits for the raft thread: one swap takes it all, so that everything that came during an fsync shares the next.
//!
//! Bounded by weight: a permit stands for a kibibyte, and is held until the request is answered.

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of requests not answered yet.
const WEIGHT_BYTES_MAX: usize = 64 << 20;
/// What one permit stands for.
const PERMIT_BYTES: usize = 1 << 10;
/// How long a request waits for room.
const ROOM_WAIT: Duration = Duration::from_secs(5);

pub(crate) struct Inbox<T> {
    queue: Mutex<Queue<T>>,
    wake: Condvar,
    room: Arc<Semaphore>,
    room_wait: Duration,
}

struct Queue<T> {
    items: Vec<(T, OwnedSemaphorePermit)>,
    closed: bool,
}

/// Why something was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Closed,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> Self {
        Self::bounded(WEIGHT_BYTES_MAX, ROOM_WAIT)
    }

    fn bounded(bytes: usize, room_wait: Duration) -> Self {
        Self {
            queue: Mutex::new(Queue { items: Vec::new(), closed: false }),
            wake: Condvar::new(),
            room: Arc::new(Semaphore::new(bytes / PERMIT_BYTES)),
            room_wait,
        }
    }

    /// Adds `item`, which keeps `bytes` in memory; waits a while for room.
    pub(crate) async fn push(&self, item: T, bytes: usize) -> Result<(), Refused> {
        let permits = u32::try_from(bytes / PERMIT_BYTES + 1).unwrap_or(u32::MAX);
        let permit = match Arc::clone(&self.room).try_acquire_many_owned(permits) {
            Ok(permit) => permit,
            Err(_) => tokio::time::timeout(self.room_wait, Arc::clone(&self.room).acquire_many_owned(permits))
                .await
                .map_err(|_| Refused::Full)?
                .map_err(|_| Refused::Closed)?,
        };
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(Refused::Closed);
        }
        queue.items.push((item, permit));
        if queue.items.len() == 1 {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Moves all that waits into `taken`, which must be empty; waits until `deadline` for something. `false` once closed.
    pub(crate) fn take(&self, deadline: Instant, taken: &mut Vec<(T, OwnedSemaphorePermit)>) -> bool {
        let mut queue = self.queue.lock();
        while queue.items.is_empty() && !queue.closed {
            if self.wake.wait_until(&mut queue, deadline).timed_out() {
                break;
            }
        }
        std::mem::swap(&mut queue.items, taken);
        !queue.closed
    }

    /// Refuses everything from now on; what waits can still be taken.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.room.close();
        self.wake.notify_one();
    }

    /// Refuses everything and drops what waits.
    pub(crate) fn abandon(&self) {
        self.close();
        let dropped = std::mem::take(&mut self.queue.lock().items);
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_inbox_refuses_after_a_wait_and_has_room_again() {
        let inbox = Inbox::bounded(4 * PERMIT_BYTES, Duration::ZERO);
        inbox.push(1, 3 * PERMIT_BYTES).await.unwrap();
        assert_eq!(inbox.push(2, 0).await, Err(Refused::Full));
        let mut taken: Vec<(i32, OwnedSemaphorePermit)> = Vec::new();
        assert!(inbox.take(Instant::now(), &mut taken));
        assert_eq!(inbox.push(3, 0).await, Err(Refused::Full), "taken is not answered");
        taken.clear();
        inbox.push(4, 0).await.unwrap();
        inbox.close();
        assert_eq!(inbox.push(5, 0).await, Err(Refused::Closed));
        assert!(!inbox.take(Instant::now(), &mut taken), "closed");
        assert_eq!(taken.iter().map(|(item, _)| *item).collect::<Vec<_>>(), [4], "what waited is still there");
    }
}
