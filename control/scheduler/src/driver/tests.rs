//! The loop against the fake.

use coracle_client::{
    Write,
    clock::Clock,
    fake::{Fake, ManualClock},
};
use coracle_objects::{ApiError, ObjectKey, Reason, catalogue};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::{CancellationToken, DropGuard};

struct Bench {
    clock: ManualClock,
    fake: Fake,
    _shutdown: DropGuard,
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::namespaced("default", name)
}

fn node(name: &str, cpu: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "status": {
            "allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": name},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
    })
}

impl Bench {
    /// A running scheduler that has seen these nodes and pods.
    async fn start(nodes: &[Value], pods: &[Value]) -> Self {
        let (clock, shutdown) = (ManualClock::new(), CancellationToken::new());
        let bench = Self { fake: Fake::new(&clock), clock, _shutdown: shutdown.clone().drop_guard() };
        for node in nodes {
            bench.fake.put(catalogue::nodes(), node.clone());
        }
        for pod in pods {
            bench.put(pod.clone());
        }
        let clock: Arc<dyn Clock> = Arc::new(bench.clock.clone());
        tokio::spawn(crate::run_with(bench.fake.client(), clock, shutdown));
        bench.clock.settle().await;
        bench
    }

    fn put(&self, pod: Value) {
        self.fake.put(catalogue::pods(), pod);
    }

    fn node_of(&self, name: &str) -> Option<String> {
        let pod = self.fake.peek(catalogue::pods(), &key(name))?;
        pod["spec"]["nodeName"].as_str().map(str::to_owned)
    }

    fn condition(&self, name: &str) -> Value {
        let pod = self.fake.peek(catalogue::pods(), &key(name)).unwrap();
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == "PodScheduled").unwrap_or_default()
    }

    fn events(&self, reason: &str) -> Vec<(String, u64)> {
        let events = self.fake.peek_all(catalogue::events()).into_iter().filter(|event| event["reason"] == reason);
        let text =
            |event: Arc<Value>| (event["message"].as_str().unwrap().to_owned(), event["count"].as_u64().unwrap());
        events.map(text).collect()
    }

    fn binds(&self) -> usize {
        self.fake.writes().iter().filter(|write| matches!(write, Write::Bind { .. })).count()
    }

    async fn within(&self, seconds: u64, condition: impl Fn() -> bool) {
        self.clock.run_until(Duration::from_secs(seconds), condition).await;
    }
}

#[tokio::test]
async fn a_pod_is_bound_and_an_event_says_where() {
    let bench = Bench::start(&[node("n1", "1")], &[pod("p", "1")]).await;
    assert_eq!(bench.node_of("p").as_deref(), Some("n1"));
    assert_eq!(bench.condition("p")["status"], "True");
    assert_eq!(bench.events("Scheduled"), [("Successfully assigned default/p to n1".to_owned(), 1)]);
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why_and_waits_for_room() {
    let bench = Bench::start(&[node("n1", "1")], &[pod("first", "1")]).await;
    bench.put(pod("second", "500m"));
    bench.clock.settle().await;
    let message = "0/1 nodes are available: 1 Insufficient cpu.";
    let condition = bench.condition("second");
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Unschedulable")));
    assert_eq!(condition["message"], message);
    assert_eq!(bench.events("FailedScheduling"), [(message.to_owned(), 1)]);

    let writes = bench.fake.writes().len();
    bench.clock.advance(Duration::from_mins(1)).await;
    assert!(writes > 0 && bench.fake.writes().is_empty(), "nothing changed, nothing is written");

    let mut larger = node("n1", "1200m");
    bench.fake.put(catalogue::nodes(), larger.clone());
    bench.clock.settle().await;
    assert_eq!(bench.events("FailedScheduling"), [(message.to_owned(), 2)], "tried again, still too small");
    larger["status"]["allocatable"]["cpu"] = "2".into();
    bench.fake.put(catalogue::nodes(), larger);
    bench.within(2, || bench.node_of("second").is_some()).await;
    assert_eq!(bench.condition("second")["status"], "True");
}

#[tokio::test]
async fn an_ended_pod_makes_room() {
    let bench = Bench::start(&[node("n1", "1")], &[pod("first", "1")]).await;
    bench.put(pod("second", "1"));
    bench.clock.advance(Duration::from_secs(5)).await;
    assert_eq!(bench.node_of("second"), None);
    let mut done = Value::clone(&bench.fake.peek(catalogue::pods(), &key("first")).unwrap());
    done["status"]["phase"] = "Succeeded".into();
    bench.put(done);
    bench.within(1, || bench.node_of("second").is_some()).await;
    bench.put(pod("third", "1"));
    bench.clock.advance(Duration::from_secs(5)).await;
    bench.fake.remove(catalogue::pods(), &key("second"));
    bench.within(1, || bench.node_of("third").is_some()).await;
}

#[tokio::test]
async fn without_nodes_pods_wait_for_the_first_one_that_is_ready() {
    let bench = Bench::start(&[], &[pod("p", "1")]).await;
    assert_eq!(bench.events("FailedScheduling"), [("no nodes available to schedule pods".to_owned(), 1)]);
    let mut late = node("n1", "1");
    late["status"]["conditions"][0]["status"] = "False".into();
    bench.fake.put(catalogue::nodes(), late);
    bench.clock.advance(Duration::from_secs(3)).await;
    let message = "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.";
    assert_eq!(bench.condition("p")["message"], message);
    bench.fake.put(catalogue::nodes(), node("n1", "1"));
    bench.within(3, || bench.node_of("p").is_some()).await;
}

#[tokio::test]
async fn others_pods_are_left_alone_but_take_room() {
    let mut foreign = pod("foreign", "1");
    foreign["spec"]["schedulerName"] = "mine".into();
    let mut pinned = pod("pinned", "600m");
    pinned["spec"]["nodeName"] = "n1".into();
    let bench = Bench::start(&[node("n1", "1")], &[foreign, pinned, pod("p", "500m")]).await;
    assert_eq!((bench.node_of("foreign"), bench.node_of("p"), bench.binds()), (None, None, 0));
    assert_eq!(bench.condition("p")["message"], "0/1 nodes are available: 1 Insufficient cpu.");
}

#[tokio::test]
async fn a_failed_binding_frees_the_room_and_is_tried_again() {
    let bench = Bench::start(&[node("n1", "1")], &[]).await;
    bench.fake.refuse_writes(|write| {
        matches!(write, Write::Bind { pod, .. } if pod.name == "first")
            .then(|| ApiError::new(Reason::ServiceUnavailable, "no leader"))
    });
    bench.put(pod("first", "1"));
    bench.clock.settle().await;
    assert_eq!(bench.node_of("first"), None);
    assert_eq!(bench.events("FailedScheduling"), [("binding rejected: no leader".to_owned(), 1)]);
    bench.put(pod("second", "1"));
    bench.clock.settle().await;
    assert_eq!(bench.node_of("second").as_deref(), Some("n1"), "the room is free again");
    bench.fake.accept_writes();
    bench.fake.remove(catalogue::pods(), &key("second"));
    bench.within(20, || bench.node_of("first").is_some()).await;
}

#[tokio::test]
async fn a_pod_made_again_under_its_old_name_is_another_pod() {
    let bench = Bench::start(&[node("n1", "1")], &[pod("p", "1")]).await;
    bench.fake.remove(catalogue::pods(), &key("p"));
    bench.put(pod("p", "1"));
    bench.within(1, || bench.node_of("p").is_some()).await;
    assert_eq!(bench.binds(), 2);
}

#[tokio::test]
async fn a_pod_replaced_while_its_binding_is_under_way_is_placed_too() {
    let bench = Bench::start(&[node("n1", "1")], &[]).await;
    let (fake, uid) = (bench.fake.clone(), std::sync::Mutex::new(None));
    bench.fake.after_writes(move |write| {
        let Write::Bind { uid: bound, .. } = write else { return };
        if uid.lock().unwrap().get_or_insert_with(|| bound.clone()) == bound {
            fake.remove(catalogue::pods(), &key("p"));
            fake.put(catalogue::pods(), pod("p", "1"));
        }
    });
    bench.put(pod("p", "1"));
    bench.within(5, || bench.node_of("p").is_some()).await;
    assert_eq!(bench.binds(), 2);
}

#[tokio::test]
async fn many_pods_are_bound_once_each_and_never_beyond_what_nodes_have() {
    let nodes: Vec<Value> = (0..60).map(|index| node(&format!("n{index}"), "4")).collect();
    let pods: Vec<Value> = (0..700).map(|index| pod(&format!("p{index}"), "100m")).collect();
    let bench = Bench::start(&nodes, &pods).await;
    let bound =
        || bench.fake.peek_all(catalogue::pods()).iter().filter(|pod| pod["spec"]["nodeName"].is_string()).count();
    bench.within(1, || bound() == 600).await;
    bench.clock.advance(Duration::from_secs(1)).await;
    assert_eq!((bound(), bench.binds()), (600, 600), "ten on each of sixty nodes");
    let waiting = bench.fake.peek_all(catalogue::pods()).into_iter().find(|pod| pod["spec"]["nodeName"].is_null());
    assert_eq!(waiting.unwrap()["status"]["conditions"][0]["message"], "0/60 nodes are available: 60 Too many pods.");
}
