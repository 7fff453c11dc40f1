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
    assert_eq!(state.image_changed(0, "fixed"), None);
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
    assert_eq!(state.image_changed(0, "img:2"), Some(RunId("run-0".to_owned())));
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
