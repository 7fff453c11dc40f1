//! Change notification that only says "look again": which keys, never what happened. Deduplicated and bounded.

use coracle_objects::ObjectKey;
use parking_lot::Mutex;
use std::{
    collections::HashSet,
    mem,
    sync::{Arc, Weak},
};
use tokio::sync::Notify;

/// Beyond this many waiting keys a subscriber is told to look at everything.
pub const PENDING_KEYS_MAX: usize = 1 << 17;

/// What to look at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// These keys, each once, in the order in which they first changed.
    Keys(Vec<ObjectKey>),
    /// Anything may have changed, objects that are gone included.
    Everything,
}

#[derive(Debug, Default)]
struct Pending {
    everything: bool,
    order: Vec<ObjectKey>,
    seen: HashSet<ObjectKey>,
}

#[derive(Debug, Default)]
struct Inbox {
    pending: Mutex<Pending>,
    arrived: Notify,
}

impl Inbox {
    fn push(&self, keys: &[ObjectKey]) {
        let mut pending = self.pending.lock();
        if pending.everything {
            return;
        }
        for key in keys {
            if pending.seen.contains(key) {
                continue;
            }
            if pending.order.len() >= PENDING_KEYS_MAX {
                *pending = Pending { everything: true, ..Pending::default() };
                break;
            }
            pending.seen.insert(key.clone());
            pending.order.push(key.clone());
        }
        drop(pending);
        self.arrived.notify_one();
    }

    fn push_everything(&self) {
        *self.pending.lock() = Pending { everything: true, ..Pending::default() };
        self.arrived.notify_one();
    }

    fn take(&self) -> Option<Changed> {
        let pending = mem::take(&mut *self.pending.lock());
        if pending.everything {
            Some(Changed::Everything)
        } else if pending.order.is_empty() {
            None
        } else {
            Some(Changed::Keys(pending.order))
        }
    }
}

/// One subscription; dropping it ends it.
#[derive(Debug)]
pub struct Changes {
    inbox: Arc<Inbox>,
}

impl Changes {
    /// All that changed since the last call; waits until something has. Safe to drop while waiting.
    pub async fn next(&mut self) -> Changed {
        loop {
            if let Some(changed) = self.inbox.take() {
                return changed;
            }
            self.inbox.arrived.notified().await;
        }
    }

    /// As [`Changes::next`], without waiting.
    pub fn try_next(&mut self) -> Option<Changed> {
        self.inbox.take()
    }
}

/// The sending side.
#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    inboxes: Mutex<Vec<Weak<Inbox>>>,
}

impl Subscribers {
    /// A new subscription; with `everything`, its first answer is [`Changed::Everything`].
    pub(crate) fn subscribe(&self, everything: bool) -> Changes {
        let inbox = Arc::new(Inbox::default());
        if everything {
            inbox.push_everything();
        }
        self.inboxes.lock().push(Arc::downgrade(&inbox));
        Changes { inbox }
    }

    pub(crate) fn notify(&self, keys: &[ObjectKey]) {
        if !keys.is_empty() {
            self.for_each(|inbox| inbox.push(keys));
        }
    }

    pub(crate) fn notify_everything(&self) {
        self.for_each(Inbox::push_everything);
    }

    fn for_each(&self, tell: impl Fn(&Inbox)) {
        self.inboxes.lock().retain(|inbox| {
            inbox.upgrade().is_some_and(|inbox| {
                tell(&inbox);
                true
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(range: std::ops::Range<usize>) -> Vec<ObjectKey> {
        range.map(|index| ObjectKey::namespaced("default", format!("pod-{index}"))).collect()
    }

    #[test]
    fn keys_come_once_and_in_order() {
        let subscribers = Subscribers::default();
        let mut changes = subscribers.subscribe(false);
        assert_eq!(changes.try_next(), None);
        subscribers.notify(&keys(0..3));
        subscribers.notify(&keys(1..4));
        assert_eq!(changes.try_next(), Some(Changed::Keys(keys(0..4))));
        assert_eq!(changes.try_next(), None);
    }

    #[test]
    fn too_many_keys_become_everything() {
        let subscribers = Subscribers::default();
        let mut changes = subscribers.subscribe(false);
        subscribers.notify(&keys(0..PENDING_KEYS_MAX));
        subscribers.notify(&keys(5..6));
        assert!(matches!(changes.try_next(), Some(Changed::Keys(all)) if all.len() == PENDING_KEYS_MAX));
        subscribers.notify(&keys(0..PENDING_KEYS_MAX + 1));
        assert_eq!(changes.try_next(), Some(Changed::Everything));
    }

    #[test]
    fn a_dropped_subscription_is_forgotten() {
        let subscribers = Subscribers::default();
        drop(subscribers.subscribe(true));
        subscribers.notify(&keys(0..1));
        assert!(subscribers.inboxes.lock().is_empty());
    }
}
