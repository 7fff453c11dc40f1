//! The reading side: gets, pages, watches. Cheap to clone, safe to use from any thread.
//!
//! A listing of the past is the current state with later changes undone: history keeps with every change the value before it,
//! so that the first change of a key after the wanted revision tells what it was then.

use crate::command::{Key, Revision};
use crate::record::{Change, Current};
use crate::state::{Shared, State};
use crate::watch::Watch;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;
use thiserror::Error;

/// One stored value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub key: Key,
    /// Encoded bytes with the resource version spliced in; shared by all readers.
    pub value: Bytes,
    /// Revision of the last change.
    pub revision: Revision,
}

/// Part of a listing.
#[derive(Debug, Clone)]
pub struct Page {
    /// In key order.
    pub entries: Vec<Entry>,
    /// The revision that the listing shows.
    pub revision: Revision,
    /// Whether more keys follow the last entry.
    pub more: bool,
}

/// Whether a key was written or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Did not exist before.
    Created,
    /// Existed before.
    Modified,
    /// Exists no more; the value is the last one, with the deletion's revision spliced in.
    Deleted,
}

/// A change, in revision order.
#[derive(Debug, Clone)]
pub struct StoreEvent {
    /// What happened.
    pub kind: EventKind,
    /// The new (or last) value at this revision.
    pub entry: Entry,
    /// The value before, so that a selector can tell who left its set.
    pub previous: Option<Bytes>,
}

/// Why something could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The revision has been compacted away; `oldest` is the first that still is there.
    #[error("revision is too old, history starts at {}", oldest.0)]
    Compacted {
        /// First revision in history.
        oldest: Revision,
    },
    /// The revision lies in the future.
    #[error("revision is larger than the current one, {}", current.0)]
    Future {
        /// The current revision.
        current: Revision,
    },
    /// The watcher fell behind and was cut off.
    #[error("the watcher was too slow and has been cut off")]
    TooSlow,
    /// The disk failed.
    #[error("storage failed: {0}")]
    Storage(String),
}

/// What a watch yields.
#[derive(Debug, Clone)]
pub enum Watched {
    /// A change, shared by all who watch it.
    Event(Arc<StoreEvent>),
    /// Nothing relevant changed up to this revision.
    Progress(Revision),
}

/// Handle on the state; [`crate::Machine`] makes it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

/// History records read from disk in one go while an old revision is listed.
const HISTORY_CHUNK_RECORDS: usize = 4_096;

impl Store {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The latest applied revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.shared.state.read().revision
    }

    /// The oldest revision whose changes are all still in history: a watch may start from the one before it.
    #[must_use]
    pub fn oldest(&self) -> Revision {
        Revision(self.shared.oldest.load(std::sync::atomic::Ordering::Acquire))
    }

    /// The value of `key` now.
    ///
    /// # Errors
    /// Storage failure.
    pub fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        Ok(self.shared.state.read().objects.get(key).map(|current| entry(key, current)))
    }

    /// Keys with `prefix` behind `after`, at most `limit` (0: all), as of `at` (`None`: now).
    ///
    /// Recent revisions come from memory; older ones read history from disk, on the calling thread.
    ///
    /// # Errors
    /// `Compacted` or `Future` for `at`, storage failure.
    pub fn list(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, ReadError> {
        let range = PageRange { prefix, after, limit };
        let Some(at) = at else {
            let state = self.shared.state.read();
            return Ok(range.page(&state, &BTreeMap::new(), state.revision));
        };
        let mut undo = BTreeMap::new();
        let mut undone_to = at;
        loop {
            let target = {
                let state = self.shared.state.read();
                if at > state.revision {
                    return Err(ReadError::Future { current: state.revision });
                }
                self.shared.check_history(at)?;
                let hub = self.shared.hub.lock();
                if let Some(recent) = hub.recent(undone_to) {
                    for change in recent {
                        remember(&mut undo, change, prefix);
                    }
                    return Ok(range.page(&state, &undo, at));
                }
                hub.revision()
            };
            let mut changes = Vec::new();
            undone_to = self.shared.read_history(prefix, undone_to, target, HISTORY_CHUNK_RECORDS, &mut changes)?;
            for change in &changes {
                remember(&mut undo, change, prefix);
            }
        }
    }

    /// Every change of keys with `prefix` after revision `from`, once each and in order.
    ///
    /// # Errors
    /// `Compacted` when `from` has left history, `Future` when it is yet to come.
    pub fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, ReadError> {
        Watch::start(Arc::clone(&self.shared), prefix, from)
    }

    /// Number of running watches.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.shared.hub.lock().subscribers()
    }

    /// Holder of a unique key.
    ///
    /// # Errors
    /// Storage failure.
    pub fn unique_holder(&self, key: &str) -> Result<Option<String>, ReadError> {
        Ok(self.shared.state.read().uniques.get(key).cloned())
    }

    /// Value of a bounded counter; 0 when it was never changed.
    ///
    /// # Errors
    /// Storage failure.
    pub fn counter(&self, name: &str) -> Result<i64, ReadError> {
        Ok(self.shared.state.read().counters.get(name).copied().unwrap_or(0))
    }
}

fn entry(key: &Key, current: &Current) -> Entry {
    Entry { key: key.clone(), value: current.value.clone(), revision: current.revision }
}

/// Notes what `change` replaced, unless an earlier change of the same key did before.
fn remember(undo: &mut BTreeMap<Key, Option<Entry>>, change: &Change, prefix: &str) {
    let key = &change.event.entry.key;
    if key.0.starts_with(prefix) && !undo.contains_key(key) {
        undo.insert(key.clone(), change.before());
    }
}

struct PageRange<'a> {
    prefix: &'a str,
    after: Option<&'a Key>,
    limit: usize,
}

impl PageRange<'_> {
    /// The entries of the range in `state` with `undo` laid over it.
    fn page(&self, state: &State, undo: &BTreeMap<Key, Option<Entry>>, revision: Revision) -> Page {
        let mut current = state
            .objects
            .range::<Key, _>(self.bounds())
            .take_while(|(key, _)| key.0.starts_with(self.prefix))
            .peekable();
        let mut undone = undo.range::<Key, _>(self.bounds()).peekable();
        let mut page = Page { entries: Vec::new(), revision, more: false };
        while let Some(next) = next_entry(&mut current, &mut undone) {
            if self.limit > 0 && page.entries.len() == self.limit {
                page.more = true;
                break;
            }
            page.entries.push(next);
        }
        page
    }

    fn bounds(&self) -> (Bound<Key>, Bound<Key>) {
        let lower = match self.after {
            Some(after) if after.0.as_str() >= self.prefix => Bound::Excluded(after.clone()),
            _ => Bound::Included(Key(self.prefix.to_owned())),
        };
        (lower, Bound::Unbounded)
    }
}

/// The next key of either side that existed.
fn next_entry<'a>(
    current: &mut Peekable<impl Iterator<Item = (&'a Key, &'a Current)>>,
    undone: &mut Peekable<impl Iterator<Item = (&'a Key, &'a Option<Entry>)>>,
) -> Option<Entry> {
    loop {
        let take_undone = match (current.peek(), undone.peek()) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some((current, _)), Some((undone, _))) => undone <= current,
        };
        if !take_undone {
            return current.next().map(|(key, value)| entry(key, value));
        }
        let (key, before) = undone.next()?;
        current.next_if(|(other, _)| *other == key);
        if let Some(before) = before {
            return Some(before.clone());
        }
    }
}
