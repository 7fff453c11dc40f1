//! What is known of kinds, shared with many readers, and who is told of changes.

use coracle_objects::{ObjectKey, meta};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};
use tokio::sync::watch;

/// Receives what is learnt of a kind. Calls come one at a time and in order.
pub(crate) trait Sink: Send {
    /// Everything that exists; whatever was known and is not among it is gone.
    fn replace(&mut self, objects: Vec<Value>);
    /// One object is new or changed.
    fn apply(&mut self, object: Value);
    /// One object is gone; where `uid` is not empty, it is that of the object of this name that is.
    fn delete(&mut self, key: &ObjectKey, uid: &str);
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

    /// Whether anything was learnt yet: what is not there is known not to be there.
    pub(crate) fn is_known(&self) -> bool {
        *self.version.borrow() > 0
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
        // Who comes back is told some things again.
        if self.get(&meta::key(&object)).is_some_and(|known| *known == object) {
            return;
        }
        self.changed(|known| drop(known.insert(meta::key(&object), Arc::new(object))));
    }

    fn delete(&mut self, key: &ObjectKey, _uid: &str) {
        self.changed(|known| drop(known.remove(key)));
    }
}
