//! Guests that mean harm, within what a pod may do in this state of the system.

use crate::cluster;
use coracle_tests::{
    eventually, guest,
    pods::{self, container, phase, pod, running, toolbox},
    wait::contains,
};
use serde_json::json;
use std::{fs, path::Path};

/// Writes bytes that are no UTF-8 and a long line to both streams, closes stdout, writes to it again, and goes on.
const NOISE: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (memory (export "memory") 4)
  (data (i32.const 0) "\10\00\00\00\10\00\00\00")
  (data (i32.const 16) "\ff\fe\00 noise \80\c0\1b[2J\0a")
  (data (i32.const 64) "\00\01\00\00\00\00\02\00")
  (data (i32.const 80) "\60\00\00\00\05\00\00\00")
  (data (i32.const 96) "last\0a")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 8)))
    (drop (call $close (i32.const 1)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (drop (call $write (i32.const 2) (i32.const 80) (i32.const 1) (i32.const 8)))))"#;

fn bytes_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            if entry.path().is_dir() {
                bytes_below(&entry.path())
            } else {
                entry.metadata().map_or(0, |data| data.len())
            }
        })
        .sum()
}

#[test]
fn a_crowd_of_bad_guests_does_not_stop_a_good_one() {
    let (mut cluster, kubectl) = cluster();
    cluster.push(&guest("network.wasm"), "network:1");
    let crashers = (0..50).map(|number| toolbox(&format!("crash-{number}"), "Always", &["trap"]));
    let names = [&["resolve"][..], &["nobody.nowhere"; 500]].concat();
    let askers =
        (0..10).map(|number| pod(&format!("ask-{number}"), "Always", &json!({"image": "network:1", "args": names})));
    let spinners = (0..4).map(|number| toolbox(&format!("spin-{number}"), "Always", &["spin"]));
    let flood = toolbox("flood", "Always", &["fill", "90000000", "--", "echo", "the end", "--", "wait-eof"]);
    let all: Vec<_> = [flood].into_iter().chain(crashers).chain(askers).chain(spinners).collect();
    pods::apply(&kubectl, "default", &all);
    // A good one comes up in the middle of them, in their namespace and in another.
    kubectl.run("create namespace quiet").unwrap();
    let good = |name: &str| toolbox(name, "Always", &["echo", "here", "--", "wait-eof"]);
    pods::apply(&kubectl, "default", &[good("good")]);
    pods::apply(&kubectl, "quiet", &[good("good")]);
    for name in ["good", "good -n quiet"] {
        running(&kubectl, name);
        eventually("its log", || contains(&kubectl.run(&format!("logs {name}"))?, "here"));
    }
    eventually("fifty crash loops", || {
        let pods = kubectl.json("get pods")?;
        let items = pods["items"].as_array().unwrap().iter();
        let looping = items.filter(|pod| {
            let trapped = &container(pod)["lastState"]["terminated"]["exitCode"];
            container(pod)["restartCount"].as_i64().unwrap_or(0) >= 1 && *trapped == 134
        });
        let count = looping.count();
        if count >= 50 { Ok(()) } else { Err(format!("{count} of 50")) }
    });
    eventually("the flood's end", || contains(&kubectl.run("logs flood --tail=3")?, "the end"));
    let kept = bytes_below(&cluster.data_dir().join("node/logs"));
    assert!(kept > 10_000_000 && kept < 64_000_000, "{kept} bytes of logs are kept");
    assert!(cluster.ended().is_none(), "{}", cluster.log());
    kubectl.run("delete pods --all --timeout=55s").unwrap();
}

#[test]
fn noise_is_kept_and_shown() {
    let (cluster, kubectl) = cluster();
    let directory = tempfile::tempdir().unwrap();
    let noise = directory.path().join("noise.wasm");
    fs::write(&noise, wat::parse_str(NOISE).unwrap()).unwrap();
    cluster.push(&noise, "noise:1");
    kubectl.apply(&pod("noise", "Never", &json!({"image": "noise:1"})).to_string()).unwrap();
    phase(&kubectl, "noise", "Succeeded");
    let mut command = kubectl.command(["logs", "noise"]);
    let shown = command.output().unwrap();
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    let has = |part: &[u8]| shown.stdout.windows(part.len()).any(|window| window == part);
    assert!(has(b"\xff\xfe\0 noise \x80\xc0"), "the bytes are not as written");
    assert!(has(b"last"), "standard error ended with standard output");
    assert!(shown.stdout.len() > 100_000, "the long line is cut: {} bytes", shown.stdout.len());
    let lossy = cluster.coracle("logs noise");
    assert!(lossy.as_ref().is_ok_and(|text| text.contains("noise")), "{lossy:?}");
}

#[test]
fn greed_ends_the_greedy_alone() {
    let (_cluster, kubectl) = cluster();
    let greedy = |name: &str, arguments: &[&str]| {
        pod(
            name,
            "Never",
            &json!({"image": "toolbox:1", "args": arguments, "resources": {"limits": {"memory": "16Mi"}}}),
        )
    };
    pods::apply(
        &kubectl,
        "default",
        &[toolbox("good", "Always", &["wait-eof"]), greedy("alloc", &["alloc", "64"]), greedy("grab", &["grab", "64"])],
    );
    running(&kubectl, "good");
    for name in ["alloc", "grab"] {
        let ended = phase(&kubectl, name, "Failed");
        let terminated = &container(&ended)["state"]["terminated"];
        assert_eq!((&terminated["exitCode"], &terminated["reason"]), (&json!(137), &json!("OOMKilled")), "{ended}");
        assert!(kubectl.run(&format!("get pod {name}")).unwrap().contains("OOMKilled"));
    }
    assert_eq!(container(&kubectl.json("get pod good").unwrap())["restartCount"], 0);
}

#[test]
fn no_path_leads_out_of_a_volume() {
    let (cluster, kubectl) = cluster();
    let outside = tempfile::tempdir().unwrap();
    let canary = outside.path().join("canary");
    fs::write(&canary, "host secret").unwrap();
    let host = canary.display().to_string();
    let up = format!("/scratch{}{host}", "/..".repeat(12));
    let relative = format!("{}{host}", "../".repeat(12));
    kubectl.run("create secret generic keys --from-literal=password=hunter2").unwrap();
    kubectl.run("create configmap settings --from-literal=colour=blue").unwrap();
    let script: Vec<&str> = [
        &["cat", &host, &up, &relative, "/etc/passwd", "/scratch/../../../../../../etc/passwd"][..],
        &["link", &host, "/scratch/absolute"],
        &["link", &relative, "/scratch/relative"],
        &["link", "..", "/scratch/parent"],
        &["cat", "/scratch/absolute", "/scratch/relative", "/scratch/parent/keys/password"],
        &["write", "/scratch/absolute", "overwritten"],
        &["write", "/scratch/relative", "overwritten"],
        &["write", &up, "overwritten"],
        &["remove", &up],
        &["list", "/scratch/parent"],
        &["list", "/"],
        &["list", "/keys/.."],
        &["write", "/keys/password", "changed"],
        &["append", "/keys/password", "changed"],
        &["write", "/keys/new", "x"],
        &["remove", "/keys/password"],
        &["mkdir", "/keys/directory"],
        &["rename", "/keys/password", "/scratch/password"],
        &["rename", "/keys/password", "/keys/other"],
        &["write", "/scratch/mine", "x"],
        &["rename", "/scratch/mine", "/keys/mine"],
        &["write", "/settings/colour", "red"],
        &["write", "/fixed/new", "x"],
        &["cat", "/keys/password", "/settings/colour"],
    ]
    .join(&"--");
    for image in ["toolbox:1", "p1:1"] {
        cluster.push(&guest("toolbox-p1.wasm"), "p1:1");
        let name = format!("climber-{}", image.split(':').next().unwrap());
        let mount =
            |name: &str, read_only: bool| json!({"name": name, "mountPath": format!("/{name}"), "readOnly": read_only});
        let mut climber = pod(
            &name,
            "Never",
            &json!({"image": image, "args": script,
            "volumeMounts": [mount("scratch", false), mount("keys", false), mount("settings", false), mount("fixed", true)]}),
        );
        climber["spec"]["volumes"] = json!([{"name": "scratch", "emptyDir": {}}, {"name": "fixed", "emptyDir": {}},
            {"name": "keys", "secret": {"secretName": "keys"}}, {"name": "settings", "configMap": {"name": "settings"}}]);
        kubectl.apply(&climber.to_string()).unwrap();
        phase(&kubectl, &name, "Succeeded");
        let log = kubectl.run(&format!("logs {name}")).unwrap();
        assert!(!log.contains("host secret") && !log.contains("root:"), "it reads the host's files:\n{log}");
        assert_eq!(log.lines().filter(|line| *line == "hunter2").count(), 1, "{log}");
        assert!(log.ends_with("hunter2\nblue\n"), "what it may only read has changed:\n{log}");
        // Only its own scratch volume could be written: one file, and links that lead nowhere.
        let done = log.lines().filter(|line| *line == "done").count();
        assert!((1..=4).contains(&done), "{done} changes were made:\n{log}");
        for place in ["/keys", "/settings", "/fixed"] {
            let refused =
                log.lines().any(|line| line.starts_with("write ") && line.contains(place) && line.contains(':'));
            assert!(refused, "{place} was written:\n{log}");
        }
        let uid = kubectl.run(&format!("get pod {name} -o jsonpath={{.metadata.uid}}")).unwrap();
        kubectl.run(&format!("delete pod {name} --timeout=30s")).unwrap();
        eventually("its volumes to be gone", || {
            let left = cluster.traces_of_pods();
            if left.iter().any(|path| path.display().to_string().contains(uid.trim())) {
                Err(format!("{left:?}"))
            } else {
                Ok(())
            }
        });
        assert_eq!(fs::read_to_string(&canary).unwrap(), "host secret", "the host's file was changed");
    }
}
