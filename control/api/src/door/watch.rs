//! Watches: the store's events, filtered, with what entered or left the selected set told apart.
//!
//! A watch ends by itself at its timeout, when the server stops, or with an error when it fell behind.

use super::{
    Door, Target, encode,
    gate::Asked,
    read::{At, ListOptions, Listed, Selection, parse_revision},
    read_error,
};
use crate::identity::Identity;
use bytes::Bytes;
use coracle_objects::{ApiError, Kind, Reason};
use coracle_store::{EventKind, ReadError, Revision, StoreEvent, Watch, read::Watched};
use futures::{Stream, stream};
use rand::Rng;
use serde_json::json;
use std::{collections::VecDeque, time::Duration};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

/// How often a quiet watcher learns how far it has seen.
const BOOKMARK_EVERY: Duration = Duration::from_mins(1);
/// How long a watch runs when the client names no timeout; spread, so that clients do not come back all at once.
const DEFAULT_TIMEOUT_SECONDS: std::ops::Range<u64> = 1800..3600;
/// The annotation of the bookmark that ends the initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What happened to an object, seen from the selected set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// Entered the set.
    Added,
    /// Changed within it.
    Modified,
    /// Left it.
    Deleted,
    /// Nothing; tells a resource version.
    Bookmark,
}

impl EventType {
    /// The spelling in a watch frame.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
        }
    }
}

/// One event of a watch.
#[derive(Debug, Clone)]
pub struct WatchEvent {
    /// What happened.
    pub event_type: EventType,
    /// The object, encoded.
    pub object: Bytes,
    /// The state after it.
    pub revision: Revision,
}

/// What to watch.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    /// Which objects.
    pub selection: Selection,
    /// Where to start; "" and "0" first send every object as added.
    pub resource_version: String,
    /// Whether to send bookmarks.
    pub bookmarks: bool,
    /// Send every object first, then a bookmark that says so, whatever `resource_version` is.
    pub initial_events: bool,
    /// When to end; `None`: the server's choice.
    pub timeout: Option<Duration>,
}

impl Door {
    /// Changes from now, or from a resource version, on. An `Err` in the stream is its last item.
    ///
    /// # Errors
    /// 403, 400 for a resource version that is none, 410 for one that has left history.
    pub async fn watch(
        &self,
        identity: &Identity,
        target: &Target,
        options: WatchOptions,
    ) -> Result<impl Stream<Item = Result<WatchEvent, ApiError>> + Send + 'static + use<>, ApiError> {
        let field_selector = options.selection.field_text();
        self.authorize(identity, "watch", target, Asked { field_selector, ..Asked::default() })?;
        let mut queue = VecDeque::new();
        let fresh = matches!(options.resource_version.as_str(), "" | "0");
        let from = if fresh || options.initial_events {
            let listed = self.initial(target, &options).await?;
            queue.extend(listed.entries.into_iter().map(|entry| WatchEvent {
                event_type: EventType::Added,
                revision: entry.revision,
                object: entry.value,
            }));
            if options.initial_events && options.bookmarks {
                queue.push_back(bookmark(target.kind, listed.revision, true));
            }
            listed.revision
        } else {
            let from = parse_revision(&options.resource_version)?;
            self.settle(At::NotOlderThan(from)).await?;
            from
        };
        let prefix = target.prefix(options.selection.name());
        let watch =
            self.store().watch(&prefix, from).map_err(|error| watch_error(&error, from, self.store().revision()))?;
        let seconds = rand::rng().random_range(DEFAULT_TIMEOUT_SECONDS);
        let deadline = Instant::now() + options.timeout.unwrap_or(Duration::from_secs(seconds));
        let mut ticks = interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let state = Running {
            kind: target.kind,
            selection: options.selection,
            bookmarks: options.bookmarks,
            watch,
            queue,
            seen: from,
            told: from,
            ticks,
            deadline,
            closing: self.closing().clone(),
            ended: false,
        };
        Ok(stream::unfold(state, |mut state| async move { state.next().await.map(|item| (item, state)) }))
    }

    async fn initial(&self, target: &Target, options: &WatchOptions) -> Result<Listed, ApiError> {
        let at =
            if options.resource_version == "0" { At::Any } else { At::parse(&options.resource_version, "", false)? };
        // Who may watch may see what is there: the list is part of the watch, so it is not authorized as one.
        let options = ListOptions { selection: options.selection.clone(), at, ..ListOptions::default() };
        self.list_unchecked(target, &options).await
    }
}

struct Running {
    kind: &'static Kind,
    selection: Selection,
    bookmarks: bool,
    watch: Watch,
    queue: VecDeque<WatchEvent>,
    /// How far the store has been read.
    seen: Revision,
    /// What the client last learned.
    told: Revision,
    ticks: Interval,
    deadline: Instant,
    closing: CancellationToken,
    ended: bool,
}

impl Running {
    async fn next(&mut self) -> Option<Result<WatchEvent, ApiError>> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                self.told = self.told.max(event.revision);
                return Some(Ok(event));
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                biased;
                () = self.closing.cancelled() => self.end(),
                () = sleep_until(self.deadline) => self.end(),
                _ = self.ticks.tick() => self.queue_bookmark(),
                watched = self.watch.next() => match watched {
                    Ok(Watched::Event(event)) => {
                        self.seen = event.entry.revision;
                        match selected(&self.selection, &event) {
                            Ok(Some(event)) => self.queue.push_back(event),
                            Ok(None) => {}
                            Err(error) => return self.fail(error),
                        }
                    }
                    Ok(Watched::Progress(revision)) => self.seen = self.seen.max(revision),
                    Err(error) => return self.fail(watch_error(&error, self.seen, self.seen)),
                },
            }
        }
    }

    fn queue_bookmark(&mut self) {
        if self.bookmarks && self.seen > self.told {
            self.queue.push_back(bookmark(self.kind, self.seen, false));
        }
    }

    fn end(&mut self) {
        self.queue_bookmark();
        self.ended = true;
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is what the stream yields last")]
    fn fail(&mut self, error: ApiError) -> Option<Result<WatchEvent, ApiError>> {
        self.ended = true;
        Some(Err(error))
    }
}

/// What a store event means to somebody who sees only the selected objects; `None` when nothing.
fn selected(selection: &Selection, event: &StoreEvent) -> Result<Option<WatchEvent>, ApiError> {
    let revision = event.entry.revision;
    let made = |event_type, object| Ok(Some(WatchEvent { event_type, object, revision }));
    if selection.is_everything() {
        let event_type = match event.kind {
            EventKind::Created => EventType::Added,
            EventKind::Modified => EventType::Modified,
            EventKind::Deleted => EventType::Deleted,
        };
        return made(event_type, event.entry.value.clone());
    }
    let now = encode::decode(&event.entry.value)?;
    let before = match (&event.previous, event.kind) {
        (Some(previous), EventKind::Modified) => Some(encode::decode(previous)?),
        _ => None,
    };
    let was_selected = before.as_ref().is_some_and(|before| selection.matches(before));
    match (event.kind, was_selected, selection.matches(&now)) {
        (EventKind::Deleted, _, true) => made(EventType::Deleted, event.entry.value.clone()),
        (EventKind::Created | EventKind::Modified, false, true) => made(EventType::Added, event.entry.value.clone()),
        (EventKind::Modified, true, true) => made(EventType::Modified, event.entry.value.clone()),
        (EventKind::Modified, true, false) => {
            // The client never saw the new state; it is told the last one it may see, at the revision of the change.
            let mut last = before.unwrap_or(now);
            encode::at_revision(&mut last, revision);
            made(EventType::Deleted, Bytes::from(last.to_string()))
        }
        _ => Ok(None),
    }
}

fn bookmark(kind: &Kind, revision: Revision, ends_initial: bool) -> WatchEvent {
    let mut object = json!({
        "kind": kind.kind, "apiVersion": kind.api_version(),
        "metadata": {"resourceVersion": revision.0.to_string(), "creationTimestamp": null},
    });
    if ends_initial {
        object["metadata"]["annotations"] = json!({INITIAL_EVENTS_END: "true"});
    }
    WatchEvent { event_type: EventType::Bookmark, object: Bytes::from(object.to_string()), revision }
}

fn watch_error(error: &ReadError, from: Revision, current: Revision) -> ApiError {
    match error {
        ReadError::Compacted { oldest } => {
            ApiError::new(Reason::Expired, format!("too old resource version: {} ({})", from.0, oldest.0))
        }
        ReadError::TooSlow => {
            ApiError::new(Reason::Expired, format!("too old resource version: {} ({}): {error}", from.0, current.0))
        }
        other => read_error(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_objects::catalogue;
    use coracle_store::{Entry, Key};

    fn pod(colour: &str) -> Bytes {
        Bytes::from(
            json!({"metadata": {"name": "x", "resourceVersion": "4", "labels": {"colour": colour}}}).to_string(),
        )
    }

    fn event(kind: EventKind, now: &str, previous: Option<&str>) -> StoreEvent {
        let entry = Entry { key: Key("/pods/a/x".to_owned()), value: pod(now), revision: Revision(9) };
        StoreEvent { kind, entry, previous: previous.map(pod) }
    }

    #[test]
    fn entering_and_leaving_the_selected_set_is_told_apart() {
        let target = Target::collection(catalogue::pods(), "a");
        let red = Selection::parse(&target, "colour=red", "").unwrap();
        let cases = [
            (EventKind::Created, "red", None, Some(EventType::Added)),
            (EventKind::Created, "blue", None, None),
            (EventKind::Modified, "red", Some("red"), Some(EventType::Modified)),
            (EventKind::Modified, "red", Some("blue"), Some(EventType::Added)),
            (EventKind::Modified, "blue", Some("red"), Some(EventType::Deleted)),
            (EventKind::Modified, "blue", Some("blue"), None),
            (EventKind::Deleted, "red", Some("red"), Some(EventType::Deleted)),
            (EventKind::Deleted, "blue", Some("blue"), None),
        ];
        for (kind, now, previous, expected) in cases {
            let told = selected(&red, &event(kind, now, previous)).unwrap();
            assert_eq!(told.map(|event| event.event_type), expected, "{kind:?} {previous:?} -> {now}");
        }
    }

    #[test]
    fn what_left_the_set_is_shown_as_it_was_at_the_new_revision() {
        let target = Target::collection(catalogue::pods(), "a");
        let red = Selection::parse(&target, "colour=red", "").unwrap();
        let told = selected(&red, &event(EventKind::Modified, "blue", Some("red"))).unwrap().unwrap();
        let object = encode::decode(&told.object).unwrap();
        assert_eq!(object["metadata"]["labels"]["colour"], "red");
        assert_eq!(object["metadata"]["resourceVersion"], "9");
    }
}
