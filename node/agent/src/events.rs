//! Events: what happened to a pod, a service or the node, for people. Repeated ones are counted up, as kubelet does. Recording never waits:
//! when the control plane is away for long, the oldest news are worth least and new ones are dropped with a warning.

use crate::{
    clock,
    link::{EVENTS, Link},
    retry::Reconnect,
};
use coracle_objects::{Reason, meta};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// Events that wait to be written.
const QUEUE_MAX: usize = 4096;
/// Events that are remembered to be counted up.
const REMEMBERED_MAX: usize = 4096;
/// Longest message; Kubernetes allows 1024 bytes.
const MESSAGE_BYTES_MAX: usize = 1024;
/// How often one event is tried before it is given up.
const TRIES_MAX: usize = 20;
const COMPONENT: &str = "coracle-agent";

/// Normal or Warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Involved {
    kind: &'static str,
    /// Empty for what is in no namespace.
    namespace: String,
    name: String,
    uid: String,
    /// `spec.containers{app}`, or empty for the object itself.
    field_path: String,
}

impl Involved {
    /// An object of API version `v1`.
    pub(crate) fn object(kind: &'static str, object: &Value) -> Self {
        Self {
            kind,
            namespace: meta::namespace(object).to_owned(),
            name: meta::name(object).to_owned(),
            uid: meta::uid(object).to_owned(),
            field_path: String::new(),
        }
    }

    /// A node; its events carry its name in place of a uid, as kubelet's do.
    pub(crate) fn node(name: &str) -> Self {
        let name = name.to_owned();
        Self { kind: "Node", namespace: String::new(), uid: name.clone(), name, field_path: String::new() }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct News {
    pub(crate) involved: Involved,
    pub(crate) severity: Severity,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Takes events from anywhere in the agent.
#[derive(Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<(News, OffsetDateTime)>,
    lost: Arc<Lost>,
}

/// Events that were dropped since the queue was last empty: many at once are worth two lines of log, not one each.
#[derive(Debug, Default)]
struct Lost(AtomicU64);

impl Lost {
    /// One more; true for the first.
    fn one(&self) -> bool {
        self.0.fetch_add(1, Relaxed) == 0
    }

    /// How many they were, once that is over.
    fn over(&self) -> Option<u64> {
        Some(self.0.swap(0, Relaxed)).filter(|count| *count > 0)
    }
}

impl Recorder {
    /// A recorder and the writer that must be run for it.
    pub(crate) fn new(link: Arc<dyn Link>, node: &str) -> (Self, Writer) {
        let (queue, receiver) = mpsc::channel(QUEUE_MAX);
        let (known, order) = (HashMap::new(), VecDeque::new());
        let lost = Arc::<Lost>::default();
        let writer = Writer { link, node: node.to_owned(), receiver, known, order, last_stamp: 0, lost: lost.clone() };
        (Self { queue, lost }, writer)
    }

    /// Says that something happened to the pod, or to the part of it that `field_path` names.
    pub(crate) fn record(
        &self,
        pod: &Value,
        field_path: &str,
        severity: Severity,
        reason: &'static str,
        message: &str,
    ) {
        let involved = Involved { field_path: field_path.to_owned(), ..Involved::object("Pod", pod) };
        self.record_about(involved, severity, reason, message);
    }

    /// Says that something happened to any object.
    pub(crate) fn record_about(&self, involved: Involved, severity: Severity, reason: &'static str, message: &str) {
        let news = News { involved, severity, reason, message: truncated(message) };
        debug!(kind = news.involved.kind, name = news.involved.name, reason, message, "event");
        if self.queue.try_send((news, clock::now())).is_err() && self.lost.one() {
            warn!(reason, "too many events wait to be written; more are dropped");
        }
    }
}

fn truncated(message: &str) -> String {
    let mut end = message.len().min(MESSAGE_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

/// Writes events in order.
pub(crate) struct Writer {
    link: Arc<dyn Link>,
    node: String,
    receiver: mpsc::Receiver<(News, OffsetDateTime)>,
    /// Each as it is stored, encoded: as values, some thousand of them would be most of an idle agent.
    known: HashMap<Arc<News>, Box<str>>,
    order: VecDeque<Arc<News>>,
    /// The stamp in the last event's name.
    last_stamp: u64,
    lost: Arc<Lost>,
}

impl Writer {
    /// Runs until every [`Recorder`] is gone and the queue is empty.
    pub(crate) async fn run(mut self) {
        while let Some((news, at)) = self.receiver.recv().await {
            self.write(news, at).await;
            if self.receiver.is_empty()
                && let Some(count) = self.lost.over()
            {
                warn!(count, "events were dropped");
            }
        }
    }

    async fn write(&mut self, news: News, at: OffsetDateTime) {
        let mut reconnect = Reconnect::new();
        for _ in 0..TRIES_MAX {
            let known = self.known.get(&news).and_then(|known| serde_json::from_str::<Value>(known).ok());
            let result = if let Some(known) = known {
                self.link.update(EVENTS, "", &repeated(known, at)).await
            } else {
                let stamp = self.next_stamp(at);
                self.link.create(EVENTS, &first(&news, &self.node, at, stamp)).await
            };
            match result {
                Ok(stored) => return self.remember(news, &stored),
                Err(error) => match error.reason {
                    // Expired meanwhile, or somebody else's change: begin anew.
                    Reason::NotFound | Reason::Conflict if self.known.remove(&news).is_some() => {
                        self.order.retain(|known| **known != news);
                    }
                    Reason::ServiceUnavailable | Reason::Timeout | Reason::TooManyRequests | Reason::InternalError => {
                        tokio::time::sleep(reconnect.delay()).await;
                    }
                    Reason::AlreadyExists => {}
                    // The namespace may be gone or going: nobody can read the event any more.
                    _ => return debug!(%error, "event refused"),
                },
            }
        }
        warn!(reason = news.reason, "gave up writing an event");
    }

    /// Nanoseconds since 1970, a little more when that was used already. Timestamps in events end at the second; listings
    /// are in order of names, so this is what shows events in the order in which they happened.
    fn next_stamp(&mut self, at: OffsetDateTime) -> u64 {
        let stamp = u64::try_from(at.unix_timestamp_nanos()).unwrap_or_default();
        self.last_stamp = stamp.max(self.last_stamp.saturating_add(1));
        self.last_stamp
    }

    fn remember(&mut self, news: News, stored: &Value) {
        let (news, stored) = (Arc::new(news), stored.to_string().into_boxed_str());
        if self.known.insert(news.clone(), stored).is_none() {
            self.order.push_back(news);
        }
        while self.order.len() > REMEMBERED_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

fn first(news: &News, node: &str, at: OffsetDateTime, stamp: u64) -> Value {
    let at_text = clock::seconds(at);
    let about = &news.involved;
    let mut involved = json!({"kind": about.kind, "apiVersion": "v1", "name": about.name, "uid": about.uid});
    for (field, text) in [("namespace", &about.namespace), ("fieldPath", &about.field_path)] {
        if !text.is_empty() {
            involved[field] = text.as_str().into();
        }
    }
    let namespace = if about.namespace.is_empty() { "default" } else { &about.namespace };
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"namespace": namespace, "name": format!("{}.{stamp:016x}", about.name)},
        "involvedObject": involved,
        "reason": news.reason,
        "message": news.message,
        "type": match news.severity { Severity::Normal => "Normal", Severity::Warning => "Warning" },
        "count": 1,
        "firstTimestamp": at_text,
        "lastTimestamp": at_text,
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
    })
}

fn repeated(mut event: Value, at: OffsetDateTime) -> Value {
    event["count"] = (event["count"].as_i64().unwrap_or(1) + 1).into();
    event["lastTimestamp"] = clock::seconds(at).into();
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeLink;

    fn pod() -> Value {
        json!({"metadata": {"namespace": "default", "name": "p", "uid": "u1"}})
    }

    fn told(link: &FakeLink) -> Vec<(String, i64)> {
        let events = link.all(EVENTS);
        let mut all: Vec<(String, i64)> = events
            .iter()
            .map(|event| (event["message"].as_str().unwrap().to_owned(), event["count"].as_i64().unwrap()))
            .collect();
        all.sort();
        all
    }

    #[tokio::test]
    async fn what_finds_no_place_is_counted_until_the_queue_is_empty() {
        let link = FakeLink::new();
        let (recorder, writer) = Recorder::new(link.clone(), "n");
        for _ in 0..QUEUE_MAX + 3 {
            recorder.record(&pod(), "", Severity::Normal, "Started", "same");
        }
        let lost = recorder.lost.clone();
        assert_eq!(lost.0.load(Relaxed), 3);
        assert!(!lost.one(), "the first was told already");
        drop(recorder);
        writer.run().await;
        assert_eq!(told(&link), [("same".to_owned(), i64::try_from(QUEUE_MAX).unwrap())]);
        assert_eq!(lost.over(), None, "told, and begun anew");
        assert!(lost.one());
    }

    #[tokio::test]
    async fn repeated_events_are_counted_and_an_absence_is_outlived() {
        let link = FakeLink::new();
        let (recorder, writer) = Recorder::new(link.clone(), "n");
        let task = tokio::spawn(writer.run());
        let tell = |message: &str| recorder.record(&pod(), "spec.containers{a}", Severity::Warning, "BackOff", message);
        tell("one");
        tell("two");
        tell("one");
        link.wait("counted", |link| told(link) == [("one".to_owned(), 2), ("two".to_owned(), 1)]).await;

        link.set_down(true);
        tell("one");
        link.wait("the writer finds it away", |link| link.refused() > 1).await;
        link.set_down(false);
        link.wait("written after the absence", |link| told(link)[0].1 == 3).await;

        for event in link.all(EVENTS) {
            link.remove(EVENTS, &meta::key(&event));
        }
        tell("one");
        link.wait("begun anew", |link| told(link) == [("one".to_owned(), 1)]).await;
        let event = link.all(EVENTS).remove(0);
        assert_eq!(event["involvedObject"]["fieldPath"], "spec.containers{a}");
        assert_eq!(event["source"], json!({"component": COMPONENT, "host": "n"}));
        drop(recorder);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn names_are_in_the_order_of_what_happened() {
        let link = FakeLink::new();
        let (recorder, writer) = Recorder::new(link.clone(), "n");
        let messages = ["z", "y", "x", "w", "v"];
        for message in messages {
            recorder.record(&pod(), "", Severity::Normal, "Started", message);
        }
        drop(recorder);
        writer.run().await;
        let mut events = link.all(EVENTS);
        events.sort_by_key(|event| meta::name(event).to_owned());
        let told: Vec<_> = events.iter().filter_map(|event| event["message"].as_str()).collect();
        assert_eq!(told, messages);
    }

    #[tokio::test]
    async fn services_and_nodes_have_events_too() {
        let link = FakeLink::new();
        let (recorder, writer) = Recorder::new(link.clone(), "n");
        let service = json!({"metadata": {"namespace": "web", "name": "s", "uid": "u2"}});
        recorder.record_about(Involved::object("Service", &service), Severity::Warning, "FailedToBindNodePort", "x");
        recorder.record_about(Involved::node("n"), Severity::Warning, "NetworkLimit", "y");
        drop(recorder);
        writer.run().await;
        let mut told: Vec<Value> = link
            .all(EVENTS)
            .into_iter()
            .map(|event| json!([event["metadata"]["namespace"], event["involvedObject"]]))
            .collect();
        told.sort_by_key(Value::to_string);
        let node = json!(["default", {"kind": "Node", "apiVersion": "v1", "name": "n", "uid": "n"}]);
        let service =
            json!(["web", {"kind": "Service", "apiVersion": "v1", "namespace": "web", "name": "s", "uid": "u2"}]);
        assert_eq!(told, [node, service]);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let text = format!("a{}", "é".repeat(1000));
        assert_eq!(truncated(&text).len(), MESSAGE_BYTES_MAX - 1);
        assert_eq!(truncated("short"), "short");
    }
}
