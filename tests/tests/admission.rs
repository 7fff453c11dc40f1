//! What a node does with pods that users bind to it by name, past the scheduler, and with its own.

use coracle_tests::{
    Apart, Cluster, Kubectl,
    apart::NODE,
    eventually, guest,
    pods::{phase, pod, running},
    wait::contains,
};
use serde_json::{Value, json};
use std::fs;

/// Bound to the node, with these requests.
fn bound(name: &str, node: &str, requests: &Value) -> Value {
    let container = json!({"image": "toolbox:1", "args": ["wait-eof"], "resources": {"requests": requests}});
    let mut pod = pod(name, "Always", &container);
    pod["spec"]["nodeName"] = node.into();
    pod
}

fn refused(kubectl: &Kubectl, name: &str, reason: &str) -> String {
    let pod = phase(kubectl, name, "Failed");
    assert_eq!(pod["status"]["reason"], reason, "{pod:#}");
    let row = kubectl.run(&format!("get pod {name} --no-headers")).unwrap();
    assert_eq!(row.split_whitespace().skip(1).take(2).collect::<Vec<_>>(), ["0/1", reason]);
    eventually("an event that says why", || contains(&kubectl.run(&format!("describe pod {name}"))?, reason));
    pod["status"]["message"].as_str().unwrap().to_owned()
}

#[test]
fn a_node_refuses_what_does_not_fit_and_keeps_what_runs() {
    let mut cluster = Cluster::unstarted().with_arguments(&["--max-pods", "3", "--system-reserved", "cpu=500m"]);
    cluster.start_again();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = cluster.kubectl();
    let node = kubectl.json("get node node-1").unwrap();
    let milli = |field: &str| {
        let text = node["status"][field]["cpu"].as_str().unwrap();
        text.strip_suffix('m').map_or_else(|| text.parse::<u64>().unwrap() * 1000, |milli| milli.parse().unwrap())
    };
    let (has, whole) = (milli("allocatable"), milli("capacity"));
    assert_eq!(has + 500, whole);

    let apply = |pod: Value| kubectl.apply(&pod.to_string()).unwrap();
    apply(bound("first", "node-1", &json!({"cpu": format!("{}m", has - 100)})));
    running(&kubectl, "first");
    apply(bound("greedy", "node-1", &json!({"cpu": "101m"})));
    let expected = format!(
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 101, used: {}, capacity: {has}",
        has - 100
    );
    assert_eq!(refused(&kubectl, "greedy", "OutOfcpu"), expected);
    apply(bound("large", "node-1", &json!({"memory": "100Ti"})));
    assert!(refused(&kubectl, "large", "OutOfmemory").contains("memory, requested: 109951162777600, used: "));
    apply(bound("vast", "node-1", &json!({"ephemeral-storage": "100Ti"})));
    refused(&kubectl, "vast", "OutOfephemeral-storage");

    // Labels that people give count, at once.
    let zoned = |name: &str| {
        let mut pod = bound(name, "node-1", &json!({}));
        pod["spec"]["nodeSelector"] = json!({"zone": "a"});
        pod
    };
    apply(zoned("early"));
    assert!(refused(&kubectl, "early", "NodeAffinity").contains("didn't match Pod's node affinity/selector"));
    kubectl.run("label node node-1 zone=a").unwrap();
    apply(zoned("zoned"));
    running(&kubectl, "zoned");

    // By number: what was refused does not count.
    apply(bound("third", "node-1", &json!({})));
    running(&kubectl, "third");
    apply(bound("fourth", "node-1", &json!({})));
    let expected = "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
    assert_eq!(refused(&kubectl, "fourth", "OutOfpods"), expected);

    // After a crash on a smaller node what ran runs, and new ones are counted beside it.
    cluster.kill();
    let mut cluster = cluster.with_arguments(&["--max-pods", "1"]);
    cluster.start_again();
    let kubectl = cluster.kubectl();
    for name in ["first", "zoned", "third"] {
        eventually("it to run again", || {
            let pod = kubectl.json(&format!("get pod {name}"))?;
            let status = &pod["status"]["containerStatuses"][0];
            if status["restartCount"] == 1 && status["ready"] == true { Ok(()) } else { Err(pod["status"].to_string()) }
        });
    }
    kubectl.apply(&bound("fifth", "node-1", &json!({})).to_string()).unwrap();
    refused(&kubectl, "fifth", "OutOfpods");
    kubectl.run("delete pods --all --timeout=40s").unwrap();
    kubectl.apply(&bound("fifth", "node-1", &json!({})).to_string()).unwrap();
    running(&kubectl, "fifth");
}

#[test]
fn a_container_without_limits_reads_what_the_node_has_for_pods() {
    let mut cluster = Cluster::unstarted().with_arguments(&["--system-reserved", "cpu=500m,memory=256Mi"]);
    cluster.start_again();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = cluster.kubectl();
    let of = |resource: &str, divisor: &str| json!({"resourceFieldRef": {"containerName": "main", "resource": resource, "divisor": divisor}});
    let mut reader = pod(
        "reader",
        "Never",
        &json!({"image": "toolbox:1", "args": ["env", "--", "cat", "/facts/memory"],
            "env": [{"name": "CPU", "valueFrom": of("limits.cpu", "1m")}, {"name": "MEMORY", "valueFrom": of("limits.memory", "1Ki")}],
            "volumeMounts": [{"name": "facts", "mountPath": "/facts"}]}),
    );
    let mut item = of("limits.memory", "1Ki");
    item["path"] = "memory".into();
    reader["spec"]["volumes"] = json!([{"name": "facts", "downwardAPI": {"items": [item]}}]);
    kubectl.apply(&reader.to_string()).unwrap();
    phase(&kubectl, "reader", "Succeeded");
    let said = kubectl.run("logs reader").unwrap();
    let allocatable = kubectl.json("get node node-1").unwrap()["status"]["allocatable"].clone();
    let cpu = allocatable["cpu"].as_str().unwrap();
    let milli = cpu.strip_suffix('m').map_or_else(|| format!("{cpu}000"), str::to_owned);
    assert!(said.contains(&format!("CPU={milli}\n")), "{said} {allocatable}");
    // What the node shows is rounded down to a kibibyte, what containers read is rounded up.
    let kibibytes: u64 = allocatable["memory"].as_str().unwrap().strip_suffix("Ki").unwrap().parse().unwrap();
    let read: u64 = said.lines().find_map(|line| line.strip_prefix("MEMORY=")).unwrap().parse().unwrap();
    assert!(read.abs_diff(kibibytes) <= 1, "{read} {kibibytes}");
    assert!(said.trim_end().ends_with(&read.to_string()), "{said}");
}

#[test]
fn a_nodes_own_pod_is_refused_aloud_or_makes_room() {
    let apart = Apart::start();
    apart.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = apart.kubectl();
    let node = kubectl.json(&format!("get node {NODE}")).unwrap();
    let cpu = node["status"]["allocatable"]["cpu"].as_str().unwrap().to_owned();
    kubectl.apply(&bound("guest", NODE, &json!({"cpu": cpu})).to_string()).unwrap();
    running(&kubectl, "guest");
    let directory = apart.node_dir().join("static-pods");
    fs::create_dir(&directory).unwrap();
    for (name, cpu) in [("huge", "1000"), ("modest", "10m")] {
        fs::write(directory.join(format!("{name}.yaml")), bound(name, NODE, &json!({"cpu": cpu})).to_string()).unwrap();
    }
    let message = refused(&kubectl, &format!("huge-{NODE}"), "OutOfcpu");
    assert!(message.contains("requested: 1000000, used: "), "{message}");
    running(&kubectl, &format!("modest-{NODE}"));
    let guest = phase(&kubectl, "guest", "Failed");
    assert_eq!(guest["status"]["reason"], "Preempting", "{guest:#}");
    assert_eq!(guest["status"]["message"], "Preempted in order to admit critical pod");
}
