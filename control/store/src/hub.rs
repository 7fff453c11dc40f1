//! The watch hub: a ring of recent changes and the queues of running watches.
//!
//! Publishing happens under one lock, and so does joining: a watch that joins takes what it missed from the ring and is
//! subscribed in the same step, so that no change falls between the two and none is delivered twice. The writer never waits
//! for a watcher: a full queue cuts the watcher off. Watches are grouped by prefix, and a change looks up only the groups
//! whose prefix its key has: one lookup per distinct prefix length.

use crate::command::Revision;
use crate::read::Watched;
use crate::record::Change;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// After so many revisions without a relevant change a watch is told how far it is.
const PROGRESS_REVISIONS: u64 = 1_000;

pub(crate) struct Hub {
    limits: HubLimits,
    /// All changes up to here have been published.
    revision: Revision,
    ring: VecDeque<Change>,
    ring_bytes: usize,
    /// All changes behind this revision are in the ring.
    ring_after: Revision,
    groups: BTreeMap<usize, BTreeMap<String, Vec<Subscriber>>>,
    next_id: u64,
    progress_at: Revision,
}

/// Bounds of what is kept for watchers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HubLimits {
    pub(crate) ring_changes: usize,
    pub(crate) ring_bytes: usize,
    pub(crate) queue_events: usize,
}

struct Subscriber {
    id: u64,
    queue: mpsc::Sender<Watched>,
    cut_off: Arc<AtomicBool>,
    /// The last revision this watch heard of.
    told: Revision,
}

/// The receiving end of a subscription.
pub(crate) struct Subscription {
    pub(crate) id: u64,
    pub(crate) queue: mpsc::Receiver<Watched>,
    /// Set when the queue was full: what is in it is still in order and complete, but nothing follows.
    pub(crate) cut_off: Arc<AtomicBool>,
}

impl Hub {
    pub(crate) fn new(limits: HubLimits, revision: Revision) -> Self {
        Self {
            limits,
            revision,
            ring: VecDeque::new(),
            ring_bytes: 0,
            ring_after: revision,
            groups: BTreeMap::new(),
            next_id: 0,
            progress_at: revision,
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// The changes behind `after`, or `None` when the ring does not reach back so far.
    pub(crate) fn recent(&self, after: Revision) -> Option<impl DoubleEndedIterator<Item = &Change>> {
        let start = self.ring.partition_point(|change| change.revision() <= after);
        (after >= self.ring_after).then(|| self.ring.range(start..))
    }

    /// Tells everybody about `changes`, which lead to `revision`.
    pub(crate) fn publish(&mut self, changes: Vec<Change>, revision: Revision) {
        self.revision = revision;
        for change in changes {
            self.fan_out(&change);
            self.ring_bytes += change.byte_len();
            self.ring.push_back(change);
        }
        self.trim();
        if revision.0 >= self.progress_at.0 + PROGRESS_REVISIONS {
            self.progress_at = revision;
            self.tell_progress();
        }
    }

    /// Adds a watch of `prefix` that has seen everything up to [`Hub::revision`].
    pub(crate) fn subscribe(&mut self, prefix: &str) -> Subscription {
        let (sender, queue) = mpsc::channel(self.limits.queue_events);
        let cut_off = Arc::new(AtomicBool::new(false));
        let id = self.next_id;
        self.next_id += 1;
        let subscriber = Subscriber { id, queue: sender, cut_off: Arc::clone(&cut_off), told: self.revision };
        let group = self.groups.entry(prefix.len()).or_default();
        group.entry(prefix.to_owned()).or_default().push(subscriber);
        Subscription { id, queue, cut_off }
    }

    /// Removes a watch.
    pub(crate) fn unsubscribe(&mut self, prefix: &str, id: u64) {
        self.retain(prefix, |subscriber| subscriber.id != id);
    }

    /// Number of running watches.
    pub(crate) fn subscribers(&self) -> usize {
        self.groups.values().flat_map(BTreeMap::values).map(Vec::len).sum()
    }

    fn fan_out(&mut self, change: &Change) {
        let key = &change.event.entry.key.0;
        for (length, group) in self.groups.range_mut(..=key.len()) {
            let Some(subscribers) = key.get(..*length).and_then(|prefix| group.get_mut(prefix)) else { continue };
            subscribers.retain_mut(|subscriber| {
                subscriber.told = change.revision();
                match subscriber.queue.try_send(Watched::Event(Arc::clone(&change.event))) {
                    Ok(()) => true,
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        subscriber.cut_off.store(true, Ordering::Release);
                        false
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => false,
                }
            });
        }
    }

    fn tell_progress(&mut self) {
        let revision = self.revision;
        for subscriber in self.groups.values_mut().flat_map(BTreeMap::values_mut).flatten() {
            if subscriber.told.0 + PROGRESS_REVISIONS <= revision.0 {
                subscriber.told = revision;
                // A queue without room holds events, which tell the watcher as much.
                let _ = subscriber.queue.try_send(Watched::Progress(revision));
            }
        }
    }

    fn trim(&mut self) {
        while self.ring.len() > self.limits.ring_changes || self.ring_bytes > self.limits.ring_bytes {
            let Some(oldest) = self.ring.pop_front() else { return };
            self.ring_bytes -= oldest.byte_len();
            // The rest of a revision that is partly gone is of no use, and is skipped by `recent`.
            self.ring_after = oldest.revision();
        }
    }

    fn retain(&mut self, prefix: &str, keep: impl FnMut(&Subscriber) -> bool) {
        let Some(group) = self.groups.get_mut(&prefix.len()) else { return };
        if let Some(subscribers) = group.get_mut(prefix) {
            subscribers.retain(keep);
            if subscribers.is_empty() {
                group.remove(prefix);
            }
        }
        if group.is_empty() {
            self.groups.remove(&prefix.len());
        }
    }
}
