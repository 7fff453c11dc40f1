//! Who may probe now. There is a bounded number of turns; a namespace holds at most as many as are left over for the
//! others. So thousands of pods of one namespace that hang delay probes of their own namespace, and nobody else's.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

#[derive(Default)]
struct Namespace {
    held: usize,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

#[derive(Default)]
struct State {
    held: usize,
    /// Those that hold something or wait.
    namespaces: HashMap<String, Namespace>,
}

/// See the module.
pub(super) struct Turns {
    most: usize,
    state: Mutex<State>,
}

/// The right to probe. Dropping it gives it to the next.
pub(super) struct Turn {
    turns: Arc<Turns>,
    namespace: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.give_back(&self.namespace);
    }
}

impl Turns {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn. Dropping the future gives up the place in the line.
    pub(super) async fn take(self: &Arc<Self>, namespace: &str) -> Turn {
        loop {
            let granted = {
                let mut state = self.state();
                let left = self.most - state.held;
                let entry = state.namespaces.entry(namespace.to_owned()).or_default();
                if entry.waiting.is_empty() && entry.held < left {
                    entry.held += 1;
                    state.held += 1;
                    return Turn { turns: self.clone(), namespace: namespace.to_owned() };
                }
                let (grant, granted) = oneshot::channel();
                entry.waiting.push_back(grant);
                granted
            };
            // The line is never thrown away while somebody stands in it.
            if let Ok(turn) = granted.await {
                return turn;
            }
        }
    }

    fn give_back(self: &Arc<Self>, namespace: &str) {
        let granted = {
            let mut state = self.state();
            state.held -= 1;
            if let Some(entry) = state.namespaces.get_mut(namespace) {
                entry.held -= 1;
                entry.waiting.retain(|waiter| !waiter.is_closed());
                if entry.held == 0 && entry.waiting.is_empty() {
                    state.namespaces.remove(namespace);
                }
            }
            self.next(&mut state)
        };
        // Outside the lock: whoever has just given up waiting gives the turn back at once.
        for (waiter, turn) in granted {
            drop(waiter.send(turn));
        }
    }

    /// Whose turn it is now: of those who wait, the namespace that holds least.
    fn next(self: &Arc<Self>, state: &mut State) -> Vec<(oneshot::Sender<Turn>, Turn)> {
        let mut granted = Vec::new();
        loop {
            let left = self.most - state.held;
            let waiting = state.namespaces.iter_mut().filter(|(_, entry)| !entry.waiting.is_empty());
            let Some((name, entry)) = waiting.min_by_key(|(_, entry)| entry.held) else { break };
            if entry.held >= left {
                break;
            }
            let Some(waiter) = entry.waiting.pop_front() else { break };
            if waiter.is_closed() {
                continue;
            }
            entry.held += 1;
            granted.push((waiter, Turn { turns: self.clone(), namespace: name.clone() }));
            state.held += 1;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn a_namespace_leaves_as_much_as_it_takes() {
        let turns = Turns::new(8);
        let mut held = Vec::new();
        while let Some(turn) = turns.take("greedy").now_or_never() {
            held.push(turn);
        }
        assert_eq!(held.len(), 4);
        let others: Vec<Turn> = ["a", "b", "c"].iter().filter_map(|name| turns.take(name).now_or_never()).collect();
        assert_eq!(others.len(), 3, "somebody who holds nothing gets one");
    }

    #[tokio::test]
    async fn those_who_wait_get_what_is_given_back() {
        let turns = Turns::new(2);
        let first = turns.take("a").await;
        let mut second = Box::pin(turns.take("a"));
        let mut third = Box::pin(turns.take("a"));
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        // Gives up its place.
        drop(second);
        drop(first);
        let third = third.now_or_never().expect("it was given back");
        drop(third);
        assert!(turns.state().namespaces.is_empty() && turns.state().held == 0);
    }

    #[tokio::test]
    async fn a_turn_that_nobody_takes_any_more_is_not_lost() {
        let turns = Turns::new(2);
        let first = turns.take("a").await;
        let mut second = Box::pin(turns.take("a"));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        // It has been granted and never looked.
        drop(second);
        assert_eq!(turns.state().held, 0);
        drop(turns.take("b").now_or_never().unwrap());
    }
}
