//! What pods ask for as a whole.

use crate::rules::pod::{QosClass, limits, qos_class, requests};
use serde_json::{Value, json};

fn container(requests: &Value, limits: &Value) -> Value {
    json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
}

#[test]
fn a_pod_asks_for_the_larger_of_apps_and_any_init_container() {
    let cases = [
        (json!([]), json!([{"cpu": "100m"}, {"cpu": "200m", "memory": "1Mi"}]), 300, 1 << 20),
        (json!([{"cpu": "1"}, {"cpu": "2"}]), json!([{"cpu": "500m", "memory": "1Ki"}]), 2000, 1024),
        (json!([{"memory": "2Ki"}]), json!([{"cpu": "1"}, {"memory": "1Ki"}]), 1000, 2048),
        (json!([]), json!([{}]), 0, 0),
    ];
    for (inits, apps, cpu_milli, memory_bytes) in cases {
        let list = |amounts: &Value| -> Vec<Value> {
            amounts.as_array().unwrap().iter().map(|one| container(one, &json!({}))).collect()
        };
        let pod = json!({"spec": {"initContainers": list(&inits), "containers": list(&apps)}});
        let total = requests(&pod);
        assert_eq!((total.cpu_milli(), total.memory_bytes()), (cpu_milli, memory_bytes), "{inits} {apps}");
    }
}

#[test]
fn sidecars_count_beside_whatever_runs_after_them() {
    // Init containers with whether they are sidecars, one app, and what the pod asks for.
    type Case = (&'static [(&'static str, bool)], &'static str, i64);
    let cases: [Case; 5] = [
        (&[("200m", true)], "100m", 300),
        (&[("200m", true), ("500m", false)], "100m", 700),
        (&[("500m", false), ("200m", true)], "100m", 500),
        (&[("350m", false), ("200m", true), ("250m", false)], "100m", 450),
        (&[("100m", true), ("100m", true), ("10m", false)], "100m", 300),
    ];
    for (inits, app, cpu_milli) in cases {
        let init = |(cpu, sidecar): &(&str, bool)| {
            let mut one = container(&json!({"cpu": cpu}), &json!({"cpu": cpu}));
            if *sidecar {
                one["restartPolicy"] = json!("Always");
            }
            one
        };
        let inits_spec: Vec<Value> = inits.iter().map(init).collect();
        let app = container(&json!({"cpu": app}), &json!({"cpu": app}));
        let pod = json!({"spec": {"initContainers": inits_spec, "containers": [app]}});
        assert_eq!((requests(&pod).cpu_milli(), limits(&pod).cpu_milli()), (cpu_milli, cpu_milli), "{inits:?}");
    }
}

#[test]
fn overhead_is_added_and_widens_limits_that_exist() {
    let pod = json!({"spec": {
        "overhead": {"cpu": "10m", "memory": "1Ki"},
        "containers": [container(&json!({"cpu": "90m", "example.com/gpu": 1}), &json!({"cpu": "1", "ephemeral-storage": "1Gi"}))],
    }});
    let total = requests(&pod);
    assert_eq!((total.cpu_milli(), total.memory_bytes(), total.get("example.com/gpu").ceil()), (100, 1024, 1));
    let total = limits(&pod);
    assert_eq!((total.cpu_milli(), total.memory_bytes(), total.ephemeral_storage_bytes()), (1010, 0, 1 << 30));
    assert_eq!(total.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["cpu", "ephemeral-storage"]);
}

#[test]
fn huge_amounts_do_not_overflow() {
    let pod = json!({"spec": {"containers": [container(&json!({"memory": "9E"}), &json!({})), container(&json!({"memory": "9E"}), &json!({}))]}});
    assert_eq!(requests(&pod).memory_bytes(), i64::MAX);
}

#[test]
fn quality_follows_from_requests_and_limits() {
    let both = json!({"cpu": "1", "memory": "1Gi"});
    let none = json!({});
    let cases = [
        (vec![container(&none, &none)], QosClass::BestEffort),
        (vec![container(&both, &both)], QosClass::Guaranteed),
        (vec![container(&both, &both), container(&none, &none)], QosClass::Burstable),
        (vec![container(&json!({"cpu": "1"}), &none)], QosClass::Burstable),
        (vec![container(&json!({"cpu": "500m", "memory": "1Gi"}), &both)], QosClass::Burstable),
        (vec![container(&json!({"cpu": "0"}), &none)], QosClass::BestEffort),
        (vec![container(&json!({"ephemeral-storage": "1"}), &none)], QosClass::BestEffort),
    ];
    for (containers, class) in cases {
        assert_eq!(qos_class(&json!({"spec": {"containers": containers}})), class, "{containers:?}");
    }
    let with_init =
        json!({"spec": {"containers": [container(&both, &both)], "initContainers": [container(&none, &none)]}});
    assert_eq!(qos_class(&with_init).as_str(), "Burstable");
}
