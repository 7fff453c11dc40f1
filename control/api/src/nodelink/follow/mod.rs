//! What nodes are told, by one subscription of the store for all of them.
//!
//! ```text
//!  store ──watch──▶ Feed (decodes and encodes once) ──▶ State: a batch per node ──▶ stream ──▶ node
//! ```
//!
//! A batch has the newest of each object, so that a node that reads slowly, or comes back, is told what is and not all that
//! was. A node that says how far it knows is told what changed since; where that is no longer known, everything. Nothing
//! of another node's pods, and no secret or config map that no pod of the node names, is ever in a batch.

mod batch;
mod part;
mod state;

#[cfg(test)]
mod tests;

use coracle_store::{EventKind, ReadError, Revision, Store, StoreEvent, Watched};
use coracle_wire::v1::{FollowRequest, ViewUpdate};
use futures::stream::{self, BoxStream, StreamExt as _};
use parking_lot::Mutex;
use state::{Known, State};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// After so long without anything else a node is told how far it knows.
const BOOKMARK_EVERY: Duration = Duration::from_mins(5);
/// Between two updates of one node: what changes meanwhile is told together.
const UPDATE_GAP: Duration = Duration::from_millis(10);
/// Before the store is read anew when that failed.
const RETRY: Duration = Duration::from_secs(1);
/// Revisions that are recalled beyond what a node asked for: others that come back were told about as much.
const RECALL_MARGIN: u64 = 5_000;
/// How long a node waits for the views to be read when the server starts.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The views of all nodes.
pub struct Feed {
    store: Store,
    closing: CancellationToken,
    state: Mutex<Option<State>>,
    /// Counts how often everything was read.
    read: watch::Sender<u64>,
    started: AtomicBool,
    generations: AtomicU64,
    recalling: tokio::sync::Mutex<()>,
}

impl Feed {
    /// Reads nothing before a node asks; everything ends with `closing`.
    #[must_use]
    pub fn new(store: Store, closing: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            store,
            closing,
            state: Mutex::new(None),
            read: watch::Sender::new(0),
            started: AtomicBool::new(false),
            generations: AtomicU64::new(0),
            recalling: tokio::sync::Mutex::new(()),
        })
    }

    /// What `node` has to be told, from where it is on. A stream of the same node from before ends.
    ///
    /// # Errors
    /// 503 when the store cannot be read.
    pub(super) async fn follow(
        self: &Arc<Self>,
        node: &str,
        request: &FollowRequest,
        ended: CancellationToken,
    ) -> Result<BoxStream<'static, Result<ViewUpdate, Status>>, Status> {
        if !self.started.swap(true, Ordering::Relaxed) {
            tokio::spawn(Arc::clone(self).run());
        }
        let mut read = self.read.subscribe();
        let unread = |_| Status::unavailable("the views of nodes cannot be read yet");
        tokio::time::timeout(READ_TIMEOUT, read.wait_for(|reads| *reads > 0)).await.map_err(unread)?.ok();
        let from = self.resumable(request).await;
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let (wake, history) = {
            let mut state = self.state.lock();
            let state = state.as_mut().ok_or_else(|| Status::unavailable("the views of nodes are being read"))?;
            // Once more, under the lock under which it is used: meanwhile too much may have gone.
            let from = from.filter(|from| *from >= state.gone_after());
            tracing::debug!(node, from = from.map(|from| from.0), "a node is told what there is");
            let without_pods = request.without_pods;
            let from = from.map(|revision| Known { revision, without_pods });
            (state.join(node, from, generation, &self.store), state.history())
        };
        let following = Following {
            feed: Arc::clone(self),
            node: node.to_owned(),
            generation,
            wake,
            history,
            ended,
            queue: VecDeque::new(),
            sent_at: None,
            is_over: false,
        };
        Ok(stream::unfold(following, |mut following| async move {
            following.next().await.map(|update| (update, following))
        })
        .boxed())
    }

    /// From where a node may go on; `None`: it is told everything.
    async fn resumable(&self, request: &FollowRequest) -> Option<Revision> {
        let from = Revision(request.revision);
        let known = || self.state.lock().as_ref().map(|state| (state.history(), state.gone_after()));
        let (history, gone_after) = known()?;
        if from.0 == 0 || history != request.history || from > self.store.revision() {
            return None;
        }
        if from >= gone_after {
            return Some(from);
        }
        // One after the other: what one recalls is known to the next.
        let _turn = self.recalling.lock().await;
        let (_, gone_after) = known()?;
        if from < gone_after {
            let margin = Revision(from.0.saturating_sub(RECALL_MARGIN).max(self.store.oldest().0.saturating_sub(1)));
            let after = margin.min(from);
            match self.gone_between(after, gone_after).await {
                Ok(events) => self.state.lock().as_mut()?.recall(after, gone_after, &events),
                Err(error) => {
                    tracing::debug!(revision = from.0, %error, "what happened since is no longer known");
                    return None;
                }
            }
        }
        Some(from)
    }

    /// What went in the revisions behind `after` up to `to`.
    async fn gone_between(&self, after: Revision, to: Revision) -> Result<Vec<Arc<StoreEvent>>, ReadError> {
        let mut watch = self.store.watch("", after)?;
        let mut events = Vec::new();
        while watch.progress().is_none_or(|progress| progress < to) {
            if let Watched::Event(event) = watch.next().await? {
                if event.entry.revision > to {
                    break;
                }
                if event.kind == EventKind::Deleted {
                    events.push(event);
                }
            }
        }
        Ok(events)
    }

    async fn run(self: Arc<Self>) {
        loop {
            let outcome = tokio::select! {
                outcome = self.keep() => outcome,
                () = self.closing.cancelled() => {
                    if let Some(state) = self.state.lock().as_mut() {
                        state.dismiss();
                    }
                    return;
                }
            };
            if let Err(error) = outcome {
                tracing::warn!(%error, "the views of nodes are read anew");
            }
            // Whoever follows goes on from where it is when everything was read again.
            if let Some(mut state) = self.state.lock().take() {
                state.dismiss();
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Reads everything, then keeps up; returns when that fails.
    async fn keep(&self) -> Result<(), ReadError> {
        let state = State::read(&self.store)?;
        let mut watch = self.store.watch("", state.revision())?;
        *self.state.lock() = Some(state);
        self.read.send_modify(|reads| *reads += 1);
        loop {
            let watched = watch.next().await?;
            let mut state = self.state.lock();
            let Some(state) = state.as_mut() else { return Ok(()) };
            match watched {
                Watched::Event(event) => state.apply(&event, &self.store),
                Watched::Progress(revision) => state.progressed(revision),
            }
        }
    }
}

/// A stream to a node.
struct Following {
    feed: Arc<Feed>,
    node: String,
    generation: u64,
    wake: Arc<Notify>,
    /// Told with the first revision.
    history: String,
    /// Cancelled when the node may not follow any more.
    ended: CancellationToken,
    queue: VecDeque<ViewUpdate>,
    sent_at: Option<Instant>,
    is_over: bool,
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(state) = self.feed.state.lock().as_mut() {
            state.leave(&self.node, self.generation);
        }
    }
}

impl Following {
    async fn next(&mut self) -> Option<Result<ViewUpdate, Status>> {
        loop {
            if let Some(update) = self.queue.pop_front() {
                return Some(Ok(update));
            }
            if self.is_over {
                return None;
            }
            let feed = Arc::clone(&self.feed);
            let (wake, ended) = (Arc::clone(&self.wake), self.ended.clone());
            let due = tokio::select! {
                biased;
                () = feed.closing.cancelled() => return self.end(Status::unavailable("the server is stopping")),
                () = ended.cancelled() => return self.end(Status::aborted("the node's link has ended")),
                () = rest(self.sent_at, &wake) => false,
                () = tokio::time::sleep(BOOKMARK_EVERY) => true,
            };
            let taken = {
                let mut state = self.feed.state.lock();
                let taken = state.as_mut().and_then(|state| state.take(&self.node, self.generation));
                if let (Some(state), Some(taken)) = (state.as_mut(), &taken)
                    && (due || !taken.batch.is_empty())
                {
                    state.tell(&self.node, self.generation, taken.revision);
                }
                taken
            };
            let Some(taken) = taken else {
                return self
                    .end(Status::aborted("a newer stream of this node has taken over, or the views are read anew"));
            };
            let has_news = !taken.batch.is_empty() || (due && taken.revision > taken.told);
            if has_news || self.sent_at.is_none() {
                let history = std::mem::take(&mut self.history);
                self.queue = taken.batch.into_messages(taken.revision, &history);
                self.sent_at = Some(Instant::now());
            }
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is what the stream yields last")]
    fn end(&mut self, status: Status) -> Option<Result<ViewUpdate, Status>> {
        self.is_over = true;
        Some(Err(status))
    }
}

/// Until there is something to tell, and not too soon after what was told last.
async fn rest(sent_at: Option<Instant>, wake: &Notify) {
    if let Some(sent_at) = sent_at {
        tokio::time::sleep_until(sent_at + UPDATE_GAP).await;
    }
    wake.notified().await;
}
