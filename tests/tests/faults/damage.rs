//! Damaged files, and starts that cannot succeed: nothing damaged is used, and errors name the file.

use crate::cluster;
use coracle_tests::{
    Cluster, eventually, guest,
    pods::{self, container, pod, running, toolbox},
    wait::contains,
};
use serde_json::json;
use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Changes a file in place, whatever its mode.
fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
}

fn halve(bytes: &mut Vec<u8>) {
    bytes.truncate(bytes.len() / 2);
}

#[test]
fn a_node_uses_nothing_that_is_damaged() {
    let (mut cluster, kubectl) = cluster();
    cluster.push(&guest("toolbox-p1.wasm"), "p1:1");
    let p1 = pod("p1", "Always", &json!({"image": "p1:1", "args": ["wait-eof"]}));
    let crasher = toolbox("crasher", "Always", &["exit", "1"]);
    let never = toolbox("never", "Never", &["wait-eof"]);
    pods::apply(&kubectl, "default", &[toolbox("p2", "Always", &["wait-eof"]), p1, crasher, never]);
    for name in ["p1", "p2", "never"] {
        running(&kubectl, name);
    }
    let restarted = |pod: &serde_json::Value| container(pod)["restartCount"].as_i64().unwrap_or(0);
    let before = pods::until(&kubectl, "crasher", "restarted", |pod| restarted(pod) >= 1);
    let never = kubectl.run("get pod never -o jsonpath={.metadata.uid}").unwrap();
    cluster.kill();

    let node = cluster.data_dir().join("node");
    for (number, path) in files(&node.join("ledger")).iter().enumerate() {
        damage(path, |bytes| if number % 2 == 0 { bytes.fill(b'#') } else { halve(bytes) });
    }
    let blobs = files(&node.join("images/blobs"));
    assert!(blobs.len() >= 4, "{blobs:?}");
    let broken: Vec<Vec<u8>> = blobs
        .iter()
        .map(|path| {
            damage(path, |bytes| flip(bytes));
            fs::read(path).unwrap()
        })
        .collect();
    let compiled: Vec<_> = files(&node.join("compiled"));
    let compiled = compiled.iter().filter(|path| path.extension().is_some_and(|extension| extension == "cwasm"));
    for (number, path) in compiled.enumerate() {
        damage(path, |bytes| if number == 0 { flip(bytes) } else { halve(bytes) });
    }
    for (path, text) in
        [("kubeconfig", "garbage"), ("admin.token", "ab"), ("pki/server.crt", ""), ("pki/admin.key", "x")]
    {
        fs::write(cluster.data_dir().join(path), text).unwrap();
    }
    fs::write(cluster.data_dir().join("node/ledger/.tmpleft"), "x").unwrap();

    cluster.start_again();
    let kubectl = cluster.kubectl();
    for name in ["p1", "p2"] {
        running(&kubectl, name);
    }
    for (path, broken) in blobs.iter().zip(broken) {
        assert_ne!(fs::read(path).unwrap(), broken, "{} is still damaged", path.display());
    }
    // The API still knew what the ledger had lost.
    assert!(restarted(&kubectl.json("get pod crasher").unwrap()) >= restarted(&before));
    assert_eq!(kubectl.run("get pod never -o jsonpath={.metadata.uid}").unwrap(), never);
    pods::phase(&kubectl, "never", "Failed");
    let token = fs::read_to_string(cluster.data_dir().join("admin.token")).unwrap();
    assert_eq!(token.trim().len(), 64, "a token that can be guessed was kept");
    kubectl.run("delete pods --all --timeout=40s").unwrap();
    eventually("nothing left of deleted pods", || {
        let left = cluster.traces_of_pods();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

#[test]
fn a_damaged_registry_is_repaired_by_a_push() {
    let (cluster, kubectl) = cluster();
    for path in files(&cluster.data_dir().join("blobs/sha256")) {
        damage(&path, |bytes| flip(bytes));
    }
    kubectl.apply(&toolbox("early", "Always", &["wait-eof"]).to_string()).unwrap();
    eventually("the reason", || contains(&kubectl.run("describe pod early")?, "has digest sha256:"));
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    kubectl.apply(&toolbox("late", "Always", &["wait-eof"]).to_string()).unwrap();
    for name in ["late", "early"] {
        running(&kubectl, name);
    }
}

#[test]
fn starts_that_cannot_succeed_say_which_file() {
    let mut cluster = Cluster::start();
    cluster.kubectl().run("create configmap kept --from-literal=a=b").unwrap();
    assert!(cluster.stop().success());
    let data = cluster.data_dir();
    let manifest = files(&data.join("store")).into_iter().find(|path| path.display().to_string().contains("MANIFEST-"));
    let manifest = manifest.expect("the store has a manifest");
    let rows: [(PathBuf, &[u8], &str); 5] = [
        (data.join("pki/ca.crt"), b"garbage", "pki/ca.crt"),
        (data.join("pki/ca.key"), b"", "pki/ca.key"),
        (data.join("pki/ca.crt"), b"\xff\xfe", "pki/ca.crt"),
        (data.join("store/CURRENT"), b"garbage", "store"),
        (manifest, b"garbage that is no manifest", "store"),
    ];
    for (path, bytes, named) in rows {
        let good = fs::read(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let said = cluster.start_and_fail();
        let last = said.lines().last().unwrap_or_default();
        let named = data.join(named).display().to_string();
        assert!(last.starts_with("error:") && last.contains(&named), "{}: {said}", path.display());
        fs::write(&path, good).unwrap();
    }
    cluster.start_again();
    cluster.kubectl().run("get configmap kept").unwrap();

    // Where somebody else is, or nothing can be written.
    let fails = |arguments: &[&str]| {
        let binary = coracle_tests::site::binary().unwrap();
        let output = Command::new(binary).arg("dev").args(arguments).stdin(Stdio::null()).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let directory = data.display().to_string();
    let said = fails(&["--data-dir", &directory, "--listen", "127.0.0.1:0"]);
    contains(&said, &directory).and_then(|()| contains(&said, &cluster.pid().to_string())).unwrap();
    cluster.kubectl().run("get configmap kept").unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap().to_string();
    let empty = tempfile::tempdir().unwrap();
    let said = fails(&["--data-dir", &empty.path().join("d").display().to_string(), "--listen", &address]);
    contains(&said, &address).unwrap();
    let said = fails(&["--data-dir", "/proc/nothing", "--listen", "127.0.0.1:0"]);
    contains(&said, "/proc/nothing").unwrap();
}
