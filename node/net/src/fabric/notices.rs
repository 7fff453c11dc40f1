//! Notices: what people should hear about, for the agent to make events of. A pod that does the same wrong thing a
//! thousand times a second makes one notice every few seconds, with the number; nobody waits for a notice to be read.

use parking_lot::Mutex;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// The same thing about the same object is said once in this time.
pub const NOTICE_INTERVAL: Duration = Duration::from_secs(5);
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

/// What was said about an object, and how often it would have been said since.
#[derive(Debug)]
struct Said {
    at: Instant,
    unsaid: u64,
}

#[derive(Debug)]
pub(crate) struct Reporter {
    notices: mpsc::Sender<Notice>,
    said: Mutex<HashMap<(About, &'static str), Said>>,
}

impl Reporter {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Notice>) {
        let (notices, receiver) = mpsc::channel(UNREAD_MAX);
        (Self { notices, said: Mutex::default() }, receiver)
    }

    /// Says that something is wrong, unless the same was said a moment ago.
    pub(crate) fn warn(&self, about: About, reason: &'static str, message: impl FnOnce() -> String, now: Instant) {
        let key = (about, reason);
        let mut said = self.said.lock();
        let unsaid = match said.get_mut(&key) {
            Some(one) if now.saturating_duration_since(one.at) < NOTICE_INTERVAL => {
                one.unsaid += 1;
                return;
            }
            Some(one) => one.unsaid,
            None => 0,
        };
        if said.len() >= REMEMBERED_MAX {
            said.retain(|_, one| now.saturating_duration_since(one.at) < NOTICE_INTERVAL);
        }
        if said.len() >= REMEMBERED_MAX {
            return;
        }
        said.insert(key.clone(), Said { at: now, unsaid: 0 });
        drop(said);
        let mut message = message();
        if unsaid > 0 {
            message = format!("{message} ({unsaid} more since the last report)");
        }
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
        self.said.lock().retain(|(about, _), _| !matches!(about, About::Pod(one) if one == uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_in_a_while_with_the_number() {
        let (reporter, mut notices) = Reporter::new();
        let start = Instant::now();
        let pod = |uid: &str| About::Pod(uid.to_owned());
        for _ in 0..1000 {
            reporter.warn(pod("a"), "Bound", || "too many".to_owned(), start);
        }
        reporter.warn(pod("b"), "Bound", || "too many".to_owned(), start);
        reporter.warn(pod("a"), "Denied", || "no".to_owned(), start);
        reporter.warn(pod("a"), "Bound", || "too many".to_owned(), start + NOTICE_INTERVAL);
        reporter.forget_pod("a");
        reporter.warn(pod("a"), "Bound", || "again".to_owned(), start + NOTICE_INTERVAL);
        let mut said = Vec::new();
        while let Ok(notice) = notices.try_recv() {
            said.push((notice.about, notice.message));
        }
        let expected = [
            (pod("a"), "too many"),
            (pod("b"), "too many"),
            (pod("a"), "no"),
            (pod("a"), "too many (999 more since the last report)"),
            (pod("a"), "again"),
        ];
        assert_eq!(said, expected.map(|(about, message)| (about, message.to_owned())));
    }

    #[test]
    fn unread_notices_are_bounded() {
        let (reporter, mut notices) = Reporter::new();
        for pod in 0..10_000 {
            reporter.warn(About::Pod(pod.to_string()), "Bound", String::new, Instant::now());
        }
        let mut count = 0;
        while notices.try_recv().is_ok() {
            count += 1;
        }
        assert_eq!((count, reporter.said.lock().len()), (UNREAD_MAX, REMEMBERED_MAX));
    }
}
