//! Several nodes, each a process with an address of its own: they register, share the pods, and are reached one by one.

use coracle_tests::{
    Fleet, Kubectl, eventually, guest,
    pods::{self, on, running, toolbox},
    processes,
    wait::contains,
};
use serde_json::Value;
use std::collections::BTreeMap;

const NODES: usize = 3;
/// Pods for each node.
const PODS_EACH: usize = 3;

fn fleet() -> (Fleet, Kubectl) {
    let fleet = Fleet::start(NODES);
    fleet.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = fleet.kubectl();
    (fleet, kubectl)
}

fn node_of(pod: &Value) -> String {
    pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn nodes_register_share_the_pods_and_are_reached_one_by_one() {
    let (fleet, kubectl) = fleet();
    for node in 0..NODES {
        let object = kubectl.json(&format!("get node {}", fleet.name(node))).unwrap();
        let addresses = object["status"]["addresses"].as_array().cloned().unwrap_or_default();
        let internal = addresses.iter().find(|one| one["type"] == "InternalIP").map(|one| one["address"].clone());
        assert_eq!(internal, Some(fleet.address(node).to_string().into()), "{object}");
    }
    let idle = |number: usize| {
        let mut pod = toolbox(&format!("idle-{number}"), "Always", &["echo", &number.to_string(), "--", "wait-eof"]);
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "100m".into();
        pod
    };
    pods::apply(&kubectl, "default", &(0..NODES * PODS_EACH).map(idle).collect::<Vec<_>>());
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for number in 0..NODES * PODS_EACH {
        let name = format!("idle-{number}");
        let pod = running(&kubectl, &name);
        *shares.entry(node_of(&pod)).or_default() += 1;
        // Each through the link of the node that it is on.
        eventually("its log", || contains(&kubectl.run(&format!("logs {name}"))?, &number.to_string()));
        let said = kubectl.run(&format!("exec {name} -- toolbox echo here {number}")).unwrap();
        contains(&said, &format!("here {number}")).unwrap();
    }
    let fair: BTreeMap<_, _> = (0..NODES).map(|node| (fleet.name(node), PODS_EACH)).collect();
    assert_eq!(shares, fair);
}

#[test]
fn who_is_killed_or_frozen_concerns_no_other_and_comes_back() {
    let (mut fleet, kubectl) = fleet();
    let names = ["a", "b", "c"];
    let placed = |node: usize| on(&fleet.name(node), toolbox(names[node], "Always", &["wait-eof"]));
    pods::apply(&kubectl, "default", &(0..NODES).map(placed).collect::<Vec<_>>());
    for name in names {
        running(&kubectl, name);
    }
    let says = |name: &str| kubectl.run(&format!("--request-timeout=30s exec {name} -- toolbox echo alive"));
    let runners = fleet.node_children(1);
    assert!(!runners.is_empty(), "the pod has no runner");
    fleet.kill_node(1);
    contains(&says("a").unwrap(), "alive").unwrap();
    assert!(says("b").is_err(), "a dead node ran a command");
    eventually("the end of the dead node's runners", || {
        let alive: Vec<_> = runners.iter().filter(|pid| !processes::command_line(**pid).is_empty()).collect();
        if alive.is_empty() { Ok(()) } else { Err(format!("{alive:?}")) }
    });
    fleet.start_node(1);
    eventually("the pod of the node that is back", || contains(&says("b")?, "alive"));

    fleet.pause_node(2);
    contains(&says("a").unwrap(), "alive").unwrap();
    fleet.resume_node(2);
    eventually("the pod of the node that goes on", || contains(&says("c")?, "alive"));

    fleet.kill_server();
    fleet.start_server();
    for name in names {
        eventually("every pod after the server's restart", || contains(&says(name)?, "alive"));
    }
    assert!(fleet.stop_node(0).success(), "{}", fleet.node_log(0));
    fleet.start_node(0);
    eventually("the pod of the node that was ended", || contains(&says("a")?, "alive"));
    fleet.assert_nodes_run();
}

#[test]
fn a_fleet_ends_with_its_test() {
    let pids = {
        let (fleet, kubectl) = fleet();
        pods::apply(&kubectl, "default", &[on(&fleet.name(0), toolbox("a", "Always", &["wait-eof"]))]);
        running(&kubectl, "a");
        fleet.pause_node(1);
        let agents = (0..NODES).filter_map(|node| fleet.node_pid(node));
        agents.chain(fleet.server_pid()).chain(fleet.node_children(0)).collect::<Vec<_>>()
    };
    assert!(pids.len() > NODES + 1, "no runner among {pids:?}");
    let alive: Vec<_> = pids.into_iter().filter(|pid| !processes::command_line(*pid).is_empty()).collect();
    assert_eq!(alive, [0; 0]);
}
