//! Where bytes are kept: a handful of ordered key spaces with batches that are atomic across all of them.
//!
//! Everything above (state machine, raft log) is written against [`Backend`] alone, so that it runs unchanged on `RocksDB`
//! and on a memory backend that can be crashed. Both pass the same conformance suite. A backend must never show
//! part of a batch, neither to a reader nor after a crash, and must never lose a batch that was written with `sync`, nor
//! any batch before it.

#[cfg(test)]
mod conformance;
mod memory;
mod rocks;

pub use memory::MemoryBackend;
pub use rocks::RocksBackend;

use bytes::Bytes;
use std::ops::{ControlFlow, Range};
use thiserror::Error;

/// One ordered key space (a column family of the database).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// The raft log, by index.
    Log,
    /// Raft's hard state, configuration and truncation point.
    Raft,
    /// Current objects, by key.
    Objects,
    /// Changes, by revision and position in their command.
    History,
    /// Applied index, revision, counters, unique keys, identity.
    Meta,
}

impl Family {
    /// All of them, in a fixed order.
    pub const ALL: [Self; 5] = [Self::Log, Self::Raft, Self::Objects, Self::History, Self::Meta];

    /// Name on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Raft => "raft",
            Self::Objects => "objects",
            Self::History => "history",
            Self::Meta => "meta",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Why a backend failed.
#[derive(Debug, Clone, Error)]
pub enum BackendError {
    /// Another process has the database open.
    #[error("the database is in use by another process: {0}")]
    Locked(String),
    /// What is on disk is not what was written.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// The disk or the file system failed.
    #[error("storage failed: {0}")]
    Io(String),
}

/// Called for every pair of a scan; `Break` ends it.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A store of ordered byte strings in several families.
pub trait Backend: Send + Sync + 'static {
    /// The value of `key`.
    ///
    /// # Errors
    /// Storage failure.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, BackendError>;

    /// Visits the keys in `start..end` (`end` `None`: to the last one) in order. One scan sees one state.
    ///
    /// # Errors
    /// Storage failure.
    fn scan(
        &self,
        family: Family,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), BackendError>;

    /// The last key and its value.
    ///
    /// # Errors
    /// Storage failure.
    fn last(&self, family: Family) -> Result<Option<(Bytes, Bytes)>, BackendError>;

    /// Applies `batch` in order, as a whole or not at all. With `sync` it and everything before it survives a power failure
    /// once this returns; without, it survives the process but perhaps not the machine.
    ///
    /// # Errors
    /// Storage failure; the caller must not assume either outcome and has to reopen.
    fn write(&self, batch: &Batch, sync: bool) -> Result<(), BackendError>;
}

/// Writes that belong together. One growing buffer holds all bytes, so that a large batch costs few allocations.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    arena: Vec<u8>,
    ops: Vec<BatchOp>,
}

#[derive(Debug, Clone)]
struct BatchOp {
    kind: BatchKind,
    family: Family,
    key: Range<usize>,
    /// The value of a put, the end of a range.
    operand: Range<usize>,
}

#[derive(Debug, Clone, Copy)]
enum BatchKind {
    Put,
    Delete,
    DeleteRange,
}

/// One write as a backend sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write<'a> {
    /// Sets a key.
    Put {
        /// Where.
        key: &'a [u8],
        /// To what.
        value: &'a [u8],
    },
    /// Removes a key.
    Delete {
        /// Which.
        key: &'a [u8],
    },
    /// Removes all keys in `start..end`.
    DeleteRange {
        /// First key to go.
        start: &'a [u8],
        /// First key to stay.
        end: &'a [u8],
    },
}

impl Batch {
    /// Sets `key` to `value`.
    pub fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.put_with(family, key, |out| out.extend_from_slice(value));
    }

    /// Sets `key` to what `write` appends; it must only append.
    pub fn put_with(&mut self, family: Family, key: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        let key = self.store(key);
        let start = self.arena.len();
        write(&mut self.arena);
        self.ops.push(BatchOp { kind: BatchKind::Put, family, key, operand: start..self.arena.len() });
    }

    /// Removes `key`.
    pub fn delete(&mut self, family: Family, key: &[u8]) {
        let key = self.store(key);
        self.ops.push(BatchOp { kind: BatchKind::Delete, family, key, operand: 0..0 });
    }

    /// Removes the keys in `start..end`.
    pub fn delete_range(&mut self, family: Family, start: &[u8], end: &[u8]) {
        let key = self.store(start);
        let operand = self.store(end);
        self.ops.push(BatchOp { kind: BatchKind::DeleteRange, family, key, operand });
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Number of bytes held.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.arena.len()
    }

    /// The writes, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Family, Write<'_>)> {
        self.ops.iter().map(|op| {
            let key = &self.arena[op.key.clone()];
            let operand = &self.arena[op.operand.clone()];
            let write = match op.kind {
                BatchKind::Put => Write::Put { key, value: operand },
                BatchKind::Delete => Write::Delete { key },
                BatchKind::DeleteRange => Write::DeleteRange { start: key, end: operand },
            };
            (op.family, write)
        })
    }

    /// Whether something is written to `family`.
    #[must_use]
    pub fn touches(&self, family: Family) -> bool {
        self.ops.iter().any(|op| op.family == family)
    }

    /// Forgets all writes but keeps a reasonable amount of memory for the next ones.
    pub fn clear(&mut self) {
        const ARENA_KEPT_MAX: usize = 1 << 20;
        self.ops.clear();
        self.arena.clear();
        if self.arena.capacity() > ARENA_KEPT_MAX {
            self.arena = Vec::new();
            self.ops = Vec::new();
        }
    }

    fn store(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        start..self.arena.len()
    }
}
