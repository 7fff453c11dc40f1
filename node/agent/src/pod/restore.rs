//! Between a pod's state and the ledger: what is remembered, and what a remembered pod does after a restart of the
//! agent. Pure. Runners die with the agent, so whatever ran has ended.

use crate::{
    guests::KILLED,
    ledger::{Entry, Remembered},
    pod::{
        spec::{self, RestartPolicy},
        state::{Container, Ended, Kind, PodState, Stage},
        status::{self, Phase},
    },
};
use serde_json::Value;
use std::sync::Arc;
use tokio::time::Instant;

/// What of the containers must survive.
pub(crate) fn remember(state: &PodState) -> Vec<Remembered> {
    state.containers.iter().map(|container| remember_container(state, container)).collect()
}

fn remember_container(state: &PodState, container: &Container) -> Remembered {
    let (running_since, end) = match &container.stage {
        Stage::Running { started_at } => (Some(started_at.clone()), None),
        Stage::Ended { end, .. } => (None, Some(end.clone())),
        Stage::Waiting { .. } => (None, None),
    };
    Remembered {
        name: container.name.clone(),
        image_id: container.image_id.clone(),
        container_id: container.id.clone(),
        restarts: container.restarts,
        running_since,
        end,
        last: container.last.clone(),
        again: state.hides_end(container),
    }
}

/// The state of a pod that an earlier agent process ran, as a kubelet finds it after a reboot: finished pods stay
/// finished, a `Never` pod that was running has failed, all others begin again with their init containers. Hooks and
/// probes begin again with every run; a pod that was being stopped is stopped again by what its object says.
pub(crate) fn restore(pod: &Value, entry: &Entry, now_text: &str, now: Instant) -> PodState {
    let mut state = PodState::new(pod, entry.start_time.clone());
    state.failed.clone_from(&entry.failed);
    state.address = entry.address;
    let mut interrupted = false;
    for container in &mut state.containers {
        let Some(known) = entry.containers.iter().find(|known| known.name == container.name) else { continue };
        interrupted |= known.running_since.is_some();
        restore_container(container, known, now_text, now);
    }
    // Sidecars let others begin before those ran.
    let has_run = state.has_run();
    for container in state.containers.iter_mut().filter(|container| container.kind == Kind::Sidecar) {
        container.passed = has_run;
    }
    if state.is_finished() {
        return state;
    }
    if state.restart_policy == RestartPolicy::Never {
        if interrupted && status::phase(&state) != Phase::Failed {
            let message = "the node agent ended while containers of this pod were running".to_owned();
            state.failed = Some(("NodeAgentRestarted".to_owned(), message));
        }
        return state;
    }
    for container in state.containers.iter_mut().filter(|container| container.is_init()) {
        container.begin_anew();
    }
    state
}

/// Whether the pod's own status tells of runs.
pub(crate) fn has_run(pod: &Value) -> bool {
    let fields = ["initContainerStatuses", "containerStatuses"];
    let mut all = fields.iter().flat_map(|field| spec::items(&pod["status"], field));
    all.any(|status| !spec::text(status, "containerID").is_empty())
}

/// What the pod's own status remembers, for when the ledger has lost its entry: without it a container would begin
/// anew as if it had never run, and one that must not run again would.
pub(crate) fn from_status(pod: &Arc<Value>) -> Option<Entry> {
    let statuses = ["initContainerStatuses", "containerStatuses"].map(|field| spec::items(&pod["status"], field));
    let containers: Vec<Remembered> = statuses.into_iter().flatten().map(remembered_by_status).collect();
    let ran = |one: &Remembered| !one.container_id.is_empty();
    containers.iter().any(ran).then(|| Entry {
        pod: pod.clone(),
        namespace_uid: String::new(),
        start_time: spec::text(&pod["status"], "startTime").to_owned(),
        failed: None,
        address: spec::text(&pod["status"], "podIP").parse().ok(),
        containers,
    })
}

fn remembered_by_status(status: &Value) -> Remembered {
    let text = |value: &Value, field| spec::text(value, field).to_owned();
    let ended = |state: &Value| {
        let end = &state["terminated"];
        end.is_object().then(|| Ended {
            exit_code: end["exitCode"].as_i64().and_then(|code| i32::try_from(code).ok()).unwrap_or(KILLED),
            reason: text(end, "reason"),
            message: text(end, "message"),
            started_at: text(end, "startedAt"),
            finished_at: text(end, "finishedAt"),
            container_id: text(end, "containerID"),
        })
    };
    Remembered {
        name: text(status, "name"),
        image_id: text(status, "imageID"),
        container_id: text(status, "containerID"),
        restarts: status["restartCount"].as_u64().and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
        running_since: status["state"]["running"]["startedAt"].as_str().map(str::to_owned),
        end: ended(&status["state"]),
        last: ended(&status["lastState"]),
        again: false,
    }
}

fn restore_container(container: &mut Container, known: &Remembered, now_text: &str, now: Instant) {
    container.image_id.clone_from(&known.image_id);
    container.id.clone_from(&known.container_id);
    container.restarts = known.restarts;
    container.last.clone_from(&known.last);
    let end = match (&known.running_since, &known.end) {
        (Some(since), _) => Ended {
            exit_code: KILLED,
            reason: "Error".to_owned(),
            message: "the node agent ended while the container was running".to_owned(),
            started_at: since.clone(),
            finished_at: now_text.to_owned(),
            container_id: known.container_id.clone(),
        },
        (None, Some(end)) => end.clone(),
        (None, None) => return,
    };
    container.replaced = known.again;
    container.passed = container.kind == Kind::Init && end.exit_code == 0;
    container.stage = Stage::Ended { end, at: now };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::status::phase;
    use serde_json::json;
    use std::net::Ipv4Addr;

    fn end(code: i32) -> Ended {
        Ended {
            exit_code: code,
            reason: String::new(),
            message: String::new(),
            started_at: "s".to_owned(),
            finished_at: "f".to_owned(),
            container_id: "coracle://1".to_owned(),
        }
    }

    fn known(name: &str, running: bool, code: Option<i32>) -> Remembered {
        Remembered {
            name: name.to_owned(),
            image_id: "img".to_owned(),
            container_id: "coracle://1".to_owned(),
            restarts: 2,
            running_since: running.then(|| "s".to_owned()),
            end: code.map(end),
            last: None,
            again: false,
        }
    }

    fn restored(policy: &str, containers: Vec<Remembered>) -> PodState {
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {
            "restartPolicy": policy, "initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}],
        }});
        let entry = Entry {
            pod: Arc::new(pod.clone()),
            namespace_uid: "ns".to_owned(),
            start_time: "t".to_owned(),
            failed: None,
            address: Some(Ipv4Addr::new(10, 244, 0, 7)),
            containers,
        };
        let mut state = restore(&pod, &entry, "now", Instant::now());
        state.prepared = true;
        state
    }

    #[tokio::test]
    async fn pods_come_back_as_after_a_reboot() {
        let now = Instant::now();
        let running = || vec![known("i", false, Some(0)), known("a", true, None), known("b", false, Some(0))];
        // Everything begins again, init containers first, and counts go on.
        let mut always = restored("Always", running());
        assert_eq!(always.plan(now).start, [0]);
        assert_eq!(always.containers[0].next_run(), 3);
        assert!(matches!(&always.containers[1].stage, Stage::Ended { end, .. } if end.exit_code == KILLED));
        always.started(0, "coracle://2".to_owned(), "t".to_owned());
        assert_eq!(always.containers[0].restarts, 3);

        let never = restored("Never", running());
        assert_eq!((phase(&never), never.is_finished()), (Phase::Failed, true));
        let in_init = vec![known("i", true, None), known("a", false, None), known("b", false, None)];
        assert_eq!(phase(&restored("Never", in_init)), Phase::Failed);
        let partly = vec![known("i", false, Some(0)), known("a", true, None), known("b", false, None)];
        let partly = restored("Never", partly);
        assert_eq!((phase(&partly), partly.failed.is_some()), (Phase::Failed, true));

        let finished = vec![known("i", false, Some(0)), known("a", false, Some(0)), known("b", false, Some(0))];
        for policy in ["OnFailure", "Never"] {
            let mut state = restored(policy, finished.clone());
            assert!(state.is_finished() && state.plan(now).start.is_empty(), "{policy}");
            assert_eq!(phase(&state), Phase::Succeeded);
        }
        // One that had not begun anything simply goes on.
        let fresh = vec![known("i", false, Some(0)), known("a", false, None), known("b", false, None)];
        assert_eq!(restored("Never", fresh).plan(now).start, [1, 2]);
    }

    #[tokio::test]
    async fn a_lost_entry_is_made_up_from_the_status() {
        let pod = |state: Value| {
            Arc::new(json!({"metadata": {"name": "p", "uid": "u"},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "a"}]},
                "status": {"startTime": "t", "podIP": "10.244.0.7", "containerStatuses": [{"name": "a", "imageID": "img", "restartCount": 2,
                    "containerID": "coracle://1", "state": state, "lastState": {"terminated": {"exitCode": 3}}}]}}))
        };
        let running = pod(json!({"running": {"startedAt": "s"}}));
        let entry = from_status(&running).unwrap();
        assert_eq!(entry.address, Some(Ipv4Addr::new(10, 244, 0, 7)));
        assert_eq!(
            entry.containers[0],
            Remembered { last: entry.containers[0].last.clone(), ..known("a", true, None) }
        );
        assert_eq!(entry.containers[0].last.as_ref().unwrap().exit_code, 3);
        let state = restore(&running, &entry, "now", Instant::now());
        assert_eq!((phase(&state), state.containers[0].next_run()), (Phase::Failed, 3), "it would run twice");
        let ended = from_status(&pod(json!({"terminated": {"exitCode": 0}}))).unwrap();
        assert_eq!(ended.containers[0].end.as_ref().unwrap().exit_code, 0);
        let fresh = json!({"status": {"containerStatuses": [{"name": "a", "state": {"waiting": {}}}]}});
        assert_eq!(from_status(&Arc::new(fresh)), None);
    }

    #[tokio::test]
    async fn what_is_remembered_comes_back() {
        let state = restored(
            "OnFailure",
            vec![known("i", false, Some(0)), known("a", false, Some(1)), known("b", false, Some(0))],
        );
        assert_eq!(state.address, Some(Ipv4Addr::new(10, 244, 0, 7)));
        let again = remember(&state);
        assert_eq!(again[1], known("a", false, Some(1)));
        assert_eq!(again[0].last, Some(end(0)));
    }
}
