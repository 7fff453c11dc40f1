//! Probes and hooks of containers, as people see what comes of them: restarts, endpoints, events.

use coracle_tests::{
    Kubectl, eventually, example, guest,
    network::{self, address, endpoints, probe, server, service},
    pods::{self, container, running, until},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The messages of a pod's events with this reason.
fn events(kubectl: &Kubectl, pod: &str, reason: &str) -> Result<Vec<String>, String> {
    let selector = format!("involvedObject.name={pod},reason={reason}");
    let found = kubectl.json(&format!("get events --field-selector {selector}"))?;
    let messages = found["items"].as_array().into_iter().flatten().filter_map(|one| one["message"].as_str());
    Ok(messages.map(str::to_owned).collect())
}

/// Waits until the pod has such an event.
fn told(kubectl: &Kubectl, pod: &str, reason: &str, message: &str) {
    eventually(&format!("{pod}: {reason} {message}"), || {
        let messages = events(kubectl, pod, reason)?;
        if messages.iter().any(|one| one.contains(message)) { Ok(()) } else { Err(format!("{messages:?}")) }
    });
}

fn is_ready(pod: &Value) -> bool {
    container(pod)["ready"] == true
}

fn restarts(pod: &Value) -> u64 {
    container(pod)["restartCount"].as_u64().unwrap_or_default()
}

fn now(kubectl: &Kubectl, pod: &str) -> Value {
    kubectl.json(&format!("get pod {pod}")).unwrap()
}

/// The pod with this probe (or hook) of its container.
fn with(mut pod: Value, field: &str, value: Value) -> Value {
    pod["spec"]["containers"][0][field] = value;
    pod
}

/// Has a server of the probe asked for `path`, from another pod.
fn ask(kubectl: &Kubectl, asker: &str, pod: &str, path: &str) -> String {
    let address = address(kubectl, pod).to_string();
    probe(kubectl, asker, &[&["get", &address, "8080", path]])
}

fn http(path: &str) -> Value {
    json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 5})
}

#[test]
fn readiness_decides_who_gets_traffic() {
    let (_cluster, kubectl) = network::cluster();
    let ready = |name: &str| with(server(name, "web"), "readinessProbe", http("/health"));
    let never = json!({"tcpSocket": {"port": 1}, "periodSeconds": 1});
    let web = service("web", "web", &json!({"ports": [{"port": 80, "targetPort": "http"}]}));
    let unready = with(server("never", "web"), "readinessProbe", never);
    pods::apply(&kubectl, "default", &[ready("a"), ready("b"), unready, web]);
    endpoints(&kubectl, "web", 2);
    until(&kubectl, "a", "ready", is_ready);
    told(&kubectl, "never", "Unhealthy", "Readiness probe failed: dial tcp 10.");
    assert!(!is_ready(&running(&kubectl, "never")));

    ask(&kubectl, "illness", "a", "/sick");
    endpoints(&kubectl, "web", 1);
    let sick = until(&kubectl, "a", "not ready", |pod| !is_ready(pod));
    assert!(container(&sick)["state"]["running"].is_object() && restarts(&sick) == 0, "{sick}");
    let condition = pods::condition(&sick, "Ready");
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("ContainersNotReady")));
    told(&kubectl, "a", "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 500");
    let answers = probe(&kubectl, "client", &[&["get", "web", "80", "/", "20"]]);
    assert!(answers.lines().count() == 20 && answers.lines().all(|one| one.contains("hello from b")), "{answers}");

    ask(&kubectl, "cure", "a", "/well");
    endpoints(&kubectl, "web", 2);
    assert_eq!(restarts(&until(&kubectl, "a", "ready again", is_ready)), 0);
}

#[test]
fn liveness_restarts_what_is_sick() {
    let (_cluster, kubectl) = network::cluster();
    let sick = with(server("sick", "x"), "livenessProbe", http("/health"));
    let well = with(with(server("well", "x"), "livenessProbe", http("/health")), "readinessProbe", http("/health"));
    let mut once = with(server("once", "x"), "livenessProbe", json!({"tcpSocket": {"port": 1}, "periodSeconds": 1}));
    once["spec"]["restartPolicy"] = "Never".into();
    pods::apply(&kubectl, "default", &[sick, well, once]);
    running(&kubectl, "sick");
    ask(&kubectl, "illness", "sick", "/sick");
    let pod = until(&kubectl, "sick", "running again", |pod| {
        restarts(pod) == 1 && container(pod)["state"]["running"].is_object()
    });
    assert!(container(&pod)["lastState"]["terminated"].is_object(), "{pod}");
    told(&kubectl, "sick", "Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 500");
    told(&kubectl, "sick", "Killing", "Container main failed liveness probe, will be restarted");
    // By the restart policy; it ends well when it is asked to.
    let ended = pods::phase(&kubectl, "once", "Succeeded");
    assert_eq!(restarts(&ended), 0);
    // Who is well stays, also beside one that spins and answers nobody.
    let spinning = with(server("spinning", "x"), "livenessProbe", http("/health"));
    pods::apply(&kubectl, "default", &[spinning]);
    running(&kubectl, "spinning");
    let spinning = address(&kubectl, "spinning").to_string();
    pods::apply(&kubectl, "default", &[network::client("asker", &[&["get", &spinning, "8080", "/spin"]])]);
    until(&kubectl, "spinning", "restarted", |pod| restarts(pod) == 1);
    told(&kubectl, "spinning", "Unhealthy", "context deadline exceeded");
    let well = now(&kubectl, "well");
    assert!(is_ready(&well) && restarts(&well) == 0, "{well}");
    let complaints: Vec<String> =
        events(&kubectl, "well", "Unhealthy").unwrap().into_iter().filter(|one| one.contains("deadline")).collect();
    assert_eq!(complaints, [] as [String; 0]);
}

#[test]
fn startup_comes_before_the_others() {
    let (_cluster, kubectl) = network::cluster();
    let nobody = json!({"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 1});
    let patient = json!({"tcpSocket": {"port": 2}, "periodSeconds": 1, "failureThreshold": 1000});
    let starts = with(with(server("starts", "x"), "livenessProbe", nobody.clone()), "startupProbe", patient);
    let fails = with(server("fails", "x"), "startupProbe", nobody.clone());
    let started = with(with(server("started", "x"), "startupProbe", http("/health")), "livenessProbe", nobody);
    pods::apply(&kubectl, "default", &[starts, fails, started]);
    // Once up, it is its liveness that counts.
    until(&kubectl, "started", "restarted for its liveness", |pod| restarts(pod) >= 1);
    told(&kubectl, "started", "Killing", "failed liveness probe");
    until(&kubectl, "fails", "restarted for its start", |pod| restarts(pod) >= 1);
    told(&kubectl, "fails", "Unhealthy", "Startup probe failed: dial tcp");
    told(&kubectl, "fails", "Killing", "Container main failed startup probe, will be restarted");
    // Never up, never probed for anything else.
    told(&kubectl, "starts", "Unhealthy", "Startup probe failed: dial tcp");
    let pod = now(&kubectl, "starts");
    assert_eq!((restarts(&pod), &container(&pod)["started"], is_ready(&pod)), (0, &json!(false), false), "{pod}");
    let others = events(&kubectl, "starts", "Unhealthy").unwrap();
    assert!(others.iter().all(|one| one.starts_with("Startup probe failed")), "{others:?}");
}

#[test]
fn grpc_health_is_asked_for() {
    let (cluster, kubectl) = network::cluster();
    cluster.push(&guest("http.wasm"), "http:1");
    let grpc = |service: &str| json!({"grpc": {"port": 8080, "service": service}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 5});
    let pod = |name: &str| pods::pod(name, "Always", &json!({"image": "http:1", "ports": [{"containerPort": 8080}]}));
    let up = with(with(pod("up"), "readinessProbe", grpc("up")), "livenessProbe", grpc(""));
    let down = with(pod("down"), "livenessProbe", grpc("down"));
    let unknown = with(pod("unknown"), "readinessProbe", grpc("nobody"));
    pods::apply(&kubectl, "default", &[up, down, unknown]);
    until(&kubectl, "up", "ready", is_ready);
    until(&kubectl, "down", "restarted", |pod| restarts(pod) >= 1);
    told(&kubectl, "down", "Unhealthy", "Liveness probe failed: service unhealthy (responded with \"NOT_SERVING\")");
    told(&kubectl, "unknown", "Unhealthy", "Readiness probe failed: error: health rpc probe failed");
    assert_eq!(restarts(&now(&kubectl, "up")), 0);
    assert!(!is_ready(&now(&kubectl, "unknown")));
}

#[test]
fn commands_probe_and_prepare() {
    let (cluster, kubectl) = network::cluster();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    cluster.push(&example("web/server.wasm"), "server:1");
    let pod = |name: &str| {
        let mounts = json!([{"name": "data", "mountPath": "/data"}]);
        let mut pod =
            pods::pod(name, "Always", &json!({"image": "toolbox:1", "args": ["wait-eof"], "volumeMounts": mounts}));
        pod["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
        pod
    };
    let exec = |words: &[&str]| json!({"exec": {"command": words}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 20});
    let hook = |name: &str, words: &[&str]| json!({name: {"exec": {"command": words}}});
    let written = hook("postStart", &["toolbox", "write", "/data/here", "x"]);
    let mut good =
        with(with(pod("good"), "lifecycle", written), "readinessProbe", exec(&["toolbox", "cat", "/data/here"]));
    // What the hook has written is served by the container beside it.
    let mounts = json!([{"name": "data", "mountPath": "/www"}]);
    let served = json!({"name": "web", "image": "server:1", "args": ["8080", "/www"], "volumeMounts": mounts,
        "readinessProbe": {"httpGet": {"path": "/here", "port": 8080}, "periodSeconds": 1, "timeoutSeconds": 5}});
    good["spec"]["containers"].as_array_mut().unwrap().push(served);
    let unready = with(pod("unready"), "readinessProbe", exec(&["toolbox", "fail"]));
    let failing = with(pod("failing"), "livenessProbe", exec(&["toolbox", "fail"]));
    let mut slow = exec(&["toolbox", "sleep", "1000"]);
    slow["timeoutSeconds"] = 1.into();
    let slow = with(pod("slow"), "livenessProbe", slow);
    let broken = with(pod("broken"), "lifecycle", hook("postStart", &["toolbox", "fail"]));
    pods::apply(&kubectl, "default", &[good, unready, failing, slow, broken]);
    let all_ready = |pod: &Value| {
        pod["status"]["containerStatuses"].as_array().is_some_and(|all| all.iter().all(|one| one["ready"] == true))
    };
    until(&kubectl, "good", "ready", all_ready);
    told(&kubectl, "unready", "Unhealthy", "Readiness probe failed: Error: \"told to fail\"");
    until(&kubectl, "failing", "restarted", |pod| restarts(pod) >= 1);
    told(&kubectl, "failing", "Unhealthy", "Liveness probe failed: Error: \"told to fail\"");
    until(&kubectl, "slow", "restarted", |pod| restarts(pod) >= 1);
    told(&kubectl, "slow", "Unhealthy", "timed out after 1s");
    until(&kubectl, "broken", "restarted", |pod| restarts(pod) >= 1);
    told(&kubectl, "broken", "FailedPostStartHook", "");
    let (good, unready) = (now(&kubectl, "good"), now(&kubectl, "unready"));
    assert!(restarts(&good) == 0 && restarts(&unready) == 0 && !is_ready(&unready), "{good} {unready}");
}

#[test]
fn what_comes_before_the_end_delays_it() {
    let (_cluster, kubectl) = network::cluster();
    let grace = |mut pod: Value, seconds: u64| {
        pod["spec"]["terminationGracePeriodSeconds"] = seconds.into();
        pod
    };
    pods::apply(&kubectl, "default", &[with(server("other", "x"), "readinessProbe", http("/health"))]);
    until(&kubectl, "other", "ready", is_ready);
    let other = address(&kubectl, "other").to_string();
    let tells = json!({"preStop": {"httpGet": {"host": other, "port": 8080, "path": "/sick"}}});
    let sleeps = json!({"preStop": {"sleep": {"seconds": 4}}});
    let cannot = json!({"preStop": {"httpGet": {"port": 1, "path": "/"}}});
    let pods = [("tells", tells), ("sleeps", sleeps), ("cannot", cannot)]
        .map(|(name, lifecycle)| grace(with(server(name, "x"), "lifecycle", lifecycle), 20));
    pods::apply(&kubectl, "default", &pods);
    for name in ["tells", "sleeps", "cannot"] {
        running(&kubectl, name);
    }
    kubectl.run("delete pod tells --timeout=60s").unwrap();
    until(&kubectl, "other", "told to be sick", |pod| !is_ready(pod));
    let began = Instant::now();
    kubectl.run("delete pod sleeps --timeout=60s").unwrap();
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    // A hook that fails does not keep it.
    kubectl.run("delete pod cannot --timeout=60s").unwrap();
    told(&kubectl, "cannot", "FailedPreStopHook", "");
}
