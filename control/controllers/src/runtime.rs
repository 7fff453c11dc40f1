//! Runs a controller: keys in, one look at each, again after a failure. A panic in one look is a failure of that key.

use crate::{Context, work_queue::WorkQueue};
use async_trait::async_trait;
use coracle_client::{
    cache::Cache,
    changes::Changed,
    supervisor::{self, panic_text},
};
use coracle_objects::{ApiError, ObjectKey, Reason};
use futures::{
    FutureExt, StreamExt,
    stream::{self, BoxStream, FuturesUnordered, SelectAll},
};
use serde_json::Value;
use std::{fmt::Debug, hash::Hash, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::task::JoinHandle;

/// Keys looked at at the same time by one controller.
const WORKERS: usize = 8;

/// Writes sent together; more are sent in turns, so that no controller holds up the others' writes for long.
pub const WRITES_MAX: usize = 256;

/// When to look at a key again, if nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Not at all.
    Done,
    /// After this time.
    After(Duration),
}

/// Keys that are to be looked at.
pub type Keys<K> = BoxStream<'static, Vec<K>>;

/// A loop that brings what is there in line with what is wanted, one key at a time.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    /// What is looked at.
    type Key: Clone + Eq + Hash + Debug + Send + Sync + 'static;

    /// Brings one key in line. Idempotent.
    async fn reconcile(&self, key: &Self::Key) -> Result<Next, ApiError>;
}

/// Spawns the controller that `make` makes, and makes it anew should its loop ever panic.
pub fn spawn<C: Controller>(
    name: &'static str,
    context: &Context,
    make: impl Fn(&Context) -> (C, Vec<Keys<C::Key>>) + Send + 'static,
) -> JoinHandle<()> {
    let inner = context.clone();
    supervisor::spawn(name, Arc::clone(&context.clock), context.shutdown.clone(), move || {
        let (controller, sources) = make(&inner);
        let context = inner.clone();
        async move {
            context.caches.synced().await;
            run(name, &context, &controller, stream::select_all(sources)).await;
        }
    })
}

async fn run<C: Controller>(
    name: &'static str,
    context: &Context,
    controller: &C,
    mut sources: SelectAll<Keys<C::Key>>,
) {
    let mut queue = WorkQueue::default();
    let mut looking = FuturesUnordered::new();
    loop {
        queue.tick(context.clock.monotonic());
        while looking.len() < WORKERS
            && let Some(key) = queue.take()
        {
            looking.push(async move {
                let result = AssertUnwindSafe(controller.reconcile(&key)).catch_unwind().await;
                let result = result.unwrap_or_else(|panic| {
                    tracing::error!(name, ?key, panic = panic_text(&*panic), "controller panicked");
                    Err(ApiError::internal("the controller panicked"))
                });
                (key, result)
            });
        }
        let timer = match queue.next_tick() {
            Some(moment) => context.clock.sleep_until(moment),
            None => futures::future::pending().boxed(),
        };
        tokio::select! {
            Some(keys) = sources.next() => keys.into_iter().for_each(|key| queue.add(key)),
            Some((key, result)) = looking.next() => {
                let now = context.clock.monotonic();
                match result {
                    Ok(next) => {
                        queue.succeed(&key);
                        if let Next::After(wait) = next {
                            queue.add_at(key, now.saturating_add(wait));
                        }
                    }
                    Err(error) => {
                        let wait = queue.fail(&key, now);
                        report(name, &key, &error, wait);
                    }
                }
            }
            () = timer => {}
        }
    }
}

fn report(name: &str, key: &impl Debug, error: &ApiError, wait: Duration) {
    let again_in_ms = wait.as_millis();
    if is_race(error) {
        tracing::debug!(name, ?key, %error, again_in_ms, "somebody was faster");
    } else {
        tracing::warn!(name, ?key, %error, again_in_ms, "cannot bring in line");
    }
}

/// Whether the error only says that what was planned on is no longer so.
fn is_race(error: &ApiError) -> bool {
    matches!(error.reason, Reason::Conflict | Reason::AlreadyExists | Reason::NotFound)
}

/// Keys by what changes in a cache. `keys_of` gets what changed and, for everything, all keys of the cache.
pub fn keys_from<K: Send + 'static>(
    cache: &Cache,
    keys_of: impl FnMut(&Cache, Changed) -> Vec<K> + Send + 'static,
) -> Keys<K> {
    let state = (cache.clone(), cache.changes(), keys_of);
    let keys = stream::unfold(state, |(cache, mut changes, mut keys_of)| async move {
        let changed = changes.next().await;
        let keys = keys_of(&cache, changed);
        Some((keys, (cache, changes, keys_of)))
    });
    keys.boxed()
}

/// The changed keys themselves.
pub fn same_keys(cache: &Cache) -> Keys<ObjectKey> {
    keys_from(cache, changed_keys)
}

/// The keys that changed; for everything, all of the cache.
#[must_use]
pub fn changed_keys(cache: &Cache, changed: Changed) -> Vec<ObjectKey> {
    match changed {
        Changed::Keys(keys) => keys,
        Changed::Everything => cache.keys(),
    }
}

/// Sends writes in turns; the first failure is answered after all have been tried. What is gone already is no failure.
pub async fn write_all(context: &Context, writes: Vec<coracle_client::Write>) -> Result<(), ApiError> {
    let mut failure = None;
    let mut writes = writes.into_iter();
    loop {
        let turn: Vec<_> = writes.by_ref().take(WRITES_MAX).collect();
        if turn.is_empty() {
            return failure.map_or(Ok(()), Err);
        }
        let results: Vec<Result<Arc<Value>, ApiError>> = context.client.write_many(turn).await;
        let errors = results.into_iter().filter_map(Result::err);
        failure = failure.or(errors.into_iter().find(|error| error.reason != Reason::NotFound));
    }
}

#[cfg(test)]
mod tests;
