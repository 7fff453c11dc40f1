//! Notices: what people should hear about, for the agent to make events of. A pod that does the same wrong thing a
//! thousand times a second makes one notice every few seconds, always with the text of the first time, so that they all
//! become one event; nobody waits for a notice to be read.

use parking_lot::Mutex;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// The same thing about the same object is said once in this time.
pub const NOTICE_INTERVAL: Duration = Duration::from_secs(5);
/// For so long the text of the first time stands for all; then there is a new one.
const TEXT_KEPT: Duration = Duration::from_hours(1);
/// Notices that nobody has read yet; what is more is dropped.
const UNREAD_MAX: usize = 256;
/// Objects and reasons that are remembered to have been reported.
const REMEMBERED_MAX: usize = 4096;

/// Which object a notice is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum About {
    /// A pod of this node, by its uid.
    Pod(String),
    /// A service: namespace and name.
    Service(String, String),
    /// The node.
    Node,
}

/// Something that people should hear about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The object.
    pub about: About,
    /// An event's reason, in `CamelCase`.
    pub reason: &'static str,
    /// An event's message.
    pub message: String,
    /// Whether something is wrong.
    pub warning: bool,
}

/// What was said about an object: first, last, and how often it would have been said since.
#[derive(Debug)]
struct Said {
    first: Instant,
    text: String,
    at: Instant,
    unsaid: u64,
}

/// The object, an event's reason, and what tells apart things that have the same reason.
type Key = (About, &'static str, &'static str);

#[derive(Debug)]
pub(crate) struct Reporter {
    notices: mpsc::Sender<Notice>,
    said: Mutex<HashMap<Key, Said>>,
}

impl Reporter {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Notice>) {
        let (notices, receiver) = mpsc::channel(UNREAD_MAX);
        (Self { notices, said: Mutex::default() }, receiver)
    }

    /// Says that something is wrong, unless the same was said a moment ago. `kind` tells apart what has the same
    /// reason; the text may differ from time to time, and the first one stands for the others.
    pub(crate) fn warn(
        &self,
        about: About,
        reason: &'static str,
        kind: &'static str,
        text: impl FnOnce() -> String,
        now: Instant,
    ) {
        let key = (about, reason, kind);
        let mut said = self.said.lock();
        if let Some(one) = said.get_mut(&key) {
            if now.saturating_duration_since(one.at) < NOTICE_INTERVAL {
                one.unsaid += 1;
                return;
            }
            if now.saturating_duration_since(one.first) >= TEXT_KEPT {
                (one.first, one.text) = (now, text());
            }
            one.at = now;
            let (message, unsaid) = (one.text.clone(), std::mem::take(&mut one.unsaid));
            drop(said);
            tracing::debug!(reason, message, unsaid, "it goes on");
            return self.send(Notice { about: key.0, reason, message, warning: true });
        }
        if said.len() >= REMEMBERED_MAX {
            said.retain(|_, one| now.saturating_duration_since(one.at) < NOTICE_INTERVAL);
        }
        if said.len() >= REMEMBERED_MAX {
            return;
        }
        let message = text();
        said.insert(key.clone(), Said { first: now, text: message.clone(), at: now, unsaid: 0 });
        drop(said);
        self.send(Notice { about: key.0, reason, message, warning: true });
    }

    /// Says it whatever was said before.
    pub(crate) fn send(&self, notice: Notice) {
        if let Err(mpsc::error::TrySendError::Full(notice)) = self.notices.try_send(notice) {
            tracing::warn!(reason = notice.reason, message = notice.message, "a notice that nobody reads is dropped");
        }
    }

    /// Forgets what was said about a pod that is gone.
    pub(crate) fn forget_pod(&self, uid: &str) {
        self.said.lock().retain(|(about, ..), _| !matches!(about, About::Pod(one) if one == uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_in_a_while_with_the_text_of_the_first_time() {
        let (reporter, mut notices) = Reporter::new();
        let start = Instant::now();
        let pod = |uid: &str| About::Pod(uid.to_owned());
        for number in 0..1000 {
            reporter.warn(pod("a"), "Denied", "", || format!("not {number}"), start);
        }
        reporter.warn(pod("b"), "Denied", "", || "not b".to_owned(), start);
        for kind in ["dials", "queries", "dials"] {
            reporter.warn(pod("a"), "Bound", kind, || kind.to_owned(), start);
        }
        reporter.warn(pod("a"), "Denied", "", || "not again".to_owned(), start + NOTICE_INTERVAL);
        reporter.warn(pod("a"), "Denied", "", || "later".to_owned(), start + TEXT_KEPT);
        reporter.forget_pod("a");
        reporter.warn(pod("a"), "Denied", "", || "anew".to_owned(), start + TEXT_KEPT);
        let mut said = Vec::new();
        while let Ok(notice) = notices.try_recv() {
            said.push((notice.about, notice.message));
        }
        let expected = [
            (pod("a"), "not 0"),
            (pod("b"), "not b"),
            (pod("a"), "dials"),
            (pod("a"), "queries"),
            (pod("a"), "not 0"),
            (pod("a"), "later"),
            (pod("a"), "anew"),
        ];
        assert_eq!(said, expected.map(|(about, message)| (about, message.to_owned())));
    }

    #[test]
    fn unread_notices_are_bounded() {
        let (reporter, mut notices) = Reporter::new();
        // All at one time, however long that takes.
        let now = Instant::now();
        for pod in 0..10_000 {
            reporter.warn(About::Pod(pod.to_string()), "Bound", "", String::new, now);
        }
        let mut count = 0;
        while notices.try_recv().is_ok() {
            count += 1;
        }
        assert_eq!((count, reporter.said.lock().len()), (UNREAD_MAX, REMEMBERED_MAX));
    }
}
