//! Keys that wait to be looked at: each at most once, none in two hands, failed ones after a growing wait. Pure: time
//! comes in as an argument. Bounded by the number of different keys.

use coracle_client::backoff::BackoffPolicy;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::Hash,
    time::Duration,
};

const BACKOFF: BackoffPolicy = BackoffPolicy { first: Duration::from_millis(50), max: Duration::from_mins(2) };

type Timer = (Duration, u64);

/// The queue.
#[derive(Debug)]
pub struct WorkQueue<K> {
    ready: VecDeque<K>,
    is_ready: HashSet<K>,
    /// In somebody's hands, and whether they are to be looked at again afterwards.
    taken: HashMap<K, bool>,
    timers: BTreeMap<Timer, K>,
    timer_of: HashMap<K, Timer>,
    failures: HashMap<K, u32>,
    sequence: u64,
}

impl<K> Default for WorkQueue<K> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            is_ready: HashSet::new(),
            taken: HashMap::new(),
            timers: BTreeMap::new(),
            timer_of: HashMap::new(),
            failures: HashMap::new(),
            sequence: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// The key is to be looked at now.
    pub fn add(&mut self, key: K) {
        self.drop_timer(&key);
        if let Some(again) = self.taken.get_mut(&key) {
            *again = true;
        } else if self.is_ready.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// The key is to be looked at at `moment`, unless something is due for it earlier.
    pub fn add_at(&mut self, key: K, moment: Duration) {
        if self.is_ready.contains(&key) || self.timer_of.get(&key).is_some_and(|timer| timer.0 <= moment) {
            return;
        }
        self.drop_timer(&key);
        self.sequence += 1;
        let timer = (moment, self.sequence);
        self.timers.insert(timer, key.clone());
        self.timer_of.insert(key, timer);
    }

    /// Takes the next key; [`WorkQueue::succeed`] or [`WorkQueue::fail`] must follow.
    pub fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.is_ready.remove(&key);
        self.taken.insert(key.clone(), false);
        Some(key)
    }

    /// What was taken is done.
    pub fn succeed(&mut self, key: &K) {
        self.failures.remove(key);
        self.release(key);
    }

    /// What was taken failed; answers how long it waits now.
    pub fn fail(&mut self, key: &K, now: Duration) -> Duration {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        *failures = failures.saturating_add(1);
        let wait = BACKOFF.delay(*failures);
        self.release(key);
        self.add_at(key.clone(), now + wait);
        wait
    }

    fn release(&mut self, key: &K) {
        if self.taken.remove(key) == Some(true) {
            self.add(key.clone());
        }
    }

    /// Makes ready what is due.
    pub fn tick(&mut self, now: Duration) {
        while let Some(timer) = self.timers.first_entry().filter(|timer| timer.key().0 <= now) {
            let key = timer.remove();
            self.timer_of.remove(&key);
            self.add(key);
        }
    }

    /// When [`WorkQueue::tick`] has something to do.
    #[must_use]
    pub fn next_tick(&self) -> Option<Duration> {
        self.timers.first_key_value().map(|(timer, _)| timer.0)
    }

    fn drop_timer(&mut self, key: &K) {
        if let Some(timer) = self.timer_of.remove(key) {
            self.timers.remove(&timer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_key_waits_once_and_is_in_one_pair_of_hands() {
        let mut queue = WorkQueue::default();
        for key in ["a", "b", "a"] {
            queue.add(key);
        }
        assert_eq!((queue.take(), queue.take(), queue.take()), (Some("a"), Some("b"), None));
        queue.add("a");
        assert_eq!(queue.take(), None, "it is being looked at");
        queue.succeed(&"a");
        queue.succeed(&"b");
        assert_eq!((queue.take(), queue.take()), (Some("a"), None));
    }

    #[test]
    fn failures_wait_longer_until_one_succeeds() {
        let (mut queue, mut now) = (WorkQueue::default(), Duration::ZERO);
        queue.add("a");
        for wait in [50, 100, 200, 400] {
            assert_eq!(queue.take(), Some("a"));
            assert_eq!(queue.fail(&"a", now), millis(wait));
            queue.tick(now + millis(wait - 1));
            assert_eq!(queue.take(), None);
            now += millis(wait);
            queue.tick(now);
        }
        assert_eq!(queue.take(), Some("a"));
        queue.succeed(&"a");
        queue.add("a");
        queue.take();
        assert_eq!(queue.fail(&"a", now), millis(50));
        queue.add("a");
        assert_eq!((queue.take(), queue.next_tick()), (Some("a"), None), "a change does not wait for the back-off");
    }

    #[test]
    fn of_several_times_the_earliest_counts() {
        let mut queue = WorkQueue::default();
        queue.add_at("a", millis(100));
        queue.add_at("a", millis(200));
        assert_eq!(queue.next_tick(), Some(millis(100)));
        queue.add_at("a", millis(50));
        queue.tick(millis(50));
        assert_eq!((queue.take(), queue.next_tick()), (Some("a"), None));
        queue.add_at("a", millis(70));
        queue.succeed(&"a");
        assert_eq!((queue.take(), queue.next_tick()), (None, Some(millis(70))));
    }
}
