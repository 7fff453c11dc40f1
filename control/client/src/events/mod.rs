//! Tells people what happened to an object: core/v1 Events, counted up when they repeat.
//!
//! Events are best effort: recording never waits and never fails the caller. What does not fit into the queue or is
//! over the rates in [`limits`] is dropped and counted in the log.

mod aggregate;
pub mod limits;
#[cfg(test)]
mod tests;

use crate::{Client, clock::Clock, supervisor};
use aggregate::{Aggregator, Occurrence};
use coracle_objects::{Kind, meta};
use serde_json::Value;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use time::OffsetDateTime;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

impl EventType {
    /// The spelling in an Event.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Writes events in the background; clones share the queue.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Occurrence>,
    dropped: Arc<AtomicU64>,
    clock: Arc<dyn Clock>,
}

impl Recorder {
    /// Starts the writer. `component` becomes `source.component` and `reportingComponent`.
    #[must_use]
    pub fn start(
        client: &Arc<dyn Client>,
        clock: &Arc<dyn Clock>,
        component: &'static str,
        shutdown: &CancellationToken,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(limits::QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Arc::new(Mutex::new(Writer {
            client: Arc::clone(client),
            clock: Arc::clone(clock),
            waiting,
            aggregator: Aggregator::new(component),
            dropped: Arc::clone(&dropped),
        }));
        supervisor::spawn("event recorder", Arc::clone(clock), shutdown.clone(), move || {
            let writer = Arc::clone(&writer);
            async move { writer.lock().await.run().await }
        });
        Self { queue, dropped, clock: Arc::clone(clock) }
    }

    /// Notes that something has just happened to `object`.
    pub fn record(&self, kind: &Kind, object: &Value, event_type: EventType, reason: &'static str, message: &str) {
        self.record_at(self.clock.now(), kind, object, event_type, reason, message);
    }

    /// Notes that something happened to `object` at a moment: events are listed in the order of their moments, and what
    /// follows from this one may have been told already.
    pub fn record_at(
        &self,
        at: OffsetDateTime,
        kind: &Kind,
        object: &Value,
        event_type: EventType,
        reason: &'static str,
        message: &str,
    ) {
        let occurrence = Occurrence {
            api_version: kind.api_version(),
            kind: kind.kind,
            namespace: meta::namespace(object).to_owned(),
            name: meta::name(object).to_owned(),
            uid: meta::uid(object).to_owned(),
            resource_version: meta::resource_version(object).to_owned(),
            event_type,
            reason,
            message: message.to_owned(),
            at,
        };
        if self.queue.try_send(occurrence).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Writer {
    client: Arc<dyn Client>,
    clock: Arc<dyn Clock>,
    waiting: mpsc::Receiver<Occurrence>,
    aggregator: Aggregator,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    async fn run(&mut self) {
        let mut batch = Vec::with_capacity(limits::BATCH);
        while self.waiting.recv_many(&mut batch, limits::BATCH).await > 0 {
            let mut planned = self.aggregator.plan(batch.drain(..), self.clock.monotonic());
            // An event that has expired meanwhile is counted from one again: at most one more round.
            for _ in 0..2 {
                if planned.is_empty() {
                    break;
                }
                let results = self.client.write_many(planned.iter().map(|plan| plan.write.clone()).collect()).await;
                planned = self.aggregator.learn(planned, results);
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed) + self.aggregator.take_dropped();
            if dropped > 0 {
                tracing::debug!(dropped, "events were dropped");
            }
        }
    }
}
