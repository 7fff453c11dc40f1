//! The state machine of one pod.

use super::*;
use serde_json::json;

fn state(policy: &str, init: &[&str], app: &[&str]) -> PodState {
    let list =
        |names: &[&str]| -> Vec<Value> { names.iter().map(|name| json!({"name": name, "image": "img"})).collect() };
    let pod = json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {"restartPolicy": policy, "initContainers": list(init), "containers": list(app)},
    });
    let mut state = PodState::new(&pod, "t".to_owned());
    state.prepared = true;
    state
}

fn exit(code: i32) -> Exit {
    Exit { code, cause: ExitCause::Exited, message: String::new() }
}

/// Starts the container as a worker would.
fn start(state: &mut PodState, index: usize) {
    let run = RunId(format!("run-{index}"));
    state.attempt(index);
    state.launching(index, run, "id".to_owned());
    state.started(index, format!("coracle://{index}"), "s".to_owned());
}

/// The run of a container ends.
fn end(state: &mut PodState, index: usize, code: i32, now: Instant) {
    state.exited(index, &exit(code), "f".to_owned(), now);
}

fn run(state: &mut PodState, index: usize, code: i32, now: Instant) {
    start(state, index);
    state.exited(index, &exit(code), "f".to_owned(), now);
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[tokio::test]
async fn init_containers_run_one_by_one_and_app_containers_together() {
    let now = Instant::now();
    let mut state = state("Always", &["i1", "i2"], &["a", "b"]);
    assert_eq!(state.plan(now).start, [0]);
    start(&mut state, 0);
    assert!(state.plan(now).start.is_empty(), "the first has not ended");
    state.exited(0, &exit(0), "f".to_owned(), now);
    assert_eq!(state.plan(now).start, [1]);
    run(&mut state, 1, 0, now);
    assert_eq!(state.plan(now).start, [2, 3]);
    state.attempt(2);
    assert_eq!(state.plan(now).start, [3], "an attempt is not begun twice");
}

#[tokio::test]
async fn nothing_starts_before_the_volumes_or_while_stopping() {
    let now = Instant::now();
    let mut pod = state("Always", &[], &["a"]);
    pod.prepared = false;
    assert_eq!(pod.plan(now), Plan::default());
    pod.prepared = true;
    pod.stopping = true;
    assert_eq!(pod.plan(now), Plan::default());
}

#[tokio::test]
async fn restart_policies_decide() {
    // (policy, init container?, exit code) → does it run again, and is the pod finished?
    for (policy, init, code, again, finished) in [
        ("Always", false, 0, true, false),
        ("Always", false, 1, true, false),
        ("OnFailure", false, 0, false, true),
        ("OnFailure", false, 1, true, false),
        ("Never", false, 0, false, true),
        ("Never", false, 1, false, true),
        ("Always", true, 0, false, false),
        ("Always", true, 1, true, false),
        ("OnFailure", true, 1, true, false),
        ("Never", true, 0, false, false),
        ("Never", true, 1, false, true),
    ] {
        let now = Instant::now();
        let mut state = if init { state(policy, &["i"], &["a"]) } else { state(policy, &[], &["a"]) };
        run(&mut state, 0, code, now);
        let row = format!("{policy}, init {init}, exit {code}");
        assert_eq!(state.plan(now).start.contains(&0), again, "{row}");
        assert_eq!(state.is_finished(), finished, "{row}");
    }
}

#[tokio::test]
async fn crashes_loop_with_growing_back_off() {
    let mut now = Instant::now();
    let mut state = state("Always", &[], &["a"]);
    run(&mut state, 0, 1, now);
    assert_eq!(state.plan(now).start, [0], "the first restart is immediate");
    for (delay, text) in
        [(10, "10s"), (20, "20s"), (40, "40s"), (80, "1m20s"), (160, "2m40s"), (300, "5m0s"), (300, "5m0s")]
    {
        run(&mut state, 0, 1, now);
        let plan = state.plan(now);
        assert!(plan.start.is_empty() && plan.notices.is_empty(), "the end shows first");
        assert_eq!(plan.wake, Some(now + END_SHOWN));
        let plan = state.plan(now + END_SHOWN);
        assert_eq!(plan.notices, [Notice::CrashBackOff { container: 0 }]);
        assert_eq!(plan.wake, Some(now + seconds(delay)));
        let Stage::Waiting { reason, message, .. } = &state.containers[0].stage else { panic!("not waiting") };
        assert_eq!(*reason, Some("CrashLoopBackOff"));
        assert_eq!(*message, format!("back-off {text} restarting failed container=a pod=p_ns(u)"));
        assert_eq!(state.containers[0].last.as_ref().unwrap().exit_code, 1);
        assert!(state.plan(now + seconds(delay) - Duration::from_millis(1)).start.is_empty());
        now += seconds(delay);
        assert_eq!(state.plan(now).start, [0]);
    }
    assert_eq!(state.containers[0].restarts, 7);
    // Ten minutes of running, and the next crash counts as the first.
    start(&mut state, 0);
    now += seconds(601);
    state.exited(0, &exit(1), "f".to_owned(), now);
    assert_eq!(state.plan(now).start, [0]);
}

#[tokio::test]
async fn a_failed_pull_alternates_between_its_two_reasons() {
    let mut now = Instant::now();
    let mut state = state("Never", &[], &["a"]);
    for delay in [10, 20, 40] {
        assert_eq!(state.plan(now).start, [0]);
        state.attempt(0);
        state.attempt_failed(0, &Failure::ErrImagePull("no such image".to_owned()), now);
        let reason = |state: &PodState| match &state.containers[0].stage {
            Stage::Waiting { reason, message, .. } => (reason.unwrap(), message.clone()),
            other => panic!("{other:?}"),
        };
        assert_eq!(reason(&state).0, "ErrImagePull");
        assert_eq!(state.plan(now).wake, Some(now + PULL_ERROR_SHOWN));
        let plan = state.plan(now + PULL_ERROR_SHOWN);
        assert_eq!(plan.notices, [Notice::PullBackOff { container: 0 }]);
        let text = "Back-off pulling image \"img\": ErrImagePull: no such image".to_owned();
        assert_eq!(reason(&state), ("ImagePullBackOff", text));
        assert_eq!(plan.wake, Some(now + seconds(delay)));
        assert!(state.plan(now + seconds(delay) / 2).notices.is_empty(), "told once");
        now += seconds(delay);
    }
    assert!(!state.is_finished(), "a pod that never ran has not failed");
    assert_eq!(state.image_changed(0, "fixed"), Replacement::None);
    assert_eq!(state.plan(now - seconds(1)).start, [0], "a new image is tried at once");
}

#[tokio::test]
async fn missing_configuration_is_looked_for_again_soon() {
    let now = Instant::now();
    let mut state = state("Always", &[], &["a"]);
    for _ in 0..3 {
        state.attempt(0);
        let failure = Failure::CreateContainerConfigError("configmap \"x\" not found".to_owned());
        state.attempt_failed(0, &failure, now);
        assert_eq!(state.plan(now).wake, Some(now + CONFIG_RETRY));
    }
    assert_eq!(state.plan(now + CONFIG_RETRY).start, [0]);
    assert_eq!(state.containers[0].next_run(), 0, "nothing ran yet");
}

#[tokio::test]
async fn a_changed_image_replaces_even_what_never_restarts() {
    let now = Instant::now();
    let mut state = state("Never", &[], &["a"]);
    start(&mut state, 0);
    assert_eq!(state.image_changed(0, "img:2"), Replacement::Run);
    state.exited(0, &exit(137), "f".to_owned(), now);
    assert!(!state.is_finished());
    assert_eq!(state.plan(now).start, [0]);
    start(&mut state, 0);
    state.exited(0, &exit(1), "f".to_owned(), now);
    assert!(state.is_finished(), "only once");
}

#[tokio::test]
async fn ends_are_named_by_their_cause() {
    let now = Instant::now();
    for (cause, code, reason) in [
        (ExitCause::Exited, 0, "Completed"),
        (ExitCause::Exited, 3, "Error"),
        (ExitCause::Trapped, 134, "Error"),
        (ExitCause::OutOfMemory, 137, "OOMKilled"),
        (ExitCause::Killed, 137, "Error"),
    ] {
        let mut state = state("Never", &[], &["a"]);
        start(&mut state, 0);
        let exit = Exit { code, cause, message: "why".to_owned() };
        state.exited(0, &exit, "f".to_owned(), now);
        let Stage::Ended { end, .. } = &state.containers[0].stage else { panic!("not ended") };
        assert_eq!((end.reason.as_str(), end.exit_code, end.started_at.as_str()), (reason, code, "s"));
    }
}

/// Init containers `i`, sidecar `s`, init container `j`, sidecar `t` with everything that a container may have, apps.
fn with_sidecars(policy: &str) -> PodState {
    let handler = json!({"exec": {"command": ["x"]}});
    let hooks = json!({"postStart": handler, "preStop": handler});
    let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {
        "restartPolicy": policy,
        "initContainers": [
            {"name": "i"},
            {"name": "s", "restartPolicy": "Always"},
            {"name": "j"},
            {"name": "t", "restartPolicy": "Always", "startupProbe": handler, "readinessProbe": handler, "lifecycle": hooks},
        ],
        "containers": [{"name": "a"}, {"name": "b"}],
    }});
    let mut state = PodState::new(&pod, "t".to_owned());
    state.prepared = true;
    state
}

/// As [`with_sidecars`], with everything running.
fn all_running(policy: &str, now: Instant) -> PodState {
    let mut state = with_sidecars(policy);
    run(&mut state, 0, 0, now);
    start(&mut state, 1);
    run(&mut state, 2, 0, now);
    for index in [3, 4, 5] {
        start(&mut state, index);
    }
    state.hooked(3);
    state.startup_passed(3);
    state.readiness(3, true);
    state
}

fn asked(state: &mut PodState, now: Instant) -> Vec<usize> {
    state.plan(now).acts.into_iter().filter(|(_, act)| *act == Act::Ask).map(|(index, _)| index).collect()
}

#[tokio::test]
async fn a_sidecar_lets_the_next_one_begin_when_it_has_started() {
    let now = Instant::now();
    let mut state = with_sidecars("Always");
    assert_eq!(state.plan(now).start, [0]);
    run(&mut state, 0, 0, now);
    assert_eq!(state.plan(now).start, [1], "the first sidecar");
    state.attempt(1);
    assert_eq!(state.plan(now).start, [] as [usize; 0]);
    start(&mut state, 1);
    assert_eq!(state.plan(now).start, [2], "it has neither hook nor probe");
    end(&mut state, 1, 1, now);
    assert_eq!(state.plan(now).start, [1, 2], "restarted beside the next one");
    start(&mut state, 1);
    run(&mut state, 2, 0, now);
    assert_eq!(state.plan(now).start, [3]);
    start(&mut state, 3);
    assert!(!state.containers[3].is_started() && state.plan(now).start.is_empty(), "its hook runs");
    state.hooked(3);
    assert!(!state.containers[3].is_started() && state.plan(now).start.is_empty(), "its startup probe has not spoken");
    assert!(!state.is_initialized());
    state.startup_passed(3);
    assert!(state.containers[3].is_started() && !state.containers[3].is_ready() && state.is_initialized());
    assert_eq!(state.plan(now).start, [4, 5], "readiness is not waited for");
    state.readiness(3, true);
    assert!(state.containers[3].is_ready());
    end(&mut state, 3, 0, now);
    assert!(!state.containers[3].is_started() && !state.containers[3].is_ready() && state.is_initialized());
    assert_eq!(state.plan(now).start, [3, 4, 5], "one that ended well runs again too, and holds nothing up");
}

#[tokio::test]
async fn sidecars_run_as_long_as_the_app_containers() {
    // (policy, how the apps end) → is the pod over?
    for (policy, codes, over) in [
        ("Never", [0, 0], true),
        ("Never", [0, 1], true),
        ("OnFailure", [0, 0], true),
        ("OnFailure", [0, 1], false),
        ("Always", [0, 0], false),
    ] {
        let now = Instant::now();
        let mut state = all_running(policy, now);
        assert!(!state.plan(now).close);
        end(&mut state, 4, codes[0], now);
        assert!(!state.plan(now).close, "one app still runs");
        end(&mut state, 5, codes[1], now);
        let plan = state.plan(now);
        assert_eq!(plan.close, over, "{policy} {codes:?}");
        assert_eq!(plan.start.is_empty(), over, "{policy} {codes:?}");
        if over {
            // What is over does not bring a sidecar back.
            end(&mut state, 1, 1, now);
            assert!(state.plan(now).start.is_empty());
        }
    }
    let mut failed = with_sidecars("Never");
    let now = Instant::now();
    run(&mut failed, 0, 0, now);
    start(&mut failed, 1);
    run(&mut failed, 2, 1, now);
    assert!(failed.plan(now).close && failed.is_finished(), "an init container failed for good");
}

#[tokio::test]
async fn sidecars_end_last_and_in_reverse_order() {
    let now = Instant::now();
    let mut state = all_running("Always", now);
    state.stopping = true;
    for index in 0..6 {
        assert_eq!(state.stop(index, now, seconds(30)), [1, 3, 4, 5].contains(&index), "{index}");
    }
    let plan = state.plan(now);
    assert_eq!(plan.acts, [(3, Act::PreStop(seconds(30))), (4, Act::Ask), (5, Act::Ask)], "hooks do not wait");
    state.containers[3].stopping.as_mut().unwrap().hook_done();
    end(&mut state, 5, 0, now);
    assert_eq!(asked(&mut state, now), [] as [usize; 0], "one app still runs");
    end(&mut state, 4, 0, now);
    assert_eq!(asked(&mut state, now), [3]);
    end(&mut state, 3, 0, now);
    assert_eq!(asked(&mut state, now), [1]);

    // The grace is over for all of them at once.
    let mut state = all_running("Always", now);
    state.stopping = true;
    for index in 0..6 {
        state.stop(index, now, seconds(30));
    }
    state.plan(now);
    assert_eq!(asked(&mut state, now + seconds(30)), [1, 3]);

    // One that is ended alone waits for nobody.
    let mut state = all_running("Always", now);
    state.stop(1, now, seconds(30));
    assert_eq!(asked(&mut state, now), [1]);
}

#[tokio::test]
async fn what_a_probe_ended_runs_again_whatever_its_exit_code() {
    for (policy, again) in [("Always", true), ("OnFailure", true), ("Never", false)] {
        let now = Instant::now();
        let mut state = state(policy, &[], &["a"]);
        start(&mut state, 0);
        assert_eq!(state.probe_failed(0), again, "{policy}");
        state.stop(0, now, seconds(30));
        end(&mut state, 0, 0, now);
        assert_eq!(state.plan(now).start == [0], again, "{policy}");
        assert_eq!(state.is_finished(), !again, "{policy}");
        assert_eq!(state.hides_end(&state.containers[0]), again, "{policy}");
        if again {
            start(&mut state, 0);
            assert_eq!(state.containers[0].last.as_ref().map(|end| end.exit_code), Some(0));
            state.probe_failed(0);
            end(&mut state, 0, 0, now);
            assert!(state.plan(now).start.is_empty(), "but not without its back-off");
            assert_eq!(state.plan(now + END_SHOWN).notices, [Notice::CrashBackOff { container: 0 }]);
        }
    }
    let mut sidecar = all_running("Never", Instant::now());
    assert!(sidecar.probe_failed(1), "a sidecar always runs again");
}

#[tokio::test]
async fn a_changed_init_image_begins_the_pod_anew() {
    let now = Instant::now();
    let mut state = all_running("OnFailure", now);
    end(&mut state, 5, 0, now);
    assert_eq!(state.image_changed(0, "img:2"), Replacement::Pod);
    assert!(state.renewing && state.plan(now).start.is_empty());
    assert_eq!(state.image_changed(4, "img:3"), Replacement::None, "everything ends already");
    for index in 0..6 {
        state.stop(index, now, seconds(30));
    }
    assert_eq!(state.plan(now).acts.first().map(|act| act.0), Some(3), "sidecars serve to the end here too");
    end(&mut state, 4, 0, now);
    assert!(state.hides_end(&state.containers[4]), "the server would take it for over");
    end(&mut state, 3, 0, now);
    assert!(!state.is_initialized() || state.renewing);
    end(&mut state, 1, 0, now);
    assert_eq!(state.plan(now).start, [0], "from the first init container");
    assert!(!state.renewing && !state.is_initialized());
    for index in 0..=3 {
        assert_eq!(state.containers[index].last.as_ref().map(|end| end.exit_code), Some(0), "{index}");
    }
    run(&mut state, 0, 0, now);
    assert_eq!(state.containers[0].restarts, 1);
    start(&mut state, 1);
    run(&mut state, 2, 0, now);
    start(&mut state, 3);
    state.hooked(3);
    state.startup_passed(3);
    assert_eq!(state.plan(now).start, [4], "what had ended for good before stays ended");
}

#[tokio::test]
async fn images_change_without_ado_where_nothing_ran_with_them() {
    let now = Instant::now();
    let mut state = with_sidecars("Always");
    for index in 0..6 {
        assert_eq!(state.image_changed(index, "img:2"), Replacement::None, "{index}");
    }
    state.attempt(0);
    assert_eq!(state.image_changed(0, "img:3"), Replacement::Attempt);
    start(&mut state, 0);
    assert_eq!(state.image_changed(2, "img:3"), Replacement::None, "its turn has not come");
    assert_eq!(state.image_changed(0, "img:4"), Replacement::Pod);
    let mut state = all_running("Always", now);
    assert_eq!(state.image_changed(1, "img:2"), Replacement::Run, "a sidecar runs again alone");
    assert_eq!(state.image_changed(4, "img:2"), Replacement::Run);
    state.stopping = true;
    assert_eq!(state.image_changed(0, "img:2"), Replacement::None);
    let mut over = all_running("Never", now);
    end(&mut over, 4, 0, now);
    end(&mut over, 5, 0, now);
    assert_eq!(over.image_changed(0, "img:2"), Replacement::None, "a pod that is over stays so");
}

#[tokio::test]
async fn what_cannot_be_started_counts_as_ended() {
    for (policy, over) in [("Always", false), ("OnFailure", false), ("Never", true)] {
        let now = Instant::now();
        let mut state = state(policy, &[], &["a"]);
        state.attempt(0);
        state.launching(0, RunId("r".to_owned()), "id".to_owned());
        state.start_failed(0, "coracle://r".to_owned(), "no slot".to_owned(), "s", now);
        let Stage::Ended { end, .. } = &state.containers[0].stage else { panic!("not ended") };
        assert_eq!((end.exit_code, end.reason.as_str(), end.message.as_str()), (128, "StartError", "no slot"));
        assert_eq!(state.is_finished(), over, "{policy}");
        assert_eq!(state.plan(now).start.is_empty(), over, "{policy}");
    }
    let now = Instant::now();
    let mut state = with_sidecars("Always");
    run(&mut state, 0, 0, now);
    state.attempt(1);
    state.start_failed(1, "coracle://r".to_owned(), "no slot".to_owned(), "s", now);
    assert_eq!(state.plan(now).start, [1], "a sidecar that could not start lets nobody pass");
}

#[tokio::test]
async fn what_was_never_launched_has_nothing_to_stop() {
    let now = Instant::now();
    let mut state = state("Always", &[], &["a"]);
    state.attempt(0);
    state.launching(0, RunId("r".to_owned()), "id".to_owned());
    state.stopping = true;
    assert!(state.stop(0, now, seconds(30)));
    state.attempt_failed(0, &Failure::RunContainerError("no runner".to_owned()), now);
    assert_eq!(state.plan(now + seconds(100)), Plan::default());
    assert!(!state.is_busy());
}
