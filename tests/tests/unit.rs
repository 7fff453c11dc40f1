//! A node as a service: a machine with systemd on which somebody types what the documentation says, and what becomes of
//! the node and its pods when it is killed, hangs, ends and starts again. What the unit denies the node, it can do without.

use coracle_tests::{
    Kubectl, eventually, guest,
    hosts::{Booted, Realm, SERVER},
    network::{self, client, server, service},
    pods::{self, condition, container, on, running, toolbox},
    repository,
    wait::contains,
};
use serde_json::{Value, json};
use std::{
    fs,
    io::Read as _,
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

/// The machine, and so the node; and a node of the usual kind.
const DEVICE: &str = "device";
const BESIDE: &str = "beside";
const UNIT: &str = "coracle-node";
/// What a pod does before it ends.
const HOOK: Duration = Duration::from_secs(3);

/// What the documentation has an administrator type behind these words.
fn documented(words: &str) -> String {
    let text = fs::read_to_string(repository().join("docs/nodes.md")).unwrap();
    let (_, behind) = text.split_once(words).expect("the documentation says how");
    let lines = behind.lines().skip_while(|line| !line.starts_with("    # "));
    let lines = lines.map_while(|line| line.strip_prefix("    # "));
    lines.collect::<Vec<_>>().join("\n")
}

/// The installation, with what `coracle token create` has printed put in.
fn installation(line: &str) -> String {
    let script = documented("As a service of systemd");
    let words: Vec<&str> = line.split_whitespace().collect();
    let value = |flag: &str| words[words.iter().position(|word| *word == flag).unwrap() + 1];
    let typed = script.replace("https://HOST:6443", words[3]).replace("=TOKEN", &format!("={}", value("--token")));
    let typed = typed.replace("HASH", value("--ca-cert-hash"));
    assert!(typed.contains(words[3]) && typed.contains("systemctl enable --now"), "{typed}");
    typed
}

/// Installs the service; it has to wait for somebody who lets the machine in, and is ready when its pods can run.
fn join(realm: &Realm, kubectl: &Kubectl, device: &Booted) {
    let line = realm.coracle(&["token", "create", "--manual"]).unwrap();
    let mut install = device.command(&installation(&line));
    let mut typed = install.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let request = eventually("the machine's request", || {
        let requests = kubectl.json("get csr")?;
        if let Some(status) = typed.try_wait().map_err(|error| error.to_string())? {
            let mut said = String::new();
            typed.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("the installation ended with {status}: {said}\n{}", device.journal(UNIT));
        }
        let name = requests["items"][0]["metadata"]["name"].as_str().map(str::to_owned);
        name.ok_or_else(|| device.journal(UNIT))
    });
    assert_eq!(device.property(UNIT, "ActiveState"), "activating", "it is ready before it may run anything");
    realm.coracle(&["certificate", "approve", &request]).unwrap();
    let output = typed.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}\n{}", device.journal(UNIT));
    assert_eq!(device.property(UNIT, "ActiveState"), "active");
    realm.coracle(&["token", "delete", line.split_whitespace().nth(5).unwrap()]).unwrap();
    ready(kubectl, device);
}

fn ready(kubectl: &Kubectl, device: &Booted) {
    eventually("the node to be ready", || {
        let node = kubectl.json(&format!("get node {DEVICE}"))?;
        let is_ready = condition(&node, "Ready")["status"] == "True";
        if is_ready { Ok(()) } else { Err(format!("{}\n{}", node["status"], device.journal(UNIT))) }
    });
}

/// Files and processes are the service's user's alone, and nobody reads the token.
fn is_private(device: &Booted) {
    for (path, mode) in [
        ("/var/lib/coracle-node", "700 coracle"),
        ("/var/lib/coracle-node/credentials", "700 coracle"),
        ("/var/lib/coracle-node/credentials/*", "600 coracle"),
        ("/etc/default/coracle-node", "600 root"),
    ] {
        let found = device.must(&format!("stat --format '%a %U' {path}"));
        assert!(!found.is_empty() && found.lines().all(|line| line == mode), "{path}: {found}");
    }
    let settings = device.must("cat /etc/default/coracle-node");
    let token = settings.lines().find_map(|line| line.strip_prefix("CORACLE_TOKEN=")).unwrap();
    let lines = device.must("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '");
    assert!(lines.contains("--ca-cert-hash") && !lines.contains(token), "{lines}");
    let runners = runners(device);
    assert!(!runners.is_empty(), "no runner");
    for pid in [vec![device.property(UNIT, "MainPID")], runners].concat() {
        assert_eq!(device.must(&format!("stat --format %U /proc/{pid}")).trim(), "coracle");
        has_no_rights(device, &pid);
    }
}

/// The service's runners. What else it has started (trials, compilers) may end at any time.
fn runners(device: &Booted) -> Vec<String> {
    let group = device.property(UNIT, "ControlGroup");
    let all = device.must(&format!(
        "for pid in $(cat /sys/fs/cgroup{group}/cgroup.procs); do \
             echo \"$pid $(tr '\\0' ' ' </proc/$pid/cmdline)\"; done 2>/dev/null"
    ));
    let runners = all.lines().filter(|line| line.contains(" runner ") && !line.contains("/probe "));
    runners.filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect()
}

fn has_no_rights(device: &Booted, pid: &str) {
    let status = device.must(&format!("cat /proc/{pid}/status"));
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line}: {status}");
    }
}

/// Runs probe commands on a node to their end and answers what they printed.
fn probe(kubectl: &Kubectl, node: &str, commands: &[&[&str]]) -> String {
    let name = format!("probe-{node}");
    pods::apply(kubectl, "default", &[on(node, client(&name, commands))]);
    let log = eventually(&format!("the end of {name}"), || {
        let phase = kubectl.json(&format!("get pod {name}"))?["status"]["phase"].clone();
        let log = kubectl.run(&format!("logs {name}"))?;
        if phase == "Succeeded" { Ok(log) } else { Err(format!("{phase}:\n{log}")) }
    });
    kubectl.run(&format!("delete pod {name}")).unwrap();
    log
}

/// Commands, logs, node ports, names, and traffic between nodes in both directions.
fn pods_work(realm: &Realm, kubectl: &Kubectl) {
    let said = kubectl.run_with_input("exec -i tool -- toolbox tally", &"x".repeat(100_000)).unwrap();
    assert_eq!(said.trim(), "100000 bytes, sum 12000000");
    eventually("the log", || kubectl.run("logs tool").and_then(|log| contains(&log, "waiting")));
    for (from, to) in [(DEVICE, BESIDE), (BESIDE, DEVICE)] {
        let name = format!("web-{to}");
        // A datagram may be lost.
        let datagram: &[&str] = &["udp", &name, "91", "one"];
        let echo: &[&str] = &["echo", &name, "90", "300000", "5"];
        let log = probe(kubectl, from, &[&["until", &name, "80"], echo, datagram, datagram, datagram]);
        contains(&log, "300000 bytes came back").and_then(|()| contains(&log, "udp: one from")).unwrap();
        let port = network::node_port_number(kubectl, &name, "http");
        let there = SocketAddr::new(realm.outsider().address().into(), port);
        eventually("an answer at the node port", || {
            let answer = realm.host(SERVER).namespace().run(|| network::get(there, "/"))?;
            contains(&answer.text(), &format!("hello from {name}"))
        });
    }
}

fn web(node: &str) -> [Value; 2] {
    let name = format!("web-{node}");
    let ports = json!([{"name": "http", "port": 80, "targetPort": "http"}, {"name": "echo", "port": 90, "targetPort": 9000},
        {"name": "udp", "port": 91, "targetPort": "udp", "protocol": "UDP"}]);
    let spec = json!({"type": "NodePort", "ports": ports});
    [on(node, server(&name, &name)), service(&name, &name, &spec)]
}

/// Waits until systemd has started another process in the place of this one.
fn another(device: &Booted, before: &str) {
    eventually("the service to run again", || {
        let state = device.shell(&format!("systemctl show --property MainPID,ActiveState {UNIT}"))?;
        let is_new =
            state.contains("ActiveState=active") && !state.lines().any(|line| line == format!("MainPID={before}"));
        if is_new { Ok(()) } else { Err(format!("{state}{}", device.journal(UNIT))) }
    });
}

#[test]
fn a_node_is_a_service_of_systemd() {
    let mut realm = Realm::unstarted(&[BESIDE]);
    realm.start_all();
    let kubectl = realm.kubectl();
    realm.push(&guest("toolbox.wasm"), "toolbox:1");
    realm.push(&guest("probe.wasm"), "probe:1");
    let device = Booted::on(realm.outsider(), DEVICE);
    join(&realm, &kubectl, &device);

    let mut tool = on(DEVICE, toolbox("tool", "Always", &["wait-eof"]));
    tool["spec"]["terminationGracePeriodSeconds"] = json!(30);
    tool["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"sleep": {"seconds": HOOK.as_secs()}}});
    pods::apply(&kubectl, "default", &[vec![tool], web(DEVICE).to_vec(), web(BESIDE).to_vec()].concat());
    for pod in ["tool", "web-device", "web-beside"] {
        running(&kubectl, pod);
    }
    is_private(&device);
    pods_work(&realm, &kubectl);
    let node = kubectl.json(&format!("get node {DEVICE}")).unwrap();
    let confined = condition(&node, "GuestsConfined");
    assert_eq!((&confined["status"], &confined["reason"]), (&json!("True"), &json!("LandlockAndSeccomp")));

    // Killed: it is started again, and its pods with it.
    let killed = device.property(UNIT, "MainPID");
    let restarts = |pod: &Value| container(pod)["restartCount"].as_u64().unwrap_or_default();
    let before = restarts(&running(&kubectl, "tool"));
    let _ = device.must(&format!("kill -9 {killed}"));
    another(&device, &killed);
    let again = |before: u64| {
        pods::until(&kubectl, "tool", "running again", |pod| {
            restarts(pod) > before && container(pod)["state"]["running"].is_object()
        })
    };
    let before = restarts(&again(before));

    // Asked to end: pods have their grace, and the server hears of it.
    let asked = Instant::now();
    let _ = device.must(&format!("systemctl stop {UNIT}"));
    assert!(asked.elapsed() >= HOOK, "the hook was cut short");
    let properties = ["ActiveState", "Result", "ExecMainStatus"].map(|name| device.property(UNIT, name));
    assert_eq!(properties, ["inactive", "success", "0"], "{}", device.journal(UNIT));
    let pod = kubectl.json("get pod tool").unwrap();
    assert_eq!(condition(&pod, "Ready")["reason"], "NodeShutdown", "{pod}");

    // It hangs: it is ended and started again. It has joined, and needs neither token nor line any more.
    let _ = device.must(": >/etc/default/coracle-node");
    let drop_in = format!("/etc/systemd/system/{UNIT}.service.d");
    let _ = device.must(&format!(
        "mkdir {drop_in}; printf '[Service]\\nWatchdogSec=10\\nRestartSec=1\\n' >{drop_in}/watchdog.conf"
    ));
    let _ = device.must(&format!("systemctl daemon-reload; systemctl start {UNIT}"));
    let before = restarts(&again(before));
    let hung = device.property(UNIT, "MainPID");
    let _ = device.must(&format!("kill -STOP {hung}"));
    another(&device, &hung);
    contains(&device.journal(UNIT), "Watchdog timeout").unwrap();
    again(before);
    pods_work(&realm, &kubectl);
    assert_eq!(device.must("systemctl is-enabled coracle-node").trim(), "enabled");
}

#[test]
fn with_the_drop_in_each_namespace_has_a_user_of_its_own() {
    let mut realm = Realm::unstarted(&[]);
    realm.start_all();
    let kubectl = realm.kubectl();
    realm.push(&guest("toolbox.wasm"), "toolbox:1");
    let device = Booted::on(realm.outsider(), DEVICE);
    let drop_in = documented("let the agent be root");
    assert!(drop_in.contains("coracle-node-users.conf"), "{drop_in}");
    let line = realm.coracle(&["token", "create"]).unwrap();
    let _ = device.must(&format!("{drop_in}\n{}", installation(&line)));
    ready(&kubectl, &device);

    kubectl.run("create namespace other").unwrap();
    let mut waits = toolbox("waits", "Always", &["wait-eof"]);
    waits["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    waits["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    for namespace in ["default", "other"] {
        pods::apply(&kubectl, namespace, &[waits.clone()]);
        running(&kubectl, &format!("waits -n {namespace}"));
        let said = kubectl.run_with_input(&format!("exec -i waits -n {namespace} -- toolbox tally"), "x").unwrap();
        assert_eq!(said.trim(), "1 bytes, sum 120");
    }
    let node = kubectl.json(&format!("get node {DEVICE}")).unwrap();
    let confined = condition(&node, "GuestsConfined");
    assert!(confined["message"].as_str().unwrap().contains("a root directory and a user of their own"), "{confined}");
    let user = |pid: &str| device.must(&format!("stat --format %u /proc/{pid}")).trim().to_owned();
    let mut users = vec![user(&device.property(UNIT, "MainPID"))];
    for pid in runners(&device) {
        users.push(user(&pid));
        has_no_rights(&device, &pid);
    }
    assert_eq!(users[0], "0", "the agent");
    let count = users.len();
    users.sort();
    users.dedup();
    assert!(count == 3 && users.len() == 3, "root and two others: {users:?} of {count}");
    let _ = device.must(&format!("systemctl stop {UNIT}"));
    assert_eq!(device.property(UNIT, "Result"), "success", "{}", device.journal(UNIT));
}
