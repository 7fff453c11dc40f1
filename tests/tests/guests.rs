//! What guests see and how they end: arguments, environment, volumes, exit codes, restart policies.

use coracle_tests::{Cluster, Kubectl, eventually, guest, wait::contains};
use serde_json::{Value, json};

/// A component that wants an interface that no node has.
const ROCKET: &str = r#"(component
  (import "acme:rocket/launch@1.2.3" (instance (export "go" (func))))
  (core module $module (func (export "run") (result i32) i32.const 0))
  (core instance $core (instantiate $module))
  (func $run (result (result)) (canon lift (core func $core "run")))
  (instance $commands (export "run" (func $run)))
  (export "wasi:cli/run@0.2.3" (instance $commands)))"#;

fn cluster() -> (Cluster, Kubectl) {
    let cluster = Cluster::start();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    cluster.push(&guest("toolbox-p1.wasm"), "toolbox-p1:1");
    let kubectl = cluster.kubectl();
    (cluster, kubectl)
}

fn pod(name: &str, restart_policy: &str, container: &Value) -> String {
    let mut container = container.clone();
    container["name"] = "main".into();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"restartPolicy": restart_policy, "containers": [container], "terminationGracePeriodSeconds": 1},
    })
    .to_string()
}

fn status(kubectl: &Kubectl, name: &str) -> Value {
    kubectl
        .json(&format!("get pod {name}"))
        .map(|pod| pod["status"]["containerStatuses"][0].clone())
        .unwrap_or_default()
}

fn phase(kubectl: &Kubectl, name: &str, wanted: &str) {
    eventually(&format!("{name} to be {wanted}"), || {
        let pod = kubectl.json(&format!("get pod {name}"))?;
        if pod["status"]["phase"] == wanted { Ok(()) } else { Err(pod["status"].to_string()) }
    });
}

#[test]
fn exit_codes_are_as_documented() {
    let (_cluster, kubectl) = cluster();
    // (name, image, arguments, exit code, reason)
    let table: &[(&str, &str, &[&str], i64, &str)] = &[
        ("p1-zero", "toolbox-p1:1", &["exit", "0"], 0, "Completed"),
        ("p1-seven", "toolbox-p1:1", &["exit", "7"], 7, "Error"),
        ("p1-125", "toolbox-p1:1", &["exit", "125"], 125, "Error"),
        ("p1-trap", "toolbox-p1:1", &["trap"], 134, "Error"),
        ("p2-zero", "toolbox:1", &["exit", "0"], 0, "Completed"),
        ("p2-seven", "toolbox:1", &["exit", "7"], 1, "Error"),
        ("p2-trap", "toolbox:1", &["trap"], 134, "Error"),
    ];
    for (name, image, arguments, ..) in table {
        kubectl.apply(&pod(name, "Never", &json!({"image": image, "args": arguments}))).unwrap();
    }
    for (name, _, _, code, reason) in table {
        phase(&kubectl, name, if *code == 0 { "Succeeded" } else { "Failed" });
        let terminated = status(&kubectl, name)["state"]["terminated"].clone();
        assert_eq!(
            (terminated["exitCode"].as_i64(), terminated["reason"].as_str()),
            (Some(*code), Some(*reason)),
            "{name}"
        );
        let shown = if *code == 0 { "Completed" } else { "Error" };
        assert!(kubectl.run(&format!("get pod {name}")).unwrap().contains(shown), "{name}");
    }
}

#[test]
fn guests_see_their_arguments_environment_and_volumes() {
    let (_cluster, kubectl) = cluster();
    kubectl
        .apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: blue, motto: hi}")
        .unwrap();
    kubectl.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {password: hunter2}").unwrap();
    assert_eq!(kubectl.json("get secret keys").unwrap()["data"]["password"], "aHVudGVyMg==");
    let container = json!({
        "name": "main", "image": "toolbox:1", "command": ["mine", "args", "--", "env"],
        "args": ["--", "echo", "$(GREETING) there", "$$(GREETING)"],
        "env": [
            {"name": "GREETING", "value": "hello"},
            {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "password"}}},
            {"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
    });
    kubectl.apply(&pod("seer", "Never", &container)).unwrap();
    phase(&kubectl, "seer", "Succeeded");
    let log = kubectl.run("logs seer").unwrap();
    assert_eq!(log.lines().next(), Some("mine"), "command[0] replaces the module's name:\n{log}");
    for part in ["hello there", "$(GREETING)", "COLOUR=blue", "PASSWORD=hunter2", "WHO=seer", "HOSTNAME=seer"] {
        assert!(log.contains(part), "{part} is missing in:\n{log}");
    }
    assert!(!log.contains("KUBECONFIG") && !log.contains("PATH=/"), "the host's environment leaks:\n{log}");
    let manifest = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader"},
        "spec": {
            "restartPolicy": "Never",
            "initContainers": [{"name": "writer", "image": "toolbox-p1:1", "args": ["write", "/scratch/note", "from init"],
                "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}],
            "containers": [{"name": "main", "image": "toolbox:1",
                "args": ["cat", "/scratch/note", "/settings/motto", "/keys/password", "/etc/passwd"],
                "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}, {"name": "settings", "mountPath": "/settings"},
                    {"name": "keys", "mountPath": "/keys"}]}],
            "volumes": [{"name": "scratch", "emptyDir": {}}, {"name": "settings", "configMap": {"name": "settings"}},
                {"name": "keys", "secret": {"secretName": "keys"}}],
        },
    });
    kubectl.apply(&manifest.to_string()).unwrap();
    eventually("reader to end", || {
        let pod = kubectl.json("get pod reader")?;
        let ended = ["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap_or_default());
        if ended { Ok(()) } else { Err(pod["status"].to_string()) }
    });
    let log = kubectl.run("logs reader").unwrap();
    for part in ["from init", "hi", "hunter2"] {
        assert!(log.contains(part), "{part} is missing in:\n{log}");
    }
    assert!(!log.contains("root:"), "the host's files are visible:\n{log}");
}

#[test]
fn restart_policies_and_back_off() {
    let (_cluster, kubectl) = cluster();
    kubectl.apply(&pod("always", "Always", &json!({"image": "toolbox:1", "args": ["exit", "0"]}))).unwrap();
    kubectl.apply(&pod("on-failure", "OnFailure", &json!({"image": "toolbox:1", "args": ["exit", "3"]}))).unwrap();
    kubectl.apply(&pod("never", "Never", &json!({"image": "toolbox:1", "args": ["exit", "3"]}))).unwrap();
    kubectl.apply(&pod("done", "OnFailure", &json!({"image": "toolbox:1", "args": ["exit", "0"]}))).unwrap();
    phase(&kubectl, "never", "Failed");
    phase(&kubectl, "done", "Succeeded");
    for name in ["always", "on-failure"] {
        eventually(&format!("{name} in back-off"), || {
            let status = status(&kubectl, name);
            let waits = status["state"]["waiting"]["reason"] == "CrashLoopBackOff";
            let restarted = status["restartCount"].as_i64().unwrap_or(0) >= 1;
            if waits && restarted { Ok(()) } else { Err(status.to_string()) }
        });
        assert!(kubectl.run(&format!("logs {name} --previous")).is_ok(), "{name} has no previous log");
        let events = kubectl.run(&format!("describe pod {name}")).unwrap();
        assert!(events.contains("BackOff"), "{events}");
    }
    assert_eq!(status(&kubectl, "never")["restartCount"], 0);
    assert_eq!(status(&kubectl, "done")["restartCount"], 0);
}

#[test]
fn images_that_cannot_be_had_say_why() {
    let (cluster, kubectl) = cluster();
    let with = |image: &str, policy: &str| json!({"image": image, "imagePullPolicy": policy, "args": ["exit", "0"]});
    kubectl.apply(&pod("missing", "Never", &with("nobody/has-this:1", "IfNotPresent"))).unwrap();
    kubectl.apply(&pod("unpulled", "Never", &with("toolbox:1", "Never"))).unwrap();
    let bad_name = kubectl.apply(&pod("nonsense", "Never", &with("UPPER CASE", "IfNotPresent")));
    for (name, reasons) in [("missing", ["ErrImagePull", "ImagePullBackOff"]), ("unpulled", ["ErrImageNeverPull"; 2])] {
        eventually(&format!("{name}'s reason"), || {
            let status = status(&kubectl, name);
            let reason = status["state"]["waiting"]["reason"].as_str().unwrap_or_default();
            if reasons.contains(&reason) { Ok(()) } else { Err(status.to_string()) }
        });
    }
    eventually("the event", || contains(&kubectl.run("describe pod missing")?, "nobody/has-this:1"));
    if bad_name.is_ok() {
        eventually("InvalidImageName", || contains(&kubectl.run("get pod nonsense")?, "InvalidImageName"));
    }
    // A component that wants what nobody provides; the event names it.
    let directory = tempfile::tempdir().unwrap();
    let rocket = directory.path().join("rocket.wasm");
    std::fs::write(&rocket, wat::parse_str(ROCKET).unwrap()).unwrap();
    cluster.push(&rocket, "rocket:1");
    kubectl.apply(&pod("rocket", "Never", &json!({"image": "rocket:1"}))).unwrap();
    eventually("the import's name", || contains(&kubectl.run("describe pod rocket")?, "acme:rocket/launch@1.2.3"));
    // `:latest`, spoken or not, means Always; another tag means IfNotPresent.
    cluster.push(&guest("toolbox.wasm"), "tool");
    kubectl.apply(&pod("latest", "Never", &json!({"image": "tool", "args": ["exit", "0"]}))).unwrap();
    assert_eq!(kubectl.json("get pod latest").unwrap()["spec"]["containers"][0]["imagePullPolicy"], "Always");
    phase(&kubectl, "latest", "Succeeded");
}

#[test]
fn deletion_gives_grace_and_then_ends_it() {
    let (_cluster, kubectl) = cluster();
    kubectl.apply(&pod("polite", "Always", &json!({"image": "toolbox:1", "args": ["wait-eof"]}))).unwrap();
    kubectl.apply(&pod("spinner", "Always", &json!({"image": "toolbox:1", "args": ["spin"]}))).unwrap();
    for name in ["polite", "spinner"] {
        phase(&kubectl, name, "Running");
        kubectl.run(&format!("delete pod {name} --timeout=30s")).unwrap();
        assert!(kubectl.run(&format!("get pod {name}")).unwrap_err().contains("NotFound"));
    }
}
