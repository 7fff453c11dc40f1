//! `coracle dev --nodes`: several nodes, each a process that is killed and started again while the cluster goes on; all of
//! them end with it.

use coracle_tests::{
    Cluster, Kubectl,
    by_hand::{ByHand, kill_node, process},
    eventually, guest,
    pods::{self, on, phase, running, toolbox},
    processes,
    site::binary,
    wait::contains,
};
use serde_json::{Value, json};
use std::process::{Command, Stdio};

const NODES: u8 = 3;

fn started() -> (Cluster, Kubectl) {
    let mut cluster = Cluster::of_nodes(NODES);
    cluster.start_again();
    let kubectl = cluster.kubectl();
    eventually("three ready nodes", || {
        let ready = ready(&kubectl)?;
        if ready == ["node-1", "node-2", "node-3"] { Ok(()) } else { Err(format!("{ready:?}\n{}", cluster.log())) }
    });
    (cluster, kubectl)
}

fn ready(kubectl: &Kubectl) -> Result<Vec<String>, String> {
    let nodes = kubectl.json("get nodes")?["items"].as_array().cloned().unwrap_or_default();
    let is_ready = |node: &&Value| pods::condition(node, "Ready")["status"] == "True";
    Ok(nodes.iter().filter(is_ready).filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

#[test]
fn a_killed_node_is_started_again_by_the_words_that_are_printed() {
    let (mut cluster, kubectl) = started();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let listed = kubectl.json("get nodes").unwrap();
    let addresses = listed["items"].as_array().unwrap().iter().map(|node| {
        let addresses = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
        addresses.iter().find(|one| one["type"] == "InternalIP").map(|one| one["address"].as_str().unwrap().to_owned())
    });
    let first = match cluster.host() {
        std::net::IpAddr::V4(host) => host.to_bits(),
        std::net::IpAddr::V6(host) => panic!("{host}"),
    };
    let expected = (0..u32::from(NODES)).map(|number| Some(std::net::Ipv4Addr::from_bits(first + number).to_string()));
    assert_eq!(addresses.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    for node in 1..=NODES {
        let pod = toolbox(&format!("on-{node}"), "Always", &["echo", "here", "--", "wait-eof"]);
        pods::apply(&kubectl, "default", &[on(&format!("node-{node}"), pod)]);
    }
    for node in 1..=NODES {
        running(&kubectl, &format!("on-{node}"));
        eventually("its word", || contains(&kubectl.run(&format!("logs on-{node}"))?, "here"));
    }

    let words = kill_node(&cluster, "node-2");
    for node in ["1", "3"] {
        contains(&kubectl.run(&format!("exec on-{node} -- toolbox echo alive")).unwrap(), "alive").unwrap();
    }
    let again = ByHand::start(&words);
    eventually("the pod of the node that is back", || {
        contains(&kubectl.run("exec on-2 -- toolbox echo alive")?, "alive")
    });
    drop(again);

    let nodes = ["node-1", "node-3"].map(|name| process(&cluster, name));
    assert!(cluster.stop().success(), "{}", cluster.log());
    assert_eq!(nodes.map(processes::command_line), [const { Vec::<String>::new() }; 2]);
}

#[test]
fn all_nodes_end_with_the_cluster_and_give_their_pods_their_grace() {
    let (mut cluster, kubectl) = started();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let once = |node: &str| on(node, toolbox(&format!("on-{node}"), "Never", &["wait-eof"]));
    pods::apply(&kubectl, "default", &["node-1", "node-2", "node-3"].map(once));
    for node in ["node-1", "node-2", "node-3"] {
        running(&kubectl, &format!("on-{node}"));
    }
    assert!(cluster.stop().success(), "{}", cluster.log());
    // What the nodes have said of their pods' ends was heard.
    cluster.start_again();
    for node in ["node-1", "node-2", "node-3"] {
        phase(&cluster.kubectl(), &format!("on-{node}"), "Failed");
    }

    // Nobody is left to tell them to end now.
    let nodes = ["node-1", "node-2", "node-3"].map(|name| process(&cluster, name));
    cluster.kill();
    eventually("the nodes' end", || {
        let alive: Vec<_> = nodes.iter().filter(|pid| !processes::command_line(**pid).is_empty()).collect();
        if alive.is_empty() { Ok(()) } else { Err(format!("{alive:?}")) }
    });
}

#[test]
fn a_node_that_fails_ends_the_cluster() {
    let mut cluster = Cluster::of_nodes(NODES);
    // Where the second node's directory is to be, there is a file.
    std::fs::create_dir_all(cluster.data_dir()).unwrap();
    std::fs::write(cluster.data_dir().join("node-2"), "in the way").unwrap();
    let said = cluster.start_and_fail();
    assert!(said.contains("node-2: error: cannot use the data directory"), "{said}");
    assert!(said.contains("error: the node agent failed: node-2 has failed"), "{said}");
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data").display().to_string();
    let cases = json!([
        [["--nodes", "3", "--listen", "0.0.0.0:0"], "0.0.0.0 of --listen is not in 127.0.0.0/8"],
        [["--nodes", "0"], "0 is not in 1..=100"],
        [["--nodes", "3", "--node-name", "edge"], "cannot be used with"],
        [["--servers", "3"], "a cluster has one server"],
    ]);
    for case in cases.as_array().unwrap() {
        let words = case[0].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
        let mut command = Command::new(binary().unwrap());
        let output = command.args(["dev", "--data-dir", &data]).args(words).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(case[1].as_str().unwrap()), "{case}: {said}");
        assert!(!directory.path().join("data").exists(), "{case}: something was started");
    }
}
