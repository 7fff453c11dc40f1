//! The records on disk: current objects, changes in history, the machine's own state; and their keys.

use crate::codec::{self, CodecError, Reader, put_bytes, put_option, put_u64};
use crate::command::{Key, Revision};
use crate::read::{Entry, EventKind, StoreEvent};
use bytes::Bytes;
use std::sync::Arc;

/// A key's current value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Current {
    /// With the resource version spliced in.
    pub(crate) value: Bytes,
    pub(crate) revision: Revision,
    /// Where it was spliced in, so that a deletion can replace it.
    pub(crate) splice_at: Option<u32>,
}

impl Current {
    /// Splices `revision` into `raw`; the result owns exactly its bytes. The offset must lie within `raw`.
    pub(crate) fn new(raw: &[u8], revision: Revision, splice_at: Option<u32>) -> Self {
        let value = match splice_at {
            None => Bytes::copy_from_slice(raw),
            Some(at) => splice(raw, at as usize, at as usize, revision),
        };
        Self { value, revision, splice_at }
    }

    /// The value with `revision` in place of its own.
    pub(crate) fn restamped(&self, revision: Revision) -> Bytes {
        let Some(at) = self.splice_at.map(|at| at as usize) else { return self.value.clone() };
        splice(&self.value, at, at + stamp(self.revision).len(), revision)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        codec::begin(out);
        put_u64(out, self.revision.0);
        put_option(out, self.splice_at, |out, at| put_u64(out, u64::from(at)));
        out.extend_from_slice(&self.value);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes)?;
        let revision = Revision(reader.u64()?);
        let splice_at = reader.option(Reader::u32)?;
        let value = Bytes::copy_from_slice(reader.rest());
        Ok(Self { value, revision, splice_at })
    }
}

fn stamp(revision: Revision) -> String {
    format!("\"resourceVersion\":\"{}\",", revision.0)
}

/// `bytes` with `from..to` replaced by the stamp of `revision`.
fn splice(bytes: &[u8], from: usize, to: usize, revision: Revision) -> Bytes {
    let stamp = stamp(revision);
    let mut value = Vec::with_capacity(bytes.len() - (to - from) + stamp.len());
    value.extend_from_slice(&bytes[..from]);
    value.extend_from_slice(stamp.as_bytes());
    value.extend_from_slice(&bytes[to..]);
    Bytes::from(value)
}

/// A change as history and the ring of recent events keep it: enough to tell watchers and to undo it.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) event: Arc<StoreEvent>,
    /// Revision of the value before; meaningless for a creation.
    pub(crate) previous_revision: Revision,
}

impl Change {
    pub(crate) fn written(key: Key, current: &Current, previous: Option<&Current>) -> Self {
        let kind = if previous.is_some() { EventKind::Modified } else { EventKind::Created };
        let entry = Entry { key, value: current.value.clone(), revision: current.revision };
        let previous_revision = previous.map(|previous| previous.revision).unwrap_or_default();
        let previous = previous.map(|previous| previous.value.clone());
        Self { event: Arc::new(StoreEvent { kind, entry, previous }), previous_revision }
    }

    pub(crate) fn deleted(key: Key, previous: &Current, revision: Revision) -> Self {
        let entry = Entry { key, value: previous.restamped(revision), revision };
        let event = StoreEvent { kind: EventKind::Deleted, entry, previous: Some(previous.value.clone()) };
        Self { event: Arc::new(event), previous_revision: previous.revision }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.event.entry.revision
    }

    /// What it costs to keep, roughly.
    pub(crate) fn byte_len(&self) -> usize {
        let previous = self.event.previous.as_ref().map_or(0, Bytes::len);
        self.event.entry.key.0.len() + self.event.entry.value.len() + previous + 128
    }

    /// The entry before this change.
    pub(crate) fn before(&self) -> Option<Entry> {
        let value = self.event.previous.clone()?;
        Some(Entry { key: self.event.entry.key.clone(), value, revision: self.previous_revision })
    }

    /// Appends the history record. A deletion stores only the value before, and where its stamp stands.
    pub(crate) fn encode(&self, splice_at: Option<u32>, out: &mut Vec<u8>) {
        codec::begin(out);
        let event = &self.event;
        out.push(match event.kind {
            EventKind::Created => 0,
            EventKind::Modified => 1,
            EventKind::Deleted => 2,
        });
        put_bytes(out, event.entry.key.0.as_bytes());
        if event.kind != EventKind::Deleted {
            put_bytes(out, &event.entry.value);
        }
        if let Some(previous) = &event.previous {
            put_u64(out, self.previous_revision.0);
            put_option(out, splice_at, |out, at| put_u64(out, u64::from(at)));
            put_bytes(out, previous);
        }
    }

    pub(crate) fn decode(revision: Revision, bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes)?;
        let tag = reader.tag()?;
        let kind = match tag {
            0 => EventKind::Created,
            1 => EventKind::Modified,
            2 => EventKind::Deleted,
            tag => return Err(reader.unknown(tag)),
        };
        let key = Key(reader.string()?);
        let value = match kind {
            EventKind::Deleted => None,
            EventKind::Created | EventKind::Modified => Some(Bytes::copy_from_slice(reader.bytes()?)),
        };
        let previous = match kind {
            EventKind::Created => None,
            EventKind::Modified | EventKind::Deleted => {
                let revision = Revision(reader.u64()?);
                let splice_at = reader.option(Reader::u32)?;
                Some(Current { value: Bytes::copy_from_slice(reader.bytes()?), revision, splice_at })
            }
        };
        reader.finish()?;
        Ok(match (value, previous) {
            (Some(value), previous) => {
                Self::written(key, &Current { value, revision, splice_at: None }, previous.as_ref())
            }
            (None, Some(previous)) => Self::deleted(key, &previous, revision),
            (None, None) => return Err(CodecError::Tag { tag, at: 1 }),
        })
    }

    /// Whether the change falls under `prefix`, told from the record without decoding the rest.
    pub(crate) fn record_has_prefix(bytes: &[u8], prefix: &str) -> Result<bool, CodecError> {
        let mut reader = Reader::new(bytes)?;
        reader.tag()?;
        Ok(reader.bytes()?.starts_with(prefix.as_bytes()))
    }
}

/// Key of the `position`th change of `revision` in history.
pub(crate) fn history_key(revision: Revision, position: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&revision.0.to_be_bytes());
    key[8..].copy_from_slice(&position.to_be_bytes());
    key
}

/// The revision in a history key.
pub(crate) fn history_revision(key: &[u8]) -> Result<Revision, CodecError> {
    let bytes = key.first_chunk::<8>().ok_or(CodecError::Truncated(key.len()))?;
    Ok(Revision(u64::from_be_bytes(*bytes)))
}

/// Keys in the meta family.
pub(crate) mod meta {
    pub(crate) const STATE: &[u8] = b"state";
    pub(crate) const COUNTER: &str = "counter/";
    pub(crate) const UNIQUE: &str = "unique/";
    pub(crate) const SEGMENT: &[u8] = b"segment/";

    /// Key of the history segment that begins at a revision.
    pub(crate) fn segment(first: u64) -> Vec<u8> {
        [SEGMENT, &first.to_be_bytes()].concat()
    }
}

/// What the machine must know about itself; written with every batch of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MachineState {
    /// Index of the last log entry whose effects are on disk.
    pub(crate) applied: u64,
    pub(crate) revision: Revision,
    /// The first revision whose changes are all still in history.
    pub(crate) oldest: Revision,
}

impl MachineState {
    /// Revision 1 is the empty state: to clients, resource version 0 means "any".
    pub(crate) const INITIAL: Self = Self { applied: 0, revision: Revision(1), oldest: Revision(1) };

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        codec::begin(out);
        put_u64(out, self.applied);
        put_u64(out, self.revision.0);
        put_u64(out, self.oldest.0);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes)?;
        let state = Self { applied: reader.u64()?, revision: Revision(reader.u64()?), oldest: Revision(reader.u64()?) };
        reader.finish()?;
        Ok(state)
    }
}
