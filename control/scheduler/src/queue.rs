//! Who is next. Pure: time comes in as an argument.
//!
//! ```text
//!          upsert            take
//!  (new) ────────▶ Ready ─────────▶ Taken ──remove──▶ (gone)
//!                   ▲ ▲               │ park, retry
//!        timer ends │ │ wake, when    ▼
//!                   │ │ waited long  Parked ──wake, too early──▶ Delayed
//!                   │ └───────────────┘                            │
//!                   └──────────────────────────────────────────────┘
//! ```
//! Ready: may be taken. Taken: a decision or a binding is under way. Parked: fits nowhere; looked at again when the
//! cluster changes, or after [`PARKED_MAX`]. Delayed: looked at again when its back-off ends.

use crate::pod::PendingPod;
use coracle_client::backoff::BackoffPolicy;
use coracle_objects::ObjectKey;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

/// Between attempts for the same pod, as kube-scheduler has it.
const BACKOFF: BackoffPolicy = BackoffPolicy { first: Duration::from_secs(1), max: Duration::from_secs(10) };

/// Even when nothing seems to change, a pod is tried again after this time.
const PARKED_MAX: Duration = Duration::from_mins(5);

/// Priority first, then the order of arrival.
type Rank = (Reverse<i64>, u64);
/// When, then the order of arrival.
type Timer = (Duration, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Ready,
    Taken,
    Parked(Timer),
    Delayed(Timer),
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PendingPod>,
    /// Order of arrival.
    sequence: u64,
    failures: u32,
    /// Not before this moment.
    not_before: Duration,
    place: Place,
    /// Why it fits nowhere, as far as is known.
    message: Option<Arc<str>>,
}

impl Entry {
    fn rank(&self) -> Rank {
        (Reverse(self.pod.priority), self.sequence)
    }
}

/// All pods that wait for a node. Bounded by the number of pods in the cluster.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<ObjectKey, Entry>,
    ready: BTreeMap<Rank, ObjectKey>,
    timers: BTreeMap<Timer, ObjectKey>,
    parked: HashSet<ObjectKey>,
    sequence: u64,
}

impl Queue {
    /// Adds a pod, or notes that it changed: then it is tried again at once. One that is taken stays taken.
    pub fn upsert(&mut self, pod: PendingPod) {
        if let Some(entry) = self.entries.get_mut(&pod.key) {
            if *entry.pod == pod {
                return;
            }
            let key = pod.key.clone();
            if entry.place == Place::Taken {
                entry.pod = Arc::new(pod);
                return;
            }
            self.remove(&key);
            self.insert(pod);
        } else {
            self.insert(pod);
        }
    }

    fn insert(&mut self, pod: PendingPod) {
        self.sequence += 1;
        let key = pod.key.clone();
        let entry = Entry {
            pod: Arc::new(pod),
            sequence: self.sequence,
            failures: 0,
            not_before: Duration::ZERO,
            place: Place::Ready,
            message: None,
        };
        self.ready.insert(entry.rank(), key.clone());
        self.entries.insert(key, entry);
    }

    /// Forgets a pod.
    pub fn remove(&mut self, key: &ObjectKey) {
        self.leave(key);
        self.entries.remove(key);
    }

    /// Takes at most `count` pods, the most urgent first.
    pub fn take(&mut self, count: usize) -> Vec<Arc<PendingPod>> {
        let mut taken = Vec::new();
        while taken.len() < count
            && let Some((_, key)) = self.ready.pop_first()
        {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.place = Place::Taken;
                taken.push(Arc::clone(&entry.pod));
            }
        }
        taken
    }

    /// Puts a pod aside that fits nowhere.
    pub fn park(&mut self, key: &ObjectKey, message: &str, now: Duration) {
        self.put_aside(key, now, |entry| {
            entry.message = Some(message.into());
            Place::Parked((now + PARKED_MAX, entry.sequence))
        });
    }

    /// Has a pod tried again after a back-off, because its binding failed.
    pub fn retry(&mut self, key: &ObjectKey, now: Duration) {
        self.put_aside(key, now, |entry| Place::Delayed((entry.not_before, entry.sequence)));
    }

    fn put_aside(&mut self, key: &ObjectKey, now: Duration, place: impl FnOnce(&mut Entry) -> Place) {
        self.leave(key);
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.failures = entry.failures.saturating_add(1);
        entry.not_before = now + BACKOFF.delay(entry.failures);
        entry.place = place(entry);
        match entry.place {
            Place::Parked(timer) => {
                self.parked.insert(key.clone());
                self.timers.insert(timer, key.clone());
            }
            Place::Delayed(timer) => {
                self.timers.insert(timer, key.clone());
            }
            Place::Ready | Place::Taken => {}
        }
    }

    /// The cluster changed: what is parked may fit now.
    pub fn wake(&mut self, now: Duration) {
        for key in std::mem::take(&mut self.parked) {
            self.leave(&key);
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if entry.not_before <= now {
                self.make_ready(&key);
            } else {
                let timer = (entry.not_before, entry.sequence);
                entry.place = Place::Delayed(timer);
                self.timers.insert(timer, key);
            }
        }
    }

    /// Makes ready what has waited long enough.
    pub fn tick(&mut self, now: Duration) {
        while let Some(timer) = self.timers.first_entry().filter(|timer| timer.key().0 <= now) {
            let key = timer.remove();
            self.parked.remove(&key);
            self.make_ready(&key);
        }
    }

    /// When [`Queue::tick`] has something to do.
    #[must_use]
    pub fn next_tick(&self) -> Option<Duration> {
        self.timers.first_key_value().map(|(timer, _)| timer.0)
    }

    /// Whether a pod may be taken.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Why a pod fitted nowhere when it was last tried.
    #[must_use]
    pub fn message(&self, key: &ObjectKey) -> Option<&Arc<str>> {
        self.entries.get(key)?.message.as_ref()
    }

    /// Keys of all pods that wait.
    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.entries.keys()
    }

    fn make_ready(&mut self, key: &ObjectKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.place = Place::Ready;
            self.ready.insert(entry.rank(), key.clone());
        }
    }

    /// Takes a pod out of the order that it is in.
    fn leave(&mut self, key: &ObjectKey) {
        let Some(entry) = self.entries.get(key) else { return };
        match entry.place {
            Place::Ready => {
                self.ready.remove(&entry.rank());
            }
            Place::Parked(timer) | Place::Delayed(timer) => {
                self.timers.remove(&timer);
                self.parked.remove(key);
            }
            Place::Taken => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod_with(name: &str, spec: Value) -> PendingPod {
        let mut pod = json!({"metadata": {"namespace": "a", "name": name}});
        pod["spec"] = spec;
        PendingPod::of_pod(&pod)
    }

    fn pod(name: &str) -> PendingPod {
        pod_with(name, json!({}))
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::namespaced("a", name)
    }

    fn take(queue: &mut Queue) -> Vec<String> {
        queue.take(10).iter().map(|pod| pod.key.name.clone()).collect()
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn priority_first_then_arrival() {
        let mut queue = Queue::default();
        queue.upsert(pod("first"));
        queue.upsert(pod("second"));
        queue.upsert(pod_with("urgent", json!({"priority": 1000})));
        queue.upsert(pod("first"));
        assert_eq!(queue.take(1)[0].key, key("urgent"));
        assert_eq!(take(&mut queue), ["first", "second"]);
        assert!(take(&mut queue).is_empty() && !queue.has_ready());
    }

    #[test]
    fn a_parked_pod_wakes_with_the_cluster_but_not_before_its_back_off() {
        let mut queue = Queue::default();
        queue.upsert(pod("p"));
        // Back-offs of 1, 2, 4, 8, 10, 10 seconds.
        let mut now = Duration::ZERO;
        for wait in [1, 2, 4, 8, 10, 10] {
            assert_eq!(take(&mut queue), ["p"], "at {now:?}");
            queue.park(&key("p"), "nothing fits", now);
            queue.tick(now + seconds(wait));
            assert!(!queue.has_ready(), "it stays parked while nothing changes");
            queue.wake(now);
            assert_eq!(queue.next_tick(), Some(now + seconds(wait)));
            now += seconds(wait);
            queue.tick(now);
        }
        assert_eq!(take(&mut queue), ["p"]);
        queue.park(&key("p"), "nothing fits", now);
        queue.wake(now + seconds(10));
        assert_eq!(take(&mut queue), ["p"], "late enough to be tried at once");
        assert_eq!(queue.message(&key("p")).map(|message| &**message), Some("nothing fits"));
    }

    #[test]
    fn a_parked_pod_is_tried_again_in_the_end() {
        let mut queue = Queue::default();
        queue.upsert(pod("p"));
        queue.take(1);
        queue.park(&key("p"), "", seconds(7));
        assert_eq!(queue.next_tick(), Some(seconds(7) + PARKED_MAX));
        queue.tick(seconds(7) + PARKED_MAX);
        queue.wake(seconds(7) + PARKED_MAX);
        assert_eq!((take(&mut queue), queue.next_tick()), (vec!["p".to_owned()], None));
    }

    #[test]
    fn a_changed_pod_is_tried_at_once() {
        let mut queue = Queue::default();
        queue.upsert(pod("p"));
        queue.take(1);
        queue.park(&key("p"), "", Duration::ZERO);
        queue.upsert(pod("p"));
        assert!(!queue.has_ready(), "nothing changed");
        queue.upsert(pod_with("p", json!({"nodeSelector": {"a": "b"}})));
        assert_eq!((take(&mut queue).len(), queue.next_tick(), queue.parked.len()), (1, None, 0));
        queue.upsert(pod("p"));
        assert!(!queue.has_ready(), "its binding is under way");
        queue.retry(&key("p"), Duration::ZERO);
        queue.tick(seconds(1));
        assert_eq!(*queue.take(1)[0], pod("p"));
    }

    #[test]
    fn a_removed_pod_leaves_nothing_behind() {
        let mut queue = Queue::default();
        for (name, place) in [("ready", 0), ("taken", 1), ("parked", 2), ("delayed", 3)] {
            queue.upsert(pod(name));
            if place > 0 {
                queue.take(1);
            }
            match place {
                2 => queue.park(&key(name), "", Duration::ZERO),
                3 => queue.retry(&key(name), Duration::ZERO),
                _ => {}
            }
            queue.remove(&key(name));
            let left = queue.entries.len() + queue.ready.len() + queue.timers.len() + queue.parked.len();
            assert_eq!(left, 0, "{name}");
        }
        queue.park(&key("gone"), "", Duration::ZERO);
        queue.retry(&key("gone"), Duration::ZERO);
        assert_eq!((queue.next_tick(), queue.keys().count()), (None, 0));
    }
}
