//! Deletes Events that nobody has repeated for an hour.

use crate::{
    Context,
    runtime::{self},
};
use coracle_client::{DeleteOptions, Write, clock, supervisor};
use coracle_objects::{catalogue, meta};
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::task::JoinHandle;

/// How long an event is kept, as kube-apiserver's `--event-ttl`.
pub const KEPT: time::Duration = time::Duration::hours(1);

/// How often the old ones are looked for.
const EVERY: Duration = Duration::from_mins(1);

/// When an event happened last. One that does not say counts from its creation.
fn last_seen(event: &Value) -> Option<OffsetDateTime> {
    let times = [
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["series"]["lastObservedTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    times.into_iter().filter_map(|time| clock::parse(time.as_str()?)).max()
}

/// Deletions of the events that are too old at `now`; one that is repeated meanwhile stays.
#[must_use]
pub fn plan(events: &[Arc<Value>], now: OffsetDateTime) -> Vec<Write> {
    let old = events.iter().filter(|event| last_seen(event).is_some_and(|seen| now - seen >= KEPT));
    let deletes = old.map(|event| {
        let options = DeleteOptions {
            resource_version: Some(meta::resource_version(event).to_owned()),
            ..DeleteOptions::default()
        };
        Write::Delete(catalogue::events(), meta::key(event), options)
    });
    deletes.collect()
}

async fn run(context: Context) {
    context.caches.events.synced().await;
    loop {
        let writes = plan(&context.caches.events.all(), context.clock.now());
        if let Err(error) = runtime::write_all(&context, writes).await {
            // What could not be deleted is found again the next time.
            tracing::debug!(%error, "cannot delete an old event");
        }
        context.clock.sleep(EVERY).await;
    }
}

/// Starts the loop.
pub fn start(context: &Context) -> JoinHandle<()> {
    let inner = context.clone();
    let (clock, shutdown) = (Arc::clone(&context.clock), context.shutdown.clone());
    supervisor::spawn("event expiry", clock, shutdown, move || run(inner.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_client::fake::{Fake, ManualClock};
    use serde_json::json;
    use time::macros::datetime;
    use tokio_util::sync::CancellationToken;

    #[test]
    fn an_event_is_as_old_as_its_last_repetition() {
        let now = datetime!(2026-01-01 12:00:00 UTC);
        let (old, new) = ("2026-01-01T11:00:00Z", "2026-01-01T11:00:01Z");
        let table = [
            (json!({"lastTimestamp": old}), true),
            (json!({"lastTimestamp": new}), false),
            (json!({"eventTime": "2026-01-01T10:59:59.123456Z"}), true),
            (json!({"lastTimestamp": old, "series": {"lastObservedTime": new}}), false),
            (json!({"metadata": {"creationTimestamp": old}}), true),
            (json!({"metadata": {"creationTimestamp": new}, "lastTimestamp": null}), false),
            (json!({"lastTimestamp": "soon"}), false),
        ];
        for (event, expected) in table {
            assert_eq!(!plan(&[Arc::new(event.clone())], now).is_empty(), expected, "{event}");
        }
    }

    #[tokio::test]
    async fn old_events_go_and_others_stay() {
        let (clock, shutdown) = (ManualClock::new(), CancellationToken::new());
        let _ends = shutdown.clone().drop_guard();
        let fake = Fake::new(&clock);
        let put = |name: &str, at: &str| {
            fake.put(catalogue::events(), json!({"metadata": {"namespace": "a", "name": name}, "lastTimestamp": at}));
        };
        put("first", "2026-01-01T00:00:00Z");
        put("second", "2026-01-01T00:30:00Z");
        start(&Context::new(fake.client(), Arc::new(clock.clone()), shutdown));
        clock.advance(Duration::from_mins(59)).await;
        assert_eq!(fake.peek_all(catalogue::events()).len(), 2);
        clock.advance(Duration::from_mins(2)).await;
        let left = fake.peek_all(catalogue::events());
        assert_eq!((left.len(), meta::name(&left[0])), (1, "second"));
    }
}
