//! How many requests of one container are answered at once.
//!
//! A container has room for one instance from its start on; more are taken from the runner's pool while there is some
//! to spare, up to a bound per container and one for all requests of the runner, so that containers can still start.
//! What finds no room waits for a while, and is then refused.

use crate::{code::Share, engine::EXTRA_TABLES};
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
    /// One permit per linear memory that the pool can hold; an instance without one takes one too.
    slots: Arc<Semaphore>,
    /// Tables that the pool has beyond those of each slot.
    tables: Arc<Semaphore>,
    /// How many slots may go to requests, beyond those of the one instance that each container has anyway.
    for_requests: Arc<Semaphore>,
}

impl Room {
    /// At most half the pool answers requests.
    pub(crate) fn new(slots: usize) -> Self {
        let slots = slots.min(Semaphore::MAX_PERMITS);
        Self {
            slots: Arc::new(Semaphore::new(slots)),
            tables: Arc::new(Semaphore::new(usize::try_from(EXTRA_TABLES).unwrap_or(0))),
            for_requests: Arc::new(Semaphore::new(slots / 2)),
        }
    }

    /// Room for a container's first instance.
    ///
    /// # Errors
    /// For people, when there is none.
    pub(crate) fn enter(&self, share: Share) -> Result<Pass, String> {
        let no_room = |needs: String| format!("the runner has no room for another instance{needs}");
        let slots = Arc::clone(&self.slots).try_acquire_many_owned(share.slots);
        let slots = slots.map_err(|_| match share.slots {
            1 => no_room(String::new()),
            several => no_room(format!(" with {several} memories")),
        })?;
        let tables = Arc::clone(&self.tables).try_acquire_many_owned(share.extra_tables);
        let tables = tables.map_err(|_| no_room(format!(" with {} tables more than usual", share.extra_tables)))?;
        Ok(Pass { _permits: [Some(slots), Some(tables), None, None] })
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Gate {
    /// The instance for which the container itself holds a slot.
    own: Arc<Semaphore>,
    more: Arc<Semaphore>,
    room: Room,
    share: Share,
    waiting: AtomicUsize,
    max_wait: Duration,
}

/// Leave to run one instance.
#[derive(Debug)]
pub(crate) struct Pass {
    _permits: [Option<OwnedSemaphorePermit>; 4],
}

impl Gate {
    /// For instances of which each takes `share` of the pool.
    pub(crate) fn new(room: Room, share: Share) -> Self {
        Self {
            own: Arc::new(Semaphore::new(1)),
            more: Arc::new(Semaphore::new(MAX_CONCURRENT - 1)),
            room,
            share,
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
            return Some(Pass { _permits: [Some(permit), None, None, None] });
        }
        let more = Arc::clone(&self.more).try_acquire_owned().ok()?;
        let Share { slots, extra_tables } = self.share;
        let request = Arc::clone(&self.room.for_requests).try_acquire_many_owned(slots).ok()?;
        let tables = Arc::clone(&self.room.tables).try_acquire_many_owned(extra_tables).ok()?;
        let slots = Arc::clone(&self.room.slots).try_acquire_many_owned(slots).ok()?;
        Some(Pass { _permits: [Some(more), Some(request), Some(tables), Some(slots)] })
    }

    async fn wait(&self) -> Option<Pass> {
        let more = async {
            let more = Arc::clone(&self.more).acquire_owned().await.ok()?;
            let Share { slots, extra_tables } = self.share;
            let request = Arc::clone(&self.room.for_requests).acquire_many_owned(slots).await.ok()?;
            let tables = Arc::clone(&self.room.tables).acquire_many_owned(extra_tables).await.ok()?;
            let slots = Arc::clone(&self.room.slots).acquire_many_owned(slots).await.ok()?;
            Some(Pass { _permits: [Some(more), Some(request), Some(tables), Some(slots)] })
        };
        tokio::select! {
            own = Arc::clone(&self.own).acquire_owned() => Some(Pass { _permits: [Some(own.ok()?), None, None, None] }),
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

    const ONE: Share = Share { slots: 1, extra_tables: 0 };

    #[tokio::test]
    async fn a_container_always_has_room_for_one() {
        let room = Room::new(1);
        let _container = room.enter(ONE).unwrap();
        let gate = Gate::new(room, ONE);
        let first = gate.enter().await.unwrap();
        let mut second = Box::pin(gate.enter());
        assert!(poll!(&mut second).is_pending(), "the pool is full");
        drop(first);
        assert!(second.await.is_some());
    }

    #[tokio::test]
    async fn requests_leave_half_the_pool_to_containers() {
        let room = Room::new(10);
        let _container = room.enter(ONE).unwrap();
        let gate = Gate::new(room.clone(), ONE);
        let passes = (0..6).map(|_| gate.try_enter().unwrap()).collect::<Vec<_>>();
        assert!(gate.try_enter().is_none());
        assert_eq!(room.slots.available_permits(), 4);
        drop(passes);
        assert_eq!(room.slots.available_permits(), 9);
    }

    #[test]
    fn who_needs_more_takes_more_and_leaves_the_others_theirs() {
        let room = Room::new(10);
        let hungry = Share { slots: 4, extra_tables: EXTRA_TABLES };
        let first = room.enter(hungry).unwrap();
        assert!(room.enter(hungry).unwrap_err().contains("tables more than usual"));
        let others = (0..6).map(|_| room.enter(ONE).unwrap()).collect::<Vec<_>>();
        assert_eq!(room.enter(ONE).unwrap_err(), "the runner has no room for another instance");
        assert!(room.enter(hungry).unwrap_err().ends_with("with 4 memories"));
        drop((first, others));
        let gate = Gate::new(room.clone(), hungry);
        let _passes = [gate.try_enter().unwrap(), gate.try_enter().unwrap()];
        assert!(gate.try_enter().is_none(), "a third would take more than half the pool");
        assert_eq!(room.slots.available_permits(), 6);
    }

    #[tokio::test]
    async fn who_waits_too_long_or_finds_a_long_queue_is_refused() {
        let gate = Gate { max_wait: Duration::from_millis(50), ..Gate::new(Room::new(0), ONE) };
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
