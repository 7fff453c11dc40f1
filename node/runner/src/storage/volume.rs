//! The files of a volume that are open, and what they are charged.
//!
//! A file is known here from the moment something holds it ([`Volume::hold`]) until the last that does lets go
//! ([`Held`]). In between, its size is what was charged for it:
//!
//! ```text
//!   begin a write ── no room ──▶ ENOSPC, nothing has changed
//!        │ charged up to where it ends
//!        ▼
//!      write ── fails ──▶ given back, if nobody else changed the file meanwhile
//! ```
//!
//! A file without a name goes on counting until nothing holds it.

use super::account::{Account, Full};
use crate::tree::{BLOCK_BYTES, ENTRY_BYTES, Usage, file_bytes};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

/// How often a file that changes while it is looked at is looked at again.
pub(crate) const LOOKS_MAX: usize = 64;

/// Which file: `wasmtime-wasi`'s hash of its identity, the same for modules and components.
pub(crate) type FileId = u64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Volume {
    account: Arc<Account>,
    /// One change of names at a time, so that what was looked at before it is still so.
    names: tokio::sync::Mutex<()>,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    held: HashMap<FileId, File>,
    /// Counts the files that were let go of: what was seen of any before may have changed since.
    let_go: u64,
}

#[derive(Debug)]
struct File {
    size: u64,
    holders: usize,
    /// Writes under way.
    writing: usize,
    /// Writes begun, ever.
    writes: u64,
    has_name: bool,
}

/// What a name stands for, as far as its cost goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file; its bytes are charged apart from its name.
    File,
    /// A directory or a symbolic link.
    Other,
}

impl Kind {
    /// The price of a name.
    pub(crate) fn name(self) -> Usage {
        let block = if self == Self::File { 0 } else { BLOCK_BYTES };
        Usage { bytes: ENTRY_BYTES + block, entries: 1 }
    }
}

fn content(bytes: u64) -> Usage {
    Usage { bytes, entries: 0 }
}

impl Volume {
    pub(crate) fn new(account: Arc<Account>) -> Self {
        Self { account, names: tokio::sync::Mutex::default(), files: Mutex::default() }
    }

    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// Keeps others from changing names.
    pub(crate) async fn names(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.names.lock().await
    }

    /// To be taken before a file is looked at.
    pub(crate) fn moment(&self) -> u64 {
        self.files.lock().let_go
    }

    /// Holds a file that had this size at a moment after `moment`. `None`: look again, it may have changed since.
    pub(crate) fn hold(self: &Arc<Self>, id: FileId, size: u64, moment: u64) -> Option<Arc<Held>> {
        let mut files = self.files.lock();
        let is_fresh = files.let_go == moment;
        match files.held.entry(id) {
            Entry::Occupied(mut file) => file.get_mut().holders += 1,
            Entry::Vacant(place) if is_fresh => {
                place.insert(File { size, holders: 1, writing: 0, writes: 0, has_name: true });
            }
            Entry::Vacant(_) => return None,
        }
        Some(Arc::new(Held { volume: Arc::clone(self), id }))
    }
}

/// What was found behind a name that is about to change.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) id: FileId,
    pub(crate) kind: Kind,
    /// How many names a file has.
    pub(crate) names: u64,
    /// A file is held, so that what it is charged stays known.
    pub(crate) held: Option<Arc<Held>>,
}

impl Volume {
    /// The name is gone.
    pub(crate) fn removed(&self, target: &Target) {
        self.account.free(target.kind.name());
        if let Some(held) = target.held.as_ref().filter(|_| target.names <= 1) {
            held.nameless();
        }
    }

    /// `from` has taken the place of `to`, if there was one. Two names of one file both stay.
    pub(crate) fn renamed(&self, from: &Target, to: Option<&Target>) {
        if let Some(to) = to.filter(|to| to.id != from.id) {
            self.removed(to);
        }
    }
}

/// What a descriptor of a guest stands for, if it is on a volume with an account.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Directory(Arc<Volume>),
    File {
        held: Arc<Held>,
        /// Writes go to the end.
        append: bool,
    },
}

/// A file that something holds: a descriptor, a stream, or a call that is about to remove its name.
#[derive(Debug)]
pub(crate) struct Held {
    volume: Arc<Volume>,
    id: FileId,
}

impl Held {
    fn file<T>(&self, act: impl FnOnce(&mut File, &Account) -> T) -> Option<T> {
        // It is there: this is one of its holders.
        self.volume.files.lock().held.get_mut(&self.id).map(|file| act(file, &self.volume.account))
    }

    /// Charges for a write of so many bytes, at an offset or at the end.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn write(self: &Arc<Self>, offset: Option<u64>, length: u64) -> Result<Writing, Full> {
        let begun = self.file(|file, account| {
            let before = file.size;
            let end = offset.unwrap_or(before).checked_add(length).ok_or(Full)?;
            if end > before && length > 0 {
                account.charge(content(file_bytes(end) - file_bytes(before)))?;
                file.size = end;
            }
            file.writing += 1;
            file.writes += 1;
            Ok((before, file.writes))
        });
        let (before, number) = begun.unwrap_or(Err(Full))?;
        Ok(Writing { held: Arc::clone(self), before, number })
    }

    /// Charges for another size.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn resize(self: &Arc<Self>, size: u64) -> Result<Resizing, Full> {
        let begun = self.file(|file, account| {
            let before = file.size;
            if size <= before {
                return Ok((None, file.writes));
            }
            account.charge(content(file_bytes(size) - file_bytes(before)))?;
            file.size = size;
            file.writing += 1;
            file.writes += 1;
            Ok((Some(before), file.writes))
        });
        let held = Arc::clone(self);
        Ok(match begun.unwrap_or(Err(Full))? {
            (Some(before), number) => Resizing::Longer(Writing { held, before, number }),
            (None, writes) => Resizing::Shorter { held, size, writes },
        })
    }

    /// Its last name is gone: what it takes up is free when nothing holds it any more.
    pub(crate) fn nameless(&self) {
        self.file(|file, _| file.has_name = false);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut files = self.volume.files.lock();
        let Some(file) = files.held.get_mut(&self.id) else { return };
        file.holders -= 1;
        if file.holders > 0 {
            return;
        }
        if !file.has_name {
            self.volume.account.free(content(file_bytes(file.size)));
        }
        files.held.remove(&self.id);
        files.let_go += 1;
    }
}

/// A write under way, which has been charged for.
#[derive(Debug)]
pub(crate) struct Writing {
    held: Arc<Held>,
    before: u64,
    number: u64,
}

impl Writing {
    /// It has failed, and left the file with this size. Another change of the file at the same time leaves it charged:
    /// where that one ended is not known.
    pub(crate) fn failed(self, size: u64) {
        self.held.file(|file, account| {
            let rest = self.before.max(size);
            if file.writing == 1 && file.writes == self.number && rest < file.size {
                account.free(content(file_bytes(file.size) - file_bytes(rest)));
                file.size = rest;
            }
        });
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.held.file(|file, _| file.writing -= 1);
    }
}

/// A change of size under way.
#[derive(Debug)]
pub(crate) enum Resizing {
    Longer(Writing),
    Shorter {
        held: Arc<Held>,
        size: u64,
        /// Writes begun before.
        writes: u64,
    },
}

impl Resizing {
    /// It is done. What a shorter file gave free is free, unless somebody wrote to it meanwhile.
    pub(crate) fn done(self) {
        let Self::Shorter { held, size, writes } = self else { return };
        held.file(|file, account| {
            if file.writing == 0 && file.writes == writes && size < file.size {
                account.free(content(file_bytes(file.size) - file_bytes(size)));
                file.size = size;
            }
        });
    }

    /// It has failed, and the file is as it was.
    pub(crate) fn failed(self) {
        if let Self::Longer(writing) = self {
            let before = writing.before;
            writing.failed(before);
        }
    }
}

#[cfg(test)]
#[path = "volume_tests.rs"]
mod tests;
