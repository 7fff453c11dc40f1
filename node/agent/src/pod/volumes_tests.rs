//! Volumes on disk.

use super::*;
use crate::fake::FakeLink;
use serde_json::json;

fn pod(volumes: Value) -> Value {
    let mut pod =
        json!({"metadata": {"name": "p", "namespace": "default", "uid": "u", "labels": {"a": "b"}}, "spec": {}});
    pod["spec"]["volumes"] = volumes;
    pod
}

fn link() -> std::sync::Arc<FakeLink> {
    let link = FakeLink::new();
    let data = json!({"data": {"a.conf": "alpha", "b.conf": "beta"}, "binaryData": {"bin": "AAEC"},
        "metadata": {"namespace": "default", "name": "cm"}});
    link.put(CONFIG_MAPS, data);
    link.put(SECRETS, json!({"data": {"token": "c2VjcmV0"}, "metadata": {"namespace": "default", "name": "sec"}}));
    link
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
        {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "mix", "projected": {"sources": [{"secret": {"name": "sec"}}, {"configMap": {"name": "cm"}}]}},
    ]));
    set_up(&*link(), &pod, "127.0.0.1", at, Owner::AGENT).await.unwrap();
    assert_eq!(read(at, "all/a.conf"), b"alpha");
    assert_eq!(read(at, "all/bin"), [0, 1, 2]);
    assert_eq!(read(at, "some/sub/x"), b"alpha");
    assert!(!at.join("some/b.conf").exists());
    assert_eq!(read(at, "sec/token"), b"secret");
    assert_eq!(fs::metadata(at.join("sec/token")).unwrap().permissions().mode() & 0o777, 0o440);
    assert_eq!(fs::read_dir(at.join("opt")).unwrap().count(), 0);
    assert_eq!(read(at, "down/labels"), b"a=\"b\"");
    assert_eq!((read(at, "mix/token"), read(at, "mix/b.conf")), (b"secret".to_vec(), b"beta".to_vec()));

    fs::write(at.join("scratch/kept"), b"x").unwrap();
    set_up(&*link(), &pod, "127.0.0.1", at, Owner::AGENT).await.unwrap();
    assert_eq!(read(at, "scratch/kept"), b"x", "an emptyDir lives as long as its pod");
}

#[tokio::test]
async fn without_the_control_plane_a_pod_keeps_what_it_had() {
    let directory = tempfile::tempdir().unwrap();
    let (link, pod) = (link(), pod(json!([{"name": "all", "configMap": {"name": "cm"}}])));
    link.set_down(true);
    let failure = set_up(&*link, &pod, "", directory.path(), Owner::AGENT).await.unwrap_err();
    assert!(failure.message().contains("connection refused"), "{}", failure.message());
    link.set_down(false);
    set_up(&*link, &pod, "", directory.path(), Owner::AGENT).await.unwrap();
    link.set_down(true);
    set_up(&*link, &pod, "", directory.path(), Owner::AGENT).await.unwrap();
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
            "MountVolume.SetUp failed for volume \"v\" : this node does not support volumes of type hostPath",
        ),
        (
            json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "a.conf", "path": "../../x"}]}}),
            "MountVolume.SetUp failed for volume \"v\" : ../../x is not a path within the volume",
        ),
    ] {
        let failure = set_up(&*link(), &pod(json!([volume])), "", directory.path(), Owner::AGENT).await.unwrap_err();
        assert_eq!(failure.message(), message);
        assert!(!directory.path().join("v").exists());
    }
}

#[test]
fn mounts_are_relative_to_the_runner() {
    let pod = pod(json!([{"name": "s", "secret": {"secretName": "x"}}, {"name": "e", "emptyDir": {}}]));
    let container = json!({"volumeMounts": [
        {"name": "s", "mountPath": "/s"}, {"name": "e", "mountPath": "/e"}, {"name": "e", "mountPath": "/r", "readOnly": true},
    ]});
    let all = mounts(&container, &pod).unwrap();
    let flat: Vec<(&str, &str, bool)> =
        all.iter().map(|mount| (mount.source.to_str().unwrap(), mount.target.as_str(), mount.read_only)).collect();
    assert_eq!(flat, [("volumes/u/s", "/s", true), ("volumes/u/e", "/e", false), ("volumes/u/e", "/r", true)]);
    let unknown = json!({"volumeMounts": [{"name": "x", "mountPath": "/x"}]});
    assert!(mounts(&unknown, &pod).is_err());
    let sub = json!({"volumeMounts": [{"name": "e", "mountPath": "/x", "subPath": "../.."}]});
    assert!(mounts(&sub, &pod).unwrap_err().contains("subPath"));
}
