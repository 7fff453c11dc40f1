//! Pods that a node has from files of its own.

use coracle_tests::{Apart, Kubectl, apart::NODE, eventually, guest, pods::container, wait::contains};
use serde_json::Value;
use std::fs;

const NAME: &str = "keeper-edge";

fn manifest(text: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: keeper, labels: {{app: keeper}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: main, image: 'toolbox:1', args: [echo, '{text}', '--', wait-eof]}}
"
    )
}

/// The mirror, when it shows a running container whose argument is `text`.
fn shown(kubectl: &Kubectl, text: &str) -> Result<Value, String> {
    let pod = kubectl.json(&format!("get pod {NAME}"))?;
    let runs = container(&pod)["state"]["running"].is_object();
    let says = pod["spec"]["containers"][0]["args"][1] == text;
    if runs && says { Ok(pod) } else { Err(pod.to_string()) }
}

#[test]
fn files_of_a_node_are_pods_there_and_only_there() {
    let mut apart = Apart::start();
    apart.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = apart.kubectl();
    let directory = apart.node_dir().join("static-pods");
    let file = directory.join("keeper.yaml");
    fs::create_dir(&directory).unwrap();
    fs::write(&file, manifest("1")).unwrap();

    // Mirrored, with everything that people look at.
    let mirror = eventually("the mirror to run", || shown(&kubectl, "1"));
    assert_eq!(mirror["spec"]["nodeName"], NODE);
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["kind"], "Node");
    let address = mirror["status"]["podIP"].as_str().unwrap();
    assert!(address.starts_with("10."), "{address}");
    assert!(kubectl.run(&format!("get pod {NAME}")).unwrap().contains("Running"));
    eventually("its log", || contains(&kubectl.run(&format!("logs {NAME}"))?, "1"));
    eventually("its events", || contains(&kubectl.run(&format!("describe pod {NAME}"))?, "Started container main"));

    // Deleting the mirror deletes the mirror.
    kubectl.run(&format!("delete pod {NAME}")).unwrap();
    let again = eventually("another mirror", || shown(&kubectl, "1"));
    assert_ne!(again["metadata"]["uid"], mirror["metadata"]["uid"]);
    assert_eq!(container(&again)["containerID"], container(&mirror)["containerID"], "the pod went on");

    // A broken file changes nothing and is told; a changed one is another pod.
    fs::write(&file, "apiVersion: v1\nkind: Po").unwrap();
    eventually("the complaint", || contains(&kubectl.run(&format!("describe node {NODE}"))?, "FailedStaticPod"));
    assert!(shown(&kubectl, "1").is_ok());
    fs::write(&file, manifest("2")).unwrap();
    eventually("the new pod", || shown(&kubectl, "2"));

    // It runs without any server: through a restart of the node, and from a file that no server ever heard of.
    apart.kill_server();
    apart.kill_node();
    fs::write(directory.join("late.yaml"), manifest("3").replace("keeper", "late")).unwrap();
    let before = apart.output(NAME).lines().count();
    apart.start_node();
    eventually("the pod to run again", || {
        let output = apart.output(NAME);
        if output.lines().count() > before { Ok(()) } else { Err(output) }
    });
    eventually("the late one to run", || contains(&apart.output("late-edge"), "3"));
    apart.start_server();
    eventually("the mirror of the late one", || contains(&kubectl.run("get pod late-edge")?, "Running"));
    eventually("the mirror as before", || shown(&kubectl, "2"));

    // Gone when the file goes, also while nobody looks.
    fs::remove_file(directory.join("late.yaml")).unwrap();
    eventually("no late one", || match kubectl.run("get pods -o name")? {
        pods if pods.contains("late") => Err(pods),
        _ => Ok(()),
    });
    apart.kill_node();
    fs::remove_file(&file).unwrap();
    apart.start_node();
    eventually("nothing", || match kubectl.run("get pods -o name")? {
        pods if pods.trim().is_empty() => Ok(()),
        pods => Err(pods),
    });
    eventually("no trace on the node", || {
        let left = fs::read_dir(apart.node_dir().join("ledger")).map_err(|error| error.to_string())?.count();
        if left == 0 { Ok(()) } else { Err(format!("{left} ledger entries")) }
    });
}

#[test]
fn a_mirror_without_its_pod_goes_and_runs_nothing() {
    let apart = Apart::start();
    apart.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = apart.kubectl();
    let forged = manifest("1").replace(
        "metadata: {name: keeper,",
        "metadata: {name: forged, annotations: {kubernetes.io/config.mirror: abc},",
    );
    let error = kubectl.apply(&forged).unwrap_err();
    assert!(error.contains("spec.nodeName: Required value"), "{error}");
    let bound = forged.replace("spec:\n", &format!("spec:\n  nodeName: {NODE}\n"));
    kubectl.apply(&bound).unwrap();
    eventually("the forged mirror to go", || match kubectl.run("get pods -o name")? {
        pods if pods.trim().is_empty() => Ok(()),
        pods => Err(pods),
    });
    assert!(!apart.log().contains("Started container"), "{}", apart.log());
    assert_eq!(apart.output("forged"), "");
}
