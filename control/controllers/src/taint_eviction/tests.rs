//! Who goes when, by a table and by hand-turned time.

use super::*;
use coracle_client::fake::{Fake, ManualClock};
use coracle_objects::nodes::{TAINT_NOT_READY, TAINT_UNREACHABLE};
use serde_json::json;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn pod(name: &str, tolerations: &Value) -> Value {
    json!({
        "metadata": {"namespace": "a", "name": name, "uid": name},
        "spec": {"nodeName": "n", "tolerations": tolerations, "terminationGracePeriodSeconds": 0},
        "status": {"phase": "Running"},
    })
}

fn bears(key: &str, seconds: Option<i64>) -> Value {
    let mut toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute"});
    if let Some(seconds) = seconds {
        toleration["tolerationSeconds"] = seconds.into();
    }
    toleration
}

fn node(keys: &[(&str, Option<&str>)]) -> Value {
    let taints: Vec<Value> = keys
        .iter()
        .map(|(key, added)| {
            let mut taint = json!({"key": key, "effect": "NoExecute"});
            if let Some(added) = added {
                taint["timeAdded"] = (*added).into();
            }
            taint
        })
        .collect();
    json!({"metadata": {"name": "n"}, "spec": {"taints": taints}})
}

#[test]
fn tolerations_say_who_goes_when() {
    let aged = |taints: &[(&str, u64)]| -> Vec<(Taint, Duration)> {
        let keys: Vec<_> = taints.iter().map(|(key, _)| (*key, None)).collect();
        let node = node(&keys);
        taints::removing(&node).zip(taints).map(|((taint, _), (_, age))| (taint, seconds(*age))).collect()
    };
    let both = json!([bears(TAINT_UNREACHABLE, Some(300)), bears(TAINT_NOT_READY, Some(20))]);
    let mut over = pod("p", &json!([]));
    over["status"]["phase"] = "Succeeded".into();
    let mut ending = pod("p", &json!([]));
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let mut mirror = pod("p", &json!([]));
    mirror["metadata"]["annotations"] = json!({static_pods::MIRROR_ANNOTATION: "x"});
    let table = [
        (pod("p", &json!([])), aged(&[]), Plan::Keep),
        (pod("p", &json!([])), aged(&[("x", 0)]), Plan::Remove),
        (pod("p", &both), aged(&[(TAINT_UNREACHABLE, 0)]), Plan::Wait(seconds(300))),
        (pod("p", &both), aged(&[(TAINT_UNREACHABLE, 299)]), Plan::Wait(seconds(1))),
        (pod("p", &both), aged(&[(TAINT_UNREACHABLE, 300)]), Plan::Remove),
        (pod("p", &both), aged(&[(TAINT_UNREACHABLE, 100), (TAINT_NOT_READY, 5)]), Plan::Wait(seconds(15))),
        (pod("p", &both), aged(&[(TAINT_UNREACHABLE, 0), ("x", 0)]), Plan::Remove),
        (pod("p", &json!([bears("x", None)])), aged(&[("x", 9999)]), Plan::Keep),
        (
            pod("p", &json!([bears("x", None), bears("y", Some(5))])),
            aged(&[("x", 9), ("y", 1)]),
            Plan::Wait(seconds(4)),
        ),
        (over, aged(&[("x", 0)]), Plan::Keep),
        (ending, aged(&[("x", 0)]), Plan::Keep),
        (mirror, aged(&[("x", 0)]), Plan::Keep),
    ];
    for (pod, taints, expected) in table {
        assert_eq!(plan(&pod, &taints), expected, "{pod} {taints:?}");
    }
}

struct World {
    clock: ManualClock,
    fake: Fake,
    _ends: tokio_util::sync::DropGuard,
}

impl World {
    fn new(pods: &[Value], taints: &[(&str, Option<&str>)]) -> Self {
        let (clock, shutdown) = (ManualClock::new(), CancellationToken::new());
        let fake = Fake::new(&clock);
        fake.put(catalogue::nodes(), node(taints));
        for pod in pods {
            fake.put(catalogue::pods(), pod.clone());
        }
        let context = Context::new(fake.client(), Arc::new(clock.clone()), shutdown.clone());
        start(&context);
        Self { clock, fake, _ends: shutdown.drop_guard() }
    }

    fn taint(&self, taints: &[(&str, Option<&str>)]) {
        self.fake.put(catalogue::nodes(), node(taints));
    }

    fn left(&self) -> Vec<String> {
        self.fake.peek_all(catalogue::pods()).iter().map(|pod| meta::name(pod).to_owned()).collect()
    }

    fn said(&self, part: &str) -> bool {
        let events = self.fake.peek_all(catalogue::events());
        events.iter().any(|event| event["message"].as_str().is_some_and(|message| message.contains(part)))
    }
}

#[tokio::test]
async fn pods_go_when_their_time_is_over_and_stay_when_the_taint_goes_before() {
    let patient = pod("patient", &json!([bears(TAINT_UNREACHABLE, Some(300))]));
    let world = World::new(&[patient, pod("hasty", &json!([])), pod("eternal", &json!([{"operator": "Exists"}]))], &[]);
    world.clock.settle().await;
    assert_eq!(world.left(), ["eternal", "hasty", "patient"]);
    world.taint(&[(TAINT_UNREACHABLE, None)]);
    world.clock.settle().await;
    assert_eq!(world.left(), ["eternal", "patient"]);
    assert!(world.said("Marking for deletion Pod a/hasty"));
    world.clock.advance(seconds(200)).await;
    world.taint(&[]);
    world.clock.settle().await;
    assert!(world.said("Cancelling deletion of Pod a/patient"));
    world.clock.advance(seconds(200)).await;
    assert_eq!(world.left(), ["eternal", "patient"]);
    // It comes again: the time begins anew, but not with every heartbeat.
    world.taint(&[(TAINT_UNREACHABLE, None)]);
    world.clock.advance(seconds(200)).await;
    world.taint(&[(TAINT_UNREACHABLE, None), ("x", None)]);
    world.clock.settle().await;
    assert_eq!(world.left(), ["eternal"], "another taint that it does not bear at all");
}

#[tokio::test]
async fn a_server_that_restarts_goes_on_with_the_time_that_has_passed() {
    let added = coracle_client::fake::EPOCH - time::Duration::seconds(250);
    let patient = pod("patient", &json!([bears(TAINT_UNREACHABLE, Some(300))]));
    let world = World::new(&[patient], &[(TAINT_UNREACHABLE, Some(&clock::seconds_text(added)))]);
    world.clock.settle().await;
    world.clock.advance(seconds(49)).await;
    assert_eq!(world.left(), ["patient"]);
    world.clock.advance(seconds(1)).await;
    assert!(world.left().is_empty());
}
