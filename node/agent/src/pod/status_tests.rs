//! Status derived from what was observed.

use super::*;
use crate::pod::state::Failure;
use coracle_runner::protocol::{Exit, ExitCause, RunId};
use tokio::time::Instant;

fn pod(policy: &str) -> Value {
    json!({
        "metadata": {"name": "myapp-pod", "namespace": "default", "uid": "u"},
        "spec": {
            "restartPolicy": policy,
            "initContainers": [{"name": "init-myservice", "image": "i:1"}, {"name": "init-mydb", "image": "i:1"}],
            "containers": [{"name": "app", "image": "a:1"}],
        },
        "status": {"qosClass": "BestEffort", "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ]},
    })
}

fn start(state: &mut PodState, index: usize) {
    state.attempt(index);
    state.launching(index, RunId(index.to_string()), "reg/i@sha256:1".to_owned());
    state.started(index, format!("coracle://{index}"), "2026-01-01T00:00:01Z".to_owned());
}

fn finish(state: &mut PodState, index: usize, code: i32) {
    let exit = Exit { code, cause: ExitCause::Exited, message: String::new() };
    state.exited(index, &exit, "2026-01-01T00:00:02Z".to_owned(), Instant::now());
}

fn show(pod: &Value, state: &PodState) -> Value {
    let now = clock::parse("2026-01-01T00:01:00Z").unwrap();
    derive(pod, state, "127.0.0.1", &pod["status"], now)
}

fn condition(status: &Value, kind: &str) -> (String, String, String) {
    let all = status["conditions"].as_array().unwrap();
    let one = all.iter().find(|condition| condition["type"] == kind).unwrap();
    (spec::text(one, "status").to_owned(), spec::text(one, "reason").to_owned(), spec::text(one, "message").to_owned())
}

fn triple(status: &str, reason: &str, message: &str) -> (String, String, String) {
    (status.to_owned(), reason.to_owned(), message.to_owned())
}

#[tokio::test]
async fn the_story_shows_as_in_kubernetes() {
    let pod = pod("Always");
    let mut state = PodState::new(&pod, "2026-01-01T00:00:00Z".to_owned());
    let status = show(&pod, &state);
    assert_eq!(condition(&status, "PodReadyToStartContainers").0, "False");

    state.prepared = true;
    start(&mut state, 0);
    let status = show(&pod, &state);
    assert_eq!(status["phase"], "Pending");
    let message = "containers with incomplete status: [init-myservice init-mydb]";
    assert_eq!(condition(&status, "Initialized"), triple("False", "ContainersNotInitialized", message));
    let message = "containers with unready status: [app]";
    assert_eq!(condition(&status, "Ready"), triple("False", "ContainersNotReady", message));
    assert_eq!(condition(&status, "PodReadyToStartContainers").0, "True");
    assert_eq!(condition(&status, "PodScheduled").0, "True");
    assert_eq!(status["qosClass"], "BestEffort");
    let init = &status["initContainerStatuses"];
    assert_eq!(init[0]["state"]["running"]["startedAt"], "2026-01-01T00:00:01Z");
    assert_eq!(init[0]["started"], true);
    assert_eq!(init[0]["ready"], false);
    assert_eq!(init[1]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");

    finish(&mut state, 0, 0);
    let status = show(&pod, &state);
    assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    assert_eq!(status["initContainerStatuses"][0]["ready"], true);
    let message = "containers with incomplete status: [init-mydb]";
    assert_eq!(condition(&status, "Initialized").2, message);

    start(&mut state, 1);
    finish(&mut state, 1, 0);
    start(&mut state, 2);
    let status = show(&pod, &state);
    assert_eq!(status["phase"], "Running");
    for kind in ["Initialized", "Ready", "ContainersReady", "PodReadyToStartContainers"] {
        assert_eq!(condition(&status, kind), triple("True", "", ""), "{kind}");
    }
    let app = &status["containerStatuses"][0];
    assert_eq!(app["containerID"], "coracle://2");
    assert_eq!(app["imageID"], "reg/i@sha256:1");
    assert_eq!((app["ready"].as_bool(), app["restartCount"].as_u64()), (Some(true), Some(0)));
    assert_eq!(app["lastState"], json!({}));
}

#[tokio::test]
async fn phases_are_kubelets() {
    // What each container did: None never ran, Some(None) runs, Some(Some(code)) ended.
    type Did = Option<Option<i32>>;
    let rows: &[(&str, [Did; 3], Phase)] = &[
        ("Always", [None, None, None], Phase::Pending),
        ("Always", [Some(Some(1)), None, None], Phase::Pending),
        ("Never", [Some(Some(1)), None, None], Phase::Failed),
        ("OnFailure", [Some(Some(0)), Some(None), None], Phase::Pending),
        ("Always", [Some(Some(0)), Some(Some(0)), None], Phase::Pending),
        ("Always", [Some(Some(0)), Some(Some(0)), Some(None)], Phase::Running),
        ("Always", [Some(Some(0)), Some(Some(0)), Some(Some(0))], Phase::Running),
        ("Always", [Some(Some(0)), Some(Some(0)), Some(Some(1))], Phase::Running),
        ("OnFailure", [Some(Some(0)), Some(Some(0)), Some(Some(0))], Phase::Succeeded),
        ("OnFailure", [Some(Some(0)), Some(Some(0)), Some(Some(1))], Phase::Running),
        ("Never", [Some(Some(0)), Some(Some(0)), Some(Some(0))], Phase::Succeeded),
        ("Never", [Some(Some(0)), Some(Some(0)), Some(Some(1))], Phase::Failed),
    ];
    for (policy, did, expected) in rows {
        let mut state = PodState::new(&pod(policy), String::new());
        state.prepared = true;
        for (index, did) in did.iter().enumerate() {
            if let Some(did) = did {
                start(&mut state, index);
                if let Some(code) = did {
                    finish(&mut state, index, *code);
                }
            }
        }
        assert_eq!(phase(&state), *expected, "{policy} {did:?}");
        if *expected == Phase::Succeeded {
            let status = show(&pod(policy), &state);
            assert_eq!(condition(&status, "Ready"), triple("False", "PodCompleted", ""));
            assert_eq!(condition(&status, "Initialized").1, "PodCompleted");
        }
    }
}

#[tokio::test]
async fn a_pod_is_where_its_node_is_until_it_has_ended() {
    let pod = pod("Never");
    let mut state = PodState::new(&pod, String::new());
    state.prepared = true;
    let now = clock::parse("2026-01-01T00:01:00Z").unwrap();
    let mut status = show(&pod, &state);
    for index in 0..3 {
        start(&mut state, index);
        let address = format!("192.0.2.{index}");
        status = derive(&pod, &state, &address, &status, now);
        assert_eq!((&status["hostIP"], &status["hostIPs"]), (&json!(address), &json!([{"ip": address}])));
        finish(&mut state, index, 0);
    }
    status = derive(&pod, &state, "198.51.100.9", &status, now);
    assert_eq!((&status["phase"], &status["hostIP"]), (&json!("Succeeded"), &json!("192.0.2.2")));
    assert_eq!(status["hostIPs"], json!([{"ip": "192.0.2.2"}]));
}

#[tokio::test]
async fn a_deleted_pod_ends_as_its_containers_did() {
    for (code, expected) in [(0, Phase::Succeeded), (137, Phase::Failed)] {
        let mut state = PodState::new(&json!({"spec": {"containers": [{"name": "a"}]}}), String::new());
        state.prepared = true;
        start(&mut state, 0);
        state.stopping = true;
        assert_eq!(phase(&state), Phase::Running);
        finish(&mut state, 0, code);
        assert_eq!(phase(&state), expected);
    }
}

#[tokio::test]
async fn waiting_keeps_the_last_end_and_its_reason() {
    let pod = json!({"spec": {"containers": [{"name": "a", "image": "x"}]}, "status": {}});
    let mut state = PodState::new(&pod, String::new());
    state.prepared = true;
    let status = show(&pod, &state);
    assert_eq!(status["containerStatuses"][0]["state"], json!({"waiting": {"reason": "ContainerCreating"}}));
    assert!(status.get("initContainerStatuses").is_none());
    start(&mut state, 0);
    finish(&mut state, 0, 3);
    state.attempt(0);
    state.attempt_failed(0, &Failure::CreateContainerError("no import".to_owned()), Instant::now());
    let container = &show(&pod, &state)["containerStatuses"][0];
    assert_eq!(container["state"], json!({"waiting": {"reason": "CreateContainerError", "message": "no import"}}));
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(container["started"], false);
}

#[tokio::test]
async fn times_of_transition_stay_until_something_changes() {
    let pod = pod("Always");
    let mut state = PodState::new(&pod, String::new());
    let first = show(&pod, &state);
    let later = clock::parse("2026-01-02T00:00:00Z").unwrap();
    assert_eq!(derive(&pod, &state, "127.0.0.1", &first, later), first, "nothing changed, nothing to write");
    state.prepared = true;
    let second = derive(&pod, &state, "127.0.0.1", &first, later);
    assert_eq!(second["conditions"][0]["lastTransitionTime"], "2026-01-02T00:00:00Z");
    assert_eq!(second["conditions"][1], first["conditions"][1]);
}

#[tokio::test]
async fn a_pod_that_failed_as_a_whole_says_why() {
    let pod = pod("Always");
    let mut state = PodState::new(&pod, String::new());
    state.failed = Some(("DeadlineExceeded".to_owned(), "too long".to_owned()));
    let status = show(&pod, &state);
    assert_eq!(
        (&status["phase"], &status["reason"], &status["message"]),
        (&json!("Failed"), &json!("DeadlineExceeded"), &json!("too long"))
    );
    assert_eq!(condition(&status, "Ready").1, "PodFailed");
}

#[tokio::test]
async fn what_had_not_begun_when_its_pod_was_ended_did_not_go_well() {
    let ends = |pod: &Value, begun: usize| {
        let mut state = PodState::new(pod, String::new());
        for index in 0..begun {
            start(&mut state, index);
            finish(&mut state, index, 0);
        }
        state.failed = Some(("DeadlineExceeded".to_owned(), "too long".to_owned()));
        let status = show(pod, &state);
        let told = |field: &str| {
            let statuses = status[field].as_array().cloned().unwrap_or_default();
            let shown = |one: &Value| match one["state"]["terminated"]["reason"].as_str() {
                Some(reason) => reason.to_owned(),
                None => format!("waiting: {}", one["state"]["waiting"]["reason"].as_str().unwrap_or_default()),
            };
            statuses.iter().map(shown).collect::<Vec<_>>()
        };
        (told("initContainerStatuses"), told("containerStatuses"))
    };
    let plain = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "i"}]}});
    assert_eq!(ends(&plain, 0), (vec![], vec!["ContainerStatusUnknown".to_owned()]));
    let mut with_init = plain;
    with_init["spec"]["initContainers"] = json!([{"name": "x", "image": "i"}, {"name": "y", "image": "i"}]);
    let waits = || "waiting: PodInitializing".to_owned();
    assert_eq!(ends(&with_init, 0), (vec![waits(), waits()], vec![waits()]), "nothing says that any began");
    assert_eq!(ends(&with_init, 1), (vec!["Completed".to_owned(), waits()], vec![waits()]));
    let over = ["Completed", "Completed"].map(str::to_owned).to_vec();
    assert_eq!(ends(&with_init, 2), (over, vec!["ContainerStatusUnknown".to_owned()]));
}

/// A container as the phase rules see it.
#[derive(Clone, Copy, Debug)]
enum Did {
    /// It never ran.
    Wait,
    /// It runs.
    Run,
    /// It ended with this code.
    End(i32),
    /// It ended with this code and waits to run again.
    Loop(i32),
}

/// Brings a container where it is to be.
fn bring(state: &mut PodState, index: usize, did: Did) {
    match did {
        Did::Wait => {}
        Did::Run => start(state, index),
        Did::End(code) => {
            start(state, index);
            finish(state, index, code);
        }
        Did::Loop(code) => {
            start(state, index);
            finish(state, index, code);
            state.attempt(index);
            state.attempt_failed(index, &Failure::ErrImagePull("gone".to_owned()), Instant::now());
        }
    }
}

fn sidecar_pod(policy: &str) -> Value {
    json!({"metadata": {"name": "p", "namespace": "default", "uid": "u"}, "spec": {
        "restartPolicy": policy,
        "initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always"}, {"name": "i", "image": "i"}],
        "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
    }, "status": {}})
}

#[tokio::test]
async fn phases_with_sidecars_are_kubelets() {
    use Did::{End, Loop, Run, Wait};
    // Sidecar, init container, two apps.
    let rows: &[(&str, [Did; 4], Phase)] = &[
        ("Always", [Wait, Wait, Wait, Wait], Phase::Pending),
        ("Always", [Run, Wait, Wait, Wait], Phase::Pending),
        ("Always", [Run, Run, Wait, Wait], Phase::Pending),
        ("Always", [Run, End(1), Wait, Wait], Phase::Pending),
        ("Always", [Run, End(0), Wait, Run], Phase::Pending),
        ("Always", [Run, End(0), Run, Run], Phase::Running),
        // A sidecar that crashes does not bring the pod back to Pending.
        ("Always", [End(1), End(0), Run, Run], Phase::Running),
        ("Always", [Loop(1), End(0), Run, Run], Phase::Running),
        ("Always", [Loop(1), End(0), End(1), End(1)], Phase::Running),
        ("Never", [Run, End(0), Run, End(1)], Phase::Running),
        // It runs on, so the pod has not come to its end.
        ("Never", [Run, End(0), End(0), End(0)], Phase::Running),
        ("Never", [End(137), End(0), End(0), End(0)], Phase::Succeeded),
        ("Never", [End(0), End(0), End(0), End(1)], Phase::Failed),
        ("OnFailure", [End(137), End(0), End(0), End(0)], Phase::Succeeded),
        ("OnFailure", [End(137), End(0), End(0), End(1)], Phase::Running),
        ("OnFailure", [Run, End(0), End(0), Loop(1)], Phase::Running),
        ("Never", [End(137), End(1), Wait, Wait], Phase::Failed),
    ];
    for (policy, did, expected) in rows {
        let mut state = PodState::new(&sidecar_pod(policy), String::new());
        state.prepared = true;
        for (index, did) in did.iter().enumerate() {
            bring(&mut state, index, *did);
        }
        assert_eq!(phase(&state), *expected, "{policy} {did:?}");
    }
}

#[tokio::test]
async fn a_pod_is_over_when_nothing_of_it_runs() {
    let pod = sidecar_pod("Never");
    let mut state = PodState::new(&pod, String::new());
    state.prepared = true;
    bring(&mut state, 0, Did::Run);
    bring(&mut state, 1, Did::End(1));
    let status = show(&pod, &state);
    assert_eq!((&status["phase"], condition(&status, "Ready").1), (&json!("Pending"), "PodFailed".to_owned()));
    finish(&mut state, 0, 0);
    assert_eq!(show(&pod, &state)["phase"], "Failed");

    let mut state = PodState::new(&pod, String::new());
    state.prepared = true;
    for (index, did) in [Did::Run, Did::End(0), Did::Run, Did::Run].into_iter().enumerate() {
        bring(&mut state, index, did);
    }
    state.failed = Some((EVICTED.to_owned(), "the node was low on memory".to_owned()));
    let status = show(&pod, &state);
    assert_eq!((&status["phase"], status.get("reason")), (&json!("Running"), None));
    assert_eq!(condition(&status, "Ready"), triple("False", "PodFailed", ""));
    for index in [0, 2, 3] {
        finish(&mut state, index, 137);
    }
    let status = show(&pod, &state);
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("Evicted")));
    assert_eq!(
        condition(&status, "DisruptionTarget"),
        triple("True", "TerminationByKubelet", "the node was low on memory")
    );
    let again = derive(&pod, &state, "127.0.0.1", &status, clock::parse("2026-01-02T00:00:00Z").unwrap());
    assert_eq!(again["conditions"], status["conditions"], "said once");
}

#[tokio::test]
async fn sidecars_count_for_readiness_and_initialization() {
    let probe = json!({"exec": {"command": ["x"]}});
    let mut pod = sidecar_pod("Always");
    pod["spec"]["initContainers"][0]["startupProbe"] = probe.clone();
    pod["spec"]["initContainers"][0]["readinessProbe"] = probe;
    let mut state = PodState::new(&pod, String::new());
    state.prepared = true;
    start(&mut state, 0);
    let status = show(&pod, &state);
    let message = "containers with incomplete status: [s i]";
    assert_eq!(condition(&status, "Initialized"), triple("False", "ContainersNotInitialized", message));
    assert_eq!(condition(&status, "ContainersReady").2, "containers with unready status: [s a b]");
    assert_eq!((&status["initContainerStatuses"][0]["started"], &status["phase"]), (&json!(false), &json!("Pending")));
    state.startup_passed(0);
    let status = show(&pod, &state);
    assert_eq!(condition(&status, "Initialized").2, "containers with incomplete status: [i]");
    let own = &status["initContainerStatuses"][0];
    assert_eq!((&own["started"], &own["ready"]), (&json!(true), &json!(false)));
    start(&mut state, 1);
    finish(&mut state, 1, 0);
    start(&mut state, 2);
    start(&mut state, 3);
    let status = show(&pod, &state);
    assert_eq!(
        condition(&status, "Ready"),
        triple("False", "ContainersNotReady", "containers with unready status: [s]")
    );
    state.readiness(0, true);
    for kind in ["Initialized", "Ready", "ContainersReady"] {
        assert_eq!(condition(&show(&pod, &state), kind), triple("True", "", ""), "{kind}");
    }
    finish(&mut state, 0, 1);
    let status = show(&pod, &state);
    assert_eq!(condition(&status, "Initialized").0, "True", "once initialized, always");
    assert_eq!(condition(&status, "Ready").2, "containers with unready status: [s]");
}

#[tokio::test]
async fn readiness_gates_are_for_others_to_open() {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "a"}], "readinessGates": [{"conditionType": "a.b/one"}, {"conditionType": "a.b/two"}],
    }, "status": {"conditions": [{"type": "a.b/two", "status": "False"}]}});
    let mut state = PodState::new(&pod, String::new());
    state.prepared = true;
    let unready = "containers with unready status: [a]";
    assert_eq!(condition(&show(&pod, &state), "Ready"), triple("False", "ContainersNotReady", unready));
    start(&mut state, 0);
    let status = show(&pod, &state);
    assert_eq!(condition(&status, "ContainersReady"), triple("True", "", ""));
    let shut = "corresponding condition of pod readiness gate \"a.b/one\" does not exist., \
                the status of pod readiness gate \"a.b/two\" is not \"True\", but False";
    assert_eq!(condition(&status, "Ready"), triple("False", "ReadinessGatesNotReady", shut));
    pod["status"]["conditions"] = json!([{"type": "a.b/one", "status": "True"}, {"type": "a.b/two", "status": "True"}]);
    let status = show(&pod, &state);
    assert_eq!(condition(&status, "Ready"), triple("True", "", ""));
    assert_eq!(condition(&status, "a.b/one").0, "True", "it is kept");
}

#[tokio::test]
async fn what_ended_only_to_run_again_is_not_shown_as_ended() {
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "restartPolicy": "OnFailure", "containers": [{"name": "a", "lifecycle": {"postStart": {}}}],
    }, "status": {}});
    let mut state = PodState::new(&pod, String::new());
    state.prepared = true;
    start(&mut state, 0);
    assert_eq!(show(&pod, &state)["containerStatuses"][0]["started"], false, "its hook runs");
    state.hook_failed(0, "no such file".to_owned());
    finish(&mut state, 0, 1);
    let container = show(&pod, &state)["containerStatuses"][0].clone();
    assert_eq!(container["state"], json!({"waiting": {"reason": "PostStartHookError", "message": "no such file"}}));
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 1);
    start(&mut state, 0);
    state.probe_failed(0);
    finish(&mut state, 0, 0);
    let status = show(&pod, &state);
    assert_eq!(status["containerStatuses"][0]["state"], json!({"waiting": {"reason": "ContainerCreating"}}));
    assert_eq!(status["phase"], "Running");
    state.stopping = true;
    let status = show(&pod, &state);
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 0, "it does not run again after all");
    assert_eq!(status["phase"], "Succeeded");
}
