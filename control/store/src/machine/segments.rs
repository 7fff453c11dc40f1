//! How large history is: sizes of its pieces of consecutive revisions, oldest first, so that whole pieces can be forgotten
//! without reading them.

use super::{Limits, MachineError, damaged};
use crate::backend::{Backend, Batch, Family};
use crate::codec::CodecError;
use crate::command::Revision;
use crate::record::meta;
use std::collections::VecDeque;
use std::ops::ControlFlow;

#[derive(Debug, Default)]
pub(super) struct Segments {
    /// The last one is still growing.
    list: VecDeque<Segment>,
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    first: u64,
    bytes: u64,
}

impl Segments {
    pub(super) fn load(backend: &dyn Backend) -> Result<Self, MachineError> {
        let mut segments = Self::default();
        let mut damage = None;
        backend.scan(Family::Meta, meta::SEGMENT, None, &mut |key, value| {
            let Some(first) = key.strip_prefix(meta::SEGMENT) else { return ControlFlow::Break(()) };
            if let (Ok(first), Ok(bytes)) = (first.try_into(), value.try_into()) {
                let segment = Segment { first: u64::from_be_bytes(first), bytes: u64::from_be_bytes(bytes) };
                segments.bytes += segment.bytes;
                segments.list.push_back(segment);
                ControlFlow::Continue(())
            } else {
                damage = Some(damaged("history segment", CodecError::Truncated(value.len())));
                ControlFlow::Break(())
            }
        })?;
        damage.map_or(Ok(segments), Err)
    }

    /// Notes that `revision` added `bytes`.
    pub(super) fn add(&mut self, batch: &mut Batch, revision: Revision, bytes: u64, segment_revisions: u64) {
        if self.list.back().is_none_or(|last| revision.0 >= last.first + segment_revisions.max(1)) {
            self.list.push_back(Segment { first: revision.0, bytes: 0 });
        }
        self.bytes += bytes;
        if let Some(last) = self.list.back_mut() {
            last.bytes += bytes;
            batch.put(Family::Meta, &meta::segment(last.first), &last.bytes.to_be_bytes());
        }
    }

    /// The revision before which history should be forgotten to stay within `limits`; the growing segment always stays.
    pub(super) fn surplus(&self, oldest: Revision, revision: Revision, limits: &Limits) -> Revision {
        let mut oldest = oldest;
        let mut bytes = self.bytes;
        for (segment, next) in self.list.iter().zip(self.list.iter().skip(1)) {
            let revisions = revision.0 + 1 - oldest.0;
            if revisions <= limits.history_revisions_max && bytes <= limits.history_bytes_max {
                break;
            }
            bytes -= segment.bytes;
            oldest = oldest.max(Revision(next.first));
        }
        oldest
    }

    /// Drops the segments that lie wholly before `to`.
    pub(super) fn forget_before(&mut self, batch: &mut Batch, to: Revision) {
        while let (Some(first), Some(next)) = (self.list.front().copied(), self.list.get(1)) {
            if next.first > to.0 {
                return;
            }
            self.list.pop_front();
            self.bytes -= first.bytes;
            batch.delete(Family::Meta, &meta::segment(first.first));
        }
    }
}
