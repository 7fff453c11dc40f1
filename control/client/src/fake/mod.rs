//! An in-memory [`Client`] for tests: revisions, preconditions, selectors, watches with history, and faults on demand.

mod clock;
mod state;
#[cfg(test)]
mod tests;

pub use clock::{EPOCH, ManualClock};

use crate::{
    Client, Event, Listing, Query, Write,
    clock::{Clock, seconds_text},
};
use async_trait::async_trait;
use coracle_objects::{ApiError, Kind, ObjectKey, Reason};
use futures::{StreamExt, stream, stream::BoxStream};
use parking_lot::Mutex;
use serde_json::Value;
use state::{Filter, State};
use std::sync::Arc;
use tokio::sync::watch;

/// Decides whether a write fails.
type Refusal = Box<dyn Fn(&Write) -> Option<ApiError> + Send>;

/// Is told of every write that succeeded, before its author is.
type Aftermath = Arc<dyn Fn(&Write) + Send + Sync>;

#[derive(Default)]
struct Faults {
    refusal: Option<Refusal>,
    aftermath: Option<Aftermath>,
    lists_to_fail: u32,
}

struct Inner {
    state: Mutex<State>,
    faults: Mutex<Faults>,
    writes: Mutex<Vec<Write>>,
    lists: Mutex<u32>,
    /// Revision, and how often all watches were cut.
    progress: watch::Sender<(u64, u64)>,
    clock: ManualClock,
}

/// A cluster in memory; clones share it.
#[derive(Clone)]
pub struct Fake {
    inner: Arc<Inner>,
}

impl Fake {
    /// An empty cluster whose stamps come from `clock`.
    #[must_use]
    pub fn new(clock: &ManualClock) -> Self {
        let inner = Inner {
            state: Mutex::default(),
            faults: Mutex::default(),
            writes: Mutex::default(),
            lists: Mutex::default(),
            progress: watch::Sender::new((0, 0)),
            clock: clock.clone(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// As what loops take.
    #[must_use]
    pub fn client(&self) -> Arc<dyn Client> {
        Arc::new(self.clone())
    }

    /// Stores `object` (new or changed, status included) as somebody else's doing; it is not among [`Fake::writes`].
    pub fn put(&self, kind: &'static Kind, object: Value) -> Arc<Value> {
        let now = seconds_text(self.inner.clock.now());
        let stored = self.inner.state.lock().put(kind, object, &now);
        self.tell(false);
        stored
    }

    /// Removes an object at once as somebody else's doing; a missing one is fine.
    pub fn remove(&self, kind: &'static Kind, key: &ObjectKey) {
        let _ = self.inner.state.lock().remove(kind, key);
        self.tell(false);
    }

    /// The object as stored now.
    #[must_use]
    pub fn peek(&self, kind: &'static Kind, key: &ObjectKey) -> Option<Arc<Value>> {
        self.inner.state.lock().get(kind, key).ok()
    }

    /// All objects of a kind.
    ///
    /// # Panics
    /// Never: the empty query is always right.
    #[must_use]
    pub fn peek_all(&self, kind: &'static Kind) -> Vec<Arc<Value>> {
        Filter::new(kind, &Query::default()).map(|all| self.inner.state.lock().list(kind, &all)).unwrap_or_default()
    }

    /// The writes that came through [`Client`] since the last call, refused ones included.
    #[must_use]
    pub fn writes(&self) -> Vec<Write> {
        std::mem::take(&mut *self.inner.writes.lock())
    }

    /// How many listings were asked for so far.
    #[must_use]
    pub fn lists(&self) -> u32 {
        *self.inner.lists.lock()
    }

    /// From now on, writes for which `refusal` has an error fail with it.
    pub fn refuse_writes(&self, refusal: impl Fn(&Write) -> Option<ApiError> + Send + 'static) {
        self.inner.faults.lock().refusal = Some(Box::new(refusal));
    }

    /// From now on, `aftermath` happens between each write that succeeds and its answer.
    pub fn after_writes(&self, aftermath: impl Fn(&Write) + Send + Sync + 'static) {
        self.inner.faults.lock().aftermath = Some(Arc::new(aftermath));
    }

    /// All writes work again.
    pub fn accept_writes(&self) {
        self.inner.faults.lock().refusal = None;
    }

    /// The next `count` listings fail.
    pub fn fail_lists(&self, count: u32) {
        self.inner.faults.lock().lists_to_fail = count;
    }

    /// Ends all running watches.
    pub fn cut_watches(&self) {
        self.tell(true);
    }

    /// Forgets all history and ends all watches, so that a watch from the past is refused with `Expired`.
    pub fn compact(&self) {
        let mut state = self.inner.state.lock();
        // One revision nobody sees, so that even a watch that has seen everything lies in the past.
        state.revision += 1;
        state.compacted = state.revision;
        state.history.clear();
        drop(state);
        self.tell(true);
    }

    fn tell(&self, cut: bool) {
        let revision = self.inner.state.lock().revision;
        self.inner.progress.send_modify(|(seen, cuts)| {
            *seen = revision;
            *cuts += u64::from(cut);
        });
    }

    fn write_one(&self, write: &Write) -> Result<Arc<Value>, ApiError> {
        self.inner.writes.lock().push(write.clone());
        let refused = self.inner.faults.lock().refusal.as_ref().and_then(|refusal| refusal(write));
        if let Some(error) = refused {
            return Err(error);
        }
        let now = seconds_text(self.inner.clock.now());
        let result = self.inner.state.lock().write(write.clone(), &now);
        self.tell(false);
        let aftermath = self.inner.faults.lock().aftermath.clone();
        if let Some(aftermath) = aftermath.filter(|_| result.is_ok()) {
            aftermath(write);
        }
        result
    }
}

/// Where a watch is.
struct Cursor {
    inner: Arc<Inner>,
    progress: watch::Receiver<(u64, u64)>,
    kind: &'static Kind,
    filter: Filter,
    revision: u64,
    cuts: u64,
}

impl Cursor {
    async fn next(mut self) -> Option<(Vec<Result<Event, ApiError>>, Self)> {
        loop {
            if self.progress.borrow_and_update().1 != self.cuts {
                return None;
            }
            let events: Vec<_> = {
                let state = self.inner.state.lock();
                let new = state.history.iter().filter(|record| record.revision > self.revision);
                let events =
                    new.filter(|record| record.kind == self.kind).filter_map(|record| self.filter.event(record));
                let events = events.map(Ok).collect();
                self.revision = state.revision;
                events
            };
            if !events.is_empty() {
                return Some((events, self));
            }
            self.progress.changed().await.ok()?;
        }
    }
}

#[async_trait]
impl Client for Fake {
    async fn get(&self, kind: &'static Kind, key: &ObjectKey) -> Result<Arc<Value>, ApiError> {
        self.inner.state.lock().get(kind, key)
    }

    async fn list(&self, kind: &'static Kind, query: &Query) -> Result<Listing, ApiError> {
        *self.inner.lists.lock() += 1;
        let mut faults = self.inner.faults.lock();
        if faults.lists_to_fail > 0 {
            faults.lists_to_fail -= 1;
            return Err(ApiError::new(Reason::ServiceUnavailable, "no leader"));
        }
        drop(faults);
        let filter = Filter::new(kind, query)?;
        let state = self.inner.state.lock();
        Ok(Listing { items: state.list(kind, &filter), resource_version: state.revision.to_string() })
    }

    async fn watch(
        &self,
        kind: &'static Kind,
        query: &Query,
        resource_version: &str,
    ) -> Result<BoxStream<'static, Result<Event, ApiError>>, ApiError> {
        let filter = Filter::new(kind, query)?;
        let revision = resource_version.parse().map_err(|_| ApiError::bad_request("not a resource version"))?;
        if revision < self.inner.state.lock().compacted {
            return Err(ApiError::new(Reason::Expired, "too old resource version"));
        }
        let mut progress = self.inner.progress.subscribe();
        let cuts = progress.borrow_and_update().1;
        let cursor = Cursor { inner: Arc::clone(&self.inner), progress, kind, filter, revision, cuts };
        Ok(stream::unfold(cursor, Cursor::next).map(stream::iter).flatten().boxed())
    }

    async fn write(&self, write: Write) -> Result<Arc<Value>, ApiError> {
        tokio::task::yield_now().await;
        self.write_one(&write)
    }

    async fn write_many(&self, writes: Vec<Write>) -> Vec<Result<Arc<Value>, ApiError>> {
        tokio::task::yield_now().await;
        writes.iter().map(|write| self.write_one(write)).collect()
    }
}
