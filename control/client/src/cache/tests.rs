//! The reflector against the fake: what readers see and are told.

use super::*;
use crate::{
    changes::Changed,
    fake::{Fake, ManualClock},
};
use coracle_objects::catalogue;
use serde_json::json;

struct Bench {
    clock: ManualClock,
    fake: Fake,
    shutdown: CancellationToken,
}

impl Bench {
    fn new() -> Self {
        let clock = ManualClock::new();
        Self { fake: Fake::new(&clock), clock, shutdown: CancellationToken::new() }
    }

    fn cache(&self, query: Query, projection: Projection) -> Cache {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        Cache::start(&self.fake.client(), &clock, catalogue::config_maps(), query, projection, &self.shutdown)
    }

    fn put(&self, namespace: &str, name: &str, value: &str) {
        let object = json!({"metadata": {"namespace": namespace, "name": name}, "data": {"value": value}});
        self.fake.put(catalogue::config_maps(), object);
    }

    fn remove(&self, namespace: &str, name: &str) {
        self.fake.remove(catalogue::config_maps(), &ObjectKey::namespaced(namespace, name));
    }
}

fn seen(cache: &Cache) -> Vec<String> {
    let text =
        |object: &Arc<Value>| format!("{}={}", meta::key(object), object["data"]["value"].as_str().unwrap_or("?"));
    cache.all().iter().map(text).collect()
}

fn keys(changed: Option<Changed>) -> Vec<String> {
    match changed {
        Some(Changed::Keys(keys)) => keys.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?} are no keys"),
    }
}

#[tokio::test]
async fn lists_then_follows_and_tells_keys() {
    let bench = Bench::new();
    bench.put("a", "one", "1");
    bench.put("b", "two", "2");
    let cache = bench.cache(Query::default(), whole);
    let mut changes = cache.changes();
    assert!(!cache.is_synced() && cache.is_empty());
    cache.synced().await;
    assert_eq!(seen(&cache), ["a/one=1", "b/two=2"]);
    assert_eq!(changes.next().await, Changed::Everything);

    bench.put("a", "one", "3");
    bench.put("a", "three", "4");
    bench.remove("b", "two");
    bench.put("a", "one", "5");
    bench.clock.settle().await;
    assert_eq!(keys(changes.try_next()), ["a/one", "a/three", "b/two"]);
    assert_eq!(seen(&cache), ["a/one=5", "a/three=4"]);
    assert_eq!(cache.in_namespace("a").len(), 2);
    assert!(cache.in_namespace("b").is_empty());
    assert!(cache.get(&ObjectKey::namespaced("a", "three")).is_some());
    assert_eq!(cache.changes().try_next(), Some(Changed::Everything), "a late subscriber looks at all there is");
}

#[tokio::test]
async fn a_cut_watch_goes_on_where_it_was_without_a_listing() {
    let bench = Bench::new();
    let cache = bench.cache(Query::default(), whole);
    cache.synced().await;
    bench.fake.cut_watches();
    bench.put("a", "one", "1");
    bench.clock.run_until(Duration::from_secs(2), || cache.len() == 1).await;
    assert_eq!(bench.fake.lists(), 1);
}

#[tokio::test]
async fn an_expired_watch_lists_again_and_tells_only_what_differs() {
    let bench = Bench::new();
    for name in ["kept", "changed", "removed"] {
        bench.put("a", name, "1");
    }
    let cache = bench.cache(Query::default(), whole);
    cache.synced().await;
    let mut changes = cache.changes();
    changes.next().await;
    bench.put("a", "changed", "2");
    bench.put("a", "new", "1");
    bench.remove("a", "removed");
    bench.fake.compact();
    bench.clock.run_until(Duration::from_secs(5), || bench.fake.lists() == 2 && cache.len() == 3).await;
    bench.clock.settle().await;
    assert_eq!(seen(&cache), ["a/changed=2", "a/kept=1", "a/new=1"]);
    let mut told = keys(changes.try_next());
    told.sort();
    assert_eq!(told, ["a/changed", "a/new", "a/removed"]);
    bench.put("a", "after", "1");
    bench.clock.run_until(Duration::from_secs(1), || cache.len() == 4).await;
}

#[tokio::test]
async fn a_failing_list_is_tried_again_with_growing_waits() {
    let bench = Bench::new();
    bench.fake.fail_lists(4);
    let cache = bench.cache(Query::default(), whole);
    bench.clock.settle().await;
    assert!(!cache.is_synced());
    assert_eq!(bench.fake.lists(), 1);
    bench.clock.run_until(Duration::from_secs(4), || cache.is_synced()).await;
    assert_eq!(bench.fake.lists(), 5);
    assert!(bench.clock.monotonic() >= Duration::from_millis(1500), "half of 0.2 + 0.4 + 0.8 + 1.6 s at least");
}

#[tokio::test]
async fn only_what_the_query_and_projection_let_through_is_kept() {
    let bench = Bench::new();
    bench.put("a", "one", "1");
    bench.put("b", "two", "2");
    let query = Query { namespace: Some("a".to_owned()), ..Query::default() };
    let cache = bench.cache(query, metadata_only);
    cache.synced().await;
    assert_eq!(seen(&cache), ["a/one=?"]);
    bench.put("b", "three", "1");
    bench.put("a", "four", "1");
    bench.clock.settle().await;
    assert_eq!(seen(&cache), ["a/four=?", "a/one=?"]);
}

#[tokio::test]
async fn the_copy_ends_with_its_last_handle_and_with_shutdown() {
    let bench = Bench::new();
    let cache = bench.cache(Query::default(), whole);
    cache.synced().await;
    let shared = Arc::downgrade(&cache.shared);
    drop(cache.clone());
    bench.clock.settle().await;
    assert!(shared.strong_count() > 0);
    drop(cache);
    bench.clock.settle().await;
    assert_eq!(shared.strong_count(), 0);

    let cache = bench.cache(Query::default(), whole);
    cache.synced().await;
    bench.shutdown.cancel();
    bench.clock.settle().await;
    bench.put("a", "late", "1");
    bench.clock.settle().await;
    assert!(cache.is_empty());
}
