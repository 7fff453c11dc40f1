//! A node on a small device: `coracle-node` alone, 256 MiB of memory for all of it, an ordinary user, one directory.

use coracle_tests::{Device, Fleet, Kubectl, eventually, example, guest};
use serde_json::{Value, json};

/// What the device has.
const MEMORY: u64 = 256 << 20;
/// Pods that do their work there.
const CROWD: usize = 20;

fn pod(name: &str, image: &str, arguments: &[&str]) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "crowd"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": image, "args": arguments}]}})
}

/// Restarts of the pods of the crowd, and how many run.
fn crowd(kubectl: &Kubectl) -> Result<(i64, usize), String> {
    let pods = kubectl.json("get pods -l app=crowd")?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let status = |pod: &Value| pod["status"]["containerStatuses"][0].clone();
    let restarts = pods.iter().map(|pod| status(pod)["restartCount"].as_i64().unwrap_or_default()).sum();
    Ok((restarts, pods.iter().filter(|pod| status(pod)["state"]["running"].is_object()).count()))
}

#[test]
fn a_device_of_256_mib_runs_pods_and_survives_greedy_ones() {
    let mut fleet = Fleet::unstarted(1).on_device(0, Device::with_memory(MEMORY)).up();
    let kubectl = fleet.kubectl();
    let node = kubectl.json("get node node-0").unwrap();
    assert_eq!(node["status"]["capacity"]["memory"], "256Mi", "the node says what the device has");
    assert_eq!(node["status"]["capacity"]["pods"], "128", "and takes as many pods as fit");

    fleet.push(&example("init-pod/app.wasm"), "myapp:1");
    fleet.push(&guest("toolbox.wasm"), "toolbox:1");
    let pods: Vec<Value> = (0..CROWD).map(|number| pod(&format!("crowd-{number}"), "myapp:1", &[])).collect();
    kubectl.apply(&json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string()).unwrap();
    eventually("the crowd to run", || match crowd(&kubectl)? {
        (_, CROWD) => Ok(()),
        other => Err(format!("{other:?}")),
    });

    // One that takes all that it gets: it ends, and nobody else does.
    let mut greedy = pod("greedy", "toolbox:1", &["alloc", "512"]);
    greedy["metadata"]["labels"] = json!({});
    greedy["spec"]["restartPolicy"] = json!("Never");
    kubectl.apply(&greedy.to_string()).unwrap();
    eventually("the greedy one to go", || {
        let pod = kubectl.json("get pod greedy")?;
        let reason = &pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"];
        if reason == "OOMKilled" { Ok(()) } else { Err(pod["status"].to_string()) }
    });
    assert_eq!(crowd(&kubectl).unwrap(), (0, CROWD), "the others did not notice");
    let device = fleet.device(0).unwrap();
    assert_eq!(device.killed_for_memory(), 0, "the node keeps within the device before the kernel has to act");
    assert!(device.is_the_users_alone() && device.processes().len() >= 2, "agent and runner, neither as root");

    let status = fleet.stop_node(0);
    assert!(status.success(), "{status}:\n{}", fleet.logs());
}

#[test]
fn little_address_space_is_more_runners_and_is_said() {
    // Room for three instances in a process.
    let device = Device::with_memory(MEMORY * 4).with_address_space(16 << 30);
    let fleet = Fleet::unstarted(1).on_device(0, device).up();
    let kubectl = fleet.kubectl();
    fleet.push(&guest("toolbox.wasm"), "toolbox:1");
    let pods: Vec<Value> = (0..5).map(|number| pod(&format!("few-{number}"), "toolbox:1", &["wait-eof"])).collect();
    kubectl.apply(&json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string()).unwrap();
    eventually("all pods to run", || match crowd(&kubectl)? {
        (0, 5) => Ok(()),
        other => Err(format!("{other:?}: {}", kubectl.run("get events")?)),
    });
    let said = kubectl.run("get events -A --field-selector reason=SmallAddressSpace").unwrap();
    assert!(said.contains("has room for 3 instances") && said.contains("LimitAS="), "{said}");
}
