//! The controller against the fake.

use super::*;
use crate::service_backends::tests::{pod, service};
use coracle_client::{
    DeleteOptions, Write,
    fake::{Fake, ManualClock},
};
use coracle_objects::{Reason, catalogue};
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};

struct Bench {
    clock: ManualClock,
    fake: Fake,
    _ends: DropGuard,
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::namespaced("a", name)
}

impl Bench {
    async fn start() -> Self {
        let (clock, shutdown) = (ManualClock::new(), CancellationToken::new());
        let bench = Self { fake: Fake::new(&clock), clock, _ends: shutdown.clone().drop_guard() };
        start(&Context::new(bench.fake.client(), Arc::new(bench.clock.clone()), shutdown));
        bench.clock.settle().await;
        bench
    }

    fn serve(&self) {
        self.fake.put(catalogue::services(), service("web", &json!([{"port": 80, "targetPort": "http"}])));
    }

    fn put(&self, pod: Value) {
        self.fake.put(catalogue::pods(), pod);
    }

    /// Ready and other addresses by both readings.
    async fn addresses(&self) -> (String, String) {
        self.clock.settle().await;
        let text = |mut list: Vec<String>| {
            list.sort();
            list.join(" ")
        };
        let subsets =
            self.fake.peek(catalogue::endpoints(), &key("web")).map_or(json!([]), |all| all["subsets"].clone());
        let list = |field: &str| -> Vec<String> {
            let subsets = subsets.as_array().into_iter().flatten();
            let addresses = subsets.flat_map(|subset| subset[field].as_array().cloned().unwrap_or_default());
            addresses.map(|address| address["ip"].as_str().unwrap().to_owned()).collect()
        };
        let slices = self.fake.peek_all(catalogue::endpoint_slices());
        let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
        let (ready, other): (Vec<Value>, Vec<Value>) =
            endpoints.partition(|endpoint| endpoint["conditions"]["ready"] == true);
        let of_slices =
            |list: Vec<Value>| text(list.iter().map(|one| one["addresses"][0].as_str().unwrap().to_owned()).collect());
        let (ready, other) = (of_slices(ready), of_slices(other));
        assert_eq!(
            (text(list("addresses")), text(list("notReadyAddresses"))),
            (ready.clone(), other.clone()),
            "both agree"
        );
        (ready, other)
    }

    async fn expect(&self, ready: &str, other: &str) {
        assert_eq!(self.addresses().await, (ready.to_owned(), other.to_owned()));
    }
}

#[tokio::test]
async fn addresses_follow_pods_and_services() {
    let bench = Bench::start().await;
    bench.put(pod("p1", "10.244.0.1", true));
    bench.serve();
    bench.expect("10.244.0.1", "").await;
    bench.put(pod("p2", "10.244.0.2", false));
    bench.expect("10.244.0.1", "10.244.0.2").await;
    bench.put(pod("p2", "10.244.0.2", true));
    bench.expect("10.244.0.1 10.244.0.2", "").await;
    let mut moved = pod("p1", "10.244.0.1", true);
    moved["metadata"]["labels"]["app"] = "db".into();
    bench.put(moved);
    bench.expect("10.244.0.2", "").await;
    bench.fake.remove(catalogue::pods(), &key("p2"));
    bench.expect("", "").await;
    assert_eq!(bench.fake.peek_all(catalogue::endpoint_slices()).len(), 1, "an empty slice says that there is none");
    bench.fake.remove(catalogue::services(), &key("web"));
    bench.clock.settle().await;
    assert!(bench.fake.peek_all(catalogue::endpoints()).is_empty());
    assert!(bench.fake.peek_all(catalogue::endpoint_slices()).is_empty());
}

#[tokio::test]
async fn what_does_not_matter_is_not_written() {
    let bench = Bench::start().await;
    bench.serve();
    bench.put(pod("p1", "10.244.0.1", true));
    bench.clock.settle().await;
    assert!(!bench.fake.writes().is_empty());
    let mut touched = pod("p1", "10.244.0.1", true);
    touched["metadata"]["annotations"] = json!({"seen": "yes"});
    touched["status"]["containerStatuses"] = json!([{"restartCount": 1}]);
    bench.put(touched);
    let mut foreign = pod("other", "10.244.0.3", true);
    foreign["metadata"]["labels"] = json!({});
    bench.put(foreign);
    bench.clock.advance(Duration::from_mins(1)).await;
    assert!(bench.fake.writes().is_empty());
}

#[tokio::test]
async fn what_others_break_is_put_right_and_what_others_made_is_left() {
    let bench = Bench::start().await;
    bench.put(pod("p1", "10.244.0.1", true));
    bench.serve();
    bench.clock.settle().await;
    let slice = meta::key(&bench.fake.peek_all(catalogue::endpoint_slices())[0]);
    bench.fake.remove(catalogue::endpoint_slices(), &slice);
    bench.fake.remove(catalogue::endpoints(), &key("web"));
    bench.expect("10.244.0.1", "").await;

    let mut manual = service("manual", &json!([{"port": 80}]));
    manual["spec"]["selector"] = Value::Null;
    bench.fake.put(catalogue::services(), manual);
    bench.fake.put(catalogue::endpoints(), json!({"metadata": {"namespace": "a", "name": "manual"}}));
    bench.clock.settle().await;
    bench.fake.remove(catalogue::services(), &key("manual"));
    bench.clock.settle().await;
    assert!(bench.fake.peek(catalogue::endpoints(), &key("manual")).is_some());
}

#[tokio::test]
async fn a_refused_write_is_tried_again() {
    let bench = Bench::start().await;
    bench.put(pod("p1", "10.244.0.1", true));
    bench.fake.refuse_writes(|_| Some(ApiError::new(Reason::ServiceUnavailable, "no leader")));
    bench.serve();
    bench.expect("", "").await;
    bench.fake.accept_writes();
    bench.clock.advance(Duration::from_secs(1)).await;
    bench.expect("10.244.0.1", "").await;
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_is_going() {
    let bench = Bench::start().await;
    bench.fake.put(catalogue::namespaces(), json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}}));
    let client = bench.fake.client();
    client
        .write(Write::Delete(catalogue::namespaces(), ObjectKey::cluster("a"), DeleteOptions::default()))
        .await
        .unwrap();
    bench.clock.settle().await;
    let _ = bench.fake.writes();
    bench.serve();
    bench.clock.advance(Duration::from_secs(10)).await;
    assert!(bench.fake.writes().is_empty());
}

#[tokio::test]
async fn endpoints_that_somebody_wrote_are_mirrored_while_their_service_has_no_selector() {
    let bench = Bench::start().await;
    let mut manual = service("manual", &json!([{"port": 80}]));
    let selector = manual["spec"]["selector"].take();
    bench.fake.put(catalogue::services(), manual.clone());
    let written = json!({
        "metadata": {"namespace": "a", "name": "manual", "uid": "e-uid"},
        "subsets": [{"addresses": [{"ip": "192.0.2.5"}], "ports": [{"port": 80, "protocol": "TCP"}]}],
    });
    bench.fake.put(catalogue::endpoints(), written.clone());
    let mirrors = async || {
        bench.clock.settle().await;
        let slices = bench.fake.peek_all(catalogue::endpoint_slices());
        let mirrors = slices.iter().filter(|slice| endpoint_mirror::is_mirror(slice, "manual"));
        mirrors.map(|slice| slice["endpoints"][0]["addresses"][0].clone()).collect::<Vec<_>>()
    };
    assert_eq!(mirrors().await, [json!("192.0.2.5")]);
    let mut moved = written;
    moved["subsets"][0]["addresses"][0]["ip"] = json!("192.0.2.6");
    bench.fake.put(catalogue::endpoints(), moved);
    assert_eq!(mirrors().await, [json!("192.0.2.6")]);
    // A slice that somebody removes comes back.
    let slice = meta::key(&bench.fake.peek_all(catalogue::endpoint_slices())[0]);
    bench.fake.remove(catalogue::endpoint_slices(), &slice);
    assert_eq!(mirrors().await, [json!("192.0.2.6")]);
    manual["spec"]["selector"] = selector;
    bench.fake.put(catalogue::services(), manual);
    assert!(mirrors().await.is_empty());
}
