//! What the recorder writes.

use super::{limits, *};
use crate::fake::{Fake, ManualClock};
use coracle_objects::{ObjectKey, catalogue};
use serde_json::json;
use std::time::Duration;

struct Bench {
    clock: ManualClock,
    fake: Fake,
    recorder: Recorder,
    _shutdown: tokio_util::sync::DropGuard,
}

fn bench() -> Bench {
    let (clock, shutdown) = (ManualClock::new(), CancellationToken::new());
    let fake = Fake::new(&clock);
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let recorder = Recorder::start(&fake.client(), &shared, "tester", &shutdown);
    Bench { clock, fake, recorder, _shutdown: shutdown.drop_guard() }
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"namespace": "team", "name": name, "uid": "u1", "resourceVersion": "7"}})
}

impl Bench {
    fn record(&self, message: &str) {
        self.recorder.record(catalogue::pods(), &pod("web"), EventType::Warning, "FailedScheduling", message);
    }

    fn events(&self) -> Vec<Arc<Value>> {
        self.fake.peek_all(catalogue::events())
    }
}

#[tokio::test]
async fn events_are_listed_in_the_order_of_what_happened() {
    let bench = bench();
    let before = bench.clock.now();
    bench.clock.advance(Duration::from_millis(1)).await;
    bench.record("second");
    bench.clock.settle().await;
    bench.recorder.record_at(before, catalogue::pods(), &pod("web"), EventType::Normal, "Scheduled", "first");
    bench.clock.settle().await;
    let mut events = bench.events();
    events.sort_by_key(|event| meta::name(event).to_owned());
    let told: Vec<_> = events.iter().map(|event| event["message"].as_str().unwrap()).collect();
    assert_eq!(told, ["first", "second"]);
}

#[tokio::test]
async fn an_event_has_all_that_describe_prints() {
    let bench = bench();
    bench.record("nothing fits");
    bench.clock.settle().await;
    let events = bench.events();
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert!(meta::name(event).starts_with("web."), "{event}");
    let expected = json!({
        "namespace": "team", "type": "Warning", "reason": "FailedScheduling", "message": "nothing fits", "count": 1,
        "first": "2026-01-01T00:00:00Z", "last": "2026-01-01T00:00:00Z", "component": "tester", "reporting": "tester",
        "involved": {"kind": "Pod", "name": "web", "uid": "u1", "apiVersion": "v1", "resourceVersion": "7", "namespace": "team"},
    });
    let actual = json!({
        "namespace": event["metadata"]["namespace"], "type": event["type"], "reason": event["reason"],
        "message": event["message"], "count": event["count"], "first": event["firstTimestamp"],
        "last": event["lastTimestamp"], "component": event["source"]["component"],
        "reporting": event["reportingComponent"], "involved": event["involvedObject"],
    });
    assert_eq!(actual, expected);
}

#[tokio::test]
async fn repeated_events_are_counted_up() {
    let bench = bench();
    for (message, seconds) in [("nothing fits", 5), ("nothing fits", 5), ("another", 0), ("nothing fits", 0)] {
        bench.record(message);
        bench.clock.advance(Duration::from_secs(seconds)).await;
    }
    let events = bench.events();
    let seen: Vec<_> = events.iter().map(|event| (event["message"].clone(), event["count"].clone())).collect();
    assert_eq!(seen, [(json!("nothing fits"), json!(3)), (json!("another"), json!(1))]);
    assert_eq!(events[0]["firstTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(events[0]["lastTimestamp"], "2026-01-01T00:00:10Z");
}

#[tokio::test]
async fn an_expired_event_begins_anew() {
    let bench = bench();
    bench.record("nothing fits");
    bench.record("nothing fits");
    bench.clock.settle().await;
    let first = bench.events();
    assert_eq!(first[0]["count"], 2, "two in one batch");
    bench.fake.remove(catalogue::events(), &meta::key(&first[0]));
    bench.clock.advance(Duration::from_mins(1)).await;
    bench.record("nothing fits");
    bench.clock.settle().await;
    let second = bench.events();
    assert_eq!((second.len(), &second[0]["count"]), (1, &json!(1)));
    assert_eq!(second[0]["firstTimestamp"], "2026-01-01T00:01:00Z");
}

#[tokio::test]
async fn a_noisy_object_is_slowed_down_and_others_are_not() {
    let bench = bench();
    for index in 0..limits::PER_OBJECT.burst + 20 {
        bench.record(&format!("message {index}"));
    }
    bench.recorder.record(catalogue::pods(), &pod("quiet"), EventType::Normal, "Scheduled", "fine");
    bench.clock.settle().await;
    assert_eq!(bench.events().len(), limits::PER_OBJECT.burst as usize + 1);
    bench.clock.advance(limits::PER_OBJECT.refill).await;
    bench.record("one more");
    bench.clock.settle().await;
    assert_eq!(bench.events().len(), limits::PER_OBJECT.burst as usize + 2);
}

#[tokio::test]
async fn cluster_scoped_objects_have_their_events_in_default() {
    let bench = bench();
    let node = json!({"metadata": {"name": "node-1", "uid": "n"}});
    let long = "é".repeat(limits::MESSAGE_BYTES_MAX);
    bench.recorder.record(catalogue::nodes(), &node, EventType::Normal, "NodeNotReady", &long);
    bench.clock.settle().await;
    let event = &bench.events()[0];
    assert_eq!(meta::namespace(event), "default");
    assert_eq!(event["involvedObject"]["namespace"], Value::Null);
    assert_eq!(event["message"].as_str().map(str::len), Some(limits::MESSAGE_BYTES_MAX));
    assert!(bench.fake.peek(catalogue::events(), &ObjectKey::namespaced("default", meta::name(event))).is_some());
}

#[tokio::test]
async fn a_refused_event_is_dropped_and_the_next_is_written() {
    let bench = bench();
    bench.fake.refuse_writes(|_| Some(coracle_objects::ApiError::internal("disk")));
    bench.record("lost");
    bench.clock.settle().await;
    bench.fake.accept_writes();
    bench.record("written");
    bench.clock.settle().await;
    let messages: Vec<_> = bench.events().iter().map(|event| event["message"].clone()).collect();
    assert_eq!(messages, [json!("written")]);
}
