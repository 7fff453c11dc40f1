//! Shares of something of which all pods together have a bounded number: a pod may hold as many as are left over for the
//! others. So the first pods get all that they want, whoever comes late gets less, and some pods that never let go do not
//! keep everybody else waiting. Pods are meant by their uids; others may be meant by their addresses.

use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::Notify;

/// Whether somebody who holds `held` gets one more when `left` are left over.
pub(crate) fn may_have_more(held: usize, left: usize) -> bool {
    held < left
}

#[derive(Debug)]
struct State {
    left: usize,
    by_pod: HashMap<String, usize>,
}

#[derive(Debug)]
pub(crate) struct Shares {
    state: Mutex<State>,
    given_back: Notify,
}

/// One of them. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Share {
    of: Arc<Shares>,
    uid: String,
}

impl Shares {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        let state = Mutex::new(State { left: count, by_pod: HashMap::new() });
        Arc::new(Self { state, given_back: Notify::new() })
    }

    /// How many are left over.
    pub(crate) fn left(&self) -> usize {
        self.state.lock().left
    }

    /// One for a pod, unless it has its share.
    pub(crate) fn try_take(self: &Arc<Self>, uid: &str) -> Option<Share> {
        let mut state = self.state.lock();
        let held = state.by_pod.get(uid).copied().unwrap_or_default();
        if !may_have_more(held, state.left) {
            return None;
        }
        state.left -= 1;
        state.by_pod.insert(uid.to_owned(), held + 1);
        Some(Share { of: Arc::clone(self), uid: uid.to_owned() })
    }

    /// One for a pod, as soon as it may have one.
    pub(crate) async fn take(self: &Arc<Self>, uid: &str) -> Share {
        loop {
            // Listens before it looks: what is given back in between is not missed.
            let given_back = self.given_back.notified();
            if let Some(share) = self.try_take(uid) {
                return share;
            }
            given_back.await;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.of.state.lock();
        state.left += 1;
        if let Some(held) = state.by_pod.get_mut(&self.uid) {
            *held -= 1;
            if *held == 0 {
                state.by_pod.remove(&self.uid);
            }
        }
        drop(state);
        // All of them: whose turn it is depends on what each one holds.
        self.of.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(shares: &Arc<Shares>, uid: &str) -> Vec<Share> {
        std::iter::from_fn(|| shares.try_take(uid)).collect()
    }

    #[test]
    fn whoever_comes_late_finds_something() {
        let shares = Shares::new(32);
        let held: Vec<_> = ["a", "b", "c", "d", "e"].map(|uid| take_all(&shares, uid)).into();
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [16, 8, 4, 2, 1]);
        let last = shares.try_take("f").unwrap();
        assert!(shares.try_take("g").is_none());
        drop((held, last));
        let state = shares.state.lock();
        assert_eq!((state.left, state.by_pod.len()), (32, 0));
    }

    #[tokio::test]
    async fn what_is_given_back_goes_to_those_who_have_least() {
        let shares = Shares::new(4);
        let mut greedy = take_all(&shares, "a");
        let others = [shares.try_take("b").unwrap(), shares.try_take("c").unwrap()];
        let waiting = ["a", "d"].map(|uid| {
            let shares = Arc::clone(&shares);
            tokio::spawn(async move { shares.take(uid).await })
        });
        tokio::task::yield_now().await;
        greedy.pop();
        let [more, first] = waiting;
        let first = first.await.unwrap();
        assert_eq!((&*first.uid, more.is_finished()), ("d", false));
        drop((greedy, others, first));
        assert_eq!(more.await.unwrap().uid, "a");
    }
}
