//! Sidecars, hooks, probes, evictions and changed images in whole pods.

use super::*;
use crate::pod::{hooks::Hook, probes::Kind};

const GOING: &str = "2026-01-01T00:00:00Z";

/// A pod with a sidecar `s` and an app container `a`, each with more fields.
fn sidecar_pod(policy: &str, sidecar: &Value, app: &Value) -> Value {
    let with = |name: &str, more: &Value| {
        let mut container = json!({"name": name, "image": "img:1"});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        container
    };
    let mut sidecar = with("s", sidecar);
    sidecar["restartPolicy"] = "Always".into();
    pod(&json!({"restartPolicy": policy, "initContainers": [sidecar], "containers": [with("a", app)]}))
}

fn init(pod: &Value, index: usize) -> &Value {
    &pod["status"]["initContainerStatuses"][index]
}

fn condition(pod: &Value, kind: &str) -> String {
    let all = pod["status"]["conditions"].as_array().into_iter().flatten();
    let found = all.filter(|condition| condition["type"] == kind).map(|condition| &condition["status"]);
    found.filter_map(Value::as_str).collect()
}

/// Has the pod deleted with this grace.
fn delete(world: &World, grace_seconds: u64) {
    let mut deleted = world.pod();
    deleted["metadata"]["deletionTimestamp"] = GOING.into();
    deleted["metadata"]["deletionGracePeriodSeconds"] = grace_seconds.into();
    world.link.put(PODS, deleted);
}

#[tokio::test]
async fn a_job_with_a_sidecar_ends() {
    let world = World::new();
    world.guests.obedient();
    world.link.put(PODS, sidecar_pod("Never", &json!({}), &json!({})));
    world.until("running", |pod| phase(pod) == "Running" && app(pod)["ready"] == true).await;
    assert_eq!((&init(&world.pod(), 0)["started"], &init(&world.pod(), 0)["ready"]), (&json!(true), &json!(true)));
    world.guests.exit("s", 1);
    world
        .until("the sidecar runs again", |pod| init(pod, 0)["restartCount"] == 1 && init(pod, 0)["started"] == true)
        .await;
    assert!(world.guests.stopped().is_empty());
    world.guests.exit("a", 0);
    world.event("Killing", "Stopping container s").await;
    world.until("it is over", |pod| phase(pod) == "Succeeded").await;
    assert_eq!(world.guests.stopped(), ["s"]);
    assert_eq!(init(&world.pod(), 0)["state"]["terminated"]["exitCode"], 0);
    assert_eq!((condition(&world.pod(), "Ready").as_str(), world.switch.address("u-1")), ("False", None));
}

#[tokio::test]
async fn sidecars_outlive_what_they_serve() {
    let world = World::new();
    let mut wanted = sidecar_pod("Always", &json!({}), &json!({}));
    let second = json!({"name": "t", "image": "img:1", "restartPolicy": "Always"});
    wanted["spec"]["initContainers"].as_array_mut().unwrap().push(second);
    world.link.put(PODS, wanted);
    world.until("running", |pod| phase(pod) == "Running" && app(pod)["ready"] == true).await;
    delete(&world, 1_000_000);
    for (name, asked) in [("a", vec!["a"]), ("t", vec!["a", "t"]), ("s", vec!["a", "t", "s"])] {
        eventually("it is asked", || world.guests.stopped() == asked).await;
        world.guests.exit(name, 0);
    }
    world.link.wait("deleted", |link| link.stored(PODS, &key()).is_none()).await;
}

#[tokio::test]
async fn probes_decide_when_a_container_is_started_and_ready() {
    let world = World::new();
    let probe = json!({"tcpSocket": {"port": 80}});
    let all = json!({"startupProbe": probe, "livenessProbe": probe, "readinessProbe": probe});
    world.link.put(PODS, sidecar_pod("Always", &all, &all));
    eventually("the sidecar is probed", || world.checks.probed("s") == 1).await;
    world.until("the sidecar runs", |pod| init(pod, 0)["state"]["running"].is_object()).await;
    assert!(world.guests.running("a").is_none() && init(&world.pod(), 0)["started"] == false);
    world.checks.say("s", Kind::Startup, true);
    world.until("the app runs", |pod| app(pod)["state"]["running"].is_object()).await;
    world
        .until("the sidecar is not ready", |pod| init(pod, 0)["started"] == true && init(pod, 0)["ready"] == false)
        .await;
    for container in ["s", "a"] {
        eventually("it is probed", || world.checks.probed(container) == 1).await;
        world.checks.say(container, Kind::Startup, true);
        world.checks.say(container, Kind::Readiness, true);
    }
    world.until("ready", |pod| condition(pod, "Ready") == "True" && app(pod)["started"] == true).await;
    world.checks.say("a", Kind::Readiness, false);
    world.until("not ready", |pod| condition(pod, "Ready") == "False" && app(pod)["ready"] == false).await;
    assert_eq!(app(&world.pod())["started"], true);
    world.checks.say("a", Kind::Liveness, false);
    world.event("Killing", "Container a failed liveness probe, will be restarted").await;
    eventually("it is asked", || world.guests.stopped() == ["a"]).await;
    world.guests.exit("a", 0);
    world.until("it runs again", |pod| app(pod)["restartCount"] == 1 && app(pod)["state"]["running"].is_object()).await;
    assert_eq!((&app(&world.pod())["started"], &app(&world.pod())["ready"]), (&json!(false), &json!(false)));
    eventually("it is probed again", || world.checks.probed("a") == 2).await;
    world.checks.say("a", Kind::Startup, false);
    world.event("Killing", "Container a failed startup probe, will be restarted").await;
    world.checks.say("s", Kind::Liveness, false);
    world.event("Killing", "Init container s failed liveness probe, will be restarted").await;
}

#[tokio::test]
async fn a_failed_probe_ends_a_pod_that_never_restarts() {
    let world = World::new();
    world.guests.obedient();
    let mut wanted = simple("Never");
    wanted["spec"]["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 80}});
    world.link.put(PODS, wanted);
    eventually("it is probed", || world.checks.probed("a") == 1).await;
    world.checks.say("a", Kind::Liveness, false);
    world.until("over", |pod| phase(pod) == "Succeeded").await;
    let events = world.link.all(EVENTS);
    assert!(!events.iter().any(|event| event["message"].as_str().unwrap().contains("will be restarted")), "{events:?}");
}

#[tokio::test]
async fn a_hook_comes_before_what_follows_it() {
    let world = World::new();
    let hooks = json!({"postStart": {"exec": {"command": ["x"]}}, "preStop": {"exec": {"command": ["y"]}}});
    let mut wanted = simple("Always");
    wanted["spec"]["containers"][0]["lifecycle"] = hooks;
    wanted["spec"]["containers"][0]["readinessProbe"] = json!({"tcpSocket": {"port": 80}});
    world.link.put(PODS, wanted);
    world.until("its hook runs", |pod| app(pod)["state"]["running"].is_object()).await;
    eventually("postStart", || world.checks.hooks() == [("a".to_owned(), Hook::PostStart)]).await;
    assert_eq!((app(&world.pod())["started"].as_bool(), world.checks.probed("a")), (Some(false), 0));
    world.checks.answer("a", Hook::PostStart, Ok(()));
    world.until("started", |pod| app(pod)["started"] == true).await;
    eventually("it is probed", || world.checks.probed("a") == 1).await;

    delete(&world, 1_000_000);
    eventually("preStop", || world.checks.hooks().len() == 2).await;
    assert!(world.guests.stopped().is_empty(), "it is not asked to end before its hook has run");
    world.checks.answer("a", Hook::PreStop, Err("no such file"));
    world.event("FailedPreStopHook", "PreStopHook failed").await;
    eventually("it is asked", || world.guests.stopped() == ["a"]).await;
    // Somebody is in a hurry now.
    delete(&world, 1);
    world.link.wait("deleted", |link| link.stored(PODS, &key()).is_none()).await;
}

#[tokio::test]
async fn a_hook_that_never_ends_takes_no_more_than_the_grace() {
    let world = World::new();
    let mut wanted = simple("Always");
    wanted["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"exec": {"command": ["y"]}}});
    world.link.put(PODS, wanted);
    world.until("running", |pod| phase(pod) == "Running").await;
    let begun = world.context.pace.now();
    delete(&world, 10);
    world.link.wait("deleted", |link| link.stored(PODS, &key()).is_none()).await;
    assert_eq!(world.guests.stopped(), ["a"]);
    assert!(world.context.pace.now() >= begun + Duration::from_secs(12), "it had two seconds after its hook");
}

#[tokio::test]
async fn a_failed_post_start_hook_ends_the_container() {
    let world = World::new();
    world.guests.obedient();
    let mut wanted = simple("Always");
    wanted["spec"]["containers"][0]["lifecycle"] = json!({"postStart": {"exec": {"command": ["x"]}}});
    world.checks.answer("a", Hook::PostStart, Err("it says no"));
    world.link.put(PODS, wanted);
    world.event("FailedPostStartHook", "PostStartHook failed").await;
    world.event("Killing", "FailedPostStartHook").await;
    world
        .until("the reason", |pod| {
            waits_with(pod, "PostStartHookError") && app(pod)["state"]["waiting"]["message"] == "it says no"
        })
        .await;
    world.until("it loops", |pod| waits_with(pod, "CrashLoopBackOff")).await;
    world.checks.answer("a", Hook::PostStart, Ok(()));
    world.until("started", |pod| app(pod)["started"] == true).await;
}

#[tokio::test]
async fn a_changed_init_image_runs_the_whole_pod_again() {
    let world = World::new();
    world.guests.obedient();
    let mut wanted = sidecar_pod("Never", &json!({}), &json!({}));
    let ordinary = json!({"name": "i", "image": "init:1"});
    wanted["spec"]["initContainers"].as_array_mut().unwrap().push(ordinary);
    world.link.put(PODS, wanted);
    world.link.wait("init runs", |_| world.guests.running("i").is_some()).await;
    world.guests.exit("i", 0);
    world.until("running", |pod| phase(pod) == "Running" && app(pod)["ready"] == true).await;
    let ip = address(&world.pod()).to_owned();
    let mut changed = world.pod();
    changed["spec"]["initContainers"][1]["image"] = "init:2".into();
    world.link.put(PODS, changed);
    world.event("SandboxChanged", "Pod sandbox changed, it will be killed and re-created.").await;
    world.link.wait("init runs again", |_| world.guests.running("i").is_some_and(|guest| guest.argv == ["init"])).await;
    assert_eq!(world.guests.stopped(), ["a", "s"]);
    world
        .until("it initializes", |pod| init(pod, 1)["restartCount"] == 1 && condition(pod, "Initialized") == "False")
        .await;
    assert_eq!(init(&world.pod(), 1)["imageID"], "registry/init:2@sha256:1");
    world.guests.exit("i", 0);
    world.until("running again", |pod| app(pod)["restartCount"] == 1 && app(pod)["ready"] == true).await;
    assert_eq!((phase(&world.pod()), address(&world.pod())), ("Running", ip.as_str()));

    let mut changed = world.pod();
    changed["spec"]["containers"][0]["image"] = "img:2".into();
    world.link.put(PODS, changed);
    world.event("Killing", "Container a definition changed, will be restarted").await;
    world
        .until("the app alone", |pod| app(pod)["restartCount"] == 2 && app(pod)["imageID"] == "registry/img:2@sha256:1")
        .await;
    assert_eq!(init(&world.pod(), 1)["restartCount"], 1);
}

#[tokio::test]
async fn what_cannot_be_started_fails_as_a_run_does() {
    let world = World::new();
    world.guests.fail_start(Some("the mount is not there"));
    world.link.put(PODS, simple("Always"));
    world.event("Failed", "Error: the mount is not there").await;
    world.until("the reason", |pod| waits_with(pod, "RunContainerError")).await;
    let pod = world.pod();
    let last = &app(&pod)["lastState"]["terminated"];
    assert_eq!((&last["reason"], &last["exitCode"]), (&json!("StartError"), &json!(128)));
    world.until("it loops", |pod| waits_with(pod, "CrashLoopBackOff")).await;
    world.guests.fail_start(None);
    world.until("running", |pod| app(pod)["started"] == true).await;

    let world = World::new();
    world.guests.fail_start(Some("the mount is not there"));
    world.link.put(PODS, simple("Never"));
    world.until("failed", |pod| phase(pod) == "Failed").await;
    assert_eq!(app(&world.pod())["state"]["terminated"]["reason"], "StartError");
}

#[tokio::test]
async fn an_evicted_pod_says_why_and_stays() {
    let world = World::new();
    world.guests.obedient();
    world.link.put(PODS, simple("Always"));
    world.until("running", |pod| phase(pod) == "Running").await;
    let message = "The node was low on resource: memory.";
    let eviction = Eviction { reason: EVICTED, message: message.to_owned(), grace: Duration::from_secs(1) };
    assert!(world.registry.evict("u-1", eviction.clone()) && !world.registry.evict("u-2", eviction));
    world.until("evicted", |pod| phase(pod) == "Failed").await;
    world.event("Evicted", message).await;
    let pod = world.pod();
    assert_eq!((&pod["status"]["reason"], &pod["status"]["message"]), (&json!("Evicted"), &json!(message)));
    assert_eq!(condition(&pod, "DisruptionTarget"), "True");
    let world = world.restart().await;
    world.link.put(PODS, named("other", "Always"));
    world.link.wait("the other runs", |_| world.guests.running("other").is_some()).await;
    assert_eq!(world.pod()["status"]["reason"], "Evicted");
    assert!(world.guests.running("a").is_none());
}

#[tokio::test]
async fn the_end_of_the_log_is_the_message_of_what_failed() {
    for (code, expected) in [(3, "line 79\nline 80\nlast words\n"), (0, "")] {
        let world = World::new();
        let mut wanted = simple("Never");
        wanted["spec"]["containers"][0]["terminationMessagePolicy"] = "FallbackToLogsOnError".into();
        world.link.put(PODS, wanted);
        world.until("running", |pod| phase(pod) == "Running").await;
        let log = world.context.logs.live("u-1", "a").unwrap();
        for line in 1..=80 {
            log.append(coracle_runner::protocol::LogStream::Stdout, format!("line {line}\n").as_bytes(), clock::now());
        }
        log.append(coracle_runner::protocol::LogStream::Stderr, b"last words\n", clock::now());
        world.guests.exit("a", code);
        world.until("over", |pod| matches!(phase(pod), "Succeeded" | "Failed")).await;
        let pod = world.pod();
        let message = app(&pod)["state"]["terminated"]["message"].as_str().unwrap_or_default();
        assert!(message.ends_with(expected) && !message.contains("line 1\n"), "{code}: {message}");
        assert_eq!(message.is_empty(), expected.is_empty(), "{code}");
    }
}

#[tokio::test]
async fn what_a_container_wrote_is_its_message() {
    let world = World::new();
    world.link.put(PODS, simple("Always"));
    world.until("running", |pod| phase(pod) == "Running").await;
    let folder = world.directory.path().join("ns/ns-1/volumes/u-1/.layers/a/dev");
    std::fs::create_dir_all(&folder).unwrap();
    // Longer than a message may be.
    std::fs::write(folder.join("termination-log"), "x".repeat(5000)).unwrap();
    world.guests.exit("a", 0);
    world.until("it is kept", |pod| app(pod)["restartCount"] == 1).await;
    let pod = world.pod();
    assert_eq!(app(&pod)["lastState"]["terminated"]["message"], "x".repeat(4096));
}

#[tokio::test]
async fn hooks_probes_and_sidecars_begin_again_with_the_agent() {
    let world = World::new();
    let hook = json!({"lifecycle": {"postStart": {"exec": {"command": ["x"]}}}});
    let probe = json!({"readinessProbe": {"tcpSocket": {"port": 80}}});
    world.link.put(PODS, sidecar_pod("Always", &probe, &hook));
    world.until("its hook runs", |pod| app(pod)["state"]["running"].is_object()).await;
    eventually("postStart", || world.checks.hooks().len() == 1).await;
    let world = world.restart().await;
    eventually("probed again", || world.checks.probed("s") == 1).await;
    eventually("postStart again", || world.checks.hooks().len() == 1).await;
    world.until("counted", |pod| app(pod)["restartCount"] == 1 && init(pod, 0)["restartCount"] == 1).await;
    assert_eq!(app(&world.pod())["started"], false);

    // One that is being stopped while the agent ends is not started by the next.
    delete(&world, 1_000_000);
    eventually("the app is asked", || world.guests.stopped() == ["a"]).await;
    let world = world.restart().await;
    world.link.wait("deleted", |link| link.stored(PODS, &key()).is_none()).await;
    assert_eq!((world.checks.probed("s"), world.checks.hooks().len()), (0, 0));
}

#[tokio::test]
async fn a_job_that_was_ending_its_sidecar_is_over_after_a_restart() {
    let world = World::new();
    world.link.put(PODS, sidecar_pod("Never", &json!({}), &json!({})));
    world.until("running", |pod| phase(pod) == "Running" && app(pod)["ready"] == true).await;
    world.guests.exit("a", 0);
    eventually("the sidecar is asked", || world.guests.stopped() == ["s"]).await;
    world.until("seen", |pod| app(pod)["state"]["terminated"].is_object()).await;
    let world = world.restart().await;
    world.until("over", |pod| phase(pod) == "Succeeded").await;
    assert!(world.guests.running("s").is_none() && world.guests.running("a").is_none());
}

#[tokio::test]
async fn a_readiness_gate_opens_when_others_say_so() {
    let world = World::new();
    let mut wanted = simple("Always");
    wanted["spec"]["readinessGates"] = json!([{"conditionType": "example.com/gate"}]);
    world.link.put(PODS, wanted);
    world.until("all but the gate", |pod| condition(pod, "ContainersReady") == "True").await;
    assert_eq!(condition(&world.pod(), "Ready"), "False");
    for status in ["True", "False"] {
        let mut said = world.pod();
        let conditions = said["status"]["conditions"].as_array_mut().unwrap();
        conditions.retain(|condition| condition["type"] != "example.com/gate");
        conditions.push(json!({"type": "example.com/gate", "status": status}));
        world.link.put(PODS, said);
        world
            .until(status, |pod| condition(pod, "Ready") == status && condition(pod, "example.com/gate") == status)
            .await;
    }
}

#[tokio::test]
async fn a_pod_that_runs_says_its_nodes_new_address_and_what_begins_is_given_it() {
    let world = World::new();
    let shows = |pod: &Value, address: &str| {
        pod["status"]["hostIP"] == address && pod["status"]["hostIPs"] == json!([{"ip": address}])
    };
    let host_ip = json!([{"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}]);
    let spec = json!({"restartPolicy": "OnFailure", "containers": [{"name": "a", "image": "img:1", "env": host_ip}]});
    world.link.put(PODS, pod(&spec));
    world.until("running", |pod| phase(pod) == "Running" && shows(pod, "127.0.0.1")).await;
    let seen = |world: &World| {
        let guest = world.guests.running("a").unwrap();
        guest.env.into_iter().find(|(name, _)| name == "HOST").unwrap().1
    };
    world.place.send_replace(at("192.0.2.7"));
    world.until("the new address", |pod| shows(pod, "192.0.2.7")).await;
    assert_eq!((seen(&world).as_str(), &app(&world.pod())["restartCount"]), ("127.0.0.1", &json!(0)), "as it began");
    world.guests.exit("a", 1);
    world.until("the next run", |pod| app(pod)["restartCount"] == 1 && app(pod)["started"] == true).await;
    assert_eq!(seen(&world), "192.0.2.7");
}
