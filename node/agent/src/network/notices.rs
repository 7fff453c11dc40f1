//! What people hear of the network: events on the pods, services and the node that it is about. The same thing is said
//! again only after a while, however often it happens.

use crate::{
    events::{Involved, Recorder, Severity},
    pod::manager::Registry,
    reflector::Cache,
};
use coracle_net::fabric::{About, Notice};
use coracle_objects::ObjectKey;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// Notices that wait to be told; more are lost.
const QUEUE_MAX: usize = 256;
/// How long the same is not said again.
const QUIET: Duration = Duration::from_secs(30);
/// Objects and reasons about which something was said lately; about more nothing is said.
const REMEMBERED_MAX: usize = 4096;
/// Different messages about one object with one reason, within [`QUIET`]; more are not said.
const MESSAGES_MAX: usize = 16;
/// Reason of events about bounds.
const BOUND_REASON: &str = "NetworkLimit";

/// Takes notices from anywhere in the agent.
#[derive(Clone)]
pub(crate) struct Notices {
    queue: mpsc::Sender<Notice>,
}

impl Notices {
    /// With the receiver that [`Teller`] wants.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Notice>) {
        let (queue, receiver) = mpsc::channel(QUEUE_MAX);
        (Self { queue }, receiver)
    }

    /// A pod hit a bound.
    pub(super) fn bound(&self, pod_uid: &str, message: &str) {
        let about = About::Pod(pod_uid.to_owned());
        self.say(Notice { about, reason: BOUND_REASON, message: message.to_owned(), warning: true });
    }

    /// Says something.
    pub(super) fn say(&self, notice: Notice) {
        if let Err(lost) = self.queue.try_send(notice) {
            debug!(%lost, "too many notices wait to be told; dropped one");
        }
    }
}

/// Turns notices into events.
pub(crate) struct Teller {
    pub(crate) recorder: Recorder,
    pub(crate) pods: Registry,
    pub(crate) services: Cache,
    pub(crate) node: String,
}

impl Teller {
    /// Runs until both sources have ended.
    pub(crate) async fn run(self, mut fabric: mpsc::Receiver<Notice>, mut agent: mpsc::Receiver<Notice>) {
        let mut told = Told::default();
        loop {
            let notice = tokio::select! {
                Some(notice) = fabric.recv() => notice,
                Some(notice) = agent.recv() => notice,
                else => return,
            };
            if told.is_news(&notice, Instant::now()) {
                self.tell(&notice);
            }
        }
    }

    fn tell(&self, notice: &Notice) {
        let severity = if notice.warning { Severity::Warning } else { Severity::Normal };
        let (reason, message) = (notice.reason, notice.message.as_str());
        match &notice.about {
            // Whoever is gone by now has no events.
            About::Pod(uid) => {
                if let Some(pod) = self.pods.find(uid, "", "") {
                    self.recorder.record(&pod, "", severity, reason, message);
                }
            }
            About::Service(namespace, name) => {
                if let Some(service) = self.services.get(&ObjectKey::namespaced(namespace, name)) {
                    let involved = Involved::object("Service", &service);
                    self.recorder.record_about(involved, severity, reason, message);
                }
            }
            About::Node => {
                warn!(reason, message, "the pod network");
                self.recorder.record_about(Involved::node(&self.node), severity, reason, message);
            }
        }
    }
}

/// What was said when.
#[derive(Default)]
struct Told {
    /// By object and reason, then by message.
    last: HashMap<(String, &'static str), HashMap<String, Instant>>,
}

impl Told {
    fn is_news(&mut self, notice: &Notice, now: Instant) -> bool {
        let about = match &notice.about {
            About::Pod(uid) => uid.clone(),
            About::Service(namespace, name) => format!("{namespace}/{name}"),
            About::Node => String::new(),
        };
        let is_recent = |last: &Instant| now.saturating_duration_since(*last) < QUIET;
        let key = (about, notice.reason);
        if !self.last.contains_key(&key) && self.last.len() >= REMEMBERED_MAX {
            self.last.retain(|_, messages| messages.values().any(is_recent));
            if self.last.len() >= REMEMBERED_MAX {
                return false;
            }
        }
        let messages = self.last.entry(key).or_default();
        if messages.get(&notice.message).is_some_and(is_recent) {
            return false;
        }
        if messages.len() >= MESSAGES_MAX {
            messages.retain(|_, last| is_recent(last));
            if messages.len() >= MESSAGES_MAX {
                return false;
            }
        }
        messages.insert(notice.message.clone(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(uid: &str, message: &str) -> Notice {
        let about = About::Pod(uid.to_owned());
        Notice { about, reason: BOUND_REASON, message: message.to_owned(), warning: true }
    }

    #[test]
    fn what_happens_often_is_told_seldom() {
        let (mut told, start) = (Told::default(), Instant::now());
        assert!(told.is_news(&notice("a", "x"), start));
        assert!(!told.is_news(&notice("a", "x"), start + QUIET / 2));
        assert!(told.is_news(&notice("a", "y"), start) && told.is_news(&notice("b", "x"), start));
        assert!(told.is_news(&notice("a", "x"), start + QUIET));
    }

    #[test]
    fn many_things_at_once_are_bounded() {
        let (mut told, start) = (Told::default(), Instant::now());
        let news = (0..REMEMBERED_MAX + 10).filter(|number| told.is_news(&notice(&number.to_string(), "x"), start));
        assert_eq!(news.count(), REMEMBERED_MAX);
        assert!(told.is_news(&notice("later", "x"), start + QUIET));
        assert_eq!(told.last.len(), 1);
    }

    #[test]
    fn many_messages_about_one_thing_silence_no_other() {
        let (mut told, start) = (Told::default(), Instant::now());
        let news = (0..2 * MESSAGES_MAX).filter(|number| told.is_news(&notice("a", &number.to_string()), start));
        assert_eq!(news.count(), MESSAGES_MAX);
        assert!(told.is_news(&notice("b", "x"), start));
        assert!(told.is_news(&notice("a", "later"), start + QUIET));
    }
}
