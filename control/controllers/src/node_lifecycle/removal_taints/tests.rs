//! Which nodes are tainted when, by tables and by hand-turned time.

use super::*;
use time::macros::datetime;

const WALL: OffsetDateTime = datetime!(2026-01-01 00:00:00 UTC);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn node(name: &str, zone: &str, status: &str) -> Arc<Value> {
    Arc::new(json!({
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
        "status": {"conditions": [{"type": "Ready", "status": status}]},
    }))
}

fn with(node: &Arc<Value>, taints: &Value) -> Arc<Value> {
    let mut node = Value::clone(node);
    node["spec"] = json!({"taints": taints});
    Arc::new(node)
}

fn taint(key: &str) -> Value {
    json!({"key": key, "effect": "NoExecute", "timeAdded": "2025-12-31T00:00:00Z"})
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.changed.iter().map(meta::name).collect()
}

#[test]
fn the_taint_follows_what_ready_says() {
    let healthy = node("healthy", "", "True");
    let own = json!({"key": "own", "effect": "NoExecute"});
    let table = [
        (node("n", "", "True"), None),
        (
            node("n", "", "Unknown"),
            Some(json!([{"key": TAINT_UNREACHABLE, "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}])),
        ),
        (
            node("n", "", "False"),
            Some(json!([{"key": TAINT_NOT_READY, "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}])),
        ),
        (with(&node("n", "", "True"), &json!([own, taint(TAINT_UNREACHABLE)])), Some(json!([own]))),
        (with(&node("n", "", "Unknown"), &json!([taint(TAINT_UNREACHABLE)])), None),
        // What it was before does not begin anew.
        (
            with(&node("n", "", "Unknown"), &json!([own, taint(TAINT_NOT_READY)])),
            Some(json!([own, taint(TAINT_UNREACHABLE)])),
        ),
    ];
    for (node, expected) in table {
        let nodes = [healthy.clone(), node];
        let planned = plan(&nodes, &mut Memory::default(), &Settings::default(), Duration::ZERO, WALL);
        let taints = planned.changed.first().map(|node| node["spec"]["taints"].clone());
        assert_eq!(taints, expected, "{}", nodes[1]);
    }
}

#[test]
fn one_node_at_a_time_in_each_zone() {
    let (mut memory, settings) = (Memory::default(), Settings::default());
    let mut nodes: Vec<_> = ["a1", "a2", "a3", "a4"].map(|name| node(name, "a", "True")).to_vec();
    nodes.push(node("b1", "b", "True"));
    nodes.extend(["a5", "a6"].map(|name| node(name, "a", "Unknown")));
    nodes.push(node("b2", "b", "Unknown"));
    let mut look = |nodes: &[Arc<Value>], at| plan(nodes, &mut memory, &settings, seconds(at), WALL);
    let first = look(&nodes, 100);
    assert_eq!((names(&first), first.again), (vec!["a5", "b2"], Some(seconds(10))));
    nodes[5] = Arc::new(first.changed[0].clone());
    nodes[7] = Arc::new(first.changed[1].clone());
    let second = look(&nodes, 104);
    assert_eq!((names(&second), second.again), (vec![], Some(seconds(6))));
    let third = look(&nodes, 110);
    assert_eq!((names(&third), third.again), (vec!["a6"], None));
}

#[test]
fn where_much_of_a_small_zone_is_lost_nothing_goes_and_in_a_large_one_slowly() {
    let lost = |ready: usize, lost: usize| -> Vec<_> {
        let ready = (0..ready).map(|number| node(&format!("r{number}"), "", "True"));
        ready.chain((0..lost).map(|number| node(&format!("l{number}"), "", "Unknown"))).collect()
    };
    let look = |nodes: &[Arc<Value>]| {
        let planned = plan(nodes, &mut Memory::default(), &Settings::default(), seconds(1000), WALL);
        (planned.changed.len(), planned.again)
    };
    assert_eq!(look(&lost(1, 3)), (0, None));
    assert_eq!(look(&lost(20, 40)), (1, Some(seconds(100))));
}

#[test]
fn when_nobody_is_ready_nobody_is_tainted_and_then_everybody_has_time() {
    let (mut memory, settings) = (Memory::default(), Settings::default());
    plan(&[node("other", "", "True")], &mut memory, &settings, seconds(0), WALL);
    let dead = with(&node("dead", "", "Unknown"), &json!([taint(TAINT_UNREACHABLE)]));
    let nodes = [dead, node("other", "", "Unknown")];
    let disrupted = plan(&nodes, &mut memory, &settings, seconds(10), WALL);
    assert_eq!((names(&disrupted), disrupted.again, disrupted.disruption), (vec!["dead"], None, Some(true)));
    assert_eq!(disrupted.changed[0]["spec"]["taints"], json!([]));
    let nodes = [node("dead", "", "Unknown"), node("other", "", "True")];
    let over = plan(&nodes, &mut memory, &settings, seconds(20), WALL);
    assert_eq!((names(&over), over.again, over.disruption), (vec![], Some(settings.grace), Some(false)));
    let later = plan(&nodes, &mut memory, &settings, seconds(20) + settings.grace, WALL);
    assert_eq!((names(&later), later.again, later.disruption), (vec!["dead"], None, None));
}
