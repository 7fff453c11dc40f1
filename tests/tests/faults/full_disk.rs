//! Full disks: under the whole cluster, and under the node alone.

use coracle_tests::{
    Cluster, eventually, guest,
    mount::SmallDisk,
    pods::{running, toolbox},
    wait::contains,
};
use serde_json::json;

#[test]
fn a_full_disk_refuses_writes_and_loses_none() {
    let mut cluster = Cluster::unstarted();
    let disk = SmallDisk::mount(&cluster.data_dir(), 192);
    cluster.start_again();
    let kubectl = cluster.kubectl();
    let filling = "x".repeat(100_000);
    let write = |name: &str| {
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": filling}});
        kubectl.run_with_input("create -f -", &object.to_string())
    };
    let mut acknowledged = vec!["before".to_owned()];
    write("before").unwrap();
    disk.fill();
    // What was reserved before may still take some.
    let mut refusal = None;
    for number in 0..1000 {
        let name = format!("late-{number}");
        match write(&name) {
            Ok(_) => acknowledged.push(name),
            Err(error) => {
                refusal = Some(error);
                break;
            }
        }
    }
    let refusal = refusal.expect("writes are refused on a full disk");
    // Either the request during which it happened, or one after the end.
    let is_clear = refusal.contains("No space left on device") || refusal.contains("refused");
    assert!(is_clear, "no clear refusal: {refusal}");
    // The server cannot go on without its disk: it ends and says why.
    let status = eventually("the end of the cluster", || cluster.ended().ok_or_else(|| cluster.log()));
    assert!(!status.success());
    let log = cluster.log();
    let end = log.lines().last().unwrap_or_default();
    assert!(end.starts_with("error:") && end.contains("No space left on device"), "no clear end: {end}");
    cluster.kill();
    disk.free();
    cluster.start_again();
    let kubectl = cluster.kubectl();
    let listed = kubectl.run("get configmaps -o name").unwrap();
    let lost: Vec<_> =
        acknowledged.iter().filter(|name| !listed.lines().any(|line| line == format!("configmap/{name}"))).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    kubectl.run("create configmap after --from-literal=a=b").unwrap();
    drop(cluster);
}

#[test]
fn a_full_node_says_so_and_recovers() {
    let mut cluster = Cluster::unstarted();
    let disk = SmallDisk::mount(&cluster.data_dir().join("node"), 32);
    cluster.start_again();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = cluster.kubectl();
    kubectl.apply(&toolbox("early", "Always", &["wait-eof"]).to_string()).unwrap();
    let early = running(&kubectl, "early");
    disk.fill();
    cluster.push(&guest("toolbox-p1.wasm"), "other:1");
    let late = coracle_tests::pods::pod("late", "Always", &json!({"image": "other:1", "args": ["wait-eof"]}));
    kubectl.apply(&late.to_string()).unwrap();
    eventually("the reason in an event", || {
        let described = kubectl.run("describe pod late")?;
        contains(&described, "No space left on device")
    });
    // Others go on, and the node still answers.
    assert_eq!(kubectl.json("get pod early").unwrap()["status"], early["status"]);
    assert!(kubectl.run("logs early").unwrap().contains("waiting"));
    assert!(cluster.ended().is_none(), "{}", cluster.log());
    disk.free();
    running(&kubectl, "late");
    kubectl.run("delete pods --all --timeout=40s").unwrap();
    drop(cluster);
}
