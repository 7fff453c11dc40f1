//! Who goes with its owner.

use super::*;
use coracle_client::fake::{Fake, ManualClock};
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[test]
fn only_those_whose_owners_are_all_gone_are_orphans() {
    use Presence::{Absent, Present, Unknown};
    let table: [(&[Presence], bool); 6] = [
        (&[], false),
        (&[Absent], true),
        (&[Absent, Absent], true),
        (&[Absent, Present], false),
        (&[Absent, Unknown], false),
        (&[Unknown], false),
    ];
    for (owners, expected) in table {
        assert_eq!(is_orphan(owners), expected, "{owners:?}");
    }
}

#[test]
fn owners_are_found_in_the_same_namespace_or_in_none() {
    let reference =
        |api_version: &str, kind: &str| json!({"apiVersion": api_version, "kind": kind, "name": "o", "uid": "u"});
    let namespaced = Item { kind: catalogue::pods(), key: ObjectKey::namespaced("a", "p") };
    let cluster = Item { kind: catalogue::nodes(), key: ObjectKey::cluster("n") };
    let table = [
        (&namespaced, reference("v1", "Service"), Some("a/o")),
        (&namespaced, reference("v1", "Node"), Some("o")),
        (&namespaced, reference("apps/v1", "Strange"), None),
        (&cluster, reference("v1", "Service"), None),
        (&cluster, reference("v1", "Node"), Some("o")),
    ];
    for (dependent, reference, expected) in table {
        let (item, uid) = owner(dependent, &reference);
        assert_eq!((item.map(|item| item.key.to_string()).as_deref(), uid.as_str()), (expected, "u"), "{reference}");
    }
}

struct Bench {
    clock: ManualClock,
    fake: Fake,
    _ends: tokio_util::sync::DropGuard,
}

fn service(name: &str, uid: &str) -> Value {
    json!({"metadata": {"namespace": "a", "name": name, "uid": uid}})
}

fn dependent(name: &str, owners: &[(&str, &str)]) -> Value {
    let reference =
        |(name, uid): &(&str, &str)| json!({"apiVersion": "v1", "kind": "Service", "name": name, "uid": uid});
    json!({"metadata": {
        "namespace": "a", "name": name, "ownerReferences": owners.iter().map(reference).collect::<Vec<_>>(),
    }})
}

impl Bench {
    async fn start() -> Self {
        let (clock, shutdown) = (ManualClock::new(), CancellationToken::new());
        let bench = Self { fake: Fake::new(&clock), clock, _ends: shutdown.clone().drop_guard() };
        bench.fake.put(catalogue::services(), service("one", "u1"));
        bench.fake.put(catalogue::services(), service("two", "u2"));
        let owned = [
            ("of-one", vec![("one", "u1")]),
            ("of-both", vec![("one", "u1"), ("two", "u2")]),
            ("of-nobody", vec![]),
            ("of-former", vec![("one", "u0")]),
        ];
        for (name, owners) in owned {
            bench.fake.put(catalogue::config_maps(), dependent(name, &owners));
        }
        start(&Context::new(bench.fake.client(), Arc::new(bench.clock.clone()), shutdown));
        bench.clock.settle().await;
        bench
    }

    fn left(&self) -> Vec<String> {
        self.fake.peek_all(catalogue::config_maps()).iter().map(|map| meta::name(map).to_owned()).collect()
    }
}

#[tokio::test]
async fn dependents_go_with_their_last_owner() {
    let bench = Bench::start().await;
    assert_eq!(bench.left(), ["of-both", "of-nobody", "of-one"], "an owner of the same name is another owner");
    bench.fake.remove(catalogue::services(), &ObjectKey::namespaced("a", "one"));
    bench.clock.settle().await;
    assert_eq!(bench.left(), ["of-both", "of-nobody"]);
    bench.fake.put(catalogue::services(), service("two", "u3"));
    bench.clock.settle().await;
    assert_eq!(bench.left(), ["of-nobody"]);
}

#[tokio::test]
async fn a_reference_to_something_that_never_was_is_found_when_it_is_made() {
    let bench = Bench::start().await;
    bench.fake.put(catalogue::config_maps(), dependent("late", &[("none", "u9")]));
    bench.clock.settle().await;
    assert_eq!(bench.left(), ["of-both", "of-nobody", "of-one"]);
}

#[tokio::test]
async fn one_that_was_adopted_meanwhile_stays() {
    let bench = Bench::start().await;
    let adopted = dependent("of-one", &[("two", "u2")]);
    let fake = bench.fake.clone();
    bench.fake.refuse_writes(move |_| {
        fake.put(catalogue::config_maps(), adopted.clone());
        None
    });
    bench.fake.remove(catalogue::services(), &ObjectKey::namespaced("a", "one"));
    bench.clock.advance(Duration::from_secs(5)).await;
    assert_eq!(bench.left(), ["of-both", "of-nobody", "of-one"], "the deletion was planned on an older state");
}
