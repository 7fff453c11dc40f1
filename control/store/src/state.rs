//! What readers share with the writer: the current objects in memory, the hub, the history on disk.
//!
//! Current objects are kept in one ordered map of shared byte strings besides being on disk: a list is then a walk that bumps
//! reference counts (40,000 objects: some milliseconds), and caches above share the same bytes. It costs about 200 bytes
//! per object over its value.
//!
//! Locks are taken in the order state, hub. The writer holds both while it publishes, so that a list never shows a
//! revision that the hub has not announced.

use crate::backend::{Backend, BackendError};
use crate::codec::CodecError;
use crate::command::{Key, Revision};
use crate::hub::Hub;
use crate::read::ReadError;
use crate::record::{Change, Current, history_key, history_revision};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shared by the machine and all [`crate::Store`] handles.
pub(crate) struct Shared {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) state: RwLock<State>,
    pub(crate) hub: Mutex<Hub>,
    /// The oldest revision in history. Raised *before* the records go, so that a reader who checks it after reading knows
    /// whether something may have been missing.
    pub(crate) oldest: AtomicU64,
}

/// The current state.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) objects: BTreeMap<Key, Current>,
    pub(crate) counters: BTreeMap<String, i64>,
    pub(crate) uniques: BTreeMap<String, String>,
    pub(crate) revision: Revision,
}

impl Shared {
    /// Fails when changes behind `after` are no longer all in history.
    pub(crate) fn check_history(&self, after: Revision) -> Result<(), ReadError> {
        let oldest = Revision(self.oldest.load(Ordering::Acquire));
        if after.0 + 1 < oldest.0 { Err(ReadError::Compacted { oldest }) } else { Ok(()) }
    }

    /// Reads the changes of keys with `prefix` in the revisions `after < r <= to` from disk, whole revisions at a time, until
    /// about `records_max` records have been looked at. Returns the last revision that was covered.
    pub(crate) fn read_history(
        &self,
        prefix: &str,
        after: Revision,
        to: Revision,
        records_max: usize,
        found: &mut Vec<Change>,
    ) -> Result<Revision, ReadError> {
        let start = history_key(Revision(after.0 + 1), 0);
        let end = history_key(Revision(to.0 + 1), 0);
        let mut seen = 0_usize;
        let mut last = after;
        let mut covered = to;
        let mut damage: Option<CodecError> = None;
        self.backend.scan(crate::backend::Family::History, &start, Some(&end), &mut |key, record| {
            let mut visit = || -> Result<ControlFlow<()>, CodecError> {
                let revision = history_revision(key)?;
                if seen >= records_max && revision != last {
                    covered = last;
                    return Ok(ControlFlow::Break(()));
                }
                seen += 1;
                last = revision;
                if Change::record_has_prefix(record, prefix)? {
                    found.push(Change::decode(revision, record)?);
                }
                Ok(ControlFlow::Continue(()))
            };
            visit().unwrap_or_else(|error| {
                damage = Some(error);
                ControlFlow::Break(())
            })
        })?;
        if let Some(error) = damage {
            return Err(ReadError::Storage(format!("history record: {error}")));
        }
        self.check_history(after)?;
        Ok(covered)
    }
}

impl From<BackendError> for ReadError {
    fn from(error: BackendError) -> Self {
        Self::Storage(error.to_string())
    }
}
