//! Servers from several toolchains do the same: they serve through a service and a node port, send large bodies back, bear
//! many requests at once, come back after their runner is killed, and end when they are asked to.
//!
//! `tests/guests/toolchains/build.sh` builds them; `CORACLE_TEST_TOOLCHAINS` names the directory, else the script is run.

use coracle_tests::{
    Cluster, Kubectl, eventually, guest,
    network::{cluster, get, node_port, post, probe, service},
    pods::{self, container, running},
    processes,
    random::Random,
    wait::within,
};
use serde_json::{Value, json};
use std::{env, path::PathBuf, process::Command, thread, time::Duration};

/// Rust is the probe; the others are built by the script.
const TOOLCHAINS: &[&str] = &["rust", "c", "go", "python", "javascript"];
/// Compiling the largest of them takes seconds, all at once on two cores longer.
const START_LIMIT: Duration = Duration::from_mins(4);
const LARGE_BODY: usize = 3 << 20;
const REQUESTS_AT_ONCE: usize = 100;
/// Who has not ended by itself before this is killed; the test waits for much less.
const GRACE_SECONDS: u64 = 60;

fn guests() -> PathBuf {
    if let Some(named) = env::var_os("CORACLE_TEST_TOOLCHAINS") {
        return PathBuf::from(named);
    }
    let built = Command::new(guest("toolchains/build.sh")).output().expect("build.sh runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    PathBuf::from(String::from_utf8_lossy(&built.stdout).trim())
}

fn pod(name: &str) -> Value {
    let arguments: &[&str] = if name == "rust" { &["serve", "http=8080"] } else { &[] };
    let mut pod = pods::pod(
        name,
        "Always",
        &json!({"image": format!("{name}:1"), "args": arguments, "ports": [{"name": "http", "containerPort": 8080}],
            "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
    );
    pod["metadata"]["labels"] = json!({"app": name});
    pod["spec"]["terminationGracePeriodSeconds"] = GRACE_SECONDS.into();
    pod
}

#[test]
fn all_toolchains_serve() {
    let directory = guests();
    let (cluster, kubectl) = cluster();
    for &name in TOOLCHAINS {
        let file = if name == "rust" { guest("probe.wasm") } else { directory.join(format!("{name}.wasm")) };
        cluster.push(&file, &format!("{name}:1"));
        let http = json!({"type": "NodePort", "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
        pods::apply(&kubectl, "default", &[pod(name), service(name, name, &http)]);
    }
    for &name in TOOLCHAINS {
        within(START_LIMIT, &format!("{name} to serve"), || hello(&cluster, name));
    }
    for &name in TOOLCHAINS {
        println!("{name}: bodies, a crowd, a neighbour");
        large_bodies_come_back(&cluster, name);
        a_crowd_is_answered(&cluster, name);
        a_neighbour_is_answered(&kubectl, name);
    }
    the_runner_is_killed(&cluster, &kubectl);
    for &name in TOOLCHAINS {
        within(START_LIMIT, &format!("{name} to serve again"), || hello(&cluster, name));
    }
    for &name in TOOLCHAINS {
        println!("{name}: end");
        let deleted = kubectl.run(&format!("delete pod {name} --timeout={}s", GRACE_SECONDS / 2));
        deleted.unwrap_or_else(|error| panic!("{name} does not end when it is asked to: {error}"));
    }
}

fn hello(cluster: &Cluster, name: &str) -> Result<(), String> {
    let answer = get(node_port(cluster, name, "http"), "/").map_err(|error| {
        let described = cluster.kubectl().run(&format!("describe pod {name}")).unwrap_or_else(|error| error);
        format!("{error}\n{described}")
    })?;
    let expected = format!("hello from {name}");
    if answer.status == 200 && answer.text().starts_with(&expected) { Ok(()) } else { Err(format!("{answer:?}")) }
}

fn large_bodies_come_back(cluster: &Cluster, name: &str) {
    let mut random = Random::seeded();
    for length in [0, 1, 65_536, LARGE_BODY] {
        let body: Vec<u8> = (0..length).map(|_| u8::try_from(random.below(256)).unwrap_or_default()).collect();
        let answer =
            post(node_port(cluster, name, "http"), "/echo", &body).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(answer.status, 200, "{name}");
        assert!(answer.body == body, "{name}: {length} bytes came back as {} others", answer.body.len());
    }
}

fn a_crowd_is_answered(cluster: &Cluster, name: &str) {
    let address = node_port(cluster, name, "http");
    let answers: Vec<Result<String, String>> = thread::scope(|scope| {
        let request = |_| scope.spawn(move || get(address, "/").map(|answer| answer.text()));
        let requests: Vec<_> = (0..REQUESTS_AT_ONCE).map(request).collect();
        requests.into_iter().map(|request| request.join().unwrap()).collect()
    });
    let wrong: Vec<_> =
        answers.iter().filter(|answer| !answer.as_ref().is_ok_and(|text| text.starts_with("hello"))).collect();
    assert!(wrong.is_empty(), "{name}: {} of {REQUESTS_AT_ONCE} failed: {:?}", wrong.len(), wrong.first());
}

fn a_neighbour_is_answered(kubectl: &Kubectl, name: &str) {
    let ip = kubectl.json(&format!("get service {name}")).unwrap()["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let log = probe(
        kubectl,
        &format!("asks-{name}"),
        &[&["get", name, "80", "/", "3"], &["get", &ip, "80", "/"], &["post", &ip, "80", "1000000", "7"]],
    );
    let lines: Vec<_> = log.lines().collect();
    let hello = format!("200 hello from {name}");
    assert!(lines[..4].iter().all(|line| line.starts_with(&hello)), "{log}");
    assert_eq!(lines[4], "post: 1000000 bytes came back", "{name}");
}

/// All containers are restarted, as their processes are gone.
fn the_runner_is_killed(cluster: &Cluster, kubectl: &Kubectl) {
    let count = |name: &str| container(&running(kubectl, name))["restartCount"].as_i64().unwrap_or(0);
    let before: Vec<_> = TOOLCHAINS.iter().map(|name| count(name)).collect();
    let runners = cluster.runners();
    assert!(!runners.is_empty());
    for pid in runners {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    for (name, before) in TOOLCHAINS.iter().zip(before) {
        within(START_LIMIT, &format!("{name}'s restart"), || {
            let pod = kubectl.json(&format!("get pod {name}"))?;
            let restarted = container(&pod)["restartCount"].as_i64().unwrap_or(0) > before;
            if restarted { Ok(()) } else { Err(pod["status"].to_string()) }
        });
    }
    eventually("a runner", || if cluster.runners().is_empty() { Err("none".to_owned()) } else { Ok(()) });
    assert!(processes::command_line(cluster.pid()).iter().any(|word| word == "dev"));
}
