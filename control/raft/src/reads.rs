//! Read barriers in flight.
//!
//! Everybody who asks between two steps shares one `ReadIndex` request. Raft drops a request silently when there is no leader
//! or the leader has not committed in its term yet, so requests without an answer are repeated, and given up in the end.

use crate::core::Waiter;
use std::collections::VecDeque;

/// Ticks after which an unanswered request is repeated.
const RETRY_TICKS: u64 = 2;
/// Ticks after which it is given up.
const GIVE_UP_TICKS: u64 = 100;

#[derive(Default)]
pub(crate) struct Reads {
    rounds: VecDeque<Round>,
    next: u64,
    now: u64,
}

struct Round {
    number: u64,
    began: u64,
    asked: u64,
    /// Known once raft has answered: readers may go on when this much is applied.
    index: Option<u64>,
    waiting: Vec<Waiter<()>>,
}

impl Reads {
    /// A new round for `waiting`; returns the context to ask raft with.
    pub(crate) fn begin(&mut self, waiting: Vec<Waiter<()>>) -> Option<Vec<u8>> {
        if waiting.is_empty() {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.rounds.push_back(Round { number, began: self.now, asked: self.now, index: None, waiting });
        Some(context(number))
    }

    /// Raft has answered.
    pub(crate) fn found(&mut self, answered: &[u8], index: u64) {
        if let Some(round) = self.rounds.iter_mut().find(|round| context(round.number) == answered) {
            round.index = Some(index);
        }
    }

    /// Lets those go whose index is applied.
    pub(crate) fn answer(&mut self, applied: u64) {
        self.rounds.retain_mut(|round| {
            let done = round.index.is_some_and(|index| index <= applied);
            if done {
                for waiter in round.waiting.drain(..) {
                    waiter.answer(Ok(()));
                }
            }
            !done
        });
    }

    /// Time passes.
    pub(crate) fn tick(&mut self, mut ask: impl FnMut(Vec<u8>)) {
        self.now += 1;
        let now = self.now;
        self.rounds.retain_mut(|round| {
            if now - round.began >= GIVE_UP_TICKS {
                for waiter in round.waiting.drain(..) {
                    waiter.refuse("no leader answers reads");
                }
                return false;
            }
            if round.index.is_none() && now - round.asked >= RETRY_TICKS {
                round.asked = now;
                ask(context(round.number));
            }
            true
        });
    }
}

fn context(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_store::ProposeError;
    use tokio::sync::oneshot;

    #[test]
    fn unanswered_rounds_are_asked_again_and_given_up() {
        let mut reads = Reads::default();
        let (reply, mut answer) = oneshot::channel();
        let first = reads.begin(vec![Waiter::new(None, reply)]).unwrap();
        let mut asked = Vec::new();
        for _ in 0..GIVE_UP_TICKS - 1 {
            reads.tick(|context| asked.push(context));
        }
        assert!(asked.len() >= 10 && asked.iter().all(|context| *context == first));
        assert!(answer.try_recv().is_err(), "still waiting");
        reads.tick(|_| panic!("given up, not asked"));
        assert!(matches!(answer.try_recv(), Ok(Err(ProposeError::Unavailable(_)))));
    }

    #[test]
    fn readers_wait_for_the_index_to_be_applied() {
        let mut reads = Reads::default();
        let (reply, mut answer) = oneshot::channel();
        let context = reads.begin(vec![Waiter::new(None, reply)]).unwrap();
        reads.answer(100);
        assert!(answer.try_recv().is_err(), "raft has not said which index");
        reads.found(&context, 7);
        reads.answer(6);
        assert!(answer.try_recv().is_err(), "not applied yet");
        reads.answer(7);
        assert!(matches!(answer.try_recv(), Ok(Ok(()))));
        assert!(reads.begin(Vec::new()).is_none(), "nobody asks, nothing to do");
    }
}
