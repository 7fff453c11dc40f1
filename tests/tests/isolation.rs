//! What holds guests in, seen from outside: the processes of a real cluster, as root, as an ordinary user, and on a
//! kernel that lacks the means. What somebody could do inside is in the runner's own tests.

use coracle_tests::{
    Cluster, Kubectl, eventually, guest,
    pods::{self, container, running, toolbox, until},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use serde_json::{Value, json};
use std::fs;

/// Who owns nothing.
const NOBODY: u32 = 65_534;

fn uid_of(kubectl: &Kubectl, namespace: &str) -> String {
    kubectl.run(&format!("get namespace {namespace} -o jsonpath={{.metadata.uid}}")).unwrap().trim().to_owned()
}

/// A line of `/proc/PID/status`.
fn status_line(pid: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn confined_condition(kubectl: &Kubectl) -> Value {
    let nodes = kubectl.json("get nodes").unwrap();
    pods::condition(&nodes["items"][0], "GuestsConfined").clone()
}

fn has_no_privileges(pid: u32) {
    for (key, expected) in [
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
    ] {
        assert_eq!(status_line(pid, key), expected, "{key}");
    }
}

/// A pod that writes to a volume and then waits.
fn writer(name: &str) -> Value {
    let mut pod = toolbox(name, "Always", &["wait-eof"]);
    pod["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    pod
}

#[test]
fn each_namespace_has_a_user_and_a_root_of_its_own() {
    assert!(Uid::effective().is_root(), "this suite has to run as root: it starts clusters as root and as others");
    let cluster = Cluster::start();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = cluster.kubectl();
    kubectl.run("create namespace other").unwrap();
    let mut users = Vec::new();
    for namespace in ["default", "other"] {
        pods::apply(&kubectl, namespace, &[writer("writer")]);
        let pod = running(&kubectl, &format!("writer -n {namespace}"));
        let namespace_uid = uid_of(&kubectl, namespace);
        let runner = cluster.runner_of(&namespace_uid).unwrap();
        has_no_privileges(runner);
        assert_eq!(status_line(runner, "CapBnd"), "0000000000000000");
        assert_eq!(status_line(runner, "Groups"), "");
        let ids = status_line(runner, "Uid");
        let ids: Vec<&str> = ids.split(' ').collect();
        assert!(ids[0] != "0" && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(status_line(runner, "Gid").split(' ').next(), Some(ids[0]));
        let root = cluster.data_dir().join("node/ns").join(&namespace_uid);
        assert_eq!(fs::read_link(format!("/proc/{runner}/root")).unwrap(), root);
        // What the guest may write is that user's, and nothing above it.
        let owner = |path: &std::path::Path| std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap());
        let volumes = root.join("volumes").join(pod["metadata"]["uid"].as_str().unwrap());
        assert_eq!(owner(&volumes.join("data")).to_string(), ids[0]);
        assert_eq!([owner(&volumes), owner(&root), owner(&root.join("code"))], [0; 3]);
        users.push(ids[0].to_owned());
    }
    assert_ne!(users[0], users[1], "two namespaces share a user");
    let condition = confined_condition(&kubectl);
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("True"), &json!("LandlockAndSeccomp")));
}

#[test]
fn the_death_of_a_runner_is_told_and_touches_no_other_namespace() {
    let cluster = Cluster::start();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = cluster.kubectl();
    kubectl.run("create namespace other").unwrap();
    for namespace in ["default", "other"] {
        pods::apply(&kubectl, namespace, &[toolbox("waits", "Always", &["wait-eof"])]);
    }
    running(&kubectl, "waits -n default");
    let untouched = running(&kubectl, "waits -n other");
    let runner = cluster.runner_of(&uid_of(&kubectl, "default")).unwrap();
    kill(Pid::from_raw(i32::try_from(runner).unwrap()), Signal::SIGKILL).unwrap();
    let pod = until(&kubectl, "waits -n default", "running again", |pod| {
        container(pod)["restartCount"] == 1 && container(pod)["state"]["running"].is_object()
    });
    let last = &container(&pod)["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(137), &json!("Error")));
    let message = "the runner process of namespace default was killed (signal 9)";
    assert_eq!(last["message"], message);
    eventually("an event that says what happened", || {
        let events = kubectl.run("get events -n default --field-selector reason=RunnerDied")?;
        if events.contains(message) { Ok(()) } else { Err(events) }
    });
    let now = kubectl.json("get pod waits -n other").unwrap();
    assert_eq!(now["status"], untouched["status"], "another namespace was touched");
}

#[test]
fn an_ordinary_user_confines_guests_too() {
    assert!(Uid::effective().is_root(), "only root can become an ordinary user");
    let mut cluster = Cluster::unstarted().as_user(NOBODY);
    cluster.start_again();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = cluster.kubectl();
    pods::apply(&kubectl, "default", &[writer("writer")]);
    running(&kubectl, "writer");
    let runner = cluster.runner_of(&uid_of(&kubectl, "default")).unwrap();
    has_no_privileges(runner);
    assert_eq!(status_line(runner, "Uid"), [NOBODY.to_string().as_str(); 4].join(" "));
    let condition = confined_condition(&kubectl);
    assert_eq!(condition["status"], "True");
    let message = condition["message"].as_str().unwrap();
    assert!(message.contains("stat") && message.contains("utimensat"), "it does not say what is left: {message}");
}

#[test]
fn a_kernel_without_landlock_runs_guests_only_when_told() {
    let mut cluster = Cluster::unstarted().without_landlock();
    cluster.start_again();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = cluster.kubectl();
    let condition = confined_condition(&kubectl);
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("NoLandlock")));
    pods::apply(&kubectl, "default", &[toolbox("waits", "Always", &["wait-eof"])]);
    until(&kubectl, "waits", "refused", |pod| {
        let waiting = &container(pod)["state"]["waiting"];
        waiting["reason"] == "CreateContainerError"
            && waiting["message"].as_str().is_some_and(|message| message.contains("--allow-unconfined-guests"))
    });
    eventually("an event that says so", || {
        let events = kubectl.run("get events")?;
        if events.contains("cannot confine guests") { Ok(()) } else { Err(events) }
    });
    assert!(cluster.runners().is_empty(), "a runner was kept");
    cluster.stop();

    let mut cluster = cluster.with_arguments(&["--allow-unconfined-guests"]);
    cluster.start_again();
    let kubectl = cluster.kubectl();
    running(&kubectl, "waits");
    let condition = confined_condition(&kubectl);
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("NoLandlock")));
    let runner = cluster.runner_of(&uid_of(&kubectl, "default")).unwrap();
    has_no_privileges(runner);
}

/// A runner with room for eight instances gets six containers.
#[test]
fn a_namespace_that_outgrows_a_runner_gets_another() {
    let mut cluster = Cluster::unstarted().with_arguments(&["--runner-instances", "8"]);
    cluster.start_again();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    cluster.push(&guest("http.wasm"), "http:1");
    let kubectl = cluster.kubectl();
    let start = |pod: Value| {
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        pods::apply(&kubectl, "default", &[pod]);
        until(&kubectl, &name, "ready", |pod| {
            let containers = pod["status"]["containerStatuses"].as_array();
            containers.is_some_and(|all| all.iter().all(|container| container["ready"] == true))
        });
    };
    let waits = |name: &str| toolbox(name, "Always", &["wait-eof"]);
    for number in 0..5 {
        start(waits(&format!("first-{number}")));
    }
    let first = cluster.runners();
    assert_eq!(first.len(), 1, "there is room in one runner for all of them");
    // Its two containers do not both fit in, so both go elsewhere; probes find their way to a pod there.
    let mut pair = waits("second-pair");
    let web = json!({
        "name": "web", "image": "http:1", "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    });
    pair["spec"]["containers"].as_array_mut().unwrap().push(web);
    start(pair);
    let second: Vec<u32> = cluster.runners().into_iter().filter(|runner| !first.contains(runner)).collect();
    assert_eq!(second.len(), 1, "a second runner");
    start(waits("first-late"));
    start(waits("second-late"));
    assert_eq!(cluster.runners().len(), 2, "what has room in the two starts no third");

    let names: Vec<String> = (0..5).map(|number| format!("first-{number}")).collect();
    let names: Vec<&str> =
        names.iter().map(String::as_str).chain(["first-late", "second-pair", "second-late"]).collect();
    for name in &names {
        let said = kubectl.run(&format!("exec {name} -c main -- toolbox echo {name}")).unwrap();
        assert_eq!(said.trim(), *name);
    }
    kill(Pid::from_raw(i32::try_from(second[0]).unwrap()), Signal::SIGKILL).unwrap();
    for name in ["second-pair", "second-late"] {
        until(&kubectl, name, "running again", |pod| {
            container(pod)["restartCount"] == 1 && container(pod)["state"]["running"].is_object()
        });
    }
    for name in names.iter().filter(|name| name.starts_with("first")) {
        let pod = kubectl.json(&format!("get pod {name}")).unwrap();
        assert_eq!(container(&pod)["restartCount"], 0, "{name} was in the other runner");
    }
    // Each is found where it is and ended.
    kubectl.run("delete pods --all --timeout=60s").unwrap();
}

/// A pod that takes so many MiB and then waits, with these resources.
fn taker(name: &str, mib: u32, resources: &Value) -> Value {
    let mut pod = toolbox(name, "Never", &["alloc", &mib.to_string(), "--", "wait-eof"]);
    pod["spec"]["containers"][0]["resources"] = resources.clone();
    pod
}

/// A gigabyte, of which guests may have 768 MiB: three runners together come to more, each by itself to less than half.
#[test]
fn when_all_runners_take_too_much_the_one_that_was_promised_least_goes() {
    let mut cluster = Cluster::unstarted().with_arguments(&["--guests-machine-memory", "1024"]);
    cluster.start_again();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = cluster.kubectl();
    let whole = json!({"cpu": "100m", "memory": "400Mi"});
    for (namespace, mib, resources) in [
        ("promised", 300, json!({"limits": whole, "requests": whole})),
        ("asked", 300, json!({"requests": {"memory": "350Mi"}})),
        ("free", 200, json!({})),
    ] {
        kubectl.run(&format!("create namespace {namespace}")).unwrap();
        pods::apply(&kubectl, namespace, &[taker("taker", mib, &resources)]);
        if namespace != "free" {
            running(&kubectl, &format!("taker -n {namespace}"));
            eventually("it has its memory", || {
                let log = kubectl.run(&format!("logs taker -n {namespace}"))?;
                coracle_tests::wait::contains(&log, "waiting")
            });
        }
    }
    let ended = pods::phase(&kubectl, "taker -n free", "Failed");
    let terminated = &container(&ended)["state"]["terminated"];
    assert_eq!((&terminated["reason"], &terminated["exitCode"]), (&json!("OOMKilled"), &json!(137)), "{terminated}");
    assert!(terminated["message"].as_str().unwrap().contains("of this node"), "{terminated}");
    for namespace in ["promised", "asked"] {
        let pod = running(&kubectl, &format!("taker -n {namespace}"));
        assert_eq!(container(&pod)["restartCount"], 0);
    }
    assert_eq!(cluster.runners().len(), 3, "no runner died of it");
}
