//! Questions to a runner for what its runs have used, and the answers as they come in parts.
//!
//! A runner may be hostile: what it answers is kept only for questions that somebody waits for and runs that are known.

use coracle_runner::protocol::{RunId, RunSample};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// Questions to one runner that wait for their answer.
const QUESTIONS_MAX: usize = 8;

/// See the module. One per runner.
#[derive(Debug, Default)]
pub(crate) struct Samples(Mutex<Asked>);

#[derive(Debug, Default)]
struct Asked {
    last: u64,
    waiting: HashMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    runs: HashMap<RunId, RunSample>,
    answer: oneshot::Sender<Vec<RunSample>>,
}

impl Samples {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a new question and what will hold its answer; `None` when too many wait already.
    pub(crate) fn ask(&self) -> Option<(u64, oneshot::Receiver<Vec<RunSample>>)> {
        let mut asked = self.asked();
        // Who gave up left its question behind.
        asked.waiting.retain(|_, waiting| !waiting.answer.is_closed());
        if asked.waiting.len() >= QUESTIONS_MAX {
            return None;
        }
        asked.last += 1;
        let question = asked.last;
        let (answer, answered) = oneshot::channel();
        asked.waiting.insert(question, Waiting { runs: HashMap::new(), answer });
        Some((question, answered))
    }

    /// A part of an answer came in.
    pub(crate) fn answered(&self, question: u64, runs: Vec<RunSample>, more: bool, known: impl Fn(&RunId) -> bool) {
        let mut asked = self.asked();
        let Some(waiting) = asked.waiting.get_mut(&question) else { return };
        waiting
            .runs
            .extend(runs.into_iter().filter(|sample| known(&sample.run)).map(|sample| (sample.run.clone(), sample)));
        if !more && let Some(waiting) = asked.waiting.remove(&question) {
            // Who asked may have given up.
            let _ = waiting.answer.send(waiting.runs.into_values().collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str, cpu_nanos: u64) -> RunSample {
        RunSample { run: RunId(name.to_owned()), cpu_nanos, memory_bytes: 1, pod_received_bytes: 0, pod_sent_bytes: 0 }
    }

    #[test]
    fn parts_make_one_answer_of_what_is_known() {
        let samples = Samples::default();
        let (question, mut answered) = samples.ask().unwrap();
        let known = |run: &RunId| run.0 != "made-up";
        samples.answered(question, vec![sample("a", 1), sample("made-up", 9)], true, known);
        samples.answered(question + 1, vec![sample("b", 7)], false, known);
        assert!(answered.try_recv().is_err(), "more was announced");
        samples.answered(question, vec![sample("b", 2), sample("a", 1)], false, known);
        let mut runs = answered.try_recv().unwrap();
        runs.sort_by(|one, other| one.run.cmp(&other.run));
        assert_eq!(runs, [sample("a", 1), sample("b", 2)]);
        samples.answered(question, vec![sample("b", 3)], false, known);
    }

    #[test]
    fn questions_are_few_and_given_up_ones_make_room() {
        let samples = Samples::default();
        let mut waiting: Vec<_> = (0..QUESTIONS_MAX).map(|_| samples.ask().unwrap()).collect();
        assert!(samples.ask().is_none());
        waiting.pop();
        assert!(samples.ask().is_some());
    }
}
