//! Images on a node whose disk fills up.

use coracle_tests::{
    Cluster, Kubectl, eventually, guest,
    mount::SmallDisk,
    pods::{container, phase, pod, running},
    wait::contains,
};
use serde_json::{Value, json};
use std::{fs, path::Path};

const DISK_MIB: u32 = 64;

/// A cluster whose node keeps everything on a small disk.
fn cluster(arguments: &[&str]) -> (Cluster, SmallDisk) {
    let arguments = [arguments, &["--image-minimum-age", "0"]].concat();
    let mut cluster = Cluster::unstarted().with_arguments(&arguments);
    let disk = SmallDisk::mount(&cluster.data_dir().join("node"), DISK_MIB);
    cluster.start_again();
    for (file, image) in [("toolbox.wasm", "kept:1"), ("toolbox-p1.wasm", "unused:1")] {
        cluster.push(&guest(file), image);
    }
    (cluster, disk)
}

fn with_image(name: &str, image: &str, policy: &str, arguments: &[&str]) -> Value {
    pod(name, policy, &json!({"image": image, "args": arguments}))
}

/// Files of a directory, by name.
fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// How many images are on the node, and how much compiled code.
fn counts(cluster: &Cluster) -> (usize, usize) {
    let node = cluster.data_dir().join("node");
    let engines = fs::read_dir(node.join("compiled")).into_iter().flatten().flatten();
    let code = engines
        .flat_map(|engine| files(&engine.path()))
        .filter(|name| Path::new(name).extension() == Some("cwasm".as_ref()));
    (files(&node.join("images/index")).len(), code.count())
}

/// One image is run and wanted no more, one runs on.
fn use_both(cluster: &Cluster, kubectl: &Kubectl) -> Value {
    kubectl.apply(&with_image("done", "unused:1", "Never", &["echo", "done"]).to_string()).unwrap();
    phase(kubectl, "done", "Succeeded");
    kubectl.apply(&with_image("server", "kept:1", "Always", &["wait-eof"]).to_string()).unwrap();
    let server = running(kubectl, "server");
    assert_eq!(counts(cluster), (2, 2));
    server
}

#[test]
fn unused_images_go_when_the_disk_fills_up() {
    let (cluster, disk) = cluster(&[
        "--image-gc-high-threshold",
        "90",
        "--image-gc-low-threshold",
        "80",
        "--eviction-hard",
        "nodefs.available<0%",
    ]);
    let kubectl = cluster.kubectl();
    let server = use_both(&cluster, &kubectl);
    disk.fill();
    eventually("the unused image to go", || match counts(&cluster) {
        (1, 1) => Ok(()),
        left => Err(format!("{left:?}\n{}", cluster.log())),
    });
    // There is no more to take, which is told once; what runs goes on.
    eventually("the complaint", || contains(&kubectl.run("describe node node-1")?, "FreeDiskSpaceFailed"));
    disk.free();
    let now = kubectl.json("get pod server").unwrap();
    assert_eq!(container(&now)["containerID"], container(&server)["containerID"]);
    eventually("a command by the image that stayed", || {
        contains(&kubectl.run("exec server -- toolbox echo still here")?, "still here")
    });
    // Whoever wants the image again gets it again.
    kubectl.run("delete pod done").unwrap();
    kubectl.apply(&with_image("done", "unused:1", "Never", &["echo", "again"]).to_string()).unwrap();
    phase(&kubectl, "done", "Succeeded");
    assert_eq!(kubectl.run("logs done").unwrap(), "again\n");
    drop(cluster);
}

#[test]
fn images_go_before_pods_when_the_disk_is_short() {
    // Off, but when the disk is short.
    let (cluster, disk) = cluster(&["--image-gc-high-threshold", "100", "--eviction-hard", "nodefs.available<64Ki"]);
    let kubectl = cluster.kubectl();
    let server = use_both(&cluster, &kubectl);
    disk.fill();
    eventually("the condition", || contains(&kubectl.run("describe node node-1")?, "KubeletHasDiskPressure"));
    eventually("the unused image to go", || match counts(&cluster) {
        (1, 1) => Ok(()),
        left => Err(format!("{left:?}\n{}", cluster.log())),
    });
    // Nobody else had to go for it, and nobody new comes.
    let late = with_image("late", "kept:1", "Always", &["wait-eof"]);
    let mut bound = late.clone();
    bound["spec"]["nodeName"] = "node-1".into();
    kubectl.apply(&bound.to_string()).unwrap();
    let refused = phase(&kubectl, "late", "Failed");
    assert_eq!(refused["status"]["reason"], "Evicted");
    let message = refused["status"]["message"].as_str().unwrap();
    assert!(message.contains("The node had condition: [DiskPressure]"), "{message}");
    let now = kubectl.json("get pod server").unwrap();
    assert_eq!(
        (&now["status"]["phase"], &container(&now)["containerID"]),
        (&json!("Running"), &container(&server)["containerID"])
    );
    drop(cluster);
}
