//! `kill -9` of runners and of the whole cluster.

use crate::{cluster, namespace};
use coracle_tests::{
    Cluster,
    chaos::Chaos,
    pods::{self, container, phase, running, toolbox, until},
    random::Random,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

fn signal_runner(cluster: &Cluster, namespace_uid: &str, signal: Signal) {
    let runner = cluster.runner_of(namespace_uid).expect("the namespace has a runner");
    kill(Pid::from_raw(i32::try_from(runner).unwrap()), signal).unwrap();
}

#[test]
fn a_runner_that_hangs_is_replaced() {
    let (cluster, kubectl) = cluster();
    let (one, other) = (namespace(&kubectl, "one"), namespace(&kubectl, "other"));
    let wait = |name: &str| toolbox(name, "Always", &["wait-eof"]);
    pods::apply(&kubectl, "one", &[wait("a"), wait("b")]);
    for pod in ["a -n one", "b -n one"] {
        running(&kubectl, pod);
    }
    let hanging = cluster.runner_of(&one);
    signal_runner(&cluster, &one, Signal::SIGSTOP);
    // Others do not notice.
    pods::apply(&kubectl, "other", &[wait("a")]);
    running(&kubectl, "a -n other");
    let undisturbed = cluster.runner_of(&other);
    kubectl.run("delete pod a -n one --timeout=50s").unwrap();
    until(&kubectl, "b -n one", "running again", |pod| {
        container(pod)["restartCount"] == 1 && container(pod)["state"]["running"].is_object()
    });
    assert_ne!(cluster.runner_of(&one), hanging);
    assert_eq!(cluster.runner_of(&other), undisturbed);
}

#[test]
fn a_killed_runner_costs_only_its_own_pods_a_restart() {
    let (cluster, kubectl) = cluster();
    let (one, other) = (namespace(&kubectl, "one"), namespace(&kubectl, "other"));
    let init = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "init"},
        "spec": {"terminationGracePeriodSeconds": 1,
            "initContainers": [{"name": "first", "image": "toolbox:1", "args": ["exit", "0"]},
                {"name": "second", "image": "toolbox:1", "args": ["wait-eof"]}],
            "containers": [{"name": "main", "image": "toolbox:1", "args": ["wait-eof"]}]},
    });
    let wait = |policy: &str| toolbox(&policy.to_lowercase(), policy, &["wait-eof"]);
    pods::apply(&kubectl, "one", &[wait("Always"), wait("OnFailure"), wait("Never"), init]);
    pods::apply(&kubectl, "other", &[wait("Always")]);
    for pod in ["always -n one", "onfailure -n one", "never -n one", "always -n other"] {
        running(&kubectl, pod);
    }
    until(&kubectl, "init -n one", "in its second init container", |pod| {
        pod["status"]["initContainerStatuses"][1]["state"]["running"].is_object()
    });
    let untouched = kubectl.json("get pod always -n other").unwrap();
    let others_runner = cluster.runner_of(&other);
    signal_runner(&cluster, &one, Signal::SIGKILL);

    let reason = |status: &Value| {
        assert_eq!(status["exitCode"], 137, "{status}");
        assert!(status["message"].as_str().unwrap_or_default().contains("runner"), "no reason: {status}");
    };
    for pod in ["always -n one", "onfailure -n one"] {
        let pod = until(&kubectl, pod, "running again", |pod| {
            container(pod)["restartCount"] == 1 && container(pod)["state"]["running"].is_object()
        });
        reason(&container(&pod)["lastState"]["terminated"]);
    }
    reason(&container(&phase(&kubectl, "never -n one", "Failed"))["state"]["terminated"]);
    let init = until(&kubectl, "init -n one", "in its second init container again", |pod| {
        let second = &pod["status"]["initContainerStatuses"][1];
        second["restartCount"] == 1 && second["state"]["running"].is_object()
    });
    assert_eq!(init["status"]["initContainerStatuses"][0]["restartCount"], 0, "the first had succeeded");
    assert_eq!(init["status"]["phase"], "Pending");
    let now = kubectl.json("get pod always -n other").unwrap();
    assert_eq!(now["status"], untouched["status"], "another namespace was touched");
    assert_eq!(cluster.runner_of(&other), others_runner);
    for pod in ["always", "init"] {
        kubectl.run(&format!("delete pod {pod} -n one --timeout=30s")).unwrap();
    }
}

#[test]
fn kill_nine_amid_churn_converges() {
    let (mut cluster, _) = cluster();
    let mut chaos = Chaos::new(Random::seeded());
    for round in 0..3 {
        chaos.round(&mut cluster, round);
    }
    chaos.end(&cluster);
}
