//! A reflector: a local copy of all objects of a kind that match a query, kept by list and watch.
//!
//! ```text
//! Listing ──ok──▶ Watching ──Expired──▶ Listing (after a back-off)
//!    ▲ │              │ ▲
//!    └─┘ error        └─┘ stream ended or failed: watch again from the last revision seen (after a back-off)
//! ```
//! While Listing, readers keep what they had; the new listing replaces it in one step. A reader never sees a mixture.

use crate::{
    Client, Event, Listing, Query,
    backoff::{Backoff, BackoffPolicy},
    changes::{Changes, Subscribers},
    clock::Clock,
    supervisor,
};
use coracle_objects::{ApiError, Kind, ObjectKey, Reason, meta};
use futures::{StreamExt, stream::BoxStream};
use parking_lot::RwLock;
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// At most this many waiting events are taken over under one lock.
const EVENTS_PER_STEP: usize = 512;

const RETRY: BackoffPolicy = BackoffPolicy { first: Duration::from_millis(200), max: Duration::from_secs(30) };

/// What of an object is kept; lets a cache that needs only metadata drop the rest.
pub type Projection = fn(&Arc<Value>) -> Arc<Value>;

/// Keeps the object as it is.
#[must_use]
pub fn whole(object: &Arc<Value>) -> Arc<Value> {
    Arc::clone(object)
}

/// Keeps `apiVersion`, `kind` and `metadata` without managed fields and annotations.
#[must_use]
pub fn metadata_only(object: &Arc<Value>) -> Arc<Value> {
    let mut kept = serde_json::Map::new();
    for field in ["apiVersion", "kind", "metadata"] {
        if let Some(value) = object.get(field) {
            kept.insert(field.to_owned(), value.clone());
        }
    }
    if let Some(metadata) = kept.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
        metadata.shift_remove("annotations");
    }
    Arc::new(Value::Object(kept))
}

struct Shared {
    client: Arc<dyn Client>,
    clock: Arc<dyn Clock>,
    kind: &'static Kind,
    query: Query,
    projection: Projection,
    objects: RwLock<BTreeMap<ObjectKey, Arc<Value>>>,
    synced: watch::Sender<bool>,
    subscribers: Subscribers,
}

/// A handle on the copy; cheap to clone. The copy is kept until the last handle is dropped or `shutdown` is cancelled.
#[derive(Clone)]
pub struct Cache {
    shared: Arc<Shared>,
    _keeper: Arc<DropGuard>,
}

impl Cache {
    /// Starts to copy all objects of `kind` that match `query`.
    #[must_use]
    pub fn start(
        client: &Arc<dyn Client>,
        clock: &Arc<dyn Clock>,
        kind: &'static Kind,
        query: Query,
        projection: Projection,
        shutdown: &CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared {
            client: Arc::clone(client),
            clock: Arc::clone(clock),
            kind,
            query,
            projection,
            objects: RwLock::default(),
            synced: watch::Sender::new(false),
            subscribers: Subscribers::default(),
        });
        let stop = shutdown.child_token();
        let keeper = Arc::clone(&shared);
        supervisor::spawn("cache", Arc::clone(clock), stop.clone(), move || Arc::clone(&keeper).keep());
        Self { shared, _keeper: Arc::new(stop.drop_guard()) }
    }

    /// What is copied.
    #[must_use]
    pub fn kind(&self) -> &'static Kind {
        self.shared.kind
    }

    /// Whether the first listing is there.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Resolves once the first listing is there.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // The sender lives in `shared`, which this handle holds: the wait cannot fail.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<Value>> {
        self.shared.objects.read().get(key).cloned()
    }

    /// All objects, in the order of their keys.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Value>> {
        self.shared.objects.read().values().cloned().collect()
    }

    /// All keys, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.shared.objects.read().keys().cloned().collect()
    }

    /// All objects of one namespace, in the order of their names.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<Value>> {
        let objects = self.shared.objects.read();
        let first = ObjectKey::namespaced(namespace, "");
        let of_namespace = objects.range(first..).take_while(|(key, _)| key.namespace == namespace);
        of_namespace.map(|(_, object)| Arc::clone(object)).collect()
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.objects.read().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells what changes from now on. Begins with `Everything` when there is something already.
    #[must_use]
    pub fn changes(&self) -> Changes {
        // Under the read lock, so that no change falls between what is there and what is told.
        let _objects = self.shared.objects.read();
        self.shared.subscribers.subscribe(self.is_synced())
    }
}

/// Why a watch came to its end.
enum WatchEnd {
    /// Goes on from the last revision.
    Resumable,
    /// Needs a listing.
    Expired,
}

impl Shared {
    async fn keep(self: Arc<Self>) {
        let mut backoff = Backoff::new(RETRY);
        loop {
            match self.client.list(self.kind, &self.query).await {
                Ok(listing) => {
                    let mut revision = listing.resource_version.clone();
                    self.replace(listing);
                    while let WatchEnd::Resumable = self.follow(&mut revision, &mut backoff).await {
                        self.clock.sleep(backoff.fail()).await;
                    }
                    tracing::debug!(kind = self.kind.plural, "history has left the watch behind; listing again");
                }
                Err(error) => {
                    tracing::warn!(kind = self.kind.plural, %error, "cannot list");
                }
            }
            self.clock.sleep(backoff.fail()).await;
        }
    }

    async fn follow(&self, revision: &mut String, backoff: &mut Backoff) -> WatchEnd {
        match self.client.watch(self.kind, &self.query, revision).await {
            Ok(stream) => self.drain(stream, revision, backoff).await,
            Err(error) => self.end_for(&error),
        }
    }

    async fn drain(
        &self,
        stream: BoxStream<'static, Result<Event, ApiError>>,
        revision: &mut String,
        backoff: &mut Backoff,
    ) -> WatchEnd {
        let mut chunks = stream.ready_chunks(EVENTS_PER_STEP);
        while let Some(chunk) = chunks.next().await {
            let mut events = Vec::with_capacity(chunk.len());
            let mut end = None;
            for item in chunk {
                match item {
                    Ok(event) => events.push(event),
                    Err(error) => {
                        end = Some(self.end_for(&error));
                        break;
                    }
                }
            }
            if !events.is_empty() {
                backoff.succeed();
                self.take_over(events, revision);
            }
            if let Some(end) = end {
                return end;
            }
        }
        WatchEnd::Resumable
    }

    fn end_for(&self, error: &ApiError) -> WatchEnd {
        if matches!(error.reason, Reason::Expired | Reason::Gone) {
            WatchEnd::Expired
        } else {
            tracing::debug!(kind = self.kind.plural, %error, "watch ended");
            WatchEnd::Resumable
        }
    }

    fn replace(&self, listing: Listing) {
        let items = listing.items.into_iter();
        let fresh: BTreeMap<_, _> = items.map(|item| (meta::key(&item), (self.projection)(&item))).collect();
        let mut objects = self.objects.write();
        if *self.synced.borrow() {
            let gone = objects.keys().filter(|key| !fresh.contains_key(*key)).cloned();
            let mut changed: Vec<ObjectKey> = gone.collect();
            let new = fresh.iter().filter(|(key, object)| {
                objects.get(*key).is_none_or(|old| meta::resource_version(old) != meta::resource_version(object))
            });
            changed.extend(new.map(|(key, _)| key.clone()));
            *objects = fresh;
            self.subscribers.notify(&changed);
        } else {
            *objects = fresh;
            self.synced.send_replace(true);
            self.subscribers.notify_everything();
        }
    }

    fn take_over(&self, events: Vec<Event>, revision: &mut String) {
        let mut changed = Vec::with_capacity(events.len());
        let mut objects = self.objects.write();
        for event in events {
            let (object, gone) = match event {
                Event::Applied(object) => (object, false),
                Event::Deleted(object) => (object, true),
                Event::Bookmark(seen) => {
                    *revision = seen;
                    continue;
                }
            };
            let seen = meta::resource_version(&object);
            if !seen.is_empty() {
                seen.clone_into(revision);
            }
            let key = meta::key(&object);
            if gone {
                objects.remove(&key);
            } else {
                objects.insert(key.clone(), (self.projection)(&object));
            }
            changed.push(key);
        }
        self.subscribers.notify(&changed);
    }
}

#[cfg(test)]
mod tests;
