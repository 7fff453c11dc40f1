//! Who is told what: the shared part of all views, which pod is where, what pods name, and what went lately. Each event is
//! decoded and encoded once, however many nodes are told of it. Does no I/O but reads of the store in memory.

use super::{
    batch::{Batch, Change},
    part::{Part, named_by},
};
use bytes::Bytes;
use coracle_store::{Entry, EventKind, Key, ReadError, Revision, Store, StoreEvent};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry as Slot},
    sync::Arc,
};
use tokio::sync::Notify;

/// Objects that went and are remembered, for nodes that come back.
const GONE_MAX: usize = 100_000;
/// Objects that may go while a node does not read what it is told. With more its stream ends; it goes on from where it is
/// when it reads again.
const GONE_UNREAD_MAX: usize = 100_000;
/// The namespace whose uid names the store's history: it is made with the first server and never goes.
const HISTORY_NAMESPACE: &str = "kube-system";

/// See the module.
pub(super) struct State {
    /// All changes up to here are in it.
    revision: Revision,
    /// Of shared kinds, what nodes are told, and since when it is so.
    shared: BTreeMap<Key, (Revision, Bytes)>,
    /// Pods that have a node.
    pods: HashMap<Key, Bound>,
    by_node: HashMap<Arc<str>, BTreeSet<Key>>,
    /// Config maps and secrets that pods name, there or not: how many pods on which nodes.
    named: HashMap<Key, HashMap<Arc<str>, usize>>,
    /// What went after `gone_after`, by when.
    gone: BTreeMap<(Revision, Key), Gone>,
    gone_after: Revision,
    followers: HashMap<Arc<str>, Follower>,
}

/// A pod on a node.
struct Bound {
    uid: String,
    node: Arc<str>,
    revision: Revision,
    names: Vec<Key>,
}

/// What went, as far as not every node is to know.
#[derive(Clone)]
enum Gone {
    /// An object of a shared kind, a config map or a secret.
    Object,
    /// A pod of a node, and what it named.
    Pod { uid: String, node: Arc<str>, names: Vec<Key> },
}

/// What a node knows that comes back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// Everything up to here …
    pub(super) revision: Revision,
    /// … but its pods.
    pub(super) without_pods: bool,
}

/// A stream to a node.
struct Follower {
    generation: u64,
    batch: Batch,
    /// What may be gone in the batch: it may have begun with much.
    gone_max: usize,
    told: Revision,
    wake: Arc<Notify>,
}

/// What a stream takes.
pub(super) struct Taken {
    pub(super) batch: Batch,
    pub(super) revision: Revision,
    /// How far the node had been told.
    pub(super) told: Revision,
}

/// What is looked at in every pod.
#[derive(Deserialize)]
struct PodHead<'a> {
    #[serde(borrow)]
    metadata: PodMetadata<'a>,
    #[serde(borrow)]
    spec: PodSpec<'a>,
}

#[derive(Deserialize)]
struct PodMetadata<'a> {
    #[serde(default)]
    uid: &'a str,
}

#[derive(Deserialize)]
struct PodSpec<'a> {
    #[serde(rename = "nodeName", default)]
    node_name: &'a str,
}

impl State {
    /// Reads everything as it is at one revision.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn read(store: &Store) -> Result<Self, ReadError> {
        let revision = store.revision();
        let mut state = Self {
            revision,
            shared: BTreeMap::new(),
            pods: HashMap::new(),
            by_node: HashMap::new(),
            named: HashMap::new(),
            gone: BTreeMap::new(),
            gone_after: revision,
            followers: HashMap::new(),
        };
        for part in Part::ALL.into_iter().filter(|part| part.is_shared() || *part == Part::Pods) {
            for entry in store.list(part.prefix(), None, 0, Some(revision))?.entries {
                if part == Part::Pods {
                    state.bind(&entry);
                } else if let Some(told) = told(part, &entry) {
                    state.shared.insert(entry.key, (entry.revision, told));
                }
            }
        }
        Ok(state)
    }

    /// All changes up to here are in it.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// From which revision on everything that went is known.
    pub(super) fn gone_after(&self) -> Revision {
        self.gone_after
    }

    /// In which history revisions count; "" before the cluster has begun.
    pub(super) fn history(&self) -> String {
        let key = Key::object("", "namespaces", "", HISTORY_NAMESPACE);
        let namespace = self.shared.get(&key).and_then(|(_, bytes)| serde_json::from_slice::<Value>(bytes).ok());
        namespace.and_then(|namespace| namespace["metadata"]["uid"].as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Nothing that nodes are told of happened up to `revision`.
    pub(super) fn progressed(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    /// One change, in order.
    pub(super) fn apply(&mut self, event: &StoreEvent, store: &Store) {
        let entry = &event.entry;
        self.progressed(entry.revision);
        let Some(part) = Part::of(&entry.key) else { return };
        let is_gone = event.kind == EventKind::Deleted;
        match part {
            Part::Pods => self.pod_changed(entry, is_gone, store),
            Part::ConfigMaps | Part::Secrets => {
                let Some(nodes) = self.named.get(&entry.key) else {
                    if is_gone {
                        self.remember(entry, Gone::Object);
                    }
                    return;
                };
                let change = if is_gone { Some(Change::Gone) } else { told(part, entry).map(Change::Put) };
                let Some(change) = change else { return };
                for (name, follower) in &mut self.followers {
                    if nodes.contains_key(name) {
                        follower.batch.note(part, &entry.key, change.clone());
                        follower.wake.notify_one();
                    }
                }
                if is_gone {
                    self.remember(entry, Gone::Object);
                }
            }
            _ => self.shared_changed(part, entry, is_gone),
        }
        if is_gone {
            self.dismiss_overrun();
        }
    }

    /// Ends the streams of nodes that do not read, for which too much would have to be kept.
    fn dismiss_overrun(&mut self) {
        self.followers.retain(|node, follower| {
            let keeps_up = follower.batch.gone() <= follower.gone_max;
            if !keeps_up {
                tracing::warn!(%node, "a node does not read what it is told; its stream ends");
                follower.wake.notify_one();
            }
            keeps_up
        });
    }

    fn shared_changed(&mut self, part: Part, entry: &Entry, is_gone: bool) {
        let change = if is_gone {
            self.shared.remove(&entry.key);
            self.remember(entry, Gone::Object);
            Change::Gone
        } else {
            let Some(told) = told(part, entry) else { return };
            match self.shared.entry(entry.key.clone()) {
                Slot::Occupied(known) if known.get().1 == told => return,
                Slot::Occupied(mut known) => drop(known.insert((entry.revision, told.clone()))),
                Slot::Vacant(slot) => drop(slot.insert((entry.revision, told.clone()))),
            }
            Change::Put(told)
        };
        for follower in self.followers.values_mut() {
            follower.batch.note(part, &entry.key, change.clone());
            follower.wake.notify_one();
        }
    }

    fn pod_changed(&mut self, entry: &Entry, is_gone: bool, store: &Store) {
        if is_gone {
            if let Some(bound) = self.unbind(&entry.key) {
                if let Some(follower) = self.followers.get_mut(&bound.node) {
                    follower.batch.note_pod(&entry.key, &bound.uid, Change::Gone);
                    follower.wake.notify_one();
                }
                self.forget_names(&bound.node, &bound.names);
                let Bound { uid, node, names, .. } = bound;
                self.remember(entry, Gone::Pod { uid, node, names });
            }
            return;
        }
        let Some(added) = self.bind(entry) else { return };
        let Some(bound) = self.pods.get(&entry.key) else { return };
        let Some(follower) = self.followers.get_mut(&bound.node) else { return };
        for key in &added {
            note_named(&mut follower.batch, key, store, Revision(0));
        }
        follower.batch.note_pod(&entry.key, &bound.uid, Change::Put(entry.value.clone()));
        follower.wake.notify_one();
    }

    /// Notes a pod where it has a node; answers what it names, where it was not known.
    fn bind(&mut self, entry: &Entry) -> Option<Vec<Key>> {
        let head: PodHead<'_> = match serde_json::from_slice(&entry.value) {
            Ok(head) => head,
            Err(error) => {
                tracing::error!(key = entry.key.0, %error, "a stored pod cannot be read");
                return None;
            }
        };
        if head.spec.node_name.is_empty() {
            return None;
        }
        if let Some(bound) = self.pods.get_mut(&entry.key)
            && bound.uid == head.metadata.uid
        {
            bound.revision = entry.revision;
            return Some(Vec::new());
        }
        let names = serde_json::from_slice(&entry.value).map(|pod: Value| named_by(&pod)).unwrap_or_default();
        let known = self.by_node.get_key_value(head.spec.node_name).map(|(node, _)| Arc::clone(node));
        let node = known.unwrap_or_else(|| Arc::from(head.spec.node_name));
        self.by_node.entry(Arc::clone(&node)).or_default().insert(entry.key.clone());
        for key in &names {
            *self.named.entry(key.clone()).or_default().entry(Arc::clone(&node)).or_default() += 1;
        }
        let bound = Bound { uid: head.metadata.uid.to_owned(), node, revision: entry.revision, names: names.clone() };
        self.pods.insert(entry.key.clone(), bound);
        Some(names)
    }

    fn unbind(&mut self, key: &Key) -> Option<Bound> {
        let bound = self.pods.remove(key)?;
        if let Some(pods) = self.by_node.get_mut(&bound.node) {
            pods.remove(key);
            if pods.is_empty() {
                self.by_node.remove(&bound.node);
            }
        }
        for name in &bound.names {
            let Some(nodes) = self.named.get_mut(name) else { continue };
            if let Some(count) = nodes.get_mut(&bound.node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&bound.node);
                }
            }
            if nodes.is_empty() {
                self.named.remove(name);
            }
        }
        Some(bound)
    }

    /// A pod that named these is gone; what no other pod of the node names is not its business any more.
    fn forget_names(&mut self, node: &Arc<str>, names: &[Key]) {
        let Some(follower) = self.followers.get_mut(node) else { return };
        for key in names {
            if !self.named.get(key).is_some_and(|nodes| nodes.contains_key(node)) {
                note_gone(&mut follower.batch, key);
            }
        }
    }

    fn remember(&mut self, entry: &Entry, gone: Gone) {
        self.gone.insert((entry.revision, entry.key.clone()), gone);
        while self.gone.len() > GONE_MAX {
            let Some(((revision, _), _)) = self.gone.pop_first() else { return };
            self.gone_after = self.gone_after.max(revision);
        }
    }

    /// Takes over what history says went in the revisions behind `after` up to `to`. Where `to` is not far enough, since
    /// everything was read anew meanwhile or more was forgotten, nothing is known better than before.
    pub(super) fn recall(&mut self, after: Revision, to: Revision, events: &[Arc<StoreEvent>]) {
        if self.gone_after > to {
            return;
        }
        for event in events {
            let entry = &event.entry;
            if entry.revision > self.gone_after {
                continue;
            }
            let gone = match Part::of(&entry.key) {
                None => continue,
                Some(Part::Pods) => {
                    let Ok(pod) = serde_json::from_slice::<Value>(&entry.value) else { continue };
                    let Some(node) = pod["spec"]["nodeName"].as_str() else { continue };
                    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
                    Gone::Pod { uid, node: Arc::from(node), names: named_by(&pod) }
                }
                Some(_) => Gone::Object,
            };
            self.gone.insert((entry.revision, entry.key.clone()), gone);
        }
        self.gone_after = self.gone_after.min(after);
    }

    /// Begins a stream to `node`, which knows everything up to `from`, or nothing. An earlier stream ends.
    pub(super) fn join(&mut self, node: &str, from: Option<Known>, generation: u64, store: &Store) -> Arc<Notify> {
        let batch = match from {
            Some(from) => self.changes_since(node, from, store),
            None => self.everything(node, store),
        };
        let from = from.map(|from| from.revision);
        let wake = Arc::new(Notify::new());
        wake.notify_one();
        let told = from.unwrap_or_default();
        let gone_max = batch.gone() + GONE_UNREAD_MAX;
        let follower = Follower { generation, batch, gone_max, told, wake: Arc::clone(&wake) };
        if let Some(earlier) = self.followers.insert(Arc::from(node), follower) {
            earlier.wake.notify_one();
        }
        wake
    }

    fn everything(&self, node: &str, store: &Store) -> Batch {
        let mut batch = Batch::whole();
        for (key, (_, bytes)) in &self.shared {
            if let Some(part) = Part::of(key) {
                batch.note(part, key, Change::Put(bytes.clone()));
            }
        }
        let nothing = Known { revision: Revision(0), without_pods: true };
        self.own(node, nothing, store, &mut batch);
        batch
    }

    /// Pods of `node` that it does not know as they are, and what they name.
    fn own(&self, node: &str, from: Known, store: &Store, batch: &mut Batch) {
        for key in self.by_node.get(node).into_iter().flatten() {
            let Some(bound) = self.pods.get(key) else { continue };
            let is_new = bound.revision > from.revision;
            for name in &bound.names {
                note_named(batch, name, store, if is_new { Revision(0) } else { from.revision });
            }
            // One that went since, or has given its name to another, which may be another node's, is told with the event that
            // is on its way.
            if (is_new || from.without_pods)
                && let Ok(Some(entry)) = store.get(key)
                && serde_json::from_slice::<PodHead<'_>>(&entry.value).is_ok_and(|pod| pod.metadata.uid == bound.uid)
            {
                batch.note_pod(key, &bound.uid, Change::Put(entry.value));
            }
        }
    }

    fn changes_since(&self, node: &str, from: Known, store: &Store) -> Batch {
        let mut batch = Batch::default();
        if from.without_pods {
            batch.has_all_pods();
        }
        let after = from.revision;
        let is_named = |key: &Key| self.named.get(key).is_some_and(|nodes| nodes.contains_key(node));
        for ((_, key), gone) in self.gone.range((Revision(after.0 + 1), Key(String::new()))..) {
            match (Part::of(key), gone) {
                (Some(_), Gone::Pod { uid, node: of, names }) if &**of == node => {
                    batch.note_pod(key, uid, Change::Gone);
                    for name in names.iter().filter(|name| !is_named(name)) {
                        note_gone(&mut batch, name);
                    }
                }
                (Some(part), Gone::Object) if part.is_shared() || is_named(key) => {
                    batch.note(part, key, Change::Gone);
                }
                _ => {}
            }
        }
        // Behind what went: it may be there again.
        for (key, (revision, bytes)) in &self.shared {
            if *revision > after
                && let Some(part) = Part::of(key)
            {
                batch.note(part, key, Change::Put(bytes.clone()));
            }
        }
        self.own(node, from, store, &mut batch);
        batch
    }

    /// What `node` has to be told now; `None` when the stream of this generation is no longer its.
    pub(super) fn take(&mut self, node: &str, generation: u64) -> Option<Taken> {
        let follower = self.followers.get_mut(node).filter(|follower| follower.generation == generation)?;
        let taken = Taken { batch: std::mem::take(&mut follower.batch), revision: self.revision, told: follower.told };
        Some(taken)
    }

    /// The stream was told everything up to `revision`.
    pub(super) fn tell(&mut self, node: &str, generation: u64, revision: Revision) {
        if let Some(follower) = self.followers.get_mut(node).filter(|follower| follower.generation == generation) {
            follower.told = revision;
        }
    }

    /// Ends the stream of a generation.
    pub(super) fn leave(&mut self, node: &str, generation: u64) {
        if self.followers.get(node).is_some_and(|follower| follower.generation == generation) {
            self.followers.remove(node);
        }
    }

    /// Ends all streams: what they were told last is where they go on.
    pub(super) fn dismiss(&mut self) {
        for (_, follower) in self.followers.drain() {
            follower.wake.notify_one();
        }
    }
}

/// What nodes are told of an object; `None` when it cannot be read.
fn told(part: Part, entry: &Entry) -> Option<Bytes> {
    match serde_json::from_slice::<Value>(&entry.value) {
        Ok(object) => Some(Bytes::from(part.stripped(&object).to_string())),
        Err(error) => {
            tracing::error!(key = entry.key.0, %error, "a stored object cannot be read");
            None
        }
    }
}

/// Notes a config map or secret as it is, where it changed after `from`.
fn note_named(batch: &mut Batch, key: &Key, store: &Store, from: Revision) {
    let Some(part) = Part::of(key) else { return };
    if let Ok(Some(entry)) = store.get(key)
        && entry.revision > from
        && let Some(told) = told(part, &entry)
    {
        batch.note(part, key, Change::Put(told));
    }
}

fn note_gone(batch: &mut Batch, key: &Key) {
    if let Some(part) = Part::of(key) {
        batch.note(part, key, Change::Gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_goes_while_a_node_does_not_read_is_bounded_and_then_its_stream_ends() {
        let (door, _proposer) = crate::testing::door().await;
        let store = door.store();
        let mut state = State::read(store).unwrap();
        let slow = state.join("slow", None, 1, store);
        state.join("reads", None, 2, store);
        let begun = state.revision().0;
        let goes = |state: &mut State, number: usize| {
            let key = Key::object("", "services", "default", &format!("s{number}"));
            let revision = Revision(begun + 1 + u64::try_from(number).unwrap());
            let entry = Entry { key, value: Bytes::from_static(b"{}"), revision };
            state.apply(&StoreEvent { kind: EventKind::Deleted, entry, previous: None }, store);
        };
        for number in 0..GONE_UNREAD_MAX {
            goes(&mut state, number);
            if number % 1000 == 0 {
                assert!(state.take("reads", 2).is_some());
            }
        }
        assert_eq!(state.followers["slow"].batch.gone(), GONE_UNREAD_MAX, "all of it is kept up to the bound");
        slow.notified().await;
        goes(&mut state, GONE_UNREAD_MAX);
        slow.notified().await;
        assert!(state.take("slow", 1).is_none(), "the stream of who does not read ends");
        assert!(state.take("reads", 2).is_some(), "others go on");
        // Back, it goes on from where it is, also where all of that is new to it.
        let known = Known { revision: Revision(begun + 1), without_pods: false };
        state.join("slow", Some(known), 3, store);
        goes(&mut state, GONE_UNREAD_MAX + 1);
        let taken = state.take("slow", 3).unwrap();
        assert!(taken.batch.gone() >= GONE_UNREAD_MAX);
    }
}
