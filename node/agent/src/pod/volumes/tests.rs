//! Volumes on disk.

use super::*;
use crate::{pod::admission::Offer, reflector::Sink as _};
use serde_json::json;
use std::sync::LazyLock;

fn pod(volumes: Value) -> Value {
    let mut pod =
        json!({"metadata": {"name": "p", "namespace": "default", "uid": "u", "labels": {"a": "b"}}, "spec": {}});
    pod["spec"]["volumes"] = volumes;
    pod["spec"]["containers"] =
        json!([{"name": "main", "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "1500m"}}}]);
    pod
}

static OFFER: LazyLock<Offer> = LazyLock::new(Offer::default);

fn node(host_ip: &str) -> NodeFacts<'_> {
    NodeFacts { host_ip, offer: &OFFER }
}

fn caches() -> Caches {
    let mut caches = Caches::new();
    let data = json!({"data": {"a.conf": "alpha", "b.conf": "beta"}, "binaryData": {"bin": "AAEC"},
        "metadata": {"namespace": "default", "name": "cm"}});
    caches.config_maps.replace(vec![data]);
    let secret = json!({"data": {"token": "c2VjcmV0"}, "metadata": {"namespace": "default", "name": "sec"}});
    caches.secrets.replace(vec![secret]);
    caches
}

fn read(directory: &Path, path: &str) -> Vec<u8> {
    fs::read(directory.join(path)).unwrap()
}

#[tokio::test]
async fn volumes_hold_what_the_objects_hold() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let pod = pod(json!([
        {"name": "scratch", "emptyDir": {}},
        {"name": "all", "configMap": {"name": "cm"}},
        {"name": "some", "configMap": {"name": "cm", "items": [{"key": "a.conf", "path": "sub/x", "mode": 0o400}]}},
        {"name": "sec", "secret": {"secretName": "sec", "defaultMode": 0o440}},
        {"name": "opt", "configMap": {"name": "nobody", "optional": true}},
        {"name": "down", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "cpu", "resourceFieldRef": {"containerName": "main", "resource": "requests.cpu"}},
            {"path": "memory", "resourceFieldRef": {"containerName": "main", "resource": "limits.memory", "divisor": "1Mi"}},
        ]}},
        {"name": "mix", "projected": {"sources": [{"secret": {"name": "sec"}}, {"configMap": {"name": "cm"}}]}},
    ]));
    set_up(&caches(), &pod, node("127.0.0.1"), (at, Owner::AGENT), &TaskTracker::new()).await.unwrap();
    assert_eq!(read(at, "all/a.conf"), b"alpha");
    assert_eq!(read(at, "all/bin"), [0, 1, 2]);
    assert_eq!(read(at, "some/sub/x"), b"alpha");
    assert!(!at.join("some/b.conf").exists());
    assert_eq!(read(at, "sec/token"), b"secret");
    assert_eq!(fs::metadata(at.join("sec/token")).unwrap().permissions().mode() & 0o777, 0o440);
    assert_eq!(fs::read_dir(payload::current(&at.join("opt")).unwrap()).unwrap().count(), 0);
    assert_eq!((read(at, "down/memory"), read(at, "down/cpu")), (b"64".to_vec(), b"2".to_vec()));
    assert_eq!(read(at, "down/labels"), b"a=\"b\"");
    assert_eq!((read(at, "mix/token"), read(at, "mix/b.conf")), (b"secret".to_vec(), b"beta".to_vec()));

    fs::write(at.join("scratch/kept"), b"x").unwrap();
    set_up(&caches(), &pod, node("127.0.0.1"), (at, Owner::AGENT), &TaskTracker::new()).await.unwrap();
    assert_eq!(read(at, "scratch/kept"), b"x", "an emptyDir lives as long as its pod");
}

#[tokio::test]
async fn without_the_control_plane_a_pod_keeps_what_it_had() {
    let directory = tempfile::tempdir().unwrap();
    let pod = pod(json!([{"name": "all", "configMap": {"name": "cm"}}]));
    let (nothing, place, disk) = (Caches::new(), (directory.path(), Owner::AGENT), TaskTracker::new());
    let failure = set_up(&nothing, &pod, node(""), place, &disk).await.unwrap_err();
    assert!(failure.message().contains("has not been told"), "{}", failure.message());
    set_up(&caches(), &pod, node(""), place, &disk).await.unwrap();
    set_up(&nothing, &pod, node(""), place, &disk).await.unwrap();
    assert_eq!(read(directory.path(), "all/a.conf"), b"alpha");
}

#[tokio::test]
async fn what_cannot_be_set_up_is_said_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    for (volume, message) in [
        (
            json!({"name": "v", "configMap": {"name": "nobody"}}),
            "MountVolume.SetUp failed for volume \"v\" : configmap \"nobody\" not found",
        ),
        (
            json!({"name": "v", "secret": {"secretName": "sec", "items": [{"key": "k", "path": "p"}]}}),
            "MountVolume.SetUp failed for volume \"v\" : secret references non-existent config key: k",
        ),
        (
            json!({"name": "v", "hostPath": {"path": "/"}}),
            "MountVolume.SetUp failed for volume \"v\" : this node shares no directories of its own with pods (hostPath)",
        ),
        (
            json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}),
            "MountVolume.SetUp failed for volume \"v\" : this cluster issues no tokens of service accounts (serviceAccountToken)",
        ),
        (
            json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "a.conf", "path": "..data"}]}}),
            "MountVolume.SetUp failed for volume \"v\" : ..data is not a path within the volume",
        ),
        (
            json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "a.conf", "path": "../../x"}]}}),
            "MountVolume.SetUp failed for volume \"v\" : ../../x is not a path within the volume",
        ),
    ] {
        let failure =
            set_up(&caches(), &pod(json!([volume])), node(""), (directory.path(), Owner::AGENT), &TaskTracker::new())
                .await
                .unwrap_err();
        assert_eq!(failure.message(), message);
        assert!(!directory.path().join("v").exists());
    }
}

#[test]
fn what_a_pod_keeps_on_disk_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    let pod = pod(json!([{"name": "scratch", "emptyDir": {}}, {"name": "none", "emptyDir": {}}]));
    fs::create_dir_all(directory.path().join("scratch")).unwrap();
    fs::create_dir_all(directory.path().join(".layers/main")).unwrap();
    fs::write(directory.path().join("scratch/file"), vec![0; 5000]).unwrap();
    std::os::unix::fs::symlink("/", directory.path().join("scratch/link")).unwrap();
    let usage = usage(&pod, directory.path());
    let expected = Usage { bytes: 3 * 4096 + 2 * tree::ENTRY_BYTES, entries: 2 };
    assert_eq!(
        usage.volumes,
        BTreeMap::from([("scratch".to_owned(), expected), ("none".to_owned(), Usage::default())])
    );
    assert_eq!(usage.layers, BTreeMap::from([("main".to_owned(), Usage::default())]));
}
