//! How many requests of one container are answered at once.
//!
//! A container has room for one instance from its start on; more are taken from the runner's pool while there is some
//! to spare, up to a bound per container and one for all requests of the runner, so that containers can still start.
//! What finds no room waits for a while, and is then refused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};

/// Requests of one container that are answered at once.
const MAX_CONCURRENT: usize = 128;
/// Requests of one container that wait for their turn.
const MAX_WAITING: usize = 1024;
/// The longest that one waits.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The runner's room for instances.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    /// One permit per instance that the pool can hold.
    pub(crate) slots: Arc<Semaphore>,
    /// How many of those may go to requests, beyond the one that each container has anyway.
    pub(crate) for_requests: Arc<Semaphore>,
}

impl Room {
    /// At most half the pool answers requests.
    pub(crate) fn new(instances: usize) -> Self {
        let instances = instances.min(Semaphore::MAX_PERMITS);
        Self { slots: Arc::new(Semaphore::new(instances)), for_requests: Arc::new(Semaphore::new(instances / 2)) }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Gate {
    /// The instance for which the container itself holds a slot.
    own: Arc<Semaphore>,
    more: Arc<Semaphore>,
    room: Room,
    waiting: AtomicUsize,
    max_wait: Duration,
}

/// Leave to run one instance.
#[derive(Debug)]
pub(crate) struct Pass {
    _permits: [Option<OwnedSemaphorePermit>; 3],
}

impl Gate {
    pub(crate) fn new(room: Room) -> Self {
        Self {
            own: Arc::new(Semaphore::new(1)),
            more: Arc::new(Semaphore::new(MAX_CONCURRENT - 1)),
            room,
            waiting: AtomicUsize::new(0),
            max_wait: MAX_WAIT,
        }
    }

    /// Waits for room; `None` when there are too many who do, or it lasts too long.
    pub(crate) async fn enter(&self) -> Option<Pass> {
        if let Some(pass) = self.try_enter() {
            return Some(pass);
        }
        let _waiter = Waiter::join(&self.waiting)?;
        time::timeout(self.max_wait, self.wait()).await.ok().flatten()
    }

    fn try_enter(&self) -> Option<Pass> {
        if let Ok(permit) = Arc::clone(&self.own).try_acquire_owned() {
            return Some(Pass { _permits: [Some(permit), None, None] });
        }
        let more = Arc::clone(&self.more).try_acquire_owned().ok()?;
        let request = Arc::clone(&self.room.for_requests).try_acquire_owned().ok()?;
        let slot = Arc::clone(&self.room.slots).try_acquire_owned().ok()?;
        Some(Pass { _permits: [Some(more), Some(request), Some(slot)] })
    }

    async fn wait(&self) -> Option<Pass> {
        let more = async {
            let more = Arc::clone(&self.more).acquire_owned().await.ok()?;
            let request = Arc::clone(&self.room.for_requests).acquire_owned().await.ok()?;
            let slot = Arc::clone(&self.room.slots).acquire_owned().await.ok()?;
            Some(Pass { _permits: [Some(more), Some(request), Some(slot)] })
        };
        tokio::select! {
            own = Arc::clone(&self.own).acquire_owned() => Some(Pass { _permits: [Some(own.ok()?), None, None] }),
            pass = more => pass,
        }
    }
}

/// A place in the queue.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn join(waiting: &'a AtomicUsize) -> Option<Self> {
        let waiter = Self(waiting);
        (waiting.fetch_add(1, Relaxed) < MAX_WAITING).then_some(waiter)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, future::join_all, poll};

    #[tokio::test]
    async fn a_container_always_has_room_for_one() {
        let room = Room::new(1);
        let _container = Arc::clone(&room.slots).try_acquire_owned().unwrap();
        let gate = Gate::new(room);
        let first = gate.enter().await.unwrap();
        let mut second = Box::pin(gate.enter());
        assert!(poll!(&mut second).is_pending(), "the pool is full");
        drop(first);
        assert!(second.await.is_some());
    }

    #[tokio::test]
    async fn requests_leave_half_the_pool_to_containers() {
        let room = Room::new(10);
        let _container = Arc::clone(&room.slots).try_acquire_owned().unwrap();
        let gate = Gate::new(room.clone());
        let passes = (0..6).map(|_| gate.try_enter().unwrap()).collect::<Vec<_>>();
        assert!(gate.try_enter().is_none());
        assert_eq!(room.slots.available_permits(), 4);
        drop(passes);
        assert_eq!(room.slots.available_permits(), 9);
    }

    #[tokio::test]
    async fn who_waits_too_long_or_finds_a_long_queue_is_refused() {
        let gate = Gate { max_wait: Duration::from_millis(50), ..Gate::new(Room::new(0)) };
        let _first = gate.enter().await.unwrap();
        let mut queue = (0..MAX_WAITING).map(|_| Box::pin(gate.enter())).collect::<Vec<_>>();
        for waiter in &mut queue {
            assert!(poll!(waiter).is_pending());
        }
        assert!(gate.enter().now_or_never().unwrap().is_none(), "the queue is full");
        assert!(join_all(queue).await.iter().all(Option::is_none), "nobody left in time");
        assert_eq!(gate.waiting.load(Relaxed), 0);
    }
}
