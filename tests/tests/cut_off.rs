//! Nodes that are cut off from their control plane: what they keep, for how long, what they begin with after a restart
//! without a server, and that nothing runs twice when they are back.

use coracle_tests::{
    Kubectl, eventually, guest,
    hosts::{Realm, SERVER},
    pods::{self, container, running, toolbox},
    wait::contains,
};
use serde_json::{Value, json};
use std::fs;

/// A node says so often that it lives, in seconds: it counts as gone after four times that.
const HEARTBEAT: &str = "1";
const DAY_SECONDS: i64 = 86_400;

/// Says `waiting`, and `bye` when it is asked to end. It stays on a node that is cut off for so many seconds, or for ever.
fn waiter(node: &str, name: &str, policy: &str, tolerated_seconds: Option<u64>) -> Value {
    let mut toleration = json!({"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"});
    if let Some(seconds) = tolerated_seconds {
        toleration["tolerationSeconds"] = seconds.into();
    }
    let mut pod = pods::on(node, toolbox(name, policy, &["wait-eof"]));
    pod["spec"]["tolerations"] = json!([toleration]);
    pod
}

fn realm(nodes: &[&str]) -> (Realm, Kubectl) {
    let mut realm = Realm::unstarted(nodes);
    for node in nodes {
        realm.options(node, &["--heartbeat-interval", HEARTBEAT]);
    }
    realm.options(SERVER, &["--node-profile", "fast"]);
    realm.start_all();
    realm.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = realm.kubectl();
    (realm, kubectl)
}

/// How often a pod has said this, in all of its runs.
fn said(realm: &Realm, node: &str, pod: &str, word: &str) -> usize {
    realm.output(node, pod).lines().filter(|line| line.ends_with(&format!(" {word}"))).count()
}

fn until_said(realm: &Realm, node: &str, pod: &str, word: &str, times: usize) {
    eventually(&format!("{pod} to say {word:?} {times} times"), || {
        if said(realm, node, pod, word) >= times { Ok(()) } else { Err(realm.log(node)) }
    });
}

/// How often the pod with this uid has run on node `a`, by what each of its runs leaves in its volume. (Of logs only those
/// of the newest runs are kept.)
fn runs(realm: &Realm, uid: &str) -> usize {
    let namespaces = fs::read_dir(realm.directory("a").join("ns")).into_iter().flatten().flatten();
    let files = namespaces.map(|namespace| namespace.path().join("volumes").join(uid).join("runs/all"));
    files.filter_map(|file| fs::read(file).ok()).map(|bytes| bytes.len()).sum()
}

fn until_run(realm: &Realm, uid: &str, times: usize) {
    eventually(&format!("{times} runs"), || match runs(realm, uid) {
        count if count >= times => Ok(()),
        count => Err(format!("{count}:\n{}", realm.log("a"))),
    });
}

fn again(kubectl: &Kubectl, pod: &str, restarts: i64) {
    pods::until(kubectl, pod, "running again", |object| {
        let status = container(object);
        status["state"]["running"].is_object() && status["restartCount"].as_i64() >= Some(restarts)
    });
}

#[test]
fn a_node_without_its_server_goes_on_for_as_long_as_its_pods_tolerate_it() {
    let (mut realm, kubectl) = realm(&["a"]);
    let mut crasher = waiter("a", "crasher", "Always", None);
    crasher["spec"]["containers"][0]["args"] = json!(["append", "/runs/all", "x"]);
    crasher["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "runs", "mountPath": "/runs"}]);
    crasher["spec"]["volumes"] = json!([{"name": "runs", "emptyDir": {}}]);
    // Its registry is the server's: what ran before is what it goes on with.
    crasher["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
    // What it reads of the server is what the node remembers.
    kubectl.run("create configmap settings --from-literal=COLOUR=green").unwrap();
    let mut keeper = waiter("a", "keeper", "Always", None);
    keeper["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "settings"}}]);
    let others = [keeper, waiter("a", "brief", "Always", Some(3)), waiter("a", "once", "Never", Some(3)), crasher];
    pods::apply(&kubectl, "default", &others);
    for pod in ["keeper", "brief", "once"] {
        running(&kubectl, pod);
    }
    let crasher = kubectl.json("get pod crasher").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    until_run(&realm, &crasher, 1);

    realm.kill(SERVER);
    let before = runs(&realm, &crasher);
    for pod in ["brief", "once"] {
        until_said(&realm, "a", pod, "bye", 1);
    }
    // Who fails is started again, who is told to stay stays.
    until_run(&realm, &crasher, before + 1);
    assert_eq!((said(&realm, "a", "keeper", "waiting"), said(&realm, "a", "keeper", "bye")), (1, 0));

    // Without a server after a crash: only who is allowed to begins again.
    realm.kill("a");
    realm.start_node("a");
    until_said(&realm, "a", "keeper", "waiting", 2);
    let before = runs(&realm, &crasher);
    until_run(&realm, &crasher, before + 1);
    assert_eq!(said(&realm, "a", "brief", "waiting"), 1, "it may run elsewhere by now");

    realm.start_server();
    realm.ready("a", "True");
    again(&kubectl, "brief", 1);
    until_said(&realm, "a", "brief", "waiting", 2);
    assert_eq!(said(&realm, "a", "brief", "waiting"), 2, "once before, once after");
    again(&kubectl, "keeper", 1);
    let once = pods::phase(&kubectl, "once", "Failed");
    assert_eq!(once["status"]["reason"], "NodeUnreachable", "{once}");
    realm.assert_runs("a");
}

#[test]
fn nothing_runs_twice_when_a_node_is_back() {
    let (realm, kubectl) = realm(&["a", "b"]);
    let all = [
        waiter("a", "stays", "Always", None),
        waiter("a", "deleted", "Always", None),
        waiter("a", "moved", "Always", Some(2)),
    ];
    pods::apply(&kubectl, "default", &all);
    for pod in ["stays", "deleted", "moved"] {
        running(&kubectl, pod);
    }
    realm.lan().isolate(realm.host("a"));
    realm.ready("a", "Unknown");
    // The server gives it up, and the node has ended it by itself: whoever takes its place is alone.
    pods::until(&kubectl, "moved", "going", |object| object["metadata"]["deletionTimestamp"].is_string());
    until_said(&realm, "a", "moved", "bye", 1);
    // Somebody deletes one for good, and it is made anew elsewhere, under the same name.
    kubectl.run("delete pod deleted --grace-period=0 --force").unwrap();
    pods::apply(&kubectl, "default", &[waiter("b", "deleted", "Always", None)]);
    running(&kubectl, "deleted");
    assert_eq!(said(&realm, "a", "deleted", "bye"), 0, "the node cannot know");

    realm.lan().heal();
    // Traces of pods that are gone go with them.
    for pod in ["deleted", "moved"] {
        eventually("the traces to go", || match realm.output("a", pod) {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        });
    }
    eventually("the pod to be gone", || match kubectl.run("get pod moved") {
        Err(error) if error.contains("NotFound") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    realm.ready("a", "True");
    until_said(&realm, "b", "deleted", "waiting", 1);
    assert_eq!((said(&realm, "a", "stays", "waiting"), said(&realm, "a", "stays", "bye")), (1, 0));
    assert_eq!((said(&realm, "b", "deleted", "waiting"), said(&realm, "b", "deleted", "bye")), (1, 0));
}

#[test]
fn a_node_that_is_deleted_ends_its_pods_whatever_they_tolerate() {
    let (mut realm, kubectl) = realm(&["a"]);
    pods::apply(&kubectl, "default", &[waiter("a", "keeper", "Always", None)]);
    running(&kubectl, "keeper");
    kubectl.run("delete node a").unwrap();
    until_said(&realm, "a", "keeper", "bye", 1);

    // The next agent does not begin with it either.
    realm.kill("a");
    realm.start_node("a");
    eventually("it to hear why", || contains(&realm.log("a"), "ended when the node was deleted"));
    assert_eq!(said(&realm, "a", "keeper", "waiting"), 1);
}

#[test]
fn clocks_that_jump_end_no_pod() {
    let mut realm = Realm::unstarted(&["a"]);
    let clock = realm.wrong_clock("a", 0);
    realm.options("a", &["--heartbeat-interval", HEARTBEAT]);
    realm.start_all();
    realm.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = realm.kubectl();
    let both = [waiter("a", "patient", "Always", Some(3600)), waiter("a", "brief", "Always", Some(8))];
    pods::apply(&kubectl, "default", &both);
    running(&kubectl, "patient");
    running(&kubectl, "brief");
    realm.kill(SERVER);
    clock.set(DAY_SECONDS);
    // Time goes on as before: twelve seconds are over at some time, and an hour is not.
    until_said(&realm, "a", "brief", "bye", 1);
    clock.set(-DAY_SECONDS);
    // Also for an agent that starts while the clock is wrong.
    realm.kill("a");
    realm.start_node("a");
    until_said(&realm, "a", "patient", "waiting", 2);
    assert_eq!((said(&realm, "a", "patient", "bye"), said(&realm, "a", "brief", "waiting")), (0, 1));
    clock.set(0);
    realm.start_server();
    realm.ready("a", "True");
    again(&kubectl, "brief", 1);
}
