//! Raft's log and its own state, over a [`Backend`].
//!
//! Terms and sizes of all kept entries, and the last few entries themselves, stay in memory: an entry that has just been
//! written is applied and sent to peers without being read back. Everything is changed through a batch that the caller writes;
//! the memory side changes at once, so a failed write must end the replica.

use bytes::Bytes;
use coracle_store::backend::{Backend, BackendError, Batch, Family};
use protobuf::Message as _;
use raft::prelude::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

/// First byte of every record here.
const VERSION: u8 = 1;
/// Bytes before the data in a log record, without context.
const ENTRY_HEAD_BYTES: usize = 14;
/// Entries kept in memory behind the last ones written.
const CACHE_BYTES_MAX: usize = 4 << 20;

const HARD_STATE: &[u8] = b"hard_state";
const CONF_STATE: &[u8] = b"conf_state";
const TRUNCATED: &[u8] = b"truncated";

/// When the log is cut.
#[derive(Debug, Clone, Copy)]
pub struct LogLimits {
    /// Entries kept at most.
    pub entries_max: u64,
    /// Bytes kept at most.
    pub bytes_max: u64,
    /// Applied entries that stay for peers that lag a little.
    pub margin_entries: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { entries_max: 20_000, bytes_max: 128 << 20, margin_entries: 5_000 }
    }
}

/// The log.
pub(crate) struct LogStore {
    backend: Arc<dyn Backend>,
    /// Index and term of the entry before the first one kept.
    truncated: (u64, u64),
    kept: VecDeque<Kept>,
    bytes: u64,
    /// The last entries, all of them kept.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    hard_state: HardState,
    conf_state: ConfState,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    term: u64,
    bytes: u32,
}

impl LogStore {
    /// An empty log of a new cluster: as if truncated at index 1, so that a later server gets a snapshot instead of
    /// starting from an empty state that nobody else had. What must be written is put into `batch`.
    pub(crate) fn bootstrap(
        backend: Arc<dyn Backend>,
        voters: Vec<u64>,
        batch: &mut Batch,
    ) -> Result<Self, BackendError> {
        let truncated = (1, 1);
        let hard_state = HardState { term: 1, vote: 0, commit: 1 };
        let conf_state = ConfState { voters, ..ConfState::default() };
        let mut log = Self {
            backend,
            truncated,
            kept: VecDeque::new(),
            bytes: 0,
            cache: VecDeque::new(),
            cache_bytes: 0,
            hard_state: HardState::default(),
            conf_state: ConfState::default(),
        };
        put_truncated(batch, truncated);
        log.set_hard_state(batch, hard_state);
        log.set_conf_state(batch, conf_state)?;
        Ok(log)
    }

    /// Reads the log; checks that it is without gaps.
    pub(crate) fn open(backend: Arc<dyn Backend>) -> Result<Self, BackendError> {
        let record = |key: &[u8]| {
            let value = backend.get(Family::Raft, key)?;
            value.ok_or_else(|| damaged(format!("raft's {} is missing", String::from_utf8_lossy(key))))
        };
        let hard_state = decode_hard_state(&record(HARD_STATE)?)?;
        let truncated = decode_truncated(&record(TRUNCATED)?)?;
        let mut conf_state = ConfState::default();
        conf_state
            .merge_from_bytes(record(CONF_STATE)?.get(1..).unwrap_or_default())
            .map_err(|error| damaged(format!("raft's configuration: {error}")))?;
        let mut kept = VecDeque::new();
        let mut bytes = 0;
        let mut failure = None;
        backend.scan(Family::Log, &[], None, &mut |key, value| {
            let expected = truncated.0 + 1 + kept.len() as u64;
            match decode_term(key, value, expected) {
                Ok(term) => {
                    kept.push_back(Kept { term, bytes: record_bytes(value.len()) });
                    bytes += value.len() as u64;
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        Ok(Self { backend, truncated, kept, bytes, cache: VecDeque::new(), cache_bytes: 0, hard_state, conf_state })
    }

    pub(crate) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub(crate) fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    pub(crate) fn truncated_index(&self) -> u64 {
        self.truncated.0
    }

    pub(crate) fn last(&self) -> u64 {
        self.truncated.0 + self.kept.len() as u64
    }

    /// Appends `entries`; what stands at their place and behind them was never committed and goes.
    pub(crate) fn append(&mut self, batch: &mut Batch, entries: Vec<Entry>) -> Result<(), BackendError> {
        let Some(first) = entries.first().map(|entry| entry.index) else { return Ok(()) };
        if first <= self.truncated.0 || first > self.last() + 1 {
            return Err(damaged(format!("entry {first} does not follow {}", self.last())));
        }
        if first <= self.last() {
            batch.delete_range(Family::Log, &first.to_be_bytes(), &(self.last() + 1).to_be_bytes());
            self.drop_suffix(first);
        }
        for entry in entries {
            let before = batch.byte_len();
            batch.put_with(Family::Log, &entry.index.to_be_bytes(), |out| encode_entry(&entry, out));
            let bytes = record_bytes(batch.byte_len() - before);
            self.kept.push_back(Kept { term: entry.term, bytes });
            self.bytes += u64::from(bytes);
            self.cache_bytes += cost(&entry);
            self.cache.push_back(entry);
        }
        while self.cache_bytes > CACHE_BYTES_MAX && self.cache.len() > 1 {
            if let Some(oldest) = self.cache.pop_front() {
                self.cache_bytes -= cost(&oldest);
            }
        }
        Ok(())
    }

    /// Keeps `hard_state`.
    pub(crate) fn set_hard_state(&mut self, batch: &mut Batch, hard_state: HardState) {
        batch.put_with(Family::Raft, HARD_STATE, |out| {
            out.push(VERSION);
            for field in [hard_state.term, hard_state.vote, hard_state.commit] {
                out.extend_from_slice(&field.to_be_bytes());
            }
        });
        self.hard_state = hard_state;
    }

    /// Keeps the members.
    pub(crate) fn set_conf_state(&mut self, batch: &mut Batch, conf_state: ConfState) -> Result<(), BackendError> {
        let encoded = conf_state.write_to_bytes().map_err(|error| BackendError::Io(error.to_string()))?;
        batch.put_with(Family::Raft, CONF_STATE, |out| {
            out.push(VERSION);
            out.extend_from_slice(&encoded);
        });
        self.conf_state = conf_state;
        Ok(())
    }

    /// Cuts entries off the front when there are too many, but none that is not applied.
    pub(crate) fn truncate(&mut self, batch: &mut Batch, applied: u64, limits: &LogLimits) {
        let over_count = self.kept.len() as u64 > limits.entries_max;
        let over_bytes = self.bytes > limits.bytes_max;
        if !over_count && !over_bytes {
            return;
        }
        // By count there is room for the margin; too many bytes leave no choice.
        let margin = if over_bytes { 0 } else { limits.margin_entries };
        let to = applied.saturating_sub(margin);
        let Some(index) = to.checked_sub(self.truncated.0 + 1) else { return };
        let Some(last_cut) = usize::try_from(index).ok().and_then(|index| self.kept.get(index)) else { return };
        let truncated = (to, last_cut.term);
        batch.delete_range(Family::Log, &(self.truncated.0 + 1).to_be_bytes(), &(to + 1).to_be_bytes());
        put_truncated(batch, truncated);
        while self.truncated.0 < to {
            let Some(cut) = self.kept.pop_front() else { break };
            self.bytes -= u64::from(cut.bytes);
            self.truncated.0 += 1;
        }
        self.truncated = truncated;
        while self.cache.front().is_some_and(|entry| entry.index <= to) {
            if let Some(cut) = self.cache.pop_front() {
                self.cache_bytes -= cost(&cut);
            }
        }
    }

    fn drop_suffix(&mut self, first: u64) {
        while self.last() >= first {
            let Some(dropped) = self.kept.pop_back() else { break };
            self.bytes -= u64::from(dropped.bytes);
        }
        while self.cache.back().is_some_and(|entry| entry.index >= first) {
            if let Some(dropped) = self.cache.pop_back() {
                self.cache_bytes -= cost(&dropped);
            }
        }
    }

    /// The entries `low..high` from memory, if they are there.
    fn cached(&self, low: u64, high: u64) -> Option<impl Iterator<Item = Entry>> {
        let first = self.cache.front()?.index;
        let from = usize::try_from(low.checked_sub(first)?).ok()?;
        let count = usize::try_from(high - low).ok()?;
        Some(self.cache.range(from.min(self.cache.len())..).take(count).cloned())
    }

    fn read(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, BackendError> {
        let mut entries = Vec::new();
        let mut bytes = 0_u64;
        let mut failure = None;
        self.backend.scan(Family::Log, &low.to_be_bytes(), Some(&high.to_be_bytes()), &mut |key, value| {
            match decode_entry(key, value, low + entries.len() as u64) {
                Ok(entry) => {
                    bytes += value.len() as u64;
                    if bytes > bytes_max && !entries.is_empty() {
                        return ControlFlow::Break(());
                    }
                    entries.push(entry);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        failure.map_or(Ok(entries), Err)
    }
}

impl Storage for LogStore {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.conf_state.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.0 {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        if let Some(cached) = self.cached(low, high) {
            let mut bytes = 0;
            let fits = |entry: &Entry| {
                bytes += cost(entry) as u64;
                entry.index == low || bytes <= bytes_max
            };
            return Ok(cached.take_while(fits).collect());
        }
        self.read(low, high, bytes_max).map_err(|error| StorageError::Other(Box::new(error)).into())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.truncated.0 {
            return Ok(self.truncated.1);
        }
        let Some(offset) = index.checked_sub(self.truncated.0 + 1) else {
            return Err(StorageError::Compacted.into());
        };
        let kept = usize::try_from(offset).ok().and_then(|offset| self.kept.get(offset));
        kept.map(|kept| kept.term).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// Asked for only when a peer lags behind the truncation point. With one voter there is none; until snapshots are built
    /// the library retries on this answer.
    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

fn cost(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + 64
}

fn record_bytes(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn damaged(what: String) -> BackendError {
    BackendError::Damaged(what)
}

fn put_truncated(batch: &mut Batch, (index, term): (u64, u64)) {
    batch.put_with(Family::Raft, TRUNCATED, |out| {
        out.push(VERSION);
        out.extend_from_slice(&index.to_be_bytes());
        out.extend_from_slice(&term.to_be_bytes());
    });
}

/// The `N` big-endian numbers behind the version byte.
fn decode_numbers<const N: usize>(bytes: &[u8], what: &str) -> Result<[u64; N], BackendError> {
    let (version, rest) = bytes.split_first().ok_or_else(|| damaged(format!("raft's {what} is empty")))?;
    let (numbers, tail) = rest.as_chunks::<8>();
    let numbers: Vec<u64> = numbers.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect();
    match numbers.try_into() {
        Ok(numbers) if *version == VERSION && tail.is_empty() => Ok(numbers),
        _ => Err(damaged(format!("raft's {what} is not of this version or torn"))),
    }
}

fn decode_hard_state(bytes: &Bytes) -> Result<HardState, BackendError> {
    let [term, vote, commit] = decode_numbers(bytes, "hard state")?;
    Ok(HardState { term, vote, commit })
}

fn decode_truncated(bytes: &Bytes) -> Result<(u64, u64), BackendError> {
    let [index, term] = decode_numbers(bytes, "truncation point")?;
    Ok((index, term))
}

/// `version, type, term, context length, context, data`; the index is the key.
fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    out.push(VERSION);
    out.push(match entry.get_entry_type() {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    });
    out.extend_from_slice(&entry.term.to_be_bytes());
    out.extend_from_slice(&record_bytes(entry.context.len()).to_be_bytes());
    out.extend_from_slice(&entry.context);
    out.extend_from_slice(&entry.data);
}

/// Checks a record's place and head; returns its term.
fn decode_term(key: &[u8], value: &[u8], expected: u64) -> Result<u64, BackendError> {
    if key != expected.to_be_bytes() {
        return Err(damaged(format!("log entry {expected} is missing")));
    }
    match (value.first(), value.get(2..10).and_then(|term| term.try_into().ok())) {
        (Some(&VERSION), Some(term)) if value.len() >= ENTRY_HEAD_BYTES => Ok(u64::from_be_bytes(term)),
        _ => Err(damaged(format!("log entry {expected} is not of this version or torn"))),
    }
}

fn decode_entry(key: &[u8], value: &[u8], expected: u64) -> Result<Entry, BackendError> {
    let term = decode_term(key, value, expected)?;
    let torn = || damaged(format!("log entry {expected} is torn"));
    let entry_type = match value[1] {
        0 => EntryType::EntryNormal,
        1 => EntryType::EntryConfChange,
        2 => EntryType::EntryConfChangeV2,
        _ => return Err(torn()),
    };
    let context_len = value[10..ENTRY_HEAD_BYTES].try_into().map(u32::from_be_bytes).map_err(|_| torn())?;
    let rest = &value[ENTRY_HEAD_BYTES..];
    let (context, data) = rest.split_at_checked(context_len as usize).ok_or_else(torn)?;
    let mut entry = Entry { term, index: expected, data: data.to_vec(), context: context.to_vec(), ..Entry::default() };
    entry.set_entry_type(entry_type);
    Ok(entry)
}
