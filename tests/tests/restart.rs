//! What survives: Ctrl-C, `kill -9`, and what a fresh runner knows.

use coracle_tests::{Cluster, eventually, example, guest, processes, wait::contains};
use serde_json::json;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: p}
spec: {containers: [{name: a, image: 'myapp:1'}]}
";

#[test]
fn a_stopped_cluster_comes_back_as_it_was() {
    let mut cluster = Cluster::start();
    cluster.push(&example("init-pod/app.wasm"), "myapp:1");
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = cluster.kubectl();
    let pod = |name: &str, policy: &str, image: &str, arguments: &[&str]| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"restartPolicy": policy, "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "main", "image": image, "args": arguments}]}})
        .to_string()
    };
    kubectl.apply(&pod("keeper", "Always", "myapp:1", &[])).unwrap();
    kubectl.apply(&pod("once", "Never", "toolbox:1", &["wait-eof"])).unwrap();
    kubectl.apply(&pod("finished", "Never", "toolbox:1", &["exit", "0"])).unwrap();
    for (name, wanted) in [("keeper", "Running"), ("once", "Running"), ("finished", "Completed")] {
        eventually(name, || contains(&kubectl.run(&format!("get pod {name}"))?, wanted));
    }
    let before = kubectl.json("get pod keeper").unwrap();
    let status = cluster.stop();
    assert!(status.success(), "{status}: {}", cluster.log());

    cluster.start_again();
    let kubectl = cluster.kubectl();
    eventually("keeper to run again", || {
        let pod = kubectl.json("get pod keeper")?;
        let status = &pod["status"]["containerStatuses"][0];
        let again = status["restartCount"].as_i64().unwrap_or(0) >= 1 && status["state"]["running"].is_object();
        if again { Ok(()) } else { Err(pod["status"].to_string()) }
    });
    assert_eq!(kubectl.json("get pod keeper").unwrap()["metadata"]["uid"], before["metadata"]["uid"]);
    eventually("once to have failed", || {
        let pod = kubectl.json("get pod once")?;
        if pod["status"]["phase"] == "Failed" { Ok(()) } else { Err(pod["status"].to_string()) }
    });
    assert!(kubectl.run("get pod finished").unwrap().contains("Completed"));
}

#[test]
fn kill_nine_loses_nothing_that_was_acknowledged() {
    let mut cluster = Cluster::start();
    for round in 0..3 {
        let kubectl = cluster.kubectl();
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (kubectl, stop) = (kubectl.clone(), Arc::clone(&stop));
                std::thread::spawn(move || {
                    let mut acknowledged = Vec::new();
                    for number in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let name = format!("kept-{round}-{writer}-{number}");
                        if kubectl.run(&format!("create configmap {name} --from-literal=n={number}")).is_ok() {
                            acknowledged.push(name);
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        eventually("some writes", || {
            let listed = kubectl.run("get configmaps -o name")?;
            if listed.lines().filter(|line| line.contains(&format!("kept-{round}-"))).count() >= 5 {
                Ok(())
            } else {
                Err(listed)
            }
        });
        cluster.kill();
        stop.store(true, Ordering::Relaxed);
        let acknowledged: Vec<String> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        assert!(!acknowledged.is_empty());
        cluster.start_again();
        let listed = cluster.kubectl().run("get configmaps -o name").unwrap();
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|name| !listed.lines().any(|line| line == format!("configmap/{name}")))
            .collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    }
}

#[test]
fn a_runner_holds_no_secret_and_listens_nowhere() {
    let cluster = Cluster::start();
    cluster.push(&example("init-pod/app.wasm"), "myapp:1");
    let kubectl = cluster.kubectl();
    kubectl.apply(POD).unwrap();
    eventually("the pod", || contains(&kubectl.run("get pod p")?, "Running"));
    let runners = cluster.runners();
    assert!(!runners.is_empty(), "agent and runner are not separate processes");
    let listening = processes::listening_inodes();
    assert!(!listening.is_empty(), "this machine's /proc shows no listening sockets");
    for runner in runners {
        assert_eq!(processes::environment(runner).trim(), "", "the runner has an environment");
        let descriptors = processes::descriptors(runner);
        assert!(!descriptors.is_empty(), "the runner's descriptors cannot be read");
        for descriptor in descriptors {
            let text = descriptor.display().to_string();
            for secret in ["pki", ".key", ".crt", ".pem", "token", "kubeconfig", "store", "ledger"] {
                assert!(!text.contains(secret), "the runner has {text} open");
            }
            let inode = text.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            assert!(inode.is_none_or(|inode| !listening.iter().any(|one| one == inode)), "the runner listens: {text}");
        }
    }
}

#[test]
fn runners_die_with_their_agent() {
    let mut cluster = Cluster::start();
    cluster.push(&example("init-pod/app.wasm"), "myapp:1");
    let kubectl = cluster.kubectl();
    kubectl.apply(POD).unwrap();
    eventually("the pod", || contains(&kubectl.run("get pod p")?, "Running"));
    let runners = cluster.runners();
    assert!(!runners.is_empty());
    cluster.kill();
    eventually("the runners' end", || {
        let alive: Vec<_> = runners.iter().filter(|pid| !processes::command_line(**pid).is_empty()).collect();
        if alive.is_empty() { Ok(()) } else { Err(format!("{alive:?} are alive")) }
    });
}
