//! What a row of pods says.

use crate::rules::pod::{cells, status_text};
use serde_json::{Value, json};

/// A pod with two init containers and two app containers, and the given metadata and status.
fn object(metadata: &Value, status: &Value) -> Value {
    let mut object = json!({
        "metadata": {"name": "p", "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": {"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}, {"name": "b"}]},
    });
    json_patch::merge(&mut object["metadata"], metadata);
    object["status"] = status.clone();
    object
}

fn init(states: &[Value]) -> Value {
    let states: Vec<Value> = states.iter().map(|state| json!({"state": state})).collect();
    json!({"phase": "Pending", "initContainerStatuses": states})
}

fn apps(states: &[Value]) -> Value {
    let states: Vec<Value> =
        states.iter().map(|state| json!({"state": state, "ready": state.get("running").is_some()})).collect();
    json!({"phase": "Running", "containerStatuses": states, "conditions": [{"type": "Ready", "status": "False"}]})
}

#[test]
fn status_says_where_a_pod_is_in_its_life() {
    let ended = |code: i64, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason}});
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    let running = json!({"running": {}});
    let cases = [
        (json!({"phase": "Pending"}), "Pending"),
        (json!({"phase": "Failed", "reason": "Evicted"}), "Evicted"),
        (
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
            "SchedulingGated",
        ),
        (init(&[running.clone(), waiting("PodInitializing")]), "Init:0/2"),
        (init(&[waiting("PodInitializing"), waiting("PodInitializing")]), "Init:0/2"),
        (init(&[ended(0, "Completed"), running.clone()]), "Init:1/2"),
        (init(&[ended(1, "Error"), waiting("PodInitializing")]), "Init:Error"),
        (init(&[ended(7, ""), waiting("PodInitializing")]), "Init:ExitCode:7"),
        (init(&[json!({"terminated": {"exitCode": 137, "signal": 9}})]), "Init:Signal:9"),
        (init(&[waiting("CrashLoopBackOff"), waiting("PodInitializing")]), "Init:CrashLoopBackOff"),
        (init(&[waiting("ErrImagePull")]), "Init:ErrImagePull"),
        (apps(&[waiting("PodInitializing"), waiting("PodInitializing")]), "PodInitializing"),
        (apps(&[waiting("ContainerCreating"), waiting("ContainerCreating")]), "ContainerCreating"),
        (apps(&[running.clone(), running.clone()]), "Running"),
        (apps(&[running.clone(), waiting("CrashLoopBackOff")]), "CrashLoopBackOff"),
        (apps(&[waiting("ImagePullBackOff"), ended(1, "Error")]), "ImagePullBackOff"),
        (apps(&[ended(0, "Completed"), ended(0, "Completed")]), "Completed"),
        (apps(&[ended(137, "OOMKilled"), running.clone()]), "OOMKilled"),
        (apps(&[ended(3, ""), running.clone()]), "ExitCode:3"),
        (apps(&[json!({"terminated": {"exitCode": 143, "signal": 15}})]), "Signal:15"),
        (apps(&[ended(0, "Completed"), running]), "NotReady"),
    ];
    for (status, expected) in cases {
        assert_eq!(status_text(&object(&json!({}), &status)), expected, "{status}");
    }
}

#[test]
fn a_pod_that_is_deleted_says_so_until_it_has_ended() {
    let going = json!({"deletionTimestamp": "1970-01-01T00:00:00Z"});
    let cases = [
        (json!({"phase": "Running"}), "Terminating"),
        (json!({"phase": "Pending"}), "Terminating"),
        (json!({"phase": "Running", "reason": "NodeLost"}), "Unknown"),
        (json!({"phase": "Succeeded"}), "Succeeded"),
    ];
    for (status, expected) in cases {
        assert_eq!(status_text(&object(&going, &status)), expected, "{status}");
    }
    let mut status = apps(&[json!({"terminated": {"exitCode": 0, "reason": "Completed"}}), json!({"running": {}})]);
    status["conditions"][0]["status"] = json!("True");
    assert_eq!(status_text(&object(&json!({}), &status)), "Running", "one has completed, the other serves");
}

/// A pod with an ordinary init container, a sidecar and an app, with the given states of each, and how often the sidecar
/// restarted an hour ago.
fn with_sidecar(init: &Value, sidecar: (&Value, bool, bool), app: &Value, initialized: &str) -> Value {
    let (state, started, ready) = sidecar;
    json!({
        "metadata": {"name": "p", "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": {"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]},
        "status": {
            "phase": "Running", "conditions": [{"type": "Initialized", "status": initialized}],
            "initContainerStatuses": [
                {"name": "i", "state": init, "restartCount": 3},
                {"name": "s", "state": state, "started": started, "ready": ready, "restartCount": 2,
                 "lastState": {"terminated": {"finishedAt": "1970-01-01T01:00:00Z"}}},
            ],
            "containerStatuses": [{"name": "a", "state": app, "ready": app.get("running").is_some(), "restartCount": 1}],
        },
    })
}

#[test]
fn sidecars_count_as_containers_that_run() {
    let (running, done) = (json!({"running": {}}), json!({"terminated": {"exitCode": 0, "reason": "Completed"}}));
    let (waiting, loops) =
        (json!({"waiting": {"reason": "PodInitializing"}}), json!({"waiting": {"reason": "CrashLoopBackOff"}}));
    let failed = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
    let cases = [
        (with_sidecar(&running, (&waiting, false, false), &waiting, "False"), "0/2", "Init:0/2", "3"),
        (with_sidecar(&done, (&running, false, false), &waiting, "False"), "0/2", "Init:1/2", "5 (60m ago)"),
        (with_sidecar(&done, (&loops, false, false), &waiting, "False"), "0/2", "Init:CrashLoopBackOff", "5 (60m ago)"),
        (with_sidecar(&done, (&running, true, false), &waiting, "True"), "0/2", "PodInitializing", "3 (60m ago)"),
        (with_sidecar(&done, (&running, true, false), &running, "True"), "1/2", "Running", "3 (60m ago)"),
        (with_sidecar(&done, (&running, true, true), &running, "True"), "2/2", "Running", "3 (60m ago)"),
        // As upstream prints it: the sidecar is what is wrong, whatever the app does.
        (with_sidecar(&done, (&loops, false, false), &running, "True"), "1/2", "Init:CrashLoopBackOff", "3 (60m ago)"),
        (with_sidecar(&done, (&failed, false, false), &running, "True"), "1/2", "Init:Error", "3 (60m ago)"),
        (with_sidecar(&done, (&running, true, true), &done, "True"), "1/2", "Completed", "3 (60m ago)"),
        (with_sidecar(&done, (&done, false, false), &done, "True"), "0/2", "Completed", "3 (60m ago)"),
        (with_sidecar(&done, (&running, true, true), &loops, "True"), "1/2", "CrashLoopBackOff", "3 (60m ago)"),
    ];
    for (pod, ready, status, restarts) in cases {
        let row = cells(&pod, 7200);
        assert_eq!(row[1..4], [ready, status, restarts].map(Value::from), "{}", pod["status"]);
    }
}

#[test]
fn a_row_counts_ready_containers_and_restarts() {
    let status = json!({
        "phase": "Running", "podIP": "10.244.0.5", "nominatedNodeName": "m",
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "example.com/gate", "status": "True"}],
        "initContainerStatuses": [{"restartCount": 5, "state": {"terminated": {"exitCode": 0}}}],
        "containerStatuses": [
            {"restartCount": 1, "ready": true, "state": {"running": {}},
             "lastState": {"terminated": {"finishedAt": "1970-01-01T01:00:00Z"}}},
            {"restartCount": 2, "ready": true, "state": {"running": {}},
             "lastState": {"terminated": {"finishedAt": "1970-01-01T01:58:00Z"}}},
        ],
    });
    let mut pod = object(&json!({}), &status);
    pod["spec"]["nodeName"] = json!("n");
    pod["spec"]["readinessGates"] =
        json!([{"conditionType": "example.com/gate"}, {"conditionType": "example.com/other"}]);
    assert_eq!(
        cells(&pod, 7200),
        ["p", "2/2", "Running", "3 (2m ago)", "120m", "10.244.0.5", "n", "m", "1/2"].map(Value::from)
    );

    let waiting = init(&[json!({"waiting": {"reason": "CrashLoopBackOff"}})]);
    let mut pod = object(&json!({}), &waiting);
    pod["status"]["initContainerStatuses"][0]["restartCount"] = json!(4);
    assert_eq!(
        cells(&pod, 30),
        ["p", "0/2", "Init:CrashLoopBackOff", "4", "30s", "<none>", "<none>", "<none>", "<none>"].map(Value::from)
    );
    assert_eq!(cells(&json!({}), 0)[1], "0/0", "any shape has a row");
}
