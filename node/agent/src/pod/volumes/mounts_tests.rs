//! What containers see, by tables over a directory of a pod's volumes.

use super::*;
use crate::pod::volumes::payload::{VolumeFile, put};
use serde_json::json;
use std::{collections::BTreeMap, os::unix::fs::symlink};
use tempfile::TempDir;

fn pod(mut spec: Value) -> Value {
    spec["volumes"] = json!([
        {"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}},
        {"name": "fast", "emptyDir": {"medium": "Memory"}},
        {"name": "config", "configMap": {"name": "c"}},
    ]);
    json!({"metadata": {"name": "p", "uid": "u", "namespace": "ns"}, "status": {"podIP": "10.244.0.7"}, "spec": spec})
}

/// The volumes of such a pod on disk.
fn disk() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for name in ["scratch", "fast"] {
        fs::create_dir(root.path().join(name)).unwrap();
    }
    let file = |path: &str| VolumeFile { path: path.into(), bytes: path.into(), mode: 0o644 };
    put(&root.path().join("config"), &[file("a.conf"), file("dir/b.conf")], Owner::AGENT).unwrap();
    root
}

fn starting<'a>(disk: &'a TempDir, pod: &'a Value, container: &'a Value) -> Starting<'a> {
    Starting { pod, container, env: &[], kind: GuestKind::Component, directory: disk.path(), owner: Owner::AGENT }
}

/// Where what is seen lies, below the pod's directory.
fn seen(laid: &Laid) -> BTreeMap<&str, &str> {
    let below = |mount: &'_ Mount| mount.source.to_str().unwrap().to_owned();
    laid.mounts.iter().for_each(|mount| assert!(below(mount).starts_with("volumes/u/"), "{mount:?}"));
    laid.mounts
        .iter()
        .map(|mount| (mount.target.as_str(), &mount.source.to_str().unwrap()["volumes/u/".len()..]))
        .collect()
}

#[test]
fn mounts_come_from_where_the_pod_says() {
    let (disk, pod) = (disk(), pod(json!({})));
    let env = [("NAME".to_owned(), "one".to_owned())];
    for (mount, target, source) in [
        (json!({"name": "scratch", "mountPath": "/data/"}), "/data", "scratch"),
        (json!({"name": "scratch", "mountPath": "data/../x"}), "/x", "scratch"),
        (json!({"name": "scratch", "mountPath": "/"}), "/", "scratch"),
        (json!({"name": "scratch", "mountPath": "/d", "subPath": "a//b/."}), "/d", "scratch/a/b"),
        (json!({"name": "scratch", "mountPath": "/d", "subPathExpr": "x/$(NAME)"}), "/d", "scratch/x/one"),
        (json!({"name": "config", "mountPath": "/c"}), "/c", "config"),
        (json!({"name": "config", "mountPath": "/c", "subPath": "dir"}), "/c", ".parts/main/config/dir"),
        (json!({"name": "config", "mountPath": "/c", "subPath": "none"}), "/c", ".parts/main/config/none"),
    ] {
        let container = json!({"name": "main", "volumeMounts": [mount]});
        let laid = lay_out(Starting { env: &env, ..starting(&disk, &pod, &container) }).unwrap();
        let expected = if target == "/" { vec![] } else { vec![("/", ".layers/main")] };
        let expected: BTreeMap<&str, &str> = expected.into_iter().chain([(target, source)]).collect();
        assert_eq!(seen(&laid), expected, "{mount}");
        laid.mounts.iter().for_each(|mount| {
            let path = disk.path().join(mount.source.strip_prefix("volumes/u").unwrap());
            assert!(path.is_dir(), "{}", path.display());
        });
    }
    assert_eq!(fs::read(disk.path().join(".parts/main/config/dir/b.conf")).ok(), None, "the last run's parts are gone");
}

#[test]
fn what_cannot_be_mounted_says_why() {
    let (disk, pod) = (disk(), pod(json!({})));
    fs::write(disk.path().join("scratch/file"), "x").unwrap();
    symlink("/etc", disk.path().join("scratch/link")).unwrap();
    for (mounts, complaint) in [
        (json!([{"name": "none", "mountPath": "/x"}]), "volume \"none\" is not one of the pod's"),
        (json!([{"name": "scratch", "mountPath": "/x", "subPath": "../x"}]), "../x is not a path within the volume"),
        (json!([{"name": "scratch", "mountPath": "/x", "subPath": "/etc"}]), "/etc is not a path within the volume"),
        (json!([{"name": "scratch", "mountPath": "/x", "subPathExpr": "$(NONE)"}]), "names a variable that is not set"),
        (json!([{"name": "scratch", "mountPath": "/x", "subPath": "link"}]), "it is, or passes, a symbolic link"),
        (json!([{"name": "scratch", "mountPath": "/x", "subPath": "link/x"}]), "it is, or passes, a symbolic link"),
        (json!([{"name": "scratch", "mountPath": "/x", "subPath": "file"}]), "it is a file: only files of volumes"),
        (
            json!([{"name": "scratch", "mountPath": "/x"}, {"name": "config", "mountPath": "/x/a", "subPath": "a.conf"}]),
            "lies below the mount /x",
        ),
    ] {
        let container = json!({"name": "main", "volumeMounts": mounts});
        let message = lay_out(starting(&disk, &pod, &container)).unwrap_err();
        assert!(message.contains(complaint), "{mounts}: {message}");
    }
}

#[test]
fn a_file_is_put_where_it_is_mounted_and_nowhere_else() {
    let (disk, pod) = (disk(), pod(json!({})));
    let container = json!({"name": "main", "volumeMounts": [
        {"name": "config", "mountPath": "/etc/app/app.conf", "subPath": "a.conf"},
        {"name": "config", "mountPath": "/etc/app/b", "subPath": "dir/b.conf"},
        {"name": "scratch", "mountPath": "/data/deep"},
    ]});
    let laid = lay_out(starting(&disk, &pod, &container)).unwrap();
    assert_eq!(seen(&laid), BTreeMap::from([("/", ".layers/main"), ("/data/deep", "scratch")]));
    let read = |path: &str| fs::read_to_string(disk.path().join(".layers/main").join(path)).unwrap();
    assert_eq!((read("etc/app/app.conf"), read("etc/app/b")), ("a.conf".to_owned(), "dir/b.conf".to_owned()));
    assert!(read("etc/hosts").contains("10.244.0.7\tp\n") && read("etc/resolv.conf").contains("ndots:5"));
    assert_eq!((read("etc/hostname"), read("dev/termination-log")), ("p\n".to_owned(), String::new()));
    assert!(disk.path().join(".layers/main/data/deep").is_dir(), "the mount shows where it is");
}

#[test]
fn a_container_begins_where_it_says() {
    let (disk, pod) = (disk(), pod(json!({})));
    let mounts = json!([
        {"name": "scratch", "mountPath": "/data"}, {"name": "scratch", "mountPath": "/part", "subPath": "p"},
        {"name": "config", "mountPath": "/config"},
    ]);
    let set = payload::current(&disk.path().join("config")).unwrap();
    let inside = format!("config/{}/dir", set.file_name().unwrap().to_str().unwrap());
    for (directory, here) in [
        ("", None),
        ("/", None),
        ("/data", Some("scratch")),
        ("/data/new/one", Some("scratch/new/one")),
        ("/part/x", Some("scratch/p/x")),
        ("/config", Some("config")),
        ("/config/dir", Some(inside.as_str())),
        ("/srv/app", Some(".layers/main/srv/app")),
        ("tmp", Some(".layers/main/tmp")),
    ] {
        let container = json!({"name": "main", "volumeMounts": mounts, "workingDir": directory});
        let laid = lay_out(starting(&disk, &pod, &container)).unwrap();
        let seen = seen(&laid);
        assert_eq!(seen.get(".").copied(), here, "{directory}");
        // To C libraries "/" and "." are the same.
        assert_eq!(seen.contains_key("/"), here.is_none(), "{directory}");
        assert_eq!(seen["/data"], "scratch");
        if let Some(here) = here {
            assert_eq!((seen["/etc"], seen["/dev"]), (".layers/main/etc", ".layers/main/dev"));
            assert!(disk.path().join(here).is_dir(), "{here}");
            assert_eq!(laid.working_dir, Some(absolute(directory)));
        }
    }
    let container = json!({"name": "main", "volumeMounts": mounts, "workingDir": "/config/none"});
    assert!(lay_out(starting(&disk, &pod, &container)).is_err());
}

#[test]
fn a_module_with_ports_gets_no_directory_that_it_did_not_ask_for() {
    let (disk, pod) = (disk(), pod(json!({})));
    for (extra, has_layer) in [
        (json!({}), false),
        (json!({"volumeMounts": [{"name": "scratch", "mountPath": "/data"}]}), false),
        (json!({"workingDir": "/data", "volumeMounts": [{"name": "scratch", "mountPath": "/data"}]}), false),
        (json!({"workingDir": "/srv"}), true),
        (json!({"terminationMessagePath": "/run/why"}), true),
        (json!({"volumeMounts": [{"name": "config", "mountPath": "/c", "subPath": "a.conf"}]}), true),
    ] {
        let mut container = extra.clone();
        container["name"] = json!("main");
        container["ports"] = json!([{"containerPort": 80}]);
        let module = Starting { kind: GuestKind::Module, ..starting(&disk, &pod, &container) };
        let has = |laid: &Laid| laid.mounts.iter().any(|mount| mount.source.starts_with("volumes/u/.layers"));
        assert_eq!(has(&lay_out(module).unwrap()), has_layer, "{extra}");
        assert!(
            has(&lay_out(starting(&disk, &pod, &container)).unwrap()),
            "a component has no numbers to keep: {extra}"
        );
    }
}

#[test]
fn limits_are_the_pods_and_the_volumes() {
    let disk = disk();
    let limit = |amount: &str| json!({"limits": {"ephemeral-storage": amount}});
    let pod = pod(json!({
        "initContainers": [{"name": "i", "resources": limit("2Ki")}],
        "containers": [{"name": "main", "resources": limit("3Ki")}, {"name": "b", "resources": limit("4Ki")}, {"name": "c"}],
    }));
    let container = json!({"name": "main", "resources": limit("3Ki"), "volumeMounts": [
        {"name": "scratch", "mountPath": "/s", "subPath": "x"}, {"name": "fast", "mountPath": "/f"}, {"name": "config", "mountPath": "/c"}]});
    let laid = lay_out(starting(&disk, &pod, &container)).unwrap();
    let quotas: BTreeMap<&str, Option<Quota>> =
        laid.mounts.iter().map(|mount| (mount.target.as_str(), mount.quota.clone())).collect();
    let quota = |volume: &str, bytes_max, pod_bytes_max| {
        let counts_from_now = volume.starts_with(".layers");
        let volume = PathBuf::from("volumes/u").join(volume);
        Some(Quota { volume, bytes_max, entries_max: None, pod_bytes_max, counts_from_now })
    };
    assert_eq!(quotas["/"], quota(".layers/main", Some(3 << 10), Some(7 << 10)));
    assert_eq!(quotas["/s"], quota("scratch", Some(1 << 20), Some(7 << 10)));
    assert_eq!(quotas["/f"], quota("fast", None, None));
    assert_eq!(quotas["/c"], None);
    assert_eq!(pod_storage_limit(&json!({"spec": {"containers": [{"name": "a"}]}})), None);
}

#[test]
fn a_read_only_root_leaves_room_for_the_message() {
    let (disk, pod) = (disk(), pod(json!({})));
    let container = json!({"name": "main", "securityContext": {"readOnlyRootFilesystem": true}});
    let laid = lay_out(starting(&disk, &pod, &container)).unwrap();
    let modes: BTreeMap<&str, bool> =
        laid.mounts.iter().map(|mount| (mount.target.as_str(), mount.read_only)).collect();
    assert_eq!(modes, BTreeMap::from([("/", true), ("/dev", false)]));
}
