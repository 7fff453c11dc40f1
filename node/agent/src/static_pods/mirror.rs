//! Mirrors: objects at the server that show this node's static pods to everybody else. What a mirror says is never
//! acted on; one that is deleted comes back, and one that shows nothing is removed.

use crate::{
    events::{Recorder, Severity},
    link::{Link, NODES, PODS},
    pod::manager::Registry,
    reports::{Report, Reports},
    retry::Reconnect,
};
use coracle_objects::{
    ApiError, ObjectKey, Reason, meta, nodes,
    static_pods::{HASH_ANNOTATION, MIRROR_ANNOTATION},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

#[derive(Default)]
struct State {
    /// The static pods.
    wanted: BTreeMap<ObjectKey, Arc<Value>>,
    /// The mirrors; unknown until the first listing.
    there: Option<BTreeMap<ObjectKey, Arc<Value>>>,
    /// Mirrors of which others have said that their node is not ready.
    marked: BTreeSet<ObjectKey>,
}

/// What has to be done at the server.
#[derive(Debug, Clone, PartialEq)]
enum Action {
    Create(Arc<Value>),
    Delete(Arc<Value>),
    /// Its mirror is to say again what is so of this pod.
    Retell(Arc<Value>),
}

impl State {
    /// A mirror that shows nothing, shows what was before, or is being deleted goes; then what is missing is made.
    fn plan(&self) -> Vec<Action> {
        let Some(there) = &self.there else { return Vec::new() };
        let shows = |mirror: &Value, pod: &Arc<Value>| {
            meta::annotation(mirror, MIRROR_ANNOTATION) == Some(meta::uid(pod)) && !meta::is_terminating(mirror)
        };
        let stale = there.iter().filter(|(key, mirror)| !self.wanted.get(*key).is_some_and(|pod| shows(mirror, pod)));
        let missing = self.wanted.iter().filter(|(key, _)| !there.contains_key(*key));
        let stale = stale.map(|(_, mirror)| Action::Delete(mirror.clone()));
        let missing = missing.map(|(_, pod)| Action::Create(pod.clone()));
        let marked = self.marked.iter().filter_map(|key| self.wanted.get(key));
        stale.chain(missing).chain(marked.map(|pod| Action::Retell(pod.clone()))).collect()
    }

    fn note_mark(&mut self, key: ObjectKey, mirror: &Value) {
        if nodes::is_pod_marked(mirror) {
            self.marked.insert(key);
        } else {
            self.marked.remove(&key);
        }
    }
}

/// What is wanted and what is there; see the module.
#[derive(Default)]
pub(crate) struct Mirrors {
    state: Mutex<State>,
    changed: Notify,
}

impl Mirrors {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    /// The static pods of this node are these.
    pub(crate) fn want(&self, pods: &[Arc<Value>]) {
        let wanted = pods.iter().map(|pod| (meta::key(pod), pod.clone())).collect();
        self.change(|state| state.wanted = wanted);
    }

    /// The server has these mirrors and no others.
    pub(crate) fn replace(&self, mirrors: Vec<Value>) {
        let there: BTreeMap<_, _> = mirrors.into_iter().map(|mirror| (meta::key(&mirror), Arc::new(mirror))).collect();
        self.change(|state| {
            state.marked.clear();
            for (key, mirror) in &there {
                state.note_mark(key.clone(), mirror);
            }
            state.there = Some(there);
        });
    }

    /// The server has this mirror.
    pub(crate) fn apply(&self, mirror: Value) {
        self.change(|state| {
            state.note_mark(meta::key(&mirror), &mirror);
            if let Some(there) = &mut state.there {
                there.insert(meta::key(&mirror), Arc::new(mirror));
            }
        });
    }

    /// The server has the mirror with this uid no more, if it was one.
    pub(crate) fn gone(&self, key: &ObjectKey, uid: &str) {
        self.change(|state| {
            if let Some(there) = &mut state.there
                && there.get(key).is_some_and(|known| meta::uid(known) == uid)
            {
                there.remove(key);
                state.marked.remove(key);
            }
        });
    }
}

/// Keeps the server's mirrors what they should be.
pub(crate) struct Keeper {
    pub(crate) mirrors: Arc<Mirrors>,
    pub(crate) link: Arc<dyn Link>,
    pub(crate) node: String,
    pub(crate) registry: Registry,
    pub(crate) reports: Arc<Reports>,
    pub(crate) recorder: Recorder,
}

impl Keeper {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&self) {
        let mut reconnect = Reconnect::new();
        loop {
            let plan = self.mirrors.state.lock().unwrap_or_else(PoisonError::into_inner).plan();
            if plan.is_empty() {
                reconnect.reset();
                self.mirrors.changed.notified().await;
                continue;
            }
            let mut failed = false;
            for action in plan {
                let Err((pod, error)) = self.act(action).await else { continue };
                failed = true;
                if reconnect.is_first() {
                    warn!(pod = meta::name(&pod), %error, "cannot bring the mirror of a static pod up to date");
                    let message = format!("Error: cannot bring its mirror up to date: {error}");
                    self.recorder.record(&pod, "", Severity::Warning, "FailedMirrorPod", &message);
                }
            }
            if failed {
                tokio::time::sleep(reconnect.delay()).await;
            }
        }
    }

    async fn act(&self, action: Action) -> Result<(), (Arc<Value>, ApiError)> {
        match action {
            Action::Delete(mirror) => match self.link.delete(PODS, &meta::key(&mirror), 0, meta::uid(&mirror)).await {
                Err(error) if !matches!(error.reason, Reason::NotFound | Reason::Conflict) => {
                    return Err((mirror, error));
                }
                _ => self.mirrors.gone(&meta::key(&mirror), meta::uid(&mirror)),
            },
            Action::Create(pod) => {
                let created = self.create(&pod).await.map_err(|error| (pod.clone(), error))?;
                self.mirrors.apply(created);
                // Its status may have been reported while there was nobody to hear of it.
                self.tell(&pod);
            }
            Action::Retell(pod) => {
                self.mirrors.state.lock().unwrap_or_else(PoisonError::into_inner).marked.remove(&meta::key(&pod));
                self.tell(&pod);
            }
        }
        Ok(())
    }

    /// Reports what is so of a static pod.
    fn tell(&self, pod: &Value) {
        if let Some(pod) = self.registry.find(meta::uid(pod), "", "") {
            let status = pod["status"].clone();
            self.reports.submit(Report { pod, status, then_delete: false });
        }
    }

    async fn create(&self, pod: &Value) -> Result<Value, ApiError> {
        let node = self.link.get(NODES, &ObjectKey::cluster(&self.node)).await?;
        self.link.create(PODS, &mirror(pod, meta::uid(&node), &self.node)).await
    }
}

/// The mirror of a static pod: the same without what only the server gives, owned by the node.
fn mirror(pod: &Value, node_uid: &str, node: &str) -> Value {
    let mut mirror = pod.clone();
    let hash = meta::annotation(pod, HASH_ANNOTATION).unwrap_or_default();
    mirror["metadata"]["annotations"][MIRROR_ANNOTATION] = hash.into();
    mirror["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid, "controller": true}]);
    if let Some(metadata) = mirror["metadata"].as_object_mut() {
        metadata.shift_remove("uid");
    }
    if let Some(mirror) = mirror.as_object_mut() {
        mirror.shift_remove("status");
    }
    mirror
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeLink;

    fn pod(name: &str, uid: &str) -> Arc<Value> {
        Arc::new(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "default", "name": name, "uid": uid, "annotations": {HASH_ANNOTATION: uid}},
            "spec": {"nodeName": "n"}, "status": {"phase": "Running"},
        }))
    }

    #[test]
    fn what_is_stale_goes_before_what_is_missing_comes() {
        let wanted = [pod("a", "1"), pod("b", "2"), pod("c", "3")].map(|pod| (meta::key(&pod), pod)).into();
        let mut state = State { wanted, ..State::default() };
        assert!(state.plan().is_empty(), "what is there is not known yet");
        let mut ending = mirror(&pod("c", "3"), "u", "n");
        ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let there = [mirror(&pod("a", "1"), "u", "n"), mirror(&pod("b", "old"), "u", "n"), ending];
        state.there = Some(there.iter().map(|one| (meta::key(one), Arc::new(one.clone()))).collect());
        let deleted = |action: &Action| matches!(action, Action::Delete(_));
        assert_eq!(state.plan().iter().map(deleted).collect::<Vec<_>>(), [true, true]);
        state.there = Some([(meta::key(&there[0]), Arc::new(there[0].clone()))].into());
        assert_eq!(state.plan(), [Action::Create(pod("b", "2")), Action::Create(pod("c", "3"))]);
        let mut marked = there[0].clone();
        marked["status"]["conditions"] = json!([{"type": "Ready", "reason": nodes::POD_MARK_REASON}]);
        state.note_mark(meta::key(&marked), &marked);
        assert_eq!(state.plan().last(), Some(&Action::Retell(pod("a", "1"))));
        state.note_mark(meta::key(&marked), &there[0]);
        state.wanted.clear();
        assert_eq!(state.plan(), [Action::Delete(Arc::new(there[0].clone()))]);
    }

    #[tokio::test]
    async fn mirrors_come_back_and_go_with_their_pods() {
        let link = FakeLink::new();
        link.put(NODES, json!({"metadata": {"name": "n", "uid": "node-uid"}}));
        let (recorder, _writer) = Recorder::new(link.clone(), "n");
        let mirrors = Arc::new(Mirrors::default());
        let keeper = Keeper {
            mirrors: mirrors.clone(),
            link: link.clone(),
            node: "n".to_owned(),
            registry: Registry::default(),
            reports: Reports::new(link.clone()),
            recorder,
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(keeper.run(stop.clone()));
        let key = ObjectKey::namespaced("default", "web-n");
        mirrors.want(&[pod("web-n", "1")]);
        mirrors.replace(Vec::new());
        link.wait("the mirror", |link| link.stored(PODS, &key).is_some()).await;
        let stored = link.stored(PODS, &key).unwrap();
        assert_eq!(meta::annotation(&stored, MIRROR_ANNOTATION), Some("1"));
        assert_eq!(stored["metadata"]["ownerReferences"][0]["uid"], "node-uid");
        assert!(stored["status"].is_null());

        link.remove(PODS, &key);
        mirrors.gone(&meta::key(&stored), meta::uid(&stored));
        link.wait("the mirror again", |link| link.stored(PODS, &key).is_some()).await;
        mirrors.want(&[]);
        link.wait("no mirror", |link| link.stored(PODS, &key).is_none()).await;
        stop.cancel();
        task.await.unwrap();
    }
}
