//! Says that a node is unknown when nothing has been heard of it for a while. When it is heard of again, its agent says
//! that it is ready; nobody else does.

use super::{Settings, ready};
use crate::{
    Context,
    caches::NODE_LEASES,
    runtime::{self, Controller, Keys, Next},
};
use async_trait::async_trait;
use coracle_client::{Part, Write, clock, events::EventType};
use coracle_objects::{ApiError, ObjectKey, catalogue, meta};
use futures::{StreamExt as _, stream};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::task::JoinHandle;

/// What becomes unknown with a silent node; `Ready` even if it was never there.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// However long a node's lease lasts, it may be silent no longer than this: a node does not choose to be believed for ever.
const PROMISE_SECONDS_MAX: u64 = 120;

/// What to do about a node that has been silent for some time.
#[derive(Debug, PartialEq)]
pub enum Plan {
    /// Nothing, before this much more time has passed.
    Wait(Duration),
    /// Nothing, before it is heard of again.
    Leave,
    /// Its status is to become this.
    Unknown(Value),
}

/// What to do about `node`, which has been silent for `silent`. `promised` is how long its own lease lasts: who beats
/// slowly, and says so, is not given up before that.
#[must_use]
pub fn plan(node: &Value, silent: Duration, promised: Duration, settings: &Settings, now: OffsetDateTime) -> Plan {
    let ready = ready(node);
    let grace = if ready.is_some() { settings.grace } else { settings.startup_grace };
    let allowed = grace.max(promised);
    if ready.is_some_and(|ready| ready["status"] == "Unknown") {
        return Plan::Leave;
    }
    let left = allowed.saturating_sub(silent);
    if !left.is_zero() {
        return Plan::Wait(left);
    }
    let mut unknown = node.clone();
    let mut conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    for kind in CONDITIONS {
        let place = conditions.iter().position(|condition| condition["type"] == kind);
        let (reason, message) = match place {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        let mut condition = place.map_or_else(|| json!({"type": kind}), |place| conditions[place].clone());
        condition["status"] = "Unknown".into();
        condition["reason"] = reason.into();
        condition["message"] = message.into();
        condition["lastTransitionTime"] = clock::seconds_text(now).into();
        match place {
            Some(place) => conditions[place] = condition,
            None if kind == "Ready" => conditions.push(condition),
            None => {}
        }
    }
    if !unknown["status"].is_object() {
        unknown["status"] = json!({});
    }
    unknown["status"]["conditions"] = conditions.into();
    Plan::Unknown(unknown)
}

/// Time in which this process ran, as far as it can tell: nobody is blamed for silence while we could not listen (a frozen
/// process or machine, a host that starves it).
#[derive(Debug, Default)]
struct Awake {
    looked: Duration,
    lost: Duration,
}

/// How often we look whether we run.
const TICK: Duration = Duration::from_secs(1);
/// A gap between two looks that is longer than this was no time of ours.
const GAP_MAX: Duration = Duration::from_secs(2);

impl Awake {
    /// The time in which we ran, up to `now`.
    fn at(&mut self, now: Duration) -> Duration {
        let gap = now.saturating_sub(self.looked);
        if gap > GAP_MAX {
            self.lost += gap;
        }
        self.looked = self.looked.max(now);
        now.saturating_sub(self.lost)
    }
}

/// The last sign of life of a node, and when it came *here*, in time in which we ran: the node's clock is not compared with
/// ours.
struct Heard {
    sign: String,
    at: Duration,
}

struct Silence {
    context: Context,
    settings: Settings,
    heard: Mutex<HashMap<String, Heard>>,
    /// Nodes that beat too slowly, as they were when that was told.
    told: Mutex<HashMap<String, String>>,
    awake: Arc<Mutex<Awake>>,
}

/// Heartbeats in the time for which a node says that one counts.
const HEARTBEATS_IN_A_LEASE: u64 = 4;

/// What to tell of a node that is found out later than the cluster wants, because its lease lasts so long.
fn slow(name: &str, promised: Duration, settings: &Settings) -> Option<String> {
    let (lease, grace) = (promised.as_secs(), settings.grace.as_secs());
    let interval = (grace / HEARTBEATS_IN_A_LEASE).max(1);
    (promised > settings.grace).then(|| {
        format!(
            "Node {name} renews its lease for {lease} s at a time: when it falls silent, that is noticed after {lease} s and not \
             after {grace} s (--node-monitor-grace-period); start it with --heartbeat-interval {interval}"
        )
    })
}

impl Silence {
    fn tell_of_slow(&self, node: &Value, promised: Duration) {
        let name = meta::name(node);
        let Some(message) = slow(name, promised, &self.settings) else {
            self.told.lock().remove(name);
            return;
        };
        let state = format!("{}/{}", meta::uid(node), promised.as_secs());
        if self.told.lock().insert(name.to_owned(), state.clone()).as_ref() != Some(&state) {
            self.context.recorder.record(catalogue::nodes(), node, EventType::Warning, "HeartbeatsTooSlow", &message);
        }
    }

    /// How long the node has been silent, and how long it said it might be.
    fn of(&self, node: &Value) -> (Duration, Duration) {
        let name = meta::name(node);
        let lease = self.context.caches.leases.get(&ObjectKey::namespaced(NODE_LEASES, name));
        let renewed = lease.as_ref().and_then(|lease| lease["spec"]["renewTime"].as_str()).unwrap_or_default();
        let beat = ready(node).and_then(|ready| ready["lastHeartbeatTime"].as_str()).unwrap_or_default();
        let now = self.awake.lock().at(self.context.clock.monotonic());
        let sign = format!("{}/{renewed}/{beat}", meta::uid(node));
        let mut heard = self.heard.lock();
        let last = heard.entry(name.to_owned()).or_insert_with(|| Heard { sign: sign.clone(), at: now });
        if last.sign != sign {
            *last = Heard { sign, at: now };
        }
        let promised = lease.as_ref().and_then(|lease| lease["spec"]["leaseDurationSeconds"].as_u64()).unwrap_or(0);
        (now.saturating_sub(last.at), Duration::from_secs(promised.min(PROMISE_SECONDS_MAX)))
    }
}

#[async_trait]
impl Controller for Silence {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ApiError> {
        let Some(node) = self.context.caches.nodes.get(key) else {
            self.heard.lock().remove(&key.name);
            self.told.lock().remove(&key.name);
            return Ok(Next::Done);
        };
        let (silent, promised) = self.of(&node);
        self.tell_of_slow(&node, promised);
        match plan(&node, silent, promised, &self.settings, self.context.clock.now()) {
            Plan::Wait(time) => Ok(Next::After(time)),
            Plan::Leave => Ok(Next::Done),
            Plan::Unknown(status) => {
                self.context.client.write(Write::Update(catalogue::nodes(), Part::Status, status)).await?;
                let message = format!("Node {key} status is now: NodeNotReady");
                self.context.recorder.record(catalogue::nodes(), &node, EventType::Normal, "NodeNotReady", &message);
                Ok(Next::Done)
            }
        }
    }
}

/// No keys, but looks at whether we run.
fn ticks(context: &Context, awake: &Arc<Mutex<Awake>>) -> Keys<ObjectKey> {
    let state = (Arc::clone(&context.clock), Arc::clone(awake));
    let ticks = stream::unfold(state, |(clock, awake)| async move {
        clock.sleep(TICK).await;
        awake.lock().at(clock.monotonic());
        Some((Vec::new(), (clock, awake)))
    });
    ticks.boxed()
}

/// Starts the controller.
pub fn start(context: &Context, settings: &Settings) -> JoinHandle<()> {
    let settings = settings.clone();
    runtime::spawn("node silence", context, move |context| {
        let leases = runtime::keys_from(&context.caches.leases, |leases, changed| {
            let keys = runtime::changed_keys(leases, changed).into_iter();
            keys.filter(|key| key.namespace == NODE_LEASES).map(|key| ObjectKey::cluster(key.name)).collect()
        });
        let awake = Arc::new(Mutex::new(Awake { looked: context.clock.monotonic(), lost: Duration::ZERO }));
        let sources = vec![runtime::same_keys(&context.caches.nodes), leases, ticks(context, &awake)];
        let (heard, told) = (Mutex::default(), Mutex::default());
        (Silence { context: context.clone(), settings: settings.clone(), heard, told, awake }, sources)
    })
}

#[cfg(test)]
mod tests {
    use super::{super::condition, *};
    use coracle_client::fake::{Fake, ManualClock};
    use time::macros::datetime;
    use tokio_util::sync::CancellationToken;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn node(status: &str, beat: &str) -> Value {
        let ready = json!({"type": "Ready", "status": status, "reason": "R", "lastHeartbeatTime": beat});
        json!({"metadata": {"name": "n1"}, "status": {"capacity": {"cpu": "1"}, "conditions": [
            ready, {"type": "DiskPressure", "status": "False"}, {"type": "Own", "status": "True"},
        ]}})
    }

    #[test]
    fn time_in_which_we_did_not_run_is_nobodys_silence() {
        let mut awake = Awake::default();
        let shown: Vec<u64> = [1, 2, 4, 64, 65, 67, 70].map(|now| awake.at(seconds(now)).as_secs()).to_vec();
        assert_eq!(shown, [1, 2, 4, 4, 5, 7, 7]);
    }

    #[test]
    fn silence_is_borne_for_a_while() {
        let now = datetime!(2026-01-01 00:00:00 UTC);
        let table = [
            (node("True", "1"), 0, 40, Some(40)),
            (node("True", "1"), 39, 0, Some(1)),
            (node("False", "1"), 39, 40, Some(1)),
            (json!({"metadata": {}}), 59, 0, Some(1)),
            (node("Unknown", "1"), 99, 0, None),
            // Its own lease lasts longer than we would wait.
            (node("True", "1"), 45, 60, Some(15)),
        ];
        for (node, silent, promised, expected) in table {
            let expected = expected.map_or(Plan::Leave, |wait| Plan::Wait(seconds(wait)));
            let planned = plan(&node, seconds(silent), seconds(promised), &Settings::default(), now);
            assert_eq!(planned, expected, "{silent} s");
        }
    }

    #[test]
    fn then_its_conditions_become_unknown() {
        let now = datetime!(2026-01-01 00:00:00 UTC);
        let after = |node: &Value, silent| plan(node, seconds(silent), Duration::ZERO, &Settings::default(), now);
        let Plan::Unknown(unknown) = after(&node("True", "1"), 40) else { panic!() };
        let table = [
            (
                "Ready",
                json!({
                    "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "lastHeartbeatTime": "1",
                    "message": "Kubelet stopped posting node status.", "lastTransitionTime": "2026-01-01T00:00:00Z",
                }),
            ),
            ("Own", json!({"type": "Own", "status": "True"})),
        ];
        for (kind, expected) in table {
            assert_eq!(condition(&unknown, kind), Some(&expected));
        }
        assert_eq!(condition(&unknown, "DiskPressure").unwrap()["status"], "Unknown");
        assert_eq!(condition(&unknown, "PIDPressure"), None);
        assert_eq!(unknown["status"]["capacity"]["cpu"], "1");
        let Plan::Unknown(never) = after(&json!({}), 60) else { panic!() };
        assert_eq!(never["status"]["conditions"][0]["reason"], "NodeStatusNeverUpdated");
    }

    #[tokio::test]
    async fn a_node_that_beats_too_slowly_for_the_cluster_is_told_of_once() {
        let (clock, shutdown) = (ManualClock::new(), CancellationToken::new());
        let _ends = shutdown.clone().drop_guard();
        let fake = Fake::new(&clock);
        let lease = |seconds: u64, renewed: &str| {
            json!({"metadata": {"namespace": NODE_LEASES, "name": "n1"},
                "spec": {"renewTime": renewed, "leaseDurationSeconds": seconds}})
        };
        fake.put(catalogue::nodes(), node("True", "1"));
        let context = Context::new(fake.client(), Arc::new(clock.clone()), shutdown);
        start(&context, &Settings { grace: seconds(5), ..Settings::default() });
        let told = || {
            let events = fake.peek_all(catalogue::events());
            let slow = events.into_iter().filter(|event| event["reason"] == "HeartbeatsTooSlow");
            slow.map(|event| (event["count"].clone(), event["message"].as_str().unwrap_or_default().to_owned()))
                .collect::<Vec<_>>()
        };
        fake.put(catalogue::leases(), lease(4, "a"));
        clock.advance(seconds(1)).await;
        assert_eq!(told(), []);
        for renewed in ["b", "c", "d"] {
            fake.put(catalogue::leases(), lease(40, renewed));
            clock.advance(seconds(1)).await;
        }
        let told = told();
        assert_eq!((told.len(), &told[0].0), (1, &json!(1)), "{told:?}");
        assert!(
            told[0].1.contains("after 40 s and not after 5 s") && told[0].1.ends_with("--heartbeat-interval 1"),
            "{told:?}"
        );
    }

    #[tokio::test]
    async fn a_silent_node_becomes_unknown_and_its_agent_brings_it_back() {
        let (clock, shutdown) = (ManualClock::new(), CancellationToken::new());
        let _ends = shutdown.clone().drop_guard();
        let fake = Fake::new(&clock);
        let lease = |renewed: &str| json!({"metadata": {"namespace": NODE_LEASES, "name": "n1"}, "spec": {"renewTime": renewed}});
        fake.put(catalogue::nodes(), node("True", "1"));
        let context = Context::new(fake.client(), Arc::new(clock.clone()), shutdown);
        start(&context, &Settings::default());
        let ready = || {
            let node = fake.peek(catalogue::nodes(), &ObjectKey::cluster("n1")).unwrap();
            condition(&node, "Ready").unwrap()["status"].as_str().unwrap().to_owned()
        };
        for renewed in ["a", "b", "c"] {
            fake.put(catalogue::leases(), lease(renewed));
            clock.advance(seconds(39)).await;
            assert_eq!(ready(), "True");
        }
        clock.advance(seconds(1)).await;
        assert_eq!(ready(), "Unknown");
        let events = fake.peek_all(catalogue::events());
        let messages: Vec<_> = events.iter().map(|event| event["message"].as_str().unwrap_or_default()).collect();
        assert!(messages.contains(&"Node n1 status is now: NodeNotReady"), "{messages:?}");
        clock.advance(seconds(300)).await;

        fake.put(catalogue::leases(), lease("d"));
        fake.put(catalogue::nodes(), node("True", "2"));
        clock.advance(seconds(39)).await;
        assert_eq!(ready(), "True");
        clock.advance(seconds(1)).await;
        assert_eq!(ready(), "Unknown");
    }
}
