//! The state machine: commands in, in log order; one atomic batch out.
//!
//! `apply` stages changes on top of the current state, so that a command sees those before it in the same batch; `commit` writes
//! everything staged together with the applied index in one batch and only then shows it to readers and watchers. A
//! crash before that write leaves the state of the previous commit and its applied index, and the log replays the rest: nothing is
//! applied twice, nothing is skipped. The write need not be synced: what it holds can be had again from the log, which is.
//!
//! Must never: read a clock, a random number or a hash map's order; change anything for a rejected command; show readers
//! what is not written.

mod check;
mod segments;
mod staged;
#[cfg(test)]
mod tests;

use crate::backend::{Backend, BackendError, Batch, Family};
use crate::codec::{CodecError, Payload};
use crate::command::{Command, Op, Outcome, Rejection, Revision};
use crate::hub::{Hub, HubLimits};
use crate::read::Store;
use crate::record::{Change, Current, MachineState, history_key, meta};
use crate::state::{Shared, State};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use segments::Segments;
use staged::Staged;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;

/// Revisions in history: minutes of a busy cluster, days of a quiet one.
pub const HISTORY_REVISIONS_MAX: u64 = 100_000;
/// Bytes in history.
pub const HISTORY_BYTES_MAX: u64 = 256 << 20;
/// Recent changes in memory, from which watches join and recent listings are made without the disk.
pub const RECENT_CHANGES_MAX: usize = 16_384;
/// Bytes of recent changes in memory. Heartbeats fill them in a day, so that this is part of what an idle server costs.
pub const RECENT_BYTES_MAX: usize = 8 << 20;
/// Events that wait for one watcher; they are shared, so a full queue costs some 100 KiB.
pub const WATCH_QUEUE_EVENTS_MAX: usize = 8_192;

/// Bounds of what is kept. Those of history must be the same on all servers of a cluster: they decide which revisions exist.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Revisions in history at most.
    pub history_revisions_max: u64,
    /// Bytes in history at most.
    pub history_bytes_max: u64,
    /// History is forgotten in pieces of so many revisions.
    pub history_segment_revisions: u64,
    /// Recent changes kept in memory at most.
    pub recent_changes_max: usize,
    /// Bytes of recent changes kept in memory at most.
    pub recent_bytes_max: usize,
    /// Events that may wait for one watcher before it is cut off.
    pub watch_queue_events_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            history_revisions_max: HISTORY_REVISIONS_MAX,
            history_bytes_max: HISTORY_BYTES_MAX,
            history_segment_revisions: 1_000,
            recent_changes_max: RECENT_CHANGES_MAX,
            recent_bytes_max: RECENT_BYTES_MAX,
            watch_queue_events_max: WATCH_QUEUE_EVENTS_MAX,
        }
    }
}

/// Why the state machine cannot go on. The replica that owns it must stop.
#[derive(Debug, Error)]
pub enum MachineError {
    /// The disk failed; what was staged may or may not be on it.
    #[error("the state could not be written or read")]
    Backend(#[from] BackendError),
    /// A record or a log entry is not what was written.
    #[error("damaged record {what}")]
    Damaged {
        /// Which.
        what: String,
        /// How.
        #[source]
        source: CodecError,
    },
    /// The log skips or repeats an entry.
    #[error("log entry {got} cannot be applied after {applied}")]
    OutOfOrder {
        /// Index of the last applied entry.
        applied: u64,
        /// Index that was to be applied.
        got: u64,
    },
    /// An earlier failure.
    #[error("the state machine has failed before")]
    Failed,
}

/// The writer. There is one per database.
pub struct Machine {
    shared: Arc<Shared>,
    limits: Limits,
    state: MachineState,
    segments: Segments,
    staged: Staged,
    batch: Batch,
    failed: bool,
}

impl Machine {
    /// Loads the state in `backend`, which may be empty.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn open(backend: Arc<dyn Backend>, limits: Limits) -> Result<Self, MachineError> {
        let state = match backend.get(Family::Meta, meta::STATE)? {
            Some(bytes) => MachineState::decode(&bytes).map_err(|source| damaged("state", source))?,
            None => MachineState::INITIAL,
        };
        let current = load(backend.as_ref(), state.revision)?;
        let segments = Segments::load(backend.as_ref())?;
        let hub_limits = HubLimits {
            ring_changes: limits.recent_changes_max,
            ring_bytes: limits.recent_bytes_max,
            queue_events: limits.watch_queue_events_max.max(1),
        };
        let shared = Arc::new(Shared {
            backend,
            state: RwLock::new(current),
            hub: Mutex::new(Hub::new(hub_limits, state.revision)),
            oldest: AtomicU64::new(state.oldest.0),
        });
        let staged = Staged::new(Arc::clone(&shared));
        Ok(Self { shared, limits, state, segments, staged, batch: Batch::default(), failed: false })
    }

    /// The reading side.
    #[must_use]
    pub fn store(&self) -> Store {
        Store::new(Arc::clone(&self.shared))
    }

    /// Index of the last entry that was applied, staged ones included.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.state.applied
    }

    /// Applies the entry at `index`: an encoded [`Payload`].
    ///
    /// # Errors
    /// `OutOfOrder` when an entry is skipped or repeated, `Damaged` when the entry is not a payload.
    pub fn apply_entry(&mut self, index: u64, entry: &Bytes) -> Result<Outcome, MachineError> {
        match Payload::decode(entry).map_err(|source| damaged("log entry", source))? {
            Payload::Command(command) => self.apply(index, &command),
            Payload::Compact(revision) => self.compact(index, revision),
        }
    }

    /// Applies `command`, the entry at `index`. It is staged until [`Machine::commit`].
    ///
    /// # Errors
    /// `OutOfOrder` when an entry is skipped or repeated.
    pub fn apply(&mut self, index: u64, command: &Command) -> Result<Outcome, MachineError> {
        self.advance(index)?;
        if let Err(rejection) = check::check(command, &self.staged) {
            return Ok(Outcome::Rejected(rejection));
        }
        if command.is_without_effect() {
            return Ok(Outcome::Applied(self.state.revision));
        }
        let revision = Revision(self.state.revision.0 + 1);
        let mut bytes = 0;
        for (position, op) in command.ops.iter().enumerate() {
            bytes += self.stage(op, revision, u32::try_from(position).unwrap_or(u32::MAX));
        }
        for change in &command.counters {
            self.staged.add_counter(&mut self.batch, &change.name, change.delta);
        }
        for change in &command.uniques {
            self.staged.set_unique(&mut self.batch, &change.key, change.holder.as_deref());
        }
        self.state.revision = revision;
        self.segments.add(&mut self.batch, revision, bytes, self.limits.history_segment_revisions);
        let oldest = self.segments.surplus(self.state.oldest, revision, &self.limits);
        self.forget_before(oldest);
        Ok(Outcome::Applied(revision))
    }

    /// Applies a compaction, the entry at `index`: history before `to` is forgotten. Never goes beyond the next revision.
    ///
    /// # Errors
    /// `OutOfOrder` when an entry is skipped or repeated.
    pub fn compact(&mut self, index: u64, to: Revision) -> Result<Outcome, MachineError> {
        self.advance(index)?;
        self.forget_before(to.min(Revision(self.state.revision.0 + 1)));
        Ok(Outcome::Applied(self.state.revision))
    }

    /// Notes that the entry at `index` holds nothing for the state machine.
    ///
    /// # Errors
    /// `OutOfOrder` when an entry is skipped or repeated.
    pub fn skip(&mut self, index: u64) -> Result<(), MachineError> {
        self.advance(index)
    }

    /// The batch that the next [`Machine::commit`] writes, for what must be on disk together with the applied entries.
    pub fn batch_mut(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// Writes everything staged, then shows it to readers and watchers.
    ///
    /// # Errors
    /// Storage failure; the machine is of no use afterwards.
    pub fn commit(&mut self, sync: bool) -> Result<(), MachineError> {
        if self.failed {
            return Err(MachineError::Failed);
        }
        let state = self.state;
        self.batch.put_with(Family::Meta, meta::STATE, |out| state.encode(out));
        self.shared.oldest.store(state.oldest.0, Ordering::Release);
        if let Err(error) = self.shared.backend.write(&self.batch, sync) {
            self.failed = true;
            return Err(error.into());
        }
        self.batch.clear();
        self.staged.publish(state.revision);
        Ok(())
    }

    fn advance(&mut self, index: u64) -> Result<(), MachineError> {
        if self.failed {
            return Err(MachineError::Failed);
        }
        if index != self.state.applied + 1 {
            return Err(MachineError::OutOfOrder { applied: self.state.applied, got: index });
        }
        self.state.applied = index;
        Ok(())
    }

    /// Says from which index the log begins, when it does not begin at 1. Only for a database in which nothing was applied.
    pub fn start_at(&mut self, index: u64) {
        if self.state.applied == 0 {
            self.state.applied = index;
        }
    }

    /// Stages one checked operation; returns what it costs in history.
    fn stage(&mut self, op: &Op, revision: Revision, position: u32) -> u64 {
        let (key, change, current, splice_at) = match op {
            Op::Put { key, value, splice_at, .. } => {
                let previous = self.staged.object(key);
                let current = Current::new(value, revision, *splice_at);
                self.batch.put_with(Family::Objects, key.0.as_bytes(), |out| current.encode(out));
                let change = Change::written(key.clone(), &current, previous.as_ref());
                (key, change, Some(current), previous.and_then(|previous| previous.splice_at))
            }
            Op::Delete { key, .. } => {
                // Checked before: it exists.
                let Some(previous) = self.staged.object(key) else { return 0 };
                self.batch.delete(Family::Objects, key.0.as_bytes());
                (key, Change::deleted(key.clone(), &previous, revision), None, previous.splice_at)
            }
            Op::Check { .. } => return 0,
        };
        let before = self.batch.byte_len();
        self.batch.put_with(Family::History, &history_key(revision, position), |out| change.encode(splice_at, out));
        let bytes = self.batch.byte_len() - before;
        self.staged.set_object(key, current, change);
        bytes as u64
    }

    fn forget_before(&mut self, to: Revision) {
        if to <= self.state.oldest {
            return;
        }
        let (start, end) = (history_key(self.state.oldest, 0), history_key(to, 0));
        self.batch.delete_range(Family::History, &start, &end);
        self.segments.forget_before(&mut self.batch, to);
        self.state.oldest = to;
    }
}

pub(crate) fn damaged(what: &str, source: CodecError) -> MachineError {
    MachineError::Damaged { what: what.to_owned(), source }
}

/// Reads the current state into memory.
fn load(backend: &dyn Backend, revision: Revision) -> Result<State, MachineError> {
    let mut state = State { revision, ..State::default() };
    let mut damage = None;
    backend.scan(Family::Objects, &[], None, &mut |key, record| match utf8(key)
        .and_then(|key| Ok((key, Current::decode(record)?)))
    {
        Ok((key, current)) => {
            state.objects.insert(crate::Key(key), current);
            ControlFlow::Continue(())
        }
        Err(source) => {
            damage = Some(damaged("object", source));
            ControlFlow::Break(())
        }
    })?;
    staged::load_meta(backend, &mut state, &mut damage)?;
    damage.map_or(Ok(state), Err)
}

/// A key as text.
fn utf8(key: &[u8]) -> Result<String, CodecError> {
    std::str::from_utf8(key).map(str::to_owned).map_err(|error| CodecError::Utf8(error.valid_up_to()))
}

/// Used by [`check`].
type Checked = Result<(), Rejection>;
