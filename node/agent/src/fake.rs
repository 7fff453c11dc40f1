//! A control plane in memory, for tests: objects, watches that can be broken, history that can be lost.

use crate::link::{Change, Changes, Link, Listing, Resource};
use async_trait::async_trait;
use coracle_objects::{ApiError, ObjectKey, Reason, meta};
use futures::StreamExt;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

type Place = (&'static str, ObjectKey);

#[derive(Default)]
struct State {
    objects: BTreeMap<Place, Value>,
    history: Vec<(u64, &'static str, Change)>,
    revision: u64,
    first_kept: u64,
    down: bool,
}

/// See the module.
pub(crate) struct FakeLink {
    state: Mutex<State>,
    changes: Mutex<broadcast::Sender<(u64, &'static str, Change)>>,
    touched: tokio::sync::watch::Sender<u64>,
}

fn key_of(object: &Value) -> ObjectKey {
    meta::key(object)
}

impl FakeLink {
    pub(crate) fn new() -> Arc<Self> {
        let changes = Mutex::new(broadcast::channel(1024).0);
        Arc::new(Self { state: Mutex::default(), changes, touched: tokio::sync::watch::Sender::new(0) })
    }

    fn record(&self, state: &mut State, plural: &'static str, change: Change) {
        let revision = state.revision;
        state.history.push((revision, plural, change.clone()));
        let _ = self.changes.lock().unwrap().send((revision, plural, change));
        self.touched.send_modify(|count| *count += 1);
    }

    /// Stores an object as anybody might.
    pub(crate) fn put(&self, resource: Resource, mut object: Value) -> Value {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        state.objects.insert((resource.plural, key_of(&object)), object.clone());
        self.record(&mut state, resource.plural, Change::Applied(object.clone()));
        object
    }

    /// Removes an object at once.
    pub(crate) fn remove(&self, resource: Resource, key: &ObjectKey) {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        if let Some(mut object) = state.objects.remove(&(resource.plural, key.clone())) {
            object["metadata"]["resourceVersion"] = state.revision.to_string().into();
            self.record(&mut state, resource.plural, Change::Deleted(object));
        }
    }

    /// What is stored.
    pub(crate) fn stored(&self, resource: Resource, key: &ObjectKey) -> Option<Value> {
        self.state.lock().unwrap().objects.get(&(resource.plural, key.clone())).cloned()
    }

    /// All stored objects of a kind.
    pub(crate) fn all(&self, resource: Resource) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        state.objects.iter().filter(|(place, _)| place.0 == resource.plural).map(|(_, object)| object.clone()).collect()
    }

    /// Ends all watches.
    pub(crate) fn break_watches(&self) {
        *self.changes.lock().unwrap() = broadcast::channel(1024).0;
    }

    /// Ends all watches and forgets everything they could go on from.
    pub(crate) fn forget_history(&self) {
        {
            let mut state = self.state.lock().unwrap();
            state.revision += 1;
            state.first_kept = state.revision;
            state.history.clear();
        }
        self.break_watches();
    }

    /// Whether the server can be reached.
    pub(crate) fn set_down(&self, down: bool) {
        self.state.lock().unwrap().down = down;
        if down {
            self.break_watches();
        }
    }

    /// Waits until `check` holds of what is stored.
    pub(crate) async fn wait(&self, what: &str, check: impl Fn(&Self) -> bool) {
        let mut touched = self.touched.subscribe();
        let wait = async {
            while !check(self) {
                touched.changed().await.unwrap();
            }
        };
        let bound = std::time::Duration::from_secs(3600);
        tokio::time::timeout(bound, wait).await.unwrap_or_else(|_| panic!("never happened: {what}"));
    }

    fn reachable(&self) -> Result<std::sync::MutexGuard<'_, State>, ApiError> {
        let state = self.state.lock().unwrap();
        if state.down { Err(ApiError::new(Reason::ServiceUnavailable, "connection refused")) } else { Ok(state) }
    }
}

#[async_trait]
impl Link for FakeLink {
    async fn get(&self, resource: Resource, key: &ObjectKey) -> Result<Value, ApiError> {
        let state = self.reachable()?;
        let found = state.objects.get(&(resource.plural, key.clone())).cloned();
        found.ok_or_else(|| ApiError::not_found(resource.group, resource.plural, &key.name))
    }

    async fn list(&self, resource: Resource, _field_selector: &str) -> Result<Listing, ApiError> {
        let resource_version = self.reachable()?.revision.to_string();
        Ok(Listing { items: self.all(resource), resource_version })
    }

    async fn watch(&self, resource: Resource, _field_selector: &str, from: &str) -> Result<Changes, ApiError> {
        let from: u64 = from.parse().unwrap();
        let state = self.reachable()?;
        if from < state.first_kept {
            return Err(ApiError::new(Reason::Expired, "too old resource version"));
        }
        let missed: Vec<_> = state.history.iter().filter(|entry| entry.0 > from).cloned().collect();
        let live = BroadcastStream::new(self.changes.lock().unwrap().subscribe()).filter_map(async |event| event.ok());
        let all = futures::stream::iter(missed).chain(live);
        Ok(all.filter_map(async move |(_, plural, change)| (plural == resource.plural).then_some(Ok(change))).boxed())
    }

    async fn create(&self, resource: Resource, object: &Value) -> Result<Value, ApiError> {
        if self.reachable()?.objects.contains_key(&(resource.plural, key_of(object))) {
            return Err(ApiError::already_exists(resource.group, resource.plural, meta::name(object)));
        }
        Ok(self.put(resource, object.clone()))
    }

    async fn update(&self, resource: Resource, subresource: &str, object: &Value) -> Result<Value, ApiError> {
        let place = (resource.plural, key_of(object));
        let mut stored = {
            let state = self.reachable()?;
            let found = state.objects.get(&place).cloned();
            found.ok_or_else(|| ApiError::not_found(resource.group, resource.plural, meta::name(object)))?
        };
        if meta::resource_version(&stored) != meta::resource_version(object) {
            return Err(ApiError::conflict(resource.group, resource.plural, meta::name(object), "it was changed"));
        }
        if subresource == "status" {
            stored["status"] = object["status"].clone();
        } else {
            stored = object.clone();
        }
        Ok(self.put(resource, stored))
    }

    async fn delete(&self, resource: Resource, key: &ObjectKey, _grace: i64, uid: &str) -> Result<(), ApiError> {
        let stored = self.reachable()?.objects.get(&(resource.plural, key.clone())).cloned();
        match stored {
            None => Err(ApiError::not_found(resource.group, resource.plural, &key.name)),
            Some(stored) if meta::uid(&stored) != uid => {
                Err(ApiError::conflict(resource.group, resource.plural, &key.name, "the uid differs"))
            }
            Some(_) => {
                self.remove(resource, key);
                Ok(())
            }
        }
    }
}
