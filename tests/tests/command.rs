//! The `coracle` command against a cluster: apply, get, describe, logs, delete over gRPC.

use coracle_tests::{Cluster, eventually, guest, pty::Pty, site::binary, wait::contains};
use std::{fs, process::Command};

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
    assert!(refused("logs").contains("required arguments were not provided"));
    assert!(refused("logs p -l a=b").contains("cannot be used with"));
    assert!(refused("logs p --since 5").contains("is no duration"));
    assert!(refused("logs p --since 5s --since-time 2026-11-20T11:41:57Z").contains("cannot be used with"));
    let none = cluster.coracle("logs -l app=nobody").unwrap();
    assert_eq!(none.trim(), "No resources found in default namespace.");
}

#[test]
fn a_node_tells_its_story_and_mistakes_about_nodes_change_nothing() {
    let cluster = Cluster::start();
    let run = |words: &str| cluster.coracle(words).unwrap_or_else(|error| panic!("coracle {words}: {error}"));
    let refused = |words: &str| cluster.coracle(words).expect_err(words);
    let name = run("get nodes -o jsonpath={.items[0].metadata.name}");
    let describe = format!("describe node {name}");
    // What its agent said of it, and what the control plane did.
    for part in ["Starting", "RegisteredNode", "NodeReady", "Roles:", "ago)"] {
        eventually(part, || contains(&cluster.coracle(&describe)?, part));
    }
    assert!(!run(&describe).contains("RemovingPods"), "it has no pods");

    // Judged before anything is done.
    assert!(refused(&format!("drain {name} --pod-selector a=b=c")).contains("unable to parse requirement"));
    assert!(refused(&format!("drain {name} --timeout 10x")).contains("is no duration"));
    assert!(refused(&format!("taint node {name} a:NoSchedule a-")).contains("both modify and remove"));
    assert!(refused(&format!("taint node {name} a:Nonsense")).contains("its effect must be NoSchedule"));
    for server in ["foo", "http://10.0.0.1:6443", "https://10.0.0.1", "https://10.0.0.1:6443/x"] {
        let said = refused(&format!("token create --server {server}"));
        assert!(said.contains("https://HOST:PORT"), "{said}");
    }
    assert_eq!(run("token list").lines().count(), 1, "no token was made");
    assert!(refused("token create --ttl -5m").contains("must be a number of s, m, h or d"));
    assert!(refused("server --data-dir /nowhere --tls-name bad_name!").contains("must be a name in DNS"));
    eventually("the node to be as it was", || {
        match cluster.coracle(&format!("get node {name} -o jsonpath={{.spec.unschedulable}}{{.spec.taints[*].key}}"))? {
            nothing if nothing.is_empty() => Ok(()),
            changed => Err(changed),
        }
    });

    run(&format!("cordon {name}"));
    eventually("it to be told", || contains(&cluster.coracle(&describe)?, "NodeNotSchedulable"));
    assert!(run(&format!("drain {name} --timeout 10s --pod-selector a=b")).contains("already cordoned"));
    run(&format!("uncordon {name}"));
    eventually("it to be told", || contains(&cluster.coracle(&describe)?, "NodeSchedulable"));
    run(&format!("label node {name} example.com/disk=ssd"));
    let shown = run("get nodes -L example.com/disk --show-labels");
    for part in ["DISK", "LABELS", "example.com/disk=ssd", "kubernetes.io/hostname="] {
        assert!(shown.contains(part), "{part} is missing in:\n{shown}");
    }
    assert_eq!(run("get nodes -l no=where").trim(), "No resources found");
    assert_eq!(run("get cm -n other").trim(), "No resources found in other namespace.");
}

const TALKERS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: talk}}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: first, image: 'toolbox:1', args: [echo, init of NAME]}
  containers:
  - {name: main, image: 'toolbox:1', args: [fill, '3', --, echo, ' of NAME', --, copy], stdin: true}
  - {name: side, image: 'toolbox:1', args: [echo, side of NAME, --, wait-eof]}
---
";

#[test]
fn logs_of_many_containers_are_told_apart() {
    let cluster = Cluster::start();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    cluster.kubectl().apply(&["a", "b"].map(|name| TALKERS.replace("NAME", name)).concat()).unwrap();
    let run = |words: &str| cluster.coracle(words).unwrap_or_else(|error| panic!("coracle {words}: {error}"));
    let logs = |words: &str| run(&format!("logs {words}"));
    for name in ["a", "b"] {
        eventually("both to talk", || {
            contains(&cluster.coracle(&format!("logs {name} -c main"))?, "of")?;
            contains(&cluster.coracle(&format!("logs {name} -c side"))?, "waiting")
        });
    }
    let all = "init of a\nxxx of a\nside of a\nwaiting\n";
    assert_eq!(logs("a --all-containers"), all);
    assert_eq!(logs("pod/a -c side --tail 1"), "waiting\n");
    assert_eq!(logs("-l app=talk --all-containers"), format!("{all}{}", all.replace(" a\n", " b\n")));
    assert_eq!(logs("-l app=talk -c side --prefix --tail 1"), "[pod/a/side] waiting\n[pod/b/side] waiting\n");
    // The first container where none is named, and which one that was.
    let said = logs("a");
    assert!(
        said.starts_with("xxx of a\n") && said.contains("Defaulted container \"main\" out of: main, side"),
        "{said}"
    );
    // Since when, and how much.
    assert_eq!(logs("a -c side --since 1h"), "side of a\nwaiting\n");
    assert_eq!(logs("a -c side --since-time 2000-01-01T00:00:00Z --limit-bytes 4"), "side");
    assert_eq!(logs("a -c side --since-time 2100-01-01T00:00:00Z"), "");
    let stamped = logs("a -c side --timestamps --prefix --tail 1");
    let (prefix, rest) = stamped.split_at("[pod/a/side] ".len());
    assert!(prefix == "[pod/a/side] " && rest.starts_with("20") && rest.ends_with("Z waiting\n"), "{stamped}");
    // More at a time than may be.
    let refused = cluster.coracle("logs -f -l app=talk --all-containers").unwrap_err();
    assert!(refused.contains("attempting to follow 6 log streams, but maximum allowed concurrency is 5"), "{refused}");
    // What cannot be read is an error, unless the others are wanted all the same.
    let refused = cluster.coracle("logs -p -l app=talk -c side").unwrap_err();
    assert!(refused.contains("previous terminated container \"side\" in pod \"a\" not found"), "{refused}");
    let forgiven = logs("-p -l app=talk -c side --ignore-errors");
    assert!(forgiven.contains("in pod \"a\"") && forgiven.contains("in pod \"b\""), "{forgiven}");
    // Followed at the same time until all have ended, and line by line.
    let mut follow = Command::new(binary().unwrap());
    let words = "logs -f -l app=talk --all-containers --prefix --max-log-requests 6 --tail -1";
    follow.args(words.split(' ')).env("KUBECONFIG", cluster.kubeconfig());
    let mut following = Pty::start(follow, 80, 24);
    for line in ["a/first] init of a", "b/first] init of b", "a/main] xxx of a", "a/side] side of a", "b/side] waiting"]
    {
        following.until(&format!("[pod/{line}\r\n"));
    }
    run("delete pod a b --no-wait");
    assert_eq!(following.end(), 0, "{}", following.shown());
}
