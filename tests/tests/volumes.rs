//! Files as guests see them: volumes of every kind, what changes in them while a pod runs, limits, and what a container
//! has of its own.

use coracle_tests::{
    Cluster, Kubectl, eventually, guest,
    pods::{apply, container, phase, pod, running},
    wait::contains,
};
use serde_json::{Value, json};
use std::{fs, path::Path};

const IMAGES: [(&str, &str); 2] = [("component", "toolbox:1"), ("module", "toolbox-p1:1")];
/// How often a guest looks again, a second apart.
const LOOKS: usize = 90;

fn cluster() -> (Cluster, Kubectl) {
    let cluster = Cluster::start();
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    cluster.push(&guest("toolbox-p1.wasm"), "toolbox-p1:1");
    let kubectl = cluster.kubectl();
    (cluster, kubectl)
}

fn with(mut pod: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else { panic!("no fields: {fields}") };
    for (field, value) in fields {
        pod["spec"][field] = value;
    }
    pod
}

/// One command after the other.
fn words(commands: &[&[&str]]) -> Vec<String> {
    let joined: Vec<Vec<String>> =
        commands.iter().map(|command| command.iter().map(|&word| word.to_owned()).collect()).collect();
    joined.join(&"--".to_owned())
}

fn log(kubectl: &Kubectl, name: &str) -> String {
    kubectl.run(&format!("logs {name}")).unwrap()
}

#[test]
fn running_guests_see_what_changes_but_for_parts() {
    let (_cluster, kubectl) = cluster();
    let objects = |value: &str| {
        [
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
                "data": {"colour": format!("colour {value}"), "deep": format!("deep {value}")}}),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
                "stringData": {"key": format!("key {value}")}}),
        ]
    };
    apply(&kubectl, "default", &objects("old"));
    let look: &[&str] =
        &["cat", "/settings/colour", "/all/nested/deep", "/all/key", "/all/later", "/info/labels", "/file/one"];
    let looks: Vec<&[&str]> = (0..LOOKS).flat_map(|_| [look, &["sleep", "1"]]).collect();
    let pods = IMAGES.map(|(name, image)| {
        let container = json!({"image": image, "args": words(&looks), "volumeMounts": [
            {"name": "settings", "mountPath": "/settings"}, {"name": "all", "mountPath": "/all"},
            {"name": "info", "mountPath": "/info"},
            {"name": "settings", "mountPath": "/file/one", "subPath": "colour"},
        ]});
        with(pod(name, "Never", &container), json!({"volumes": [
            {"name": "settings", "configMap": {"name": "settings"}},
            {"name": "all", "projected": {"sources": [
                {"configMap": {"name": "settings", "items": [{"key": "deep", "path": "nested/deep"}]}},
                {"secret": {"name": "keys"}},
                {"configMap": {"name": "late", "optional": true}},
            ]}},
            {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]}))
    });
    apply(&kubectl, "default", &pods);
    for (name, _) in IMAGES {
        running(&kubectl, name);
        eventually("the old values", || {
            let log = log(&kubectl, name);
            for old in ["colour old", "deep old", "key old", "app=\"test\""] {
                contains(&log, old)?;
            }
            Ok(())
        });
    }
    apply(&kubectl, "default", &objects("new"));
    let late =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}, "data": {"later": "it came"}});
    apply(&kubectl, "default", &[late]);
    for (name, _) in IMAGES {
        kubectl.run(&format!("label pod {name} mood=new")).unwrap();
    }
    for (name, _) in IMAGES {
        eventually("the new values", || {
            let log = log(&kubectl, name);
            for new in ["colour new", "deep new", "key new", "it came", "mood=\"new\""] {
                contains(&log, new)?;
            }
            // What was mounted as a part of the volume stays: in the last look everything is new but for that file.
            let looks: Vec<&str> = log.split("colour new\n").collect();
            contains(looks.last().unwrap_or(&""), "colour old")
        });
    }
}

#[test]
fn a_full_volume_and_a_read_only_one_refuse() {
    let (_cluster, kubectl) = cluster();
    let block = "x".repeat(4096);
    // A component's C library makes `EIO` of every write that fails.
    let full = ["no storage space", "I/O error"];
    for (name, image) in IMAGES {
        let container = json!({"image": image,
        "resources": {"limits": {"ephemeral-storage": "64Ki"}},
        "args": words(&[
            &["write", "/small/a", &block], &["write", "/small/b", "y"], &["remove", "/small/a"], &["write", "/small/b", "y"],
            &["write", "/wide/a", &block.repeat(10)], &["write", "/tmp/a", &block.repeat(10)], &["write", "/tmp/b", "y"],
            &["write", "/settings/motto", "y"], &["write", "/locked/a", "y"], &["cat", "/settings/motto"],
        ]),
        "volumeMounts": [
            {"name": "small", "mountPath": "/small"}, {"name": "wide", "mountPath": "/wide"},
            {"name": "wide", "mountPath": "/locked", "readOnly": true}, {"name": "settings", "mountPath": "/settings"},
        ]});
        let settings =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"motto": "hi"}});
        let pod = with(
            pod(name, "Never", &container),
            json!({"volumes": [
                {"name": "small", "emptyDir": {"sizeLimit": "5Ki"}}, {"name": "wide", "emptyDir": {}},
                {"name": "settings", "configMap": {"name": "settings"}},
            ]}),
        );
        apply(&kubectl, "default", &[settings, pod]);
        phase(&kubectl, name, "Succeeded");
        let log = log(&kubectl, name);
        let lines: Vec<&str> =
            log.lines().map(|line| if full.iter().any(|full| line.contains(full)) { "full" } else { line }).collect();
        // The 64 KiB are the pod's: what one volume has the other cannot get, nor the container's own directory.
        assert_eq!(lines[..7], ["done", "full", "done", "done", "done", "full", "done"], "{name}: {log}");
        assert!(
            lines[7].starts_with("write /settings/motto") && lines[8].starts_with("write /locked/a"),
            "{name}: {log}"
        );
        assert_eq!(lines[9], "hi", "{name}");
    }
}

#[test]
fn containers_share_the_room_of_a_volume_and_each_run_begins_anew() {
    let (_cluster, kubectl) = cluster();
    let mounts = json!([{"name": "small", "mountPath": "/small", "subPathExpr": "$(WHERE)"}]);
    let part = |name: &str, image: &str, command: &[&[&str]]| {
        json!({"name": name, "image": image, "args": words(command), "volumeMounts": mounts,
            "env": [{"name": "WHERE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]})
    };
    let block = "x".repeat(8192);
    let mut sharing = pod("sharing", "Never", &json!({}));
    sharing["spec"]["initContainers"] =
        json!([part("first", "toolbox:1", &[&["write", "/small/a", &block], &["write", "/tmp/mine", "x"]])]);
    sharing["spec"]["containers"] = json!([part(
        "main",
        "toolbox-p1:1",
        &[
            &["size", "/small/a"],
            &["write", "/small/b", &block],
            &["list", "/tmp"],
            &["remove", "/small/a"],
            &["write", "/small/b", &block]
        ],
    )]);
    let sharing = with(sharing, json!({"volumes": [{"name": "small", "emptyDir": {"sizeLimit": "20Ki"}}]}));
    apply(&kubectl, "default", &[sharing]);
    phase(&kubectl, "sharing", "Succeeded");
    let log = log(&kubectl, "sharing");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!((lines[0], lines[2], lines[3], lines[4]), ("8192", "", "done", "done"), "{log}");
    assert!(lines[1].contains("no storage space"), "{log}");
}

#[test]
fn a_container_begins_where_it_says_and_finds_what_containers_find() {
    let (_cluster, kubectl) = cluster();
    let settings = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
        "data": {"app.conf": "configured", "bad key".replace(' ', "."): "x"}});
    apply(&kubectl, "default", &[settings]);
    for (name, image) in IMAGES {
        let container = json!({"image": image, "workingDir": "/work/here",
        "env": [
            {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
            {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "BOTH", "value": "$(CPUS)/$(MEMORY) $$(CPUS) $(NONE)"},
        ],
        "envFrom": [{"prefix": "S_", "configMapRef": {"name": "settings"}}],
        "resources": {"limits": {"cpu": "250m", "memory": "64Mi"}},
        "args": words(&[
            &["write", "note", "relative"], &["cat", "/work/here/note"], &["cat", "note"], &["cat", "/etc/app/app.conf"],
            &["cat", "/etc/hosts"], &["cat", "/etc/hostname"], &["cat", "/etc/resolv.conf"], &["env"],
            &["write", "/dev/termination-log", "all is well"],
        ]),
        "volumeMounts": [
            {"name": "work", "mountPath": "/work"},
            {"name": "settings", "mountPath": "/etc/app/app.conf", "subPath": "app.conf"},
        ]});
        let pod = with(
            pod(name, "Never", &container),
            json!({
                "hostname": "host-a", "hostAliases": [{"ip": "10.9.8.7", "hostnames": ["alias.example"]}],
                "volumes": [{"name": "work", "emptyDir": {}}, {"name": "settings", "configMap": {"name": "settings"}}],
            }),
        );
        apply(&kubectl, "default", &[pod]);
        let ended = phase(&kubectl, name, "Succeeded");
        let log = log(&kubectl, name);
        assert!(log.starts_with("done\nrelative\nrelative\nconfigured\n# Kubernetes-managed"), "{name}: {log}");
        for line in [
            "10.9.8.7\talias.example",
            "host-a",
            "CPUS=250",
            "MEMORY=64",
            "BOTH=250/64 $(CPUS) $(NONE)",
            "S_app.conf=configured",
            "HOSTNAME=host-a",
            "PWD=/work/here",
            "options ndots:5",
        ] {
            assert!(log.lines().any(|found| found == line), "{name}: {line} is missing in {log}");
        }
        let address = ended["status"]["podIP"].as_str().unwrap();
        assert!(log.contains(&format!("{address}\thost-a")) && log.contains(&format!("IP={address}")), "{name}: {log}");
        assert_eq!(container_message(&ended), "all is well", "{name}");
    }
}

fn container_message(pod: &Value) -> &str {
    container(pod)["state"]["terminated"]["message"].as_str().unwrap_or_default()
}

#[test]
fn what_cannot_be_mounted_says_why() {
    let (_cluster, kubectl) = cluster();
    let mounting = |name: &str, volume: Value, mount: Value| {
        let mut mount = mount;
        mount["name"] = json!("v");
        let mut volume = volume;
        volume["name"] = json!("v");
        let container = json!({"image": "toolbox:1", "args": ["wait-eof"], "volumeMounts": [mount]});
        with(pod(name, "Never", &container), json!({"volumes": [volume]}))
    };
    apply(
        &kubectl,
        "default",
        &[
            mounting("missing", json!({"configMap": {"name": "nobody"}}), json!({"mountPath": "/v"})),
            mounting("variable", json!({"emptyDir": {}}), json!({"mountPath": "/v", "subPathExpr": "$(NONE)"})),
        ],
    );
    eventually("what is missing", || {
        contains(
            &kubectl.run("describe pod missing")?,
            "MountVolume.SetUp failed for volume \"v\" : configmap \"nobody\" not found",
        )
    });
    eventually("what is not set", || {
        contains(&kubectl.run("describe pod variable")?, "names a variable that is not set")
    });
    // It goes on when what was missing comes.
    let found = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "nobody"}, "data": {}});
    apply(&kubectl, "default", &[found]);
    running(&kubectl, "missing");
    for (volume, complaint) in [
        (json!({"hostPath": {"path": "/"}}), "hostPath: Forbidden: not supported"),
        (json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}), "serviceAccountToken: Forbidden"),
    ] {
        let refused = kubectl.apply(&mounting("refused", volume, json!({"mountPath": "/v"})).to_string()).unwrap_err();
        assert!(refused.contains(complaint), "{refused}");
    }
}

/// Mounts below a directory, as the kernel lists them.
fn mounts_below(directory: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let directory = directory.to_str().unwrap();
    let below = mounts.lines().filter(|line| line.split(' ').nth(1).is_some_and(|at| at.starts_with(directory)));
    below.map(str::to_owned).collect()
}

#[test]
fn volumes_in_memory_are_mounted_found_again_and_gone_with_their_pod() {
    let (mut cluster, kubectl) = cluster();
    let block = "x".repeat(4096);
    let pods = IMAGES.map(|(name, image)| {
        let container = json!({"image": image, "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
        "args": words(&[
            &["cat", "/cache/kept"], &["write", "/cache/kept", "still here"], &["write", "/cache/a", &block.repeat(40)],
            &["mkdir", "/cache/d"], &["rename", "/cache/kept", "/cache/d/moved"],
            &["rename", "/cache/d/moved", "/cache/kept"], &["remove", "/cache/a"], &["wait-eof"],
        ])});
        with(
            pod(name, "Always", &container),
            json!({"volumes": [
            {"name": "cache", "emptyDir": {"medium": "Memory", "sizeLimit": "128Ki"}}]}),
        )
    });
    apply(&kubectl, "default", &pods);
    let ready = || {
        for (name, _) in IMAGES {
            running(&kubectl, name);
            eventually("it has tried everything", || contains(&log(&kubectl, name), "waiting"));
        }
    };
    ready();
    for (name, _) in IMAGES {
        let log = log(&kubectl, name);
        assert!(log.contains("NotFound") || log.contains("not found"), "the first one finds nothing: {log}");
        assert!(log.contains("no storage space") || log.contains("I/O error"), "40 blocks are too many: {log}");
    }
    let mounts = mounts_below(&cluster.data_dir());
    assert_eq!(mounts.len(), 2, "{mounts:?}");
    for mount in &mounts {
        for option in [" tmpfs ", "size=128k", "nosuid", "nodev", "noexec"] {
            assert!(mount.contains(option), "{mount}");
        }
    }
    // The agent, and the runner with it.
    cluster.kill();
    cluster.start_again();
    for (name, _) in IMAGES {
        eventually("it finds what it wrote", || contains(&log(&kubectl, name), "still here"));
    }
    assert_eq!(mounts_below(&cluster.data_dir()).len(), 2, "each of them once");
    kubectl.run("delete pod component --wait=true").unwrap();
    eventually("it is unmounted", || match mounts_below(&cluster.data_dir()).len() {
        1 => Ok(()),
        other => Err(format!("{other} mounts")),
    });
    // The other one is deleted while its agent is away, so that the next one finds only what it left.
    kubectl.run("delete pod module --wait=false").unwrap();
    cluster.kill();
    cluster.start_again();
    eventually("nothing is mounted any more", || match mounts_below(&cluster.data_dir()) {
        mounts if mounts.is_empty() => Ok(()),
        mounts => Err(mounts.join("\n")),
    });
}
