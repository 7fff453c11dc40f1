//! The `coracle` command against a cluster: apply, get, describe, logs, delete over gRPC.

use coracle_tests::{Cluster, eventually, guest, wait::contains};
use std::fs;

const MANIFEST: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {tier: back}}
data: {colour: blue}
---
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: 'toolbox:1', args: [echo, a word, --, wait-eof]}
";

#[test]
fn the_verbs_work_over_grpc() {
    let cluster = Cluster::start();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("all.yaml");
    fs::write(&file, MANIFEST).unwrap();
    let file = file.display().to_string();
    let run = |words: &str| cluster.coracle(words).unwrap_or_else(|error| panic!("coracle {words}: {error}"));

    let applied = run(&format!("apply -f {file}"));
    assert!(applied.contains("configmap/settings created") && applied.contains("pod/talker created"), "{applied}");
    assert!(run(&format!("apply -f {file}")).contains("configmap/settings unchanged"));
    eventually("the pod", || contains(&cluster.coracle("get pods")?, "Running"));
    eventually("the word", || contains(&cluster.coracle("logs talker")?, "a word"));
    let wide = run("get pods -o wide");
    assert!(wide.starts_with("NAME") && wide.contains("NODE"), "{wide}");
    assert_eq!(run("get configmap settings -o jsonpath={.data.colour}"), "blue");
    assert_eq!(run("get cm -l tier=back -o name").trim(), "configmap/settings");
    assert!(run("get cm settings -o yaml").contains("colour: blue"));
    assert!(run("get pods,services").contains("pod/talker"));
    assert!(run("get configmaps -A").contains("NAMESPACE"));
    let described = run("describe pod talker");
    assert!(described.contains("Started") && described.contains("toolbox:1"), "{described}");
    // What coracle applied, kubectl goes on with, and the other way round.
    let kubectl = cluster.kubectl();
    assert!(kubectl.run(&format!("apply -f {file}")).unwrap().contains("unchanged"));
    let changed = MANIFEST.replace("blue", "red");
    kubectl.apply(&changed).unwrap();
    assert!(run(&format!("apply -f {file}")).contains("configmap/settings configured"));
    assert_eq!(run("get cm settings -o jsonpath={.data.colour}"), "blue");
    let deleted = run(&format!("delete -f {file}"));
    assert!(deleted.contains("pod \"talker\" deleted"), "{deleted}");
    assert!(
        cluster
            .coracle("get pod talker")
            .unwrap_err()
            .contains("Error from server (NotFound): pods \"talker\" not found")
    );
}

#[test]
fn mistakes_say_what_would_be_right() {
    let cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let refused = |words: &str| cluster.coracle(words).unwrap_err();
    let bad = file("bad.yaml", b"kind: Pod\n  metadata: [");
    assert!(refused(&format!("apply -f {bad}")).contains("not a manifest"));
    let odd = file("odd.yaml", b"apiVersion: v1\nkind: Gadget\nmetadata: {name: x}\n");
    assert!(refused(&format!("apply -f {odd}")).contains("no matches for kind \"Gadget\""));
    let unknown = file("unknown.yaml", b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndatta: {a: b}\n");
    assert!(refused(&format!("apply -f {unknown}")).contains("unknown field \"datta\""));
    assert!(refused("get gadgets").contains("doesn't have a resource type \"gadgets\""));
    assert!(refused("get pods --kubeconfig /nowhere").contains("no kubeconfig at /nowhere"));
    assert!(refused("logs nobody").contains("pods \"nobody\" not found"));
}
