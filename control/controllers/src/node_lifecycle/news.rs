//! Tells people what changed about nodes, in Kubernetes' words: that one is there, is ready or not, takes new pods or not, and
//! that there is no range of addresses for it. Each is told once, when it is seen; nothing is told of heartbeats. Nothing here
//! changes a node.

use super::{readiness, ready};
use crate::{
    Context,
    runtime::{self, Controller, Next},
};
use async_trait::async_trait;
use coracle_client::{clock, events::EventType};
use coracle_objects::{ApiError, ObjectKey, catalogue, meta, ranges};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use time::{Duration, OffsetDateTime};
use tokio::task::JoinHandle;

/// What changed so shortly before this process began to look is told too.
const BEFORE_WE_BEGAN: Duration = Duration::minutes(1);

/// What was seen of a node last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    uid: String,
    readiness: String,
    is_cordoned: bool,
    has_range: bool,
}

impl Seen {
    fn of(node: &Value) -> Self {
        Self {
            uid: meta::uid(node).to_owned(),
            readiness: readiness(node).to_owned(),
            is_cordoned: node["spec"]["unschedulable"] == true,
            has_range: !node["spec"]["podCIDR"].as_str().unwrap_or_default().is_empty(),
        }
    }
}

/// An event of a node.
#[derive(Debug, PartialEq, Eq)]
pub struct News {
    /// Whether it is bad.
    pub warning: bool,
    /// Why, in one word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// What there is to say of a node that was `before` when it was seen last; of one that was not, what changed since `since`.
#[must_use]
pub fn plan(before: Option<&Seen>, node: &Value, since: OffsetDateTime) -> (Seen, Vec<News>) {
    let (now, name) = (Seen::of(node), meta::name(node));
    let before = before.filter(|before| before.uid == now.uid);
    let is_recent = |stamp: &Value| stamp.as_str().and_then(clock::parse).is_some_and(|at| at >= since);
    let is_new = before.is_none() && is_recent(&node["metadata"]["creationTimestamp"]);
    let mut news = Vec::new();
    let mut status = |warning: bool, reason: &'static str, more: &str| {
        news.push(News { warning, reason, message: format!("Node {name} status is now: {reason}{more}") });
    };
    let was_ready = match before {
        Some(before) => before.readiness == "True",
        None => ready(node).is_none_or(|ready| !is_recent(&ready["lastTransitionTime"])) && !is_new,
    };
    match (was_ready, now.readiness.as_str()) {
        (false, "True") => status(false, "NodeReady", ""),
        // That nothing is heard of it is told by who found that out.
        (true, "False") if before.is_some() => status(false, "NodeNotReady", ""),
        _ => {}
    }
    match (before.map_or(!is_new, |before| before.is_cordoned), now.is_cordoned) {
        (false, true) => status(false, "NodeNotSchedulable", ""),
        (true, false) if before.is_some() => status(false, "NodeSchedulable", ""),
        _ => {}
    }
    if !now.has_range && before.is_none_or(|before| before.has_range) {
        status(true, "CIDRNotAvailable", &format!(": {}", ranges::exhausted(name, bits(node))));
    }
    if is_new {
        let message = format!("Node {name} event: Registered Node {name} in Controller");
        news.insert(0, News { warning: false, reason: "RegisteredNode", message });
    }
    (now, news)
}

/// How large a range the node asks for.
fn bits(node: &Value) -> u8 {
    let pods = meta::annotation(node, ranges::MAX_PODS_ANNOTATION).and_then(|text| text.parse().ok());
    pods.and_then(ranges::node_range_bits).unwrap_or(ranges::NODE_RANGE_BITS)
}

struct NodeNews {
    context: Context,
    since: OffsetDateTime,
    seen: Mutex<HashMap<String, Seen>>,
}

#[async_trait]
impl Controller for NodeNews {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ApiError> {
        let mut seen = self.seen.lock();
        let Some(node) = self.context.caches.nodes.get(key) else {
            seen.remove(&key.name);
            return Ok(Next::Done);
        };
        let (now, news) = plan(seen.get(&key.name), &node, self.since);
        seen.insert(key.name.clone(), now);
        drop(seen);
        for News { warning, reason, message } in news {
            let severity = if warning { EventType::Warning } else { EventType::Normal };
            self.context.recorder.record(catalogue::nodes(), &node, severity, reason, &message);
        }
        Ok(Next::Done)
    }
}

/// Starts the controller.
pub fn start(context: &Context) -> JoinHandle<()> {
    let since = context.clock.now() - BEFORE_WE_BEGAN;
    runtime::spawn("node news", context, move |context| {
        let sources = vec![runtime::same_keys(&context.caches.nodes)];
        (NodeNews { context: context.clone(), since, seen: Mutex::default() }, sources)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use time::macros::datetime;

    const SINCE: OffsetDateTime = datetime!(2026-01-01 00:00:00 UTC);
    const EARLIER: &str = "2025-12-31T23:00:00Z";
    const LATER: &str = "2026-01-01T00:00:00Z";

    fn node(uid: &str, made: &str, ready: Option<(&str, &str)>, cordoned: bool) -> Value {
        let mut node = json!({
            "metadata": {"name": "n", "uid": uid, "creationTimestamp": made},
            "spec": {"podCIDR": "10.244.0.0/22", "unschedulable": cordoned}, "status": {},
        });
        if let Some((status, since)) = ready {
            node["status"]["conditions"] = json!([{"type": "Ready", "status": status, "lastTransitionTime": since}]);
        }
        node
    }

    /// A node as it is seen, and why there are events then.
    type Seen = (Value, &'static [&'static str]);

    fn reasons(news: &[News]) -> Vec<&'static str> {
        news.iter().map(|one| one.reason).collect()
    }

    #[test]
    fn what_changes_is_told_once() {
        let new = |ready| node("u", LATER, ready, false);
        let old = |ready, cordoned| node("u", EARLIER, ready, cordoned);
        let (up, long_up, down) = (Some(("True", LATER)), Some(("True", EARLIER)), Some(("False", LATER)));
        let table: Vec<(&str, Vec<Seen>)> = vec![
            (
                "a node that comes",
                vec![
                    (new(None), &["RegisteredNode"]),
                    (new(down), &[]),
                    (new(up), &["NodeReady"]),
                    (new(up), &[]),
                    (new(down), &["NodeNotReady"]),
                    (new(Some(("Unknown", LATER))), &[]),
                    (new(up), &["NodeReady"]),
                ],
            ),
            (
                "one that is first seen when it is ready",
                vec![(new(up), &["RegisteredNode", "NodeReady"]), (new(up), &[])],
            ),
            (
                "one that is cordoned from the beginning",
                vec![(node("u", LATER, None, true), &["RegisteredNode", "NodeNotSchedulable"])],
            ),
            (
                "after a restart of the server",
                vec![
                    (old(long_up, true), &[]),
                    (old(long_up, false), &["NodeSchedulable"]),
                    (old(long_up, true), &["NodeNotSchedulable"]),
                    (old(long_up, true), &[]),
                    (old(down, true), &["NodeNotReady"]),
                ],
            ),
            ("one that got ready meanwhile", vec![(old(up, false), &["NodeReady"])]),
            (
                "one that is down since long",
                vec![(old(Some(("Unknown", EARLIER)), false), &[]), (old(up, false), &["NodeReady"])],
            ),
            (
                "another of the name",
                vec![(old(long_up, false), &[]), (node("v", LATER, None, false), &["RegisteredNode"])],
            ),
        ];
        for (what, steps) in table {
            let mut seen = None;
            for (number, (node, expected)) in steps.into_iter().enumerate() {
                let (now, news) = plan(seen.as_ref(), &node, SINCE);
                assert_eq!(reasons(&news), expected, "{what}, step {number}");
                seen = Some(now);
            }
        }
    }

    #[test]
    fn that_there_is_no_range_is_told_with_the_way_out_until_there_is_one() {
        let mut without = node("u", EARLIER, Some(("False", EARLIER)), false);
        without["spec"] = json!({});
        without["metadata"]["annotations"] = json!({ranges::MAX_PODS_ANNOTATION: "32765"});
        let (seen, news) = plan(None, &without, SINCE);
        assert_eq!((reasons(&news), news[0].warning), (vec!["CIDRNotAvailable"], true));
        let message = &news[0].message;
        for part in ["Node n status is now: CIDRNotAvailable", "all 8 ranges (/17) of 10.244.0.0/14", "--max-pods"] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(plan(Some(&seen), &without, SINCE).1, []);
        let (seen, news) = plan(Some(&seen), &node("u", EARLIER, Some(("True", LATER)), false), SINCE);
        assert_eq!(reasons(&news), ["NodeReady"]);
        assert_eq!(reasons(&plan(Some(&seen), &without, SINCE).1), ["NodeNotReady", "CIDRNotAvailable"]);
    }
}
