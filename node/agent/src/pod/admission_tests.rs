//! Who is taken on, by tables.

use super::*;
use serde_json::json;

fn pod(name: &str, requests: &Value) -> Value {
    json!({"metadata": {"name": name, "uid": name}, "spec": {"containers": [{"resources": {"requests": requests}}]}})
}

/// As the node has it from a file.
fn own(name: char, requests: &Value) -> Value {
    pod(&name.to_string().repeat(32), requests)
}

fn room() -> Room {
    Room::new(Offer { cpu_milli: 1000, memory_bytes: 100, storage_bytes: 50, pods_max: 3, ..Offer::default() })
}

fn refused(admission: Admission) -> (&'static str, String) {
    match admission {
        Admission::Refused(refusal) => (refusal.reason, refusal.message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_does_not_fit_is_refused_in_kubelets_words() {
    let none = Pressure::default();
    let room = room();
    room.count(&pod("there", &json!({"cpu": "600m", "memory": "90", "ephemeral-storage": "50"})));
    let text = |what: &str| format!("Node didn't have enough resource: {what}");
    for (requests, reason, message) in [
        (json!({"cpu": "401m"}), "OutOfcpu", text("cpu, requested: 401, used: 600, capacity: 1000")),
        (json!({"memory": "11"}), "OutOfmemory", text("memory, requested: 11, used: 90, capacity: 100")),
        (
            json!({"ephemeral-storage": "1"}),
            "OutOfephemeral-storage",
            text("ephemeral-storage, requested: 1, used: 50, capacity: 50"),
        ),
        (json!({"cpu": 2, "memory": 200}), "OutOfcpu", text("cpu, requested: 2000, used: 600, capacity: 1000")),
    ] {
        assert_eq!(refused(room.admit(&pod("new", &requests), none)), (reason, message), "{requests}");
    }
    // What nodes do not offer is somebody else's to give.
    assert_eq!(
        room.admit(&pod("fits", &json!({"cpu": "400m", "memory": "10", "x.io/gpu": 1})), none),
        Admission::Taken
    );
    assert_eq!(room.admit(&pod("nothing", &json!({})), none), Admission::Taken);
    let (reason, message) = refused(room.admit(&pod("fourth", &json!({})), none));
    assert_eq!((reason, message), ("OutOfpods", text("pods, requested: 1, used: 3, capacity: 3")));
    // Nobody counts twice, and nobody who is gone.
    room.count(&pod("fits", &json!({"cpu": "400m"})));
    room.leave("fits");
    room.leave("fits");
    assert_eq!(room.admit(&pod("fourth", &json!({"cpu": "400m"})), none), Admission::Taken);
}

#[test]
fn init_containers_count_as_the_scheduler_counts_them() {
    let mut large = pod("p", &json!({"cpu": "1"}));
    large["spec"]["initContainers"] = json!([{"resources": {"requests": {"cpu": "1001m"}}}]);
    assert_eq!(refused(room().admit(&large, Pressure::default())).0, "OutOfcpu");
    large["spec"]["initContainers"][0]["resources"]["requests"]["cpu"] = "1".into();
    assert_eq!(room().admit(&large, Pressure::default()), Admission::Taken);
}

#[test]
fn under_pressure_few_are_taken() {
    let memory = Pressure { memory: true, ..Pressure::default() };
    let disk = Pressure { disk: true, ..Pressure::default() };
    let (modest, nothing) = (pod("p", &json!({"cpu": "1m"})), pod("p", &json!({})));
    let tolerant = |toleration: Value| {
        let mut pod = nothing.clone();
        pod["spec"]["tolerations"] = json!([toleration]);
        pod
    };
    let mut critical = nothing.clone();
    critical["spec"]["priority"] = 2_000_000_000.into();
    let table = [
        (memory, nothing.clone(), false),
        (memory, modest.clone(), true),
        (memory, tolerant(json!({"key": MEMORY_PRESSURE_TAINT, "operator": "Exists"})), true),
        (memory, tolerant(json!({"operator": "Exists"})), true),
        (memory, tolerant(json!({"key": MEMORY_PRESSURE_TAINT, "effect": "NoExecute"})), false),
        (memory, tolerant(json!({"key": "other", "operator": "Exists"})), false),
        (memory, critical.clone(), true),
        (disk, modest.clone(), false),
        (disk, tolerant(json!({"operator": "Exists"})), false),
        (disk, critical, true),
        (disk, own('a', &json!({})), true),
        (Pressure { processes: true, ..Pressure::default() }, modest.clone(), false),
        (Pressure { disk: true, ..memory }, modest.clone(), false),
        (Pressure::default(), nothing.clone(), true),
    ];
    for (pressure, pod, expected) in table {
        let admission = room().admit(&pod, pressure);
        assert_eq!(admission == Admission::Taken, expected, "{pressure:?} {pod} {admission:?}");
    }
    let both = Pressure { disk: true, ..memory };
    let expected = "The node had condition: [DiskPressure MemoryPressure]. ".to_owned();
    assert_eq!(refused(room().admit(&nothing, both)), (EVICTED, expected));
}

#[test]
fn a_pod_for_another_system_is_refused() {
    let mut pod = pod("p", &json!({}));
    pod["spec"]["os"] = json!({"name": "windows"});
    assert_eq!(refused(room().admit(&pod, Pressure::default())).0, "PodOSNotSupported");
    pod["spec"]["os"]["name"] = "linux".into();
    assert_eq!(room().admit(&pod, Pressure::default()), Admission::Taken);
}

#[test]
fn the_nodes_own_pods_make_room_with_as_few_others_as_can_be() {
    let none = Pressure::default();
    let room = room();
    for (name, requests) in [
        ("best-effort", json!({})),
        ("small", json!({"cpu": "100m", "memory": "10"})),
        ("large", json!({"cpu": "600m", "memory": "60"})),
    ] {
        assert_eq!(room.admit(&pod(name, &requests), none), Admission::Taken, "{name}");
    }
    // By number one has to go, by memory another.
    let going = room.admit(&own('a', &json!({"memory": "50"})), none);
    assert_eq!(going, Admission::TakenFor(vec!["large".to_owned()]));
    let going = room.admit(&own('b', &json!({})), none);
    assert_eq!(going, Admission::TakenFor(vec!["best-effort".to_owned()]));
    // Nobody of its kind yields to it, and nobody goes in vain.
    assert_eq!(refused(room.admit(&own('c', &json!({"memory": "60"})), none)).0, "OutOfpods");
    assert_eq!(refused(room.admit(&pod("late", &json!({})), none)).0, "OutOfpods");
    assert_eq!(room.admit(&own('d', &json!({"memory": "50"})), none), Admission::TakenFor(vec!["small".to_owned()]));
}
