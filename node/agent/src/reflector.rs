//! Keeps up with a kind at the server: list, then watch, again from where it broke off, relist when history is gone.

use crate::{
    link::{Change, Link, Listing, Resource},
    retry::Reconnect,
};
use coracle_objects::{ApiError, ObjectKey, Reason, meta};
use futures::StreamExt;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Receives what a reflector learns. Calls come one at a time and in order.
pub(crate) trait Sink: Send {
    /// Everything that exists; whatever was known and is not among it is gone.
    fn replace(&mut self, objects: Vec<Value>);
    /// One object is new or changed.
    fn apply(&mut self, object: Value);
    /// One object is gone.
    fn delete(&mut self, object: &Value);
}

/// Follows `resource` until `stop`.
pub(crate) async fn run(
    link: Arc<dyn Link>,
    resource: Resource,
    field_selector: String,
    mut sink: Box<dyn Sink>,
    stop: CancellationToken,
) {
    let mut reconnect = Reconnect::new();
    let follow = async {
        let mut position: Option<String> = None;
        loop {
            let result =
                follow_once(&*link, resource, &field_selector, &mut *sink, &mut position, &mut reconnect).await;
            if let Err(error) = result {
                if matches!(error.reason, Reason::Expired | Reason::Gone) {
                    debug!(plural = resource.plural, "history is gone, listing again");
                    position = None;
                } else if reconnect.is_first() {
                    warn!(plural = resource.plural, %error, "lost the watch");
                } else {
                    debug!(plural = resource.plural, %error, "still no watch");
                }
            }
            tokio::time::sleep(reconnect.delay()).await;
        }
    };
    tokio::select! {
        () = follow => {}
        () = stop.cancelled() => {}
    }
}

async fn follow_once(
    link: &dyn Link,
    resource: Resource,
    field_selector: &str,
    sink: &mut dyn Sink,
    position: &mut Option<String>,
    reconnect: &mut Reconnect,
) -> Result<(), ApiError> {
    let from = if let Some(position) = position {
        position.clone()
    } else {
        let Listing { items, resource_version } = link.list(resource, field_selector).await?;
        sink.replace(items);
        position.insert(resource_version).clone()
    };
    let mut changes = link.watch(resource, field_selector, &from).await?;
    while let Some(change) = changes.next().await {
        reconnect.reset();
        match change? {
            Change::Applied(object) => {
                *position = Some(meta::resource_version(&object).to_owned());
                sink.apply(object);
            }
            Change::Deleted(object) => {
                *position = Some(meta::resource_version(&object).to_owned());
                sink.delete(&object);
            }
            Change::Bookmark(version) => *position = Some(version),
        }
    }
    Ok(())
}

/// What is known of a kind, shared with many readers.
#[derive(Clone)]
pub(crate) struct Cache {
    objects: Arc<RwLock<BTreeMap<ObjectKey, Arc<Value>>>>,
    version: watch::Sender<u64>,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self { objects: Arc::default(), version: watch::Sender::new(0) }
    }

    /// One object.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<Value>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// All objects, in the order of their keys.
    pub(crate) fn all(&self) -> Vec<Arc<Value>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Changes with every change; 0 until the first listing.
    pub(crate) fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn changed(&self, change: impl FnOnce(&mut BTreeMap<ObjectKey, Arc<Value>>)) {
        change(&mut self.objects.write().unwrap_or_else(PoisonError::into_inner));
        self.version.send_modify(|version| *version += 1);
    }
}

impl Sink for Cache {
    fn replace(&mut self, objects: Vec<Value>) {
        self.changed(|known| {
            *known = objects.into_iter().map(|object| (meta::key(&object), Arc::new(object))).collect();
        });
    }

    fn apply(&mut self, object: Value) {
        self.changed(|known| drop(known.insert(meta::key(&object), Arc::new(object))));
    }

    fn delete(&mut self, object: &Value) {
        self.changed(|known| drop(known.remove(&meta::key(object))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fake::FakeLink, link::SERVICES};
    use serde_json::json;

    fn service(name: &str, version: u64) -> Value {
        json!({"metadata": {"namespace": "default", "name": name, "resourceVersion": version.to_string()}})
    }

    #[tokio::test]
    async fn a_cache_follows_through_breaks_and_lost_history() {
        let link = FakeLink::new();
        link.put(SERVICES, service("a", 1));
        let cache = Cache::new();
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(link.clone(), SERVICES, String::new(), Box::new(cache.clone()), stop.clone()));
        let names = |cache: &Cache| cache.all().iter().map(|object| meta::name(object).to_owned()).collect::<Vec<_>>();
        let mut version = cache.version();
        version.wait_for(|_| names(&cache) == ["a"]).await.unwrap();

        link.put(SERVICES, service("b", 2));
        version.wait_for(|_| names(&cache) == ["a", "b"]).await.unwrap();
        link.break_watches();
        link.remove(SERVICES, &ObjectKey::namespaced("default", "a"));
        version.wait_for(|_| names(&cache) == ["b"]).await.unwrap();

        link.forget_history();
        link.put(SERVICES, service("c", 9));
        version.wait_for(|_| names(&cache) == ["b", "c"]).await.unwrap();
        assert!(cache.get(&ObjectKey::namespaced("default", "c")).is_some());
        stop.cancel();
        task.await.unwrap();
    }
}
