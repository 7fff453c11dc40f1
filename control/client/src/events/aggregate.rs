//! Which events to write for what happened: pure, so that tests are tables.

use super::{
    EventType,
    limits::{self, Bucket},
};
use crate::{Part, Write, clock, lru::Lru};
use coracle_objects::{ApiError, Reason, catalogue};
use serde_json::{Value, json};
use std::{collections::HashMap, mem, sync::Arc, time::Duration};
use time::OffsetDateTime;

/// One thing that happened.
#[derive(Debug, Clone)]
pub(super) struct Occurrence {
    pub(super) api_version: String,
    pub(super) kind: &'static str,
    /// "" for cluster-scoped objects, whose events live in `default`.
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) event_type: EventType,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) at: OffsetDateTime,
}

/// The object that it happened to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Subject {
    kind: &'static str,
    namespace: String,
    name: String,
    uid: String,
}

/// What makes two occurrences the same event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    subject: Subject,
    event_type: EventType,
    reason: &'static str,
    message: String,
}

impl Identity {
    fn of(occurrence: &Occurrence) -> Self {
        Self {
            subject: Subject {
                kind: occurrence.kind,
                namespace: occurrence.namespace.clone(),
                name: occurrence.name.clone(),
                uid: occurrence.uid.clone(),
            },
            event_type: occurrence.event_type,
            reason: occurrence.reason,
            message: occurrence.message.clone(),
        }
    }
}

/// A write, with what to remember when it succeeds.
pub(super) struct Planned {
    identity: Identity,
    pub(super) write: Write,
}

/// Remembers recent events and rates.
pub(super) struct Aggregator {
    component: &'static str,
    known: Lru<Identity, Value>,
    per_object: Lru<Subject, Bucket>,
    overall: Option<Bucket>,
    sequence: u64,
    dropped: u64,
}

impl Aggregator {
    pub(super) fn new(component: &'static str) -> Self {
        Self {
            component,
            known: Lru::new(limits::REMEMBERED),
            per_object: Lru::new(limits::REMEMBERED),
            overall: None,
            sequence: 0,
            dropped: 0,
        }
    }

    /// Writes for what happened: one for each different event.
    pub(super) fn plan(&mut self, occurrences: impl Iterator<Item = Occurrence>, monotonic: Duration) -> Vec<Planned> {
        let mut order: Vec<(Identity, Occurrence, u64)> = Vec::new();
        let mut places: HashMap<Identity, usize> = HashMap::new();
        for occurrence in occurrences {
            let identity = Identity::of(&occurrence);
            if !self.allowed(&identity.subject, monotonic) {
                self.dropped += 1;
            } else if let Some(place) = places.get(&identity) {
                order[*place].1.at = occurrence.at;
                order[*place].2 += 1;
            } else {
                places.insert(identity.clone(), order.len());
                order.push((identity, occurrence, 1));
            }
        }
        let planned = order.into_iter().map(|(identity, occurrence, times)| {
            let write = self.write(&identity, &occurrence, times);
            Planned { identity, write }
        });
        planned.collect()
    }

    /// Remembers what was written; answers what has to be written anew because it had expired.
    pub(super) fn learn(&mut self, planned: Vec<Planned>, results: Vec<Result<Arc<Value>, ApiError>>) -> Vec<Planned> {
        let mut again = Vec::new();
        for (plan, result) in planned.into_iter().zip(results) {
            match (result, plan.write) {
                (Ok(_), Write::Create(_, event) | Write::Update(_, _, event)) => {
                    self.known.insert(plan.identity, event);
                }
                (Err(error), Write::Update(kind, _, mut event)) if error.reason == Reason::NotFound => {
                    self.known.remove(&plan.identity);
                    event["count"] = 1.into();
                    event["firstTimestamp"] = event["lastTimestamp"].clone();
                    again.push(Planned { identity: plan.identity, write: Write::Create(kind, event) });
                }
                (Err(error), _) => {
                    tracing::debug!(reason = plan.identity.reason, %error, "cannot write an event");
                    self.dropped += 1;
                }
                (Ok(_), _) => {}
            }
        }
        again
    }

    /// How many were dropped since the last call.
    pub(super) fn take_dropped(&mut self) -> u64 {
        mem::take(&mut self.dropped)
    }

    fn allowed(&mut self, subject: &Subject, now: Duration) -> bool {
        if self.per_object.get_mut(subject).is_none() {
            self.per_object.insert(subject.clone(), Bucket::full(limits::PER_OBJECT, now));
        }
        let of_object = self.per_object.get_mut(subject).is_some_and(|bucket| bucket.take(limits::PER_OBJECT, now));
        let overall = self.overall.get_or_insert_with(|| Bucket::full(limits::PER_COMPONENT, now));
        of_object && overall.take(limits::PER_COMPONENT, now)
    }

    fn write(&mut self, identity: &Identity, occurrence: &Occurrence, times: u64) -> Write {
        let kind = catalogue::events();
        if let Some(known) = self.known.get_mut(identity) {
            let mut event = known.clone();
            event["count"] = (event["count"].as_u64().unwrap_or(0) + times).into();
            event["lastTimestamp"] = clock::seconds_text(occurrence.at).into();
            return Write::Update(kind, Part::Object, event);
        }
        Write::Create(kind, self.new_event(occurrence, times))
    }

    fn new_event(&mut self, occurrence: &Occurrence, times: u64) -> Value {
        self.sequence += 1;
        let stamp = occurrence.at.unix_timestamp_nanos().unsigned_abs() + u128::from(self.sequence);
        let stem = truncated(&occurrence.name, 253 - 17).trim_end_matches(['.', '-']);
        let namespace = if occurrence.namespace.is_empty() { "default" } else { &occurrence.namespace };
        let mut involved = json!({
            "kind": occurrence.kind, "name": occurrence.name, "uid": occurrence.uid,
            "apiVersion": occurrence.api_version, "resourceVersion": occurrence.resource_version,
        });
        if !occurrence.namespace.is_empty() {
            involved["namespace"] = occurrence.namespace.as_str().into();
        }
        let at = clock::seconds_text(occurrence.at);
        json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{stem}.{stamp:016x}"), "namespace": namespace},
            "involvedObject": involved,
            "reason": occurrence.reason,
            "message": truncated(&occurrence.message, limits::MESSAGE_BYTES_MAX),
            "type": occurrence.event_type.as_str(),
            "count": times, "firstTimestamp": at, "lastTimestamp": at,
            "source": {"component": self.component},
            "reportingComponent": self.component, "reportingInstance": "",
        })
    }
}

/// At most `bytes` of `text`, cut between characters.
fn truncated(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
