//! What becomes of pods when their node runs short, and of those that use more of it than they may.

use coracle_tests::{
    Cluster, Kubectl, eventually, guest,
    pods::{self, running},
    wait::contains,
};
use serde_json::{Value, json};

fn pod(name: &str, arguments: &[&str], resources: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "main", "image": "toolbox:1", "args": arguments, "resources": resources}]}})
}

fn evicted(kubectl: &Kubectl, name: &str) -> Result<Value, String> {
    let pod = kubectl.json(&format!("get pod {name}"))?;
    let status = &pod["status"];
    let is_evicted = status["phase"] == "Failed" && status["reason"] == "Evicted";
    if is_evicted { Ok(pod) } else { Err(status.to_string()) }
}

#[test]
fn a_node_that_runs_short_of_memory_ends_the_greedy_first() {
    let mut cluster = Cluster::start();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = cluster.kubectl();
    let modest = json!({"requests": {"memory": "64Mi"}});
    for one in [
        pod("modest", &["wait-eof"], &modest),
        pod("greedy", &["alloc", "24", "--", "wait-eof"], &json!({"requests": {"memory": "1Mi"}})),
    ] {
        kubectl.apply(&one.to_string()).unwrap();
    }
    running(&kubectl, "modest");
    running(&kubectl, "greedy");
    eventually("the greed", || contains(&kubectl.run("logs greedy")?, "allocated 24 MiB"));
    let allocatable = kubectl.json("get node node-1").unwrap();
    let memory = |field: &str| allocatable["status"][field]["memory"].as_str().unwrap().to_owned();
    assert_ne!(memory("allocatable"), memory("capacity"), "what must be left is not for pods");

    // No machine has so much: from now on it is always short.
    cluster.stop();
    let mut cluster = cluster.with_arguments(&["--eviction-hard", "memory.available<99%"]);
    cluster.start_again_unready();
    let kubectl = cluster.kubectl();
    let greedy = eventually("the greedy one to go", || evicted(&kubectl, "greedy"));
    assert!(evicted(&kubectl, "modest").is_err(), "one at a time, and who is within its request last");
    let message = greedy["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("The node was low on resource: memory. Threshold quantity: "), "{message}");
    assert!(message.contains("Container main was using"), "{message}");
    eventually("the condition", || {
        let node = kubectl.json("get node node-1")?;
        if pods::condition(&node, "MemoryPressure")["status"] == "True" {
            Ok(())
        } else {
            Err(node["status"]["conditions"].to_string())
        }
    });
    // Nobody new comes.
    kubectl.apply(&pod("late", &["wait-eof"], &json!({})).to_string()).unwrap();
    eventually("a reason to wait", || contains(&kubectl.run("describe pod late")?, "memory-pressure"));
}

#[test]
fn a_pod_that_fills_the_disk_with_its_log_goes() {
    let cluster = Cluster::start();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = cluster.kubectl();
    let limit = json!({"limits": {"ephemeral-storage": "1Mi"}});
    kubectl.apply(&pod("talker", &["flood", "100000", "--", "wait-eof"], &limit).to_string()).unwrap();
    kubectl.apply(&pod("quiet", &["flood", "100", "--", "wait-eof"], &limit).to_string()).unwrap();
    let talker = eventually("the talker to go", || evicted(&kubectl, "talker"));
    let message = talker["status"]["message"].as_str().unwrap();
    assert!(message.contains("ephemeral local storage usage exceeds the total limit of containers 1Mi"), "{message}");
    running(&kubectl, "quiet");
}
