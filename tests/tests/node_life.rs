//! What becomes of nodes that fall silent, of their pods, and of nodes that somebody empties: with the fast profile, servers and
//! nodes being processes that are killed and frozen.

use coracle_tests::{
    Fleet, Kubectl, eventually, guest,
    pods::{self, condition, on, running, toolbox, until},
    wait::contains,
};
use serde_json::{Value, json};

/// Patience of pods that are to outlive a silence: much longer than that silence.
const PATIENT_SECONDS: u32 = 300;

fn fleet(nodes: usize) -> (Fleet, Kubectl) {
    let fleet = Fleet::unstarted(nodes)
        .with_server_arguments(&["--node-profile", "fast"])
        .with_node_arguments(&["--heartbeat-interval", "1"])
        .up();
    fleet.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = fleet.kubectl();
    (fleet, kubectl)
}

fn idle(name: &str) -> Value {
    toolbox(name, "Always", &["wait-eof"])
}

fn bearing(mut pod: Value, seconds: Option<u32>) -> Value {
    let bears = |key: &str| {
        let mut one = json!({"key": key, "operator": "Exists", "effect": "NoExecute"});
        if let Some(seconds) = seconds {
            one["tolerationSeconds"] = seconds.into();
        }
        one
    };
    pod["spec"]["tolerations"] =
        json!([bears("node.kubernetes.io/unreachable"), bears("node.kubernetes.io/not-ready")]);
    pod
}

/// Waits until the node's `Ready` is as wanted.
fn until_node(fleet: &Fleet, kubectl: &Kubectl, node: usize, status: &str) -> Value {
    let name = fleet.name(node);
    eventually(&format!("{name} to be {status}"), || {
        let object = kubectl.json(&format!("get node {name}"))?;
        let ready = condition(&object, "Ready");
        if ready["status"] == status { Ok(object) } else { Err(ready.to_string()) }
    })
}

fn gone(kubectl: &Kubectl, pod: &str) {
    eventually(&format!("{pod} to be gone"), || match kubectl.json(&format!("get pod {pod}")) {
        Err(error) if error.contains("NotFound") => Ok(()),
        Err(error) => Err(error),
        Ok(pod) => Err(pod["metadata"].to_string()),
    });
}

/// Taints of a node as `KEY:EFFECT`.
fn taints(node: &Value) -> Vec<String> {
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
    taints.iter().map(|one| format!("{}:{}", text(one, "key"), text(one, "effect"))).collect()
}

/// Addresses of a service's ready endpoints.
fn endpoints(kubectl: &Kubectl, service: &str) -> Result<Vec<String>, String> {
    let slices = kubectl.json(&format!("get endpointslices -l kubernetes.io/service-name={service}"))?;
    let slices = slices["items"].as_array().cloned().unwrap_or_default();
    let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    let mut names: Vec<String> =
        ready.map(|endpoint| endpoint["targetRef"]["name"].as_str().unwrap_or_default().to_owned()).collect();
    names.sort();
    Ok(names)
}

#[test]
fn a_killed_node_is_found_out_its_pods_are_marked_and_go_and_it_comes_back_without_them() {
    let (mut fleet, kubectl) = fleet(3);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "test"}, "ports": [{"port": 80}]}});
    let patient = bearing(on("node-0", idle("patient")), Some(PATIENT_SECONDS));
    let placed = [on("node-0", idle("usual")), patient, on("node-1", idle("elsewhere"))];
    pods::apply(&kubectl, "default", &[placed.as_slice(), &[service]].concat());
    for name in ["usual", "patient", "elsewhere"] {
        running(&kubectl, name);
    }
    let spec = kubectl.json("get pod usual").unwrap()["spec"]["tolerations"].clone();
    assert_eq!(spec[1]["key"], "node.kubernetes.io/unreachable", "{spec}");
    assert_eq!(spec[1]["tolerationSeconds"], 2, "the profile says for how long: {spec}");
    eventually("three endpoints", || {
        let ready = endpoints(&kubectl, "web")?;
        if ready == ["elsewhere", "patient", "usual"] { Ok(()) } else { Err(format!("{ready:?}")) }
    });

    fleet.kill_node(0);
    let node = until_node(&fleet, &kubectl, 0, "Unknown");
    assert_eq!(condition(&node, "Ready")["reason"], "NodeStatusUnknown");
    contains(&kubectl.run("get nodes").unwrap(), "NotReady").unwrap();
    let marked = until(&kubectl, "patient", "marked", |pod| condition(pod, "Ready")["reason"] == "NodeNotReady");
    assert_eq!(condition(&marked, "Ready")["status"], "False");
    eventually("the dead node's endpoints to go", || {
        let ready = endpoints(&kubectl, "web")?;
        if ready == ["elsewhere"] { Ok(()) } else { Err(format!("{ready:?}")) }
    });
    eventually("the taints", || {
        let taints = taints(&kubectl.json("get node node-0")?);
        let wanted = ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"];
        if wanted.iter().all(|one| taints.iter().any(|taint| taint == one)) {
            Ok(())
        } else {
            Err(format!("{taints:?}"))
        }
    });
    let going = until(&kubectl, "usual", "evicted", |pod| pod["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(condition(&going, "DisruptionTarget")["reason"], "DeletionByTaintManager");
    eventually("an event", || contains(&kubectl.run("describe pod usual")?, "TaintManagerEviction"));
    for reason in ["NodeNotReady", "RemovingPods"] {
        eventually(reason, || contains(&fleet.coracle("describe node node-0")?, reason));
    }
    eventually("the story of another", || contains(&fleet.coracle("describe node node-2")?, "NodeReady"));
    let beside = fleet.coracle("describe node node-2").unwrap();
    assert!(!beside.contains("RemovingPods"), "it has never had pods: {beside}");
    assert!(kubectl.json("get pod patient").unwrap()["metadata"]["deletionTimestamp"].is_null());

    // Back, it ends what was to go, says what is so of the rest, and nobody keeps away from it any more.
    fleet.start_node(0);
    until_node(&fleet, &kubectl, 0, "True");
    gone(&kubectl, "usual");
    until(&kubectl, "patient", "ready again", |pod| condition(pod, "Ready")["status"] == "True");
    eventually("no taints", || {
        let taints = taints(&kubectl.json("get node node-0")?);
        if taints.is_empty() { Ok(()) } else { Err(format!("{taints:?}")) }
    });
    eventually("its endpoint", || {
        let ready = endpoints(&kubectl, "web")?;
        if ready == ["elsewhere", "patient"] { Ok(()) } else { Err(format!("{ready:?}")) }
    });
}

#[test]
fn a_frozen_node_that_wakes_says_what_is_so_and_its_patient_pods_never_stopped() {
    let (fleet, kubectl) = fleet(2);
    kubectl.apply(&bearing(on("node-0", idle("patient")), Some(PATIENT_SECONDS)).to_string()).unwrap();
    let before = running(&kubectl, "patient");
    fleet.pause_node(0);
    until_node(&fleet, &kubectl, 0, "Unknown");
    until(&kubectl, "patient", "marked", |pod| condition(pod, "Ready")["reason"] == "NodeNotReady");
    fleet.resume_node(0);
    until_node(&fleet, &kubectl, 0, "True");
    let after = until(&kubectl, "patient", "ready again", |pod| condition(pod, "Ready")["status"] == "True");
    let id = |pod: &Value| pods::container(pod)["containerID"].clone();
    assert_eq!((id(&after), &pods::container(&after)["restartCount"]), (id(&before), &json!(0)));
}

#[test]
fn while_no_node_is_ready_none_is_to_lose_its_pods() {
    let (mut fleet, kubectl) = fleet(2);
    let removing = || -> Result<Vec<String>, String> {
        let nodes = kubectl.json("get nodes")?["items"].as_array().cloned().unwrap_or_default();
        Ok(nodes.iter().flat_map(taints).filter(|taint| taint.ends_with(":NoExecute")).collect())
    };
    // While another node is there, the lost one is to lose them.
    fleet.kill_node(0);
    eventually("a taint that removes", || {
        let removing = removing()?;
        if removing.is_empty() { Err("none".to_owned()) } else { Ok(()) }
    });
    fleet.kill_node(1);
    eventually("the server to say so", || {
        contains(&fleet.server_log(), "no node is ready: no pod is removed from any")
    });
    for node in 0..2 {
        until_node(&fleet, &kubectl, node, "Unknown");
    }
    eventually("no taint that removes", || {
        let removing = removing()?;
        if removing.is_empty() { Ok(()) } else { Err(format!("{removing:?}")) }
    });
}

#[test]
fn a_removed_nodes_pods_go_and_an_off_machines_pods_go_at_once() {
    let (mut fleet, kubectl) = fleet(3);
    for (name, node) in [("on-removed", "node-0"), ("on-off", "node-1")] {
        kubectl.apply(&bearing(on(node, idle(name)), None).to_string()).unwrap();
        running(&kubectl, name);
    }
    fleet.kill_node(0);
    contains(&kubectl.run("-n kube-node-lease get lease").unwrap(), "node-0").unwrap();
    kubectl.run("delete node node-0").unwrap();
    eventually("the lease to go with its Node", || {
        let leases = kubectl.run("-n kube-node-lease get lease -o name")?;
        if leases.contains("node-0") { Err(leases) } else { contains(&leases, "node-1") }
    });
    gone(&kubectl, "on-removed");

    fleet.kill_node(1);
    until_node(&fleet, &kubectl, 1, "Unknown");
    // It bears to be unreachable for ever, and being deleted it waits for its node.
    kubectl.run("delete pod on-off --wait=false").unwrap();
    until(&kubectl, "on-off", "ending", |pod| pod["metadata"]["deletionTimestamp"].is_string());
    kubectl.run("taint node node-1 node.kubernetes.io/out-of-service=nodeshutdown:NoExecute").unwrap();
    gone(&kubectl, "on-off");
}

#[test]
fn taints_remove_pods_as_they_tolerate_and_keep_new_ones_away() {
    let (fleet, kubectl) = fleet(1);
    let mut tolerant = idle("tolerant");
    tolerant["spec"]["tolerations"] = json!([{"key": "team", "operator": "Equal", "value": "red"}]);
    pods::apply(&kubectl, "default", &[idle("plain"), tolerant]);
    running(&kubectl, "plain");
    running(&kubectl, "tolerant");
    for kubectl in fleet.kubectls() {
        contains(&kubectl.run("taint node node-0 soft=1:PreferNoSchedule").unwrap(), "tainted").unwrap();
        contains(&kubectl.run("taint node node-0 soft-").unwrap(), "untainted").unwrap();
        contains(&kubectl.run("label node node-0 disk=ssd").unwrap(), "labeled").unwrap();
        contains(&kubectl.run("get nodes -l disk=ssd").unwrap(), "node-0").unwrap();
        kubectl.run("label node node-0 disk-").unwrap();
    }
    contains(&fleet.coracle("taint node node-0 team=red:NoExecute").unwrap(), "node/node-0 tainted").unwrap();
    gone(&kubectl, "plain");
    running(&kubectl, "tolerant");
    kubectl.apply(&idle("late").to_string()).unwrap();
    eventually("a reason to wait", || contains(&kubectl.run("describe pod late")?, "untolerated taint {team: red}"));
    contains(&fleet.coracle("taint node node-0 team-").unwrap(), "node/node-0 untainted").unwrap();
    running(&kubectl, "late");
}

#[test]
fn nodes_are_cordoned_emptied_and_used_again_by_both_kubectls_and_by_our_own() {
    let (fleet, kubectl) = fleet(2);
    for (number, by) in fleet.kubectls().into_iter().enumerate() {
        let (stays, goes) = (format!("stays-{number}"), format!("goes-{number}"));
        pods::apply(&kubectl, "default", &[on("node-1", idle(&stays)), on("node-0", idle(&goes))]);
        running(&kubectl, &stays);
        running(&kubectl, &goes);
        contains(&by.run("cordon node-0").unwrap(), "node/node-0 cordoned").unwrap();
        contains(&by.run("get nodes").unwrap(), "Ready,SchedulingDisabled").unwrap();
        let refused = by.run("drain node-0").expect_err("a pod that nothing makes anew");
        contains(&refused, &goes).unwrap();
        let drained = by.run("drain node-0 --force --grace-period=1 --timeout=60s").unwrap();
        contains(&drained, "evicted").unwrap();
        gone(&kubectl, &goes);
        running(&kubectl, &stays);
        contains(&by.run("uncordon node-0").unwrap(), "node/node-0 uncordoned").unwrap();
    }
    pods::apply(&kubectl, "default", &[on("node-0", idle("goes"))]);
    running(&kubectl, "goes");
    let refused = fleet.coracle("drain node-0").expect_err("a pod that nothing makes anew");
    contains(&refused, "use --force").unwrap();
    let drained = fleet.coracle("drain node-0 --force --timeout 60s").unwrap();
    for part in ["node/node-0 already cordoned", "evicting pod default/goes", "pod/goes evicted", "node/node-0 drained"]
    {
        contains(&drained, part).unwrap();
    }
    gone(&kubectl, "goes");
    eventually("its taint", || {
        let taints = taints(&kubectl.json("get node node-0")?);
        if taints == ["node.kubernetes.io/unschedulable:NoSchedule"] { Ok(()) } else { Err(format!("{taints:?}")) }
    });
    kubectl.apply(&idle("new").to_string()).unwrap();
    assert_eq!(running(&kubectl, "new")["spec"]["nodeName"], "node-1");
    contains(&fleet.coracle("uncordon node-0").unwrap(), "node/node-0 uncordoned").unwrap();
    contains(&fleet.coracle("label node node-0 disk=ssd").unwrap(), "node/node-0 labeled").unwrap();
    let described = fleet.coracle("describe node node-0").unwrap();
    for part in ["disk=ssd", "Unschedulable:", "InternalIP", "Allocated resources:", "KubeletReady"] {
        contains(&described, part).unwrap();
    }
    for part in ["INTERNAL-IP", "CONTAINER-RUNTIME", &fleet.address(0).to_string()] {
        contains(&fleet.coracle("get nodes -o wide").unwrap(), part).unwrap();
    }
}

#[test]
fn pods_go_where_they_would_rather_be() {
    let (_fleet, kubectl) = fleet(3);
    kubectl.run("taint node node-0 busy=1:PreferNoSchedule").unwrap();
    kubectl.run("label node node-2 disk=ssd").unwrap();
    let prefers = |key: &str, mut pod: Value| {
        let term = json!({"matchExpressions": [{"key": key, "operator": "Exists"}]});
        pod["spec"]["affinity"] = json!({"nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 50, "preference": term}]}});
        pod
    };
    let selects = |mut pod: Value| {
        pod["spec"]["nodeSelector"] = json!({"disk": "ssd"});
        pod
    };
    pods::apply(
        &kubectl,
        "default",
        &[prefers("disk", idle("prefers")), selects(idle("selects")), prefers("nowhere", idle("any"))],
    );
    assert_eq!(running(&kubectl, "prefers")["spec"]["nodeName"], "node-2");
    assert_eq!(running(&kubectl, "selects")["spec"]["nodeName"], "node-2");
    assert_ne!(running(&kubectl, "any")["spec"]["nodeName"], "node-0");
}
