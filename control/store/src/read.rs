//! The reading side: gets, pages, watches. Cheap to clone, safe to use from any thread.

use crate::{Key, Revision};
use bytes::Bytes;
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

/// Handle on the state; see the crate's backends for how one is made.
#[derive(Clone)]
pub struct Store {
    // owner: store
}

impl Store {
    /// The latest applied revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        unimplemented!("owner: store")
    }

    /// The value of `key` now.
    ///
    /// # Errors
    /// Storage failure.
    pub fn get(&self, _key: &Key) -> Result<Option<Entry>, ReadError> {
        unimplemented!("owner: store")
    }

    /// Keys with `prefix` behind `after`, at most `limit` (0: all), as of `at` (`None`: now).
    ///
    /// # Errors
    /// `Compacted` or `Future` for `at`, storage failure.
    pub fn list(
        &self,
        _prefix: &str,
        _after: Option<&Key>,
        _limit: usize,
        _at: Option<Revision>,
    ) -> Result<Page, ReadError> {
        unimplemented!("owner: store")
    }

    /// Every change of keys with `prefix` after revision `from`, once each and in order.
    ///
    /// # Errors
    /// `Compacted` when `from` has left history.
    pub fn watch(&self, _prefix: &str, _from: Revision) -> Result<Watch, ReadError> {
        unimplemented!("owner: store")
    }

    /// Holder of a unique key.
    ///
    /// # Errors
    /// Storage failure.
    pub fn unique_holder(&self, _key: &str) -> Result<Option<String>, ReadError> {
        unimplemented!("owner: store")
    }
}

/// A running watch; dropping it ends it.
pub struct Watch {
    // owner: store
}

/// What a watch yields.
#[derive(Debug, Clone)]
pub enum Watched {
    /// A change.
    Event(StoreEvent),
    /// Nothing relevant changed up to this revision.
    Progress(Revision),
}

impl Watch {
    /// The next change, or progress when asked to wait and others changed things. `Err` ends the watch.
    ///
    /// # Errors
    /// `TooSlow` when this watcher fell behind, storage failure.
    pub async fn next(&mut self) -> Result<Watched, ReadError> {
        unimplemented!("owner: store")
    }
}
