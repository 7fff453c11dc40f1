//! Which pods this node has: gives each its owner task, tells it what is desired, and removes what it left when it is
//! gone.

use crate::{
    context::Context,
    ledger::{Entry, is_file_name},
    pod::{
        admission::{Admission, Refusal},
        restore, spec,
        status::PREEMPTED,
        volumes,
        worker::{Desired, Outcome, Place, Worker, ending::Eviction},
    },
    reflector::Sink,
    static_pods::{manifest::is_static_uid, mirror::Mirrors},
};
use coracle_objects::{ObjectKey, meta, static_pods::is_mirror};
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tracing::{debug, info, warn};

/// How often it is tried to remove what a pod left, and the time in between.
const CLEAN_UP_TRIES: usize = 5;
const CLEAN_UP_RETRY: Duration = Duration::from_secs(2);

/// Grace of a pod that makes room for one that the node needs.
const YIELD_GRACE: Duration = Duration::from_secs(1);

/// A pod with its owner task.
struct Handle {
    desired: watch::Sender<Desired>,
    view: watch::Receiver<Arc<Value>>,
    evicted: Arc<OnceLock<Eviction>>,
    /// What writes below the pod's directory.
    disk: TaskTracker,
}

/// The pods of this node as others in the agent see them.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    handles: Arc<Mutex<HashMap<String, Handle>>>,
    /// Pods of an earlier agent that nobody has spoken of yet.
    remembered: Arc<Mutex<HashMap<String, Entry>>>,
}

impl Registry {
    fn handles(&self) -> std::sync::MutexGuard<'_, HashMap<String, Handle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All pods with their newest statuses, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Value>> {
        self.handles().values().map(|handle| handle.view.borrow().clone()).collect()
    }

    /// All pods that run here or may yet, those included that only the ledger knows, in no order.
    pub(crate) fn known(&self) -> Vec<Arc<Value>> {
        // What gets its owner task is in one of them all the time.
        let handles = self.handles();
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered = remembered.values().map(|entry| entry.pod.clone());
        handles.values().map(|handle| handle.view.borrow().clone()).chain(remembered).collect()
    }

    /// A pod with its newest status: by uid, or by name where the uid is empty.
    pub(crate) fn find(&self, uid: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let handles = self.handles();
        if !uid.is_empty()
            && let Some(handle) = handles.get(uid)
        {
            return Some(handle.view.borrow().clone());
        }
        // The server knows a static pod by the uid of its mirror.
        let mut named = handles.iter().filter(|(own, _)| uid.is_empty() || is_static_uid(own));
        named.find_map(|(_, handle)| {
            let pod = handle.view.borrow();
            (meta::namespace(&pod) == namespace && meta::name(&pod) == name).then(|| pod.clone())
        })
    }
}

impl Registry {
    /// To be held by whoever writes into a pod's volumes: they are not removed meanwhile. `None` where they are already.
    pub(crate) fn writing(&self, uid: &str) -> Option<TaskTrackerToken> {
        self.handles().get(uid).map(|handle| handle.disk.token())
    }

    /// Has a pod end to give its node room: it fails with the reason `Evicted` and stays so. Only the first word counts.
    /// Whether there is such a pod.
    pub(crate) fn evict(&self, uid: &str, eviction: Eviction) -> bool {
        let handles = self.handles();
        let Some(handle) = handles.get(uid) else { return false };
        // Its owner looks again, and finds this.
        if handle.evicted.set(eviction).is_ok() {
            handle.desired.send_modify(|_| ());
        }
        true
    }

    /// Waits until a pod has ended for good, or is gone.
    pub(crate) async fn ended(&self, uid: &str) {
        let view = self.handles().get(uid).map(|handle| handle.view.clone());
        if let Some(mut view) = view {
            // A view that nobody writes any more is that of a pod that is gone.
            let _ = view.wait_for(|pod| spec::is_finished(pod)).await;
        }
    }
}

/// See the module.
pub(crate) struct Manager {
    context: Arc<Context>,
    registry: Registry,
    ledger: Arc<Mutex<HashMap<String, Entry>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    ready: watch::Sender<bool>,
    mirrors: Arc<Mirrors>,
    statics_known: watch::Sender<bool>,
}

impl Manager {
    /// `entries` are what the ledger remembers; nothing runs before the first listing or [`Self::run_remembered`].
    /// `ready` turns true with the first listing; `stop` ends all pods.
    pub(crate) fn new(
        context: Arc<Context>,
        entries: Vec<Entry>,
        stop: CancellationToken,
        ready: watch::Sender<bool>,
    ) -> Self {
        // Before any pod gets an address or is taken on, lest a new one gets what a remembered one has.
        for entry in entries.iter().filter(|entry| !spec::is_finished(&entry.pod)) {
            context.room.count(&entry.pod);
            if let Some(address) = entry.address {
                context.network.addresses.reserve(entry.uid(), address);
            }
        }
        let entries = entries.into_iter().map(|entry| (entry.uid().to_owned(), entry)).collect();
        let ledger = Arc::new(Mutex::new(entries));
        let registry = Registry { handles: Arc::default(), remembered: ledger.clone() };
        let (tasks, mirrors) = (TaskTracker::new(), Arc::default());
        let statics_known = watch::Sender::new(false);
        Self { context, registry, ledger, tasks, stop, ready, mirrors, statics_known }
    }

    /// The pods as others see them.
    pub(crate) fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// The owner tasks, to wait for.
    pub(crate) fn tasks(&self) -> TaskTracker {
        self.tasks.clone()
    }

    /// Another view of the same pods, for a task that runs [`Self::run_remembered`].
    pub(crate) fn share(&self) -> Self {
        Self {
            context: self.context.clone(),
            registry: self.registry.clone(),
            ledger: self.ledger.clone(),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
            ready: self.ready.clone(),
            mirrors: self.mirrors.clone(),
            statics_known: self.statics_known.clone(),
        }
    }

    /// Turns true with the first [`Self::set_static`].
    pub(crate) fn statics_known(&self) -> watch::Receiver<bool> {
        self.statics_known.subscribe()
    }

    /// What the server shows of this node's static pods.
    pub(crate) fn mirrors(&self) -> Arc<Mirrors> {
        self.mirrors.clone()
    }

    /// The static pods of this node are these. One that takes the name of another begins when that has ended.
    pub(crate) fn set_static(&self, pods: &[Arc<Value>]) {
        let wanted: HashSet<&str> = pods.iter().map(|pod| meta::uid(pod)).collect();
        let known: Vec<String> = self.registry.handles().keys().filter(|uid| is_static_uid(uid)).cloned().collect();
        known.iter().filter(|uid| !wanted.contains(uid.as_str())).for_each(|uid| self.gone(uid));
        for pod in pods {
            let (uid, key) = (meta::uid(pod), meta::key(pod));
            let begins = {
                let handles = self.registry.handles();
                !handles.contains_key(uid) && handles.values().all(|other| meta::key(&other.view.borrow()) != key)
            };
            if begins && !self.waits_for_room(pod) {
                self.upsert(pod);
            }
        }
        // Only the ledger remembers these: their files went while this agent was away.
        let left: Vec<Entry> = {
            let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger
                .extract_if(|uid, _| is_static_uid(uid) && !wanted.contains(uid.as_str()))
                .map(|(_, one)| one)
                .collect()
        };
        for entry in left {
            self.context.room.leave(entry.uid());
            self.tasks.spawn(clean_up(self.context.clone(), entry.pod));
        }
        self.statics_known.send_if_modified(|known| !std::mem::replace(known, true));
    }

    /// Whether a static pod does not fit beside pods of which only the ledger knows yet: they may have been deleted.
    fn waits_for_room(&self, pod: &Value) -> bool {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let is_open = ledger.keys().any(|uid| !is_static_uid(uid));
        is_open && !ledger.contains_key(meta::uid(pod)) && !self.context.room.fits(pod)
    }

    /// Runs the pods that the ledger remembers although the control plane has not confirmed them.
    pub(crate) fn run_remembered(&self) {
        let entries: Vec<Entry> =
            self.ledger.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let entries: Vec<Entry> = entries.into_iter().filter(|entry| !is_static_uid(entry.uid())).collect();
        if !entries.is_empty() {
            info!(pods = entries.len(), "the control plane is away: running the pods that the ledger remembers");
        }
        for entry in entries {
            self.upsert(&entry.pod);
        }
    }

    fn upsert(&self, pod: &Arc<Value>) {
        let uid = meta::uid(pod).to_owned();
        let mut handles = self.registry.handles();
        if let Some(handle) = handles.get(&uid) {
            handle.desired.send_replace(Desired::Present(pod.clone()));
            return;
        }
        if self.stop.is_cancelled() {
            return;
        }
        let entry = self.ledger.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
        let (desired, wanted) = watch::channel(Desired::Present(pod.clone()));
        let (view, seen) = watch::channel(pod.clone());
        let (evicted, disk): (Arc<OnceLock<Eviction>>, _) = (Arc::default(), TaskTracker::new());
        let (refusal, yielding) = self.admit(pod, entry.as_ref());
        let place = Place { entry: entry.as_ref(), disk: disk.clone() };
        let mut worker = Worker::new(self.context.clone(), pod.clone(), place, wanted, view, evicted.clone());
        if let Some(refusal) = refusal {
            worker.refuse(refusal);
        }
        handles.insert(uid.clone(), Handle { desired, view: seen, evicted, disk: disk.clone() });
        drop(handles);
        for uid in yielding {
            let message = "Preempted in order to admit critical pod".to_owned();
            self.registry.evict(&uid, Eviction { reason: PREEMPTED, message, grace: YIELD_GRACE });
        }
        let (context, registry, stop) = (self.context.clone(), self.registry.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            if worker.run(stop).await == Outcome::Gone {
                let last = registry.handles().remove(&uid).map(|handle| handle.view.borrow().clone());
                // What was given up may still be at it.
                disk.close();
                disk.wait().await;
                if let Some(pod) = last {
                    clean_up(context, pod).await;
                }
            }
        });
    }

    /// Takes a new pod on, or answers why not, and who has to go for it. One that ran here already stays.
    fn admit(&self, pod: &Value, entry: Option<&Entry>) -> (Option<Refusal>, Vec<String>) {
        if spec::is_finished(pod) {
            return (None, Vec::new());
        }
        if entry.is_some() || meta::is_terminating(pod) || restore::has_run(pod) {
            self.context.room.count(pod);
            return (None, Vec::new());
        }
        match self.context.room.admit(pod, *self.context.pressure.borrow()) {
            Admission::Taken => (None, Vec::new()),
            Admission::TakenFor(yielding) => (None, yielding),
            Admission::Refused(refusal) => (Some(refusal), Vec::new()),
        }
    }

    /// Removes what is left of pods that neither the control plane nor the ledger knows: they were deleted while their
    /// entry was not written yet, or could not be read. Looks at once, so that no pod that comes later is met.
    fn sweep(&self, listed: &HashSet<String>) {
        let mut known: HashSet<String> = self.registry.handles().keys().cloned().collect();
        known.extend(self.ledger.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned());
        known.extend(listed.iter().cloned());
        let mut orphans: Vec<PathBuf> = self.context.logs.orphans(&known);
        let mut stays = Vec::new();
        for (namespace_uid, home) in self.context.homes.all() {
            stays.push(self.context.homes.stay(&namespace_uid));
            let volumes = children(&home.join("volumes"));
            orphans.extend(
                volumes.into_iter().filter(|path| {
                    path.file_name().and_then(|name| name.to_str()).is_none_or(|uid| !known.contains(uid))
                }),
            );
        }
        let unreadable: Vec<String> =
            self.context.ledger.unreadable().into_iter().filter(|uid| !known.contains(uid)).collect();
        if orphans.is_empty() && unreadable.is_empty() {
            return;
        }
        info!(directories = orphans.len(), entries = unreadable.len(), "removing what pods left that are gone");
        let context = self.context.clone();
        self.tasks.spawn_blocking(move || {
            let directories = orphans.iter().map(|path| volumes::in_memory::remove_pod(path));
            for error in
                directories.chain(unreadable.iter().map(|uid| context.ledger.remove(uid))).filter_map(Result::err)
            {
                warn!(%error, "cannot remove what a pod left");
            }
            drop(stays);
        });
    }

    fn gone(&self, uid: &str) {
        // The server counts it no more, and may have bound others in its place.
        self.context.room.leave(uid);
        if let Some(handle) = self.registry.handles().get(uid) {
            handle.desired.send_replace(Desired::Gone);
        }
    }
}

impl Sink for Manager {
    fn replace(&mut self, objects: Vec<Value>) {
        let (mirrors, objects): (Vec<Value>, Vec<Value>) = objects.into_iter().partition(is_mirror);
        self.mirrors.replace(mirrors);
        let listed: HashSet<String> = objects.iter().map(|pod| meta::uid(pod).to_owned()).collect();
        // First who is gone, then who was here, then who is new: none of these is counted against one before it.
        let mut unlisted: Vec<String> = self.registry.handles().keys().cloned().collect();
        unlisted.extend(self.ledger.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned());
        unlisted.retain(|uid| !is_static_uid(uid) && !listed.contains(uid));
        for uid in &unlisted {
            self.gone(uid);
        }
        let mut objects = objects;
        objects.sort_by_cached_key(|pod| {
            let created = spec::text(&pod["metadata"], "creationTimestamp").to_owned();
            (!restore::has_run(pod), created, meta::key(pod))
        });
        for pod in objects {
            self.upsert(&Arc::new(pod));
        }
        if !*self.ready.borrow() {
            self.sweep(&listed);
        }
        // What the ledger alone remembers was deleted while this agent was away.
        let left: Vec<Entry> = {
            let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.extract_if(|uid, _| !is_static_uid(uid)).map(|(_, entry)| entry).collect()
        };
        for entry in left {
            self.tasks.spawn(clean_up(self.context.clone(), entry.pod));
        }
        self.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
    }

    fn apply(&mut self, object: Value) {
        if is_mirror(&object) { self.mirrors.apply(object) } else { self.upsert(&Arc::new(object)) }
    }

    fn delete(&mut self, key: &ObjectKey, uid: &str) {
        // It was one of the two.
        self.mirrors.gone(key, uid);
        self.gone(uid);
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Removes what a pod left: volumes in whichever namespace directory, logs, ledger entry. A run that was given up may
/// still write there, so what cannot be removed is tried again.
async fn clean_up(context: Arc<Context>, pod: Arc<Value>) {
    context.reports.forget(meta::uid(&pod));
    context.network.detach(meta::uid(&pod));
    for tries_left in (0..CLEAN_UP_TRIES).rev() {
        let (inner, gone) = (context.clone(), pod.clone());
        let removed = tokio::task::spawn_blocking(move || remove_traces(&inner, &gone)).await;
        match removed.unwrap_or_else(|_| Err(io::Error::other("it was interrupted"))) {
            Ok(()) => return,
            Err(error) if tries_left == 0 => {
                return warn!(pod = meta::name(&pod), %error, "cannot remove what a pod left; the next agent will try");
            }
            Err(error) => debug!(pod = meta::name(&pod), %error, "cannot yet remove what a pod left"),
        }
        context.pace.sleep(CLEAN_UP_RETRY).await;
    }
}

fn remove_traces(context: &Context, pod: &Value) -> io::Result<()> {
    let uid = meta::uid(pod);
    let mut result = context.logs.remove(pod);
    if is_file_name(uid) {
        for (namespace_uid, home) in context.homes.all() {
            let volumes = home.join("volumes").join(uid);
            if volumes.exists() {
                // So that the home is looked at again when this is gone.
                let _stay = context.homes.stay(&namespace_uid);
                result = result.and(volumes::in_memory::remove_pod(&volumes));
            }
        }
    }
    // Last, and only then, so that a crash or a failure leaves something to begin the cleaning anew from.
    result.and_then(|()| context.ledger.remove(uid))
}

#[cfg(test)]
#[path = "manager_tests.rs"]
pub(crate) mod tests;
