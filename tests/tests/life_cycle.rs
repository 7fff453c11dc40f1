//! The life of a pod as people see it with kubectl: how it begins, goes on, ends and is told of.

use coracle_tests::{
    Cluster, Kubectl, eventually, guest,
    pods::{condition, phase, until},
    wait::contains,
};
use serde_json::Value;

fn cluster() -> (Cluster, Kubectl) {
    let cluster = Cluster::start();
    for image in ["toolbox:1", "toolbox:2"] {
        cluster.push(&guest("toolbox.wasm"), image);
    }
    let kubectl = cluster.kubectl();
    (cluster, kubectl)
}

fn apply(kubectl: &Kubectl, manifest: &str) {
    kubectl.apply(manifest).unwrap_or_else(|error| panic!("{error}\n{manifest}"));
}

/// A pod of this name and with this spec, both as YAML in one line.
fn pod(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
}

/// `READY` and `STATUS` as printed, once they are as wanted.
fn shown(kubectl: &Kubectl, name: &str, ready: &str, status: &str) {
    eventually(&format!("{name} to show {ready} {status}"), || {
        let row = kubectl.run(&format!("get pod {name} --no-headers"))?;
        let mut words = row.split_whitespace().skip(1);
        let (of_ready, of_status) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if (of_ready, of_status) == (ready, status) { Ok(()) } else { Err(row) }
    });
}

fn event(kubectl: &Kubectl, pod: &str, message: &str) {
    eventually(&format!("event of {pod}: {message}"), || {
        contains(&kubectl.run(&format!("get events --field-selector involvedObject.name={pod}"))?, message)
    });
}

fn gone(kubectl: &Kubectl, name: &str) {
    eventually(&format!("{name} to be gone"), || match kubectl.run(&format!("get pod {name} --ignore-not-found"))? {
        nothing if nothing.is_empty() => Ok(()),
        still => Err(still),
    });
}

fn init(pod: &Value, index: usize) -> &Value {
    &pod["status"]["initContainerStatuses"][index]
}

fn app(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

const SIDECAR: &str = "{name: side, image: 'toolbox:1', args: [wait-eof], restartPolicy: Always}";

#[test]
fn sidecars_serve_as_long_as_they_are_needed() {
    let (mut cluster, kubectl) = cluster();
    let with_sidecar = |name: &str, policy: &str, args: &str| {
        let app = format!("{{name: main, image: 'toolbox:1', args: [{args}]}}");
        let first = "{name: first, image: 'toolbox:1', args: [echo, ready]}";
        pod(
            name,
            &format!(
                "{{restartPolicy: {policy}, terminationGracePeriodSeconds: 5, initContainers: [{SIDECAR}, {first}], containers: [{app}]}}"
            ),
        )
    };
    apply(
        &kubectl,
        &[
            with_sidecar("serving", "Always", "wait-eof"),
            with_sidecar("job", "Never", "echo, done"),
            with_sidecar("failing", "Never", "exit, '1'"),
        ]
        .concat(),
    );
    shown(&kubectl, "serving", "2/2", "Running");
    for (name, status, ended) in [("job", "Completed", "Succeeded"), ("failing", "Error", "Failed")] {
        let pod = phase(&kubectl, name, ended);
        shown(&kubectl, name, "0/2", status);
        let side = &init(&pod, 0)["state"]["terminated"];
        assert_eq!((&side["exitCode"], &side["reason"]), (&0.into(), &"Completed".into()), "{pod:#}");
        event(&kubectl, name, "Stopping container side");
        assert!(kubectl.run(&format!("logs {name} -c side")).unwrap().contains("bye"), "it was asked");
    }
    let status = cluster.stop();
    assert!(status.success(), "{status}");
    cluster.start_again();
    let kubectl = cluster.kubectl();
    until(&kubectl, "serving", "both again", |pod| {
        [init(pod, 0), app(pod)].iter().all(|one| one["restartCount"].as_i64() >= Some(1) && one["ready"] == true)
    });
    shown(&kubectl, "serving", "2/2", "Running");
    shown(&kubectl, "job", "0/2", "Completed");
    kubectl.run("delete pod serving job failing").unwrap();
}

#[test]
fn a_changed_init_image_runs_the_pod_again_and_another_only_its_container() {
    let (_cluster, kubectl) = cluster();
    let containers = |name: &str, args: &str| format!("[{{name: {name}, image: 'toolbox:1', args: [{args}]}}]");
    let spec = format!(
        "{{terminationGracePeriodSeconds: 2, initContainers: {}, containers: {}}}",
        containers("first", "echo, begun"),
        containers("main", "wait-eof")
    );
    apply(&kubectl, &pod("p", &spec));
    let ready = |pod: &Value, init_restarts: i64, app_restarts: i64| {
        init(pod, 0)["restartCount"] == init_restarts
            && app(pod)["restartCount"] == app_restarts
            && app(pod)["ready"] == true
            && pod["status"]["phase"] == "Running"
    };
    let before = until(&kubectl, "p", "it runs", |pod| ready(pod, 0, 0));
    kubectl.run("set image pod/p first=toolbox:2").unwrap();
    let again = until(&kubectl, "p", "all of it again", |pod| ready(pod, 1, 1));
    assert_eq!(init(&again, 0)["state"]["terminated"]["reason"], "Completed");
    for field in ["/metadata/uid", "/status/podIP", "/status/startTime"] {
        assert_eq!(before.pointer(field), again.pointer(field), "{field}");
    }
    event(&kubectl, "p", "Pod sandbox changed, it will be killed and re-created.");
    kubectl.run("set image pod/p main=toolbox:2").unwrap();
    until(&kubectl, "p", "the app alone", |pod| ready(pod, 1, 2));
    event(&kubectl, "p", "Container main definition changed, will be restarted");
    let refusal = kubectl.run_arguments(["patch", "pod", "p", "-p", r#"{"spec":{"hostname":"other"}}"#]).unwrap_err();
    assert!(refusal.contains("pod updates may not change fields other than"), "{refusal}");
    kubectl.run("delete pod p").unwrap();
}

#[test]
fn kubectl_says_how_a_pod_is() {
    let (_cluster, kubectl) = cluster();
    let container = |name: &str, args: &str| format!("{{name: {name}, image: 'toolbox:1', args: [{args}]}}");
    let table: &[(&str, String, &str, &str)] = &[
        ("done", format!("{{restartPolicy: Never, containers: [{}]}}", container("a", "exit, '0'")), "0/1", "Completed"),
        ("fails", format!("{{restartPolicy: Never, containers: [{}]}}", container("a", "exit, '1'")), "0/1", "Error"),
        ("loops", format!("{{containers: [{}]}}", container("a", "exit, '1'")), "0/1", "CrashLoopBackOff"),
        (
            "mixed",
            format!("{{restartPolicy: Never, containers: [{}, {}]}}", container("a", "exit, '0'"), container("b", "wait-eof")),
            "1/2",
            "NotReady",
        ),
        (
            "init-waits",
            format!("{{initContainers: [{}, {}], containers: [{}]}}", container("i", "exit, '0'"), container("j", "wait-eof"), container("a", "wait-eof")),
            "0/1",
            "Init:1/2",
        ),
        (
            "init-fails",
            format!("{{restartPolicy: Never, initContainers: [{}], containers: [{}]}}", container("i", "exit, '1'"), container("a", "wait-eof")),
            "0/1",
            "Init:Error",
        ),
        (
            "init-loops",
            format!("{{initContainers: [{}], containers: [{}]}}", container("i", "exit, '1'"), container("a", "wait-eof")),
            "0/1",
            "Init:CrashLoopBackOff",
        ),
        ("no-image", "{containers: [{name: a, image: 'nowhere:1'}]}".to_owned(), "0/1", "ImagePullBackOff"),
        (
            "no-config",
            "{containers: [{name: a, image: 'toolbox:1', envFrom: [{configMapRef: {name: none}}]}]}".to_owned(),
            "0/1",
            "CreateContainerConfigError",
        ),
        (
            "greedy",
            "{restartPolicy: Never, containers: [{name: a, image: 'toolbox:1', args: [alloc, '64'], resources: {limits: {memory: 16Mi}}}]}".to_owned(),
            "0/1",
            "OOMKilled",
        ),
        (
            "late",
            format!("{{activeDeadlineSeconds: 5, terminationGracePeriodSeconds: 1, containers: [{}]}}", container("a", "spin")),
            "0/1",
            "Error",
        ),
    ];
    let all: String = table.iter().map(|(name, spec, ..)| pod(name, spec)).collect();
    apply(&kubectl, &all);
    for (name, _, ready, status) in table {
        shown(&kubectl, name, ready, status);
    }
    let late = phase(&kubectl, "late", "Failed");
    assert_eq!(late["status"]["reason"], "DeadlineExceeded");
    assert_eq!(late["status"]["message"], "Pod was active on the node longer than the specified deadline");
    assert_eq!(app(&late)["state"]["terminated"]["exitCode"], 137, "{late:#}");
    eventually("restarts with their age", || {
        let row = kubectl.run("get pod loops --no-headers")?;
        if row.contains("s ago)") { Ok(()) } else { Err(row) }
    });
    let names: Vec<&str> = table.iter().map(|row| row.0).collect();
    kubectl.run(&format!("delete pod --now {}", names.join(" "))).unwrap();
}

#[test]
fn a_pod_that_will_not_end_is_ended() {
    let (_cluster, kubectl) = cluster();
    let spec = |grace: u64| {
        format!(
            "{{terminationGracePeriodSeconds: {grace}, containers: [{{name: a, image: 'toolbox:1', args: [sleep, '100000']}}]}}"
        )
    };
    apply(&kubectl, &[pod("short", &spec(2)), pod("long", &spec(100_000)), pod("forced", &spec(100_000))].concat());
    for name in ["short", "long", "forced"] {
        shown(&kubectl, name, "1/1", "Running");
    }
    kubectl.run("delete pod short").unwrap();
    kubectl.run("delete pod long forced --wait=false").unwrap();
    for name in ["long", "forced"] {
        shown(&kubectl, name, "1/1", "Terminating");
    }
    kubectl.run("delete pod long --grace-period=1 --wait=false").unwrap();
    kubectl.run("delete pod forced --force --grace-period=0").unwrap();
    gone(&kubectl, "long");
    gone(&kubectl, "forced");
}

#[test]
fn the_last_words_of_what_failed_are_its_message() {
    let (_cluster, kubectl) = cluster();
    let words = "args: [warn, last, words, '--', exit, '1'], terminationMessagePolicy: FallbackToLogsOnError";
    let spec = format!("{{restartPolicy: Never, containers: [{{name: a, image: 'toolbox:1', {words}}}]}}");
    apply(&kubectl, &pod("p", &spec));
    let pod = phase(&kubectl, "p", "Failed");
    assert_eq!(app(&pod)["state"]["terminated"]["message"], "last words\n");
    assert!(kubectl.run("describe pod p").unwrap().contains("last words"));
    kubectl.run("delete pod p --now").unwrap();
}

#[test]
fn a_readiness_gate_is_opened_by_others() {
    let (_cluster, kubectl) = cluster();
    let spec = "{terminationGracePeriodSeconds: 1, readinessGates: [{conditionType: example.com/gate}], \
                containers: [{name: a, image: 'toolbox:1', args: [wait-eof]}]}";
    apply(&kubectl, &pod("p", spec));
    let pod =
        until(&kubectl, "p", "its containers are ready", |pod| condition(pod, "ContainersReady")["status"] == "True");
    assert_eq!(condition(&pod, "Ready")["reason"], "ReadinessGatesNotReady");
    let gates = || kubectl.run("get pod p -o wide --no-headers").unwrap();
    assert!(gates().trim_end().ends_with("0/1"), "{}", gates());
    eventually("the gate to be opened", || {
        let mut pod = kubectl.json("get pod p")?;
        let open = serde_json::json!({"type": "example.com/gate", "status": "True"});
        pod["status"]["conditions"].as_array_mut().unwrap().push(open);
        kubectl.run_with_input("replace --raw /api/v1/namespaces/default/pods/p/status -f -", &pod.to_string())
    });
    until(&kubectl, "p", "it is ready", |pod| condition(pod, "Ready")["status"] == "True");
    assert!(gates().trim_end().ends_with("1/1"), "{}", gates());
    kubectl.run("delete pod p").unwrap();
}
