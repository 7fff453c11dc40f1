//! A running watch: history first, then live, without gap or repetition.
//!
//! ```text
//! History ──(the ring of recent changes reaches back to our position)──▶ Live ──▶ Ended
//!    │  all changes up to `position` were yielded or are in `backlog`       │
//!    └──────────────── compacted meanwhile, disk failed ───────────────────▶┘ cut off
//! ```

use crate::command::Revision;
use crate::hub::Subscription;
use crate::read::{ReadError, Watched};
use crate::state::Shared;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// History records read in one go, so that a long replay shares its thread.
const REPLAY_CHUNK_RECORDS: usize = 256;

/// A running watch; dropping it ends it.
pub struct Watch {
    shared: Arc<Shared>,
    prefix: String,
    /// While in history: changes up to here were yielded or wait in `backlog`.
    position: Revision,
    backlog: VecDeque<Watched>,
    feed: Feed,
}

enum Feed {
    History,
    Live(Subscription),
    Ended(ReadError),
}

impl Watch {
    pub(crate) fn start(shared: Arc<Shared>, prefix: &str, from: Revision) -> Result<Self, ReadError> {
        let current = shared.hub.lock().revision();
        if from > current {
            return Err(ReadError::Future { current });
        }
        let mut watch =
            Self { shared, prefix: prefix.to_owned(), position: from, backlog: VecDeque::new(), feed: Feed::History };
        watch.shared.check_history(from)?;
        // Joined at once where possible: changes from now on queue up even if nobody has asked yet.
        watch.join();
        Ok(watch)
    }

    /// The next change, or progress when a good many changes concerned others. `Err` ends the watch for good.
    ///
    /// Cancel-safe: dropping the future loses nothing.
    ///
    /// # Errors
    /// `TooSlow` when this watcher fell behind, `Compacted` when history went away during a long replay, storage failure.
    pub async fn next(&mut self) -> Result<Watched, ReadError> {
        loop {
            if let Some(watched) = self.backlog.pop_front() {
                return Ok(watched);
            }
            match &mut self.feed {
                Feed::Ended(error) => return Err(error.clone()),
                Feed::Live(subscription) => {
                    if let Some(watched) = subscription.queue.recv().await {
                        return Ok(watched);
                    }
                    let slow = subscription.cut_off.load(Ordering::Acquire);
                    self.end(if slow { ReadError::TooSlow } else { stopped() });
                }
                Feed::History => {
                    tokio::task::consume_budget().await;
                    if !self.join()
                        && let Err(error) = self.replay()
                    {
                        self.end(error);
                    }
                }
            }
        }
    }

    /// Up to which revision everything relevant has been yielded, or `None` while changes wait to be taken: what a bookmark may
    /// say at this moment.
    #[must_use]
    pub fn progress(&self) -> Option<Revision> {
        if !self.backlog.is_empty() {
            return None;
        }
        match &self.feed {
            Feed::Ended(_) => None,
            Feed::History => Some(self.position),
            Feed::Live(subscription) => {
                // Under the lock nothing can be queued between the look at the queue and the look at the revision.
                let hub = self.shared.hub.lock();
                let cut_off = subscription.cut_off.load(Ordering::Acquire);
                (subscription.queue.is_empty() && !cut_off).then(|| hub.revision())
            }
        }
    }

    /// Goes live if the recent changes reach back to our position.
    fn join(&mut self) -> bool {
        let mut hub = self.shared.hub.lock();
        let Some(recent) = hub.recent(self.position) else { return false };
        let events = recent.filter(|change| change.event.entry.key.0.starts_with(&self.prefix));
        self.backlog.extend(events.map(|change| Watched::Event(Arc::clone(&change.event))));
        if self.backlog.is_empty() && hub.revision() > self.position {
            self.backlog.push_back(Watched::Progress(hub.revision()));
        }
        self.feed = Feed::Live(hub.subscribe(&self.prefix));
        true
    }

    /// Reads on in history, up to what has been published.
    fn replay(&mut self) -> Result<(), ReadError> {
        let published = self.shared.hub.lock().revision();
        let mut changes = Vec::new();
        self.position =
            self.shared.read_history(&self.prefix, self.position, published, REPLAY_CHUNK_RECORDS, &mut changes)?;
        self.backlog.extend(changes.into_iter().map(|change| Watched::Event(change.event)));
        Ok(())
    }

    fn end(&mut self, error: ReadError) {
        self.leave();
        self.feed = Feed::Ended(error);
    }

    fn leave(&mut self) {
        if let Feed::Live(subscription) = &self.feed {
            self.shared.hub.lock().unsubscribe(&self.prefix, subscription.id);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.leave();
    }
}

fn stopped() -> ReadError {
    ReadError::Storage("the store has stopped".into())
}
