//! Decisions by tables.

use super::*;
use serde_json::json;

fn node(cpu: &str, memory: &str) -> Value {
    json!({
        "metadata": {"labels": {"zone": "a"}},
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory, "ephemeral-storage": "10Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn pod(name: &str, requests: &Value) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": name, "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"resources": {"requests": requests}}]},
    })
}

fn pending(pod: &Value) -> PendingPod {
    PendingPod::of_pod(pod)
}

fn cluster(nodes: &[(&str, Value)]) -> Cluster {
    let mut cluster = Cluster::default();
    for (name, node) in nodes {
        cluster.set_node(name, node);
    }
    cluster
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = if parent.is_empty() { &mut object } else { object.pointer_mut(parent).unwrap() };
    parent[field] = value;
    object
}

#[test]
fn reasons_read_as_kube_schedulers() {
    let small = || node("500m", "1Gi");
    let cordoned = || with(node("4", "4Gi"), "/spec", json!({"unschedulable": true}));
    let taint = json!({"taints": [{"key": "team", "value": "red", "effect": "NoSchedule"}]});
    let tainted = || with(node("4", "4Gi"), "/spec", taint.clone());
    let lost = || with(node("4", "4Gi"), "/status/conditions", json!([{"type": "Ready", "status": "Unknown"}]));
    let unready = || with(node("4", "4Gi"), "/status/conditions", json!([]));
    let full = || with(node("4", "4Gi"), "/status/allocatable/pods", json!("0"));
    let one_cpu = pod("p", &json!({"cpu": "1"}));
    let table: Vec<(Vec<Value>, Value, &str)> = vec![
        (vec![], one_cpu.clone(), "no nodes available to schedule pods"),
        (vec![small()], one_cpu.clone(), "0/1 nodes are available: 1 Insufficient cpu."),
        (
            vec![small()],
            pod("p", &json!({"cpu": "1", "memory": "2Gi", "ephemeral-storage": "11Gi", "example.com/gpu": 1})),
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient ephemeral-storage, \
             1 Insufficient example.com/gpu, 1 Insufficient memory.",
        ),
        (
            vec![small(), node("4", "4Gi"), node("4", "4Gi")],
            with(one_cpu.clone(), "/spec/nodeSelector", json!({"zone": "b"})),
            "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
        ),
        (
            vec![small(), cordoned(), tainted(), lost(), unready(), full()],
            one_cpu.clone(),
            "0/6 nodes are available: 1 Insufficient cpu, 1 Too many pods, \
             1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }, \
             1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }, \
             1 node(s) had untolerated taint {team: red}, 1 node(s) were unschedulable.",
        ),
        (
            // The parts are ordered as texts: the number decides before the reason does.
            vec![small(), small(), cordoned()],
            one_cpu,
            "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.",
        ),
    ];
    for (nodes, pod, expected) in table {
        let names: Vec<String> = (0..nodes.len()).map(|index| format!("n{index}")).collect();
        let nodes: Vec<_> = names.iter().map(String::as_str).zip(nodes).collect();
        let decision = cluster(&nodes).decide(&pending(&pod));
        assert_eq!(decision, Decision::Unschedulable(expected.to_owned()));
    }
}

#[test]
fn tolerations_open_tainted_and_cordoned_nodes() {
    let taint = json!({"unschedulable": true, "taints": [{"key": "team", "effect": "NoExecute"}]});
    let mut cluster = cluster(&[("n", with(node("1", "1Gi"), "/spec", taint))]);
    let tolerant = with(pod("p", &json!({})), "/spec/tolerations", json!([{"operator": "Exists"}]));
    assert_eq!(cluster.decide(&pending(&tolerant)), Decision::Place("n".into()));
    assert!(matches!(cluster.decide(&pending(&pod("q", &json!({})))), Decision::Unschedulable(_)));
}

#[test]
fn a_preference_taint_keeps_nobody_away() {
    let taint = json!({"taints": [{"key": "team", "effect": "PreferNoSchedule"}]});
    let mut cluster = cluster(&[("n", with(node("1", "1Gi"), "/spec", taint))]);
    assert_eq!(cluster.decide(&pending(&pod("p", &json!({})))), Decision::Place("n".into()));
}

#[test]
fn soft_taints_and_preferences_decide_between_nodes_that_would_do() {
    let soft = with(node("4", "4Gi"), "/spec", json!({"taints": [{"key": "busy", "effect": "PreferNoSchedule"}]}));
    let ssd = with(node("4", "4Gi"), "/metadata/labels", json!({"disk": "ssd"}));
    let mut cluster = cluster(&[("a", soft), ("b", node("4", "4Gi")), ("c", ssd)]);
    let plain = pod("p", &json!({}));
    let term = |weight: i64| {
        let preference = json!({"matchExpressions": [{"key": "disk", "operator": "Exists"}]});
        json!([{"weight": weight, "preference": preference}])
    };
    let affinity = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": term(1)}});
    let prefers = with(plain.clone(), "/spec/affinity", affinity);
    let bears = with(prefers.clone(), "/spec/tolerations", json!([{"key": "busy", "operator": "Exists"}]));
    for (pod, expected) in [(plain, "b"), (prefers, "c"), (bears, "c")] {
        assert_eq!(cluster.decide(&pending(&pod)), Decision::Place(expected.into()), "{pod}");
    }
}

#[test]
fn a_batch_sees_its_own_placements() {
    let mut cluster = cluster(&[("n", node("1", "1Gi"))]);
    let pods: Vec<_> = (0..3).map(|index| pending(&pod(&format!("p{index}"), &json!({"cpu": "500m"})))).collect();
    let decisions = cluster.decide_all(&pods);
    let none = Decision::Unschedulable("0/1 nodes are available: 1 Insufficient cpu.".to_owned());
    assert_eq!(decisions, [Decision::Place("n".into()), Decision::Place("n".into()), none]);
    assert!(cluster.displace(&pods[0].key));
    assert!(!cluster.displace(&pods[0].key));
    assert_eq!(cluster.decide(&pods[2]), Decision::Place("n".into()));
}

#[test]
fn host_ports_are_taken_once_per_node() {
    let mut cluster = cluster(&[("n1", node("4", "4Gi")), ("n2", node("4", "4Gi"))]);
    let port = json!([{"hostPort": 80, "protocol": "TCP"}]);
    let pods: Vec<_> = (0..3)
        .map(|index| pending(&with(pod(&format!("p{index}"), &json!({})), "/spec/containers/0/ports", port.clone())))
        .collect();
    let decisions = cluster.decide_all(&pods);
    let message = "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports.";
    assert_eq!(decisions[2], Decision::Unschedulable(message.to_owned()));
    assert_ne!(decisions[0], decisions[1]);
}

#[test]
fn replicas_spread_and_others_go_where_most_is_left() {
    let mut cluster = cluster(&[("n1", node("4", "4Gi")), ("n2", node("4", "4Gi")), ("n3", node("8", "8Gi"))]);
    let replicas: Vec<_> = (0..3).map(|index| pending(&pod(&format!("p{index}"), &json!({"cpu": "100m"})))).collect();
    let mut nodes: Vec<_> = cluster.decide_all(&replicas).into_iter().map(|decision| format!("{decision:?}")).collect();
    assert_eq!(nodes[0], "Place(\"n3\")", "the largest is the emptiest");
    nodes.sort();
    nodes.dedup();
    assert_eq!(nodes.len(), 3, "one replica each");
    let mut other = pod("other", &json!({"cpu": "100m", "memory": "100Mi"}));
    other["metadata"]["labels"] = json!({});
    assert_eq!(cluster.decide(&pending(&other)), Decision::Place("n3".into()));
}

#[test]
fn equal_nodes_are_taken_in_the_order_of_their_names() {
    let mut cluster = cluster(&[("b", node("4", "4Gi")), ("a", node("4", "4Gi"))]);
    for _ in 0..3 {
        assert_eq!(cluster.decide(&pending(&pod("p", &json!({})))), Decision::Place("a".into()));
    }
}

#[test]
fn a_large_cluster_is_searched_in_part_and_from_where_the_last_search_ended() {
    let table = [(1, 1), (100, 100), (101, 100), (250, 120), (1000, 420), (5000, 500), (20_000, 1000)];
    for (nodes, expected) in table {
        assert_eq!(enough(nodes), expected, "of {nodes} nodes");
    }
    let names: Vec<String> = (0..300).map(|index| format!("n{index:03}")).collect();
    let nodes: Vec<_> = names.iter().map(|name| (name.as_str(), node("4", "4Gi"))).collect();
    let mut cluster = cluster(&nodes);
    assert_eq!(cluster.decide(&pending(&pod("p", &json!({})))), Decision::Place("n000".into()));
    let second = format!("n{:03}", enough(300));
    assert_eq!(cluster.decide(&pending(&pod("p", &json!({})))), Decision::Place(second.as_str().into()));
}

#[test]
fn pods_of_a_node_that_is_not_there_count_when_it_comes() {
    let mut cluster = Cluster::default();
    let usage = Arc::new(Usage::of_pod(&pod("p", &json!({"cpu": "1"}))));
    let key = ObjectKey::namespaced("default", "p");
    cluster.place(&key, "p", "n", &usage);
    assert!(cluster.is_empty());
    let wanting = pending(&pod("q", &json!({"cpu": "1"})));
    assert_eq!(cluster.decide(&wanting), Decision::Unschedulable(NO_NODES.to_owned()));
    assert!(cluster.set_node("n", &node("1", "1Gi")));
    assert!(matches!(cluster.decide(&wanting), Decision::Unschedulable(_)));
    cluster.remove_node("n");
    assert_eq!((cluster.len(), cluster.nodes.len()), (0, 1), "remembered for its pod");
    cluster.displace(&key);
    assert_eq!(cluster.nodes.len(), 0);
    assert!(cluster.set_node("n", &node("1", "1Gi")));
    assert!(!cluster.set_node("n", &node("1", "1Gi")), "nothing new");
    assert_eq!(cluster.decide(&wanting), Decision::Place("n".into()));
}
