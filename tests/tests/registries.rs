//! Images of registries that are not the cluster's, through real kubectl and a real registry.

use coracle_tests::{
    Cluster, Kubectl, eventually, guest,
    mount::SmallDisk,
    pods::{apply, phase, pod, until},
    registry::{Guard, PASSWORD, Registry, TokenServer, USER, docker_config},
    wait::contains,
};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// A cluster whose node has these registries in its settings.
fn cluster(settings: &Value, arguments: &[&str]) -> Cluster {
    let mut cluster = Cluster::unstarted().with_arguments(arguments);
    write_settings(&cluster, settings);
    cluster.start_again();
    cluster
}

fn write_settings(cluster: &Cluster, settings: &Value) {
    let node = cluster.data_dir().join("node");
    fs::create_dir_all(&node).unwrap();
    fs::write(node.join("registries.json"), settings.to_string()).unwrap();
}

fn registries(all: &[&Registry]) -> Value {
    let entries: serde_json::Map<String, Value> =
        all.iter().map(|registry| (registry.address().to_owned(), registry.settings())).collect();
    json!({"registries": entries})
}

/// A pod that says hello with the toolbox of an image.
fn greeter(name: &str, image: &str, policy: &str, secrets: &[&str]) -> Value {
    let mut pod = pod(name, "Never", &json!({"image": image, "args": ["echo", "hello"], "imagePullPolicy": policy}));
    if !secrets.is_empty() {
        let named: Vec<Value> = secrets.iter().map(|name| json!({"name": name})).collect();
        pod["spec"]["imagePullSecrets"] = named.into();
    }
    pod
}

fn create_secret(kubectl: &Kubectl, namespace: &str, name: &str, host: &str, password: &str) {
    let words = format!(
        "create secret docker-registry {name} -n {namespace} --docker-server={host} --docker-username={USER} \
         --docker-password={password}"
    );
    kubectl.run(&words).unwrap();
}

/// Waits until the events about pods of a namespace hold all of these.
fn told(kubectl: &Kubectl, namespace: &str, parts: &[&str]) {
    eventually("events", || {
        let events = kubectl.run(&format!("get events -n {namespace}"))?;
        parts.iter().try_for_each(|part| contains(&events, part))
    });
}

fn waits(kubectl: &Kubectl, pod: &str, reasons: &[&str]) -> String {
    eventually(&format!("{pod} to wait"), || {
        let object = kubectl.json(&format!("get pod {pod}"))?;
        let waiting = &object["status"]["containerStatuses"][0]["state"]["waiting"];
        let reason = waiting["reason"].as_str().unwrap_or_default();
        if reasons.contains(&reason) { Ok(waiting["message"].to_string()) } else { Err(object["status"].to_string()) }
    })
}

/// Every file of the node that its runners may read, and everything that was printed.
fn exposed(cluster: &Cluster) -> String {
    fn all(directory: &Path, into: &mut String) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                all(&path, into);
            } else if fs::metadata(&path).is_ok_and(|metadata| metadata.len() < 1 << 20) {
                into.push_str(&String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()));
            }
        }
    }
    let mut text = cluster.log();
    for part in ["ns", "images/index", "ledger", "logs"] {
        all(&cluster.data_dir().join("node").join(part), &mut text);
    }
    text
}

const FAILED_PULL: [&str; 2] = ["ErrImagePull", "ImagePullBackOff"];

#[test]
fn a_private_image_needs_its_secret() {
    let registry = Registry::start(&Guard::Basic, false);
    let (image, digest) = registry.push(&[&guest("toolbox.wasm")], "team/toolbox:1");
    let cluster = cluster(&registries(&[&registry]), &[]);
    let host = registry.address();
    for (index, kubectl) in cluster.kubectls().into_iter().enumerate() {
        let (namespace, other) = (format!("private-{index}"), format!("other-{index}"));
        for name in [&namespace, &other] {
            kubectl.run(&format!("create namespace {name}")).unwrap();
        }
        apply(&kubectl, &namespace, &[greeter("without", &image, "Always", &["later"])]);
        let message = waits(&kubectl, &format!("without -n {namespace}"), &FAILED_PULL);
        assert!(message.contains("denies access") && message.contains("no pull secret"), "{message}");
        told(&kubectl, &namespace, &["FailedToRetrieveImagePullSecret", "later"]);

        create_secret(&kubectl, &namespace, "wrong", host, "a-wrong-guess");
        apply(&kubectl, &namespace, &[greeter("wrong", &image, "Always", &["wrong"])]);
        let message = waits(&kubectl, &format!("wrong -n {namespace}"), &FAILED_PULL);
        assert!(message.contains("are not accepted"), "{message}");

        create_secret(&kubectl, &namespace, "right", host, PASSWORD);
        apply(&kubectl, &namespace, &[greeter("right", &image, "IfNotPresent", &["wrong", "right"])]);
        let done = phase(&kubectl, &format!("right -n {namespace}"), "Succeeded");
        let shown = done["status"]["containerStatuses"][0]["imageID"].as_str().unwrap_or_default();
        assert_eq!(shown, format!("{host}/team/toolbox@{digest}"));
        contains(&kubectl.run(&format!("logs right -n {namespace}")).unwrap(), "hello").unwrap();
        // It is on the node now, but for whom it was pulled.
        apply(
            &kubectl,
            &other,
            &[greeter("thief", &image, "IfNotPresent", &[]), greeter("never", &image, "Never", &[])],
        );
        let message = waits(&kubectl, &format!("thief -n {other}"), &FAILED_PULL);
        assert!(message.contains("denies access"), "{message}");
        let message = waits(&kubectl, &format!("never -n {other}"), &["ErrImageNeverPull"]);
        assert!(message.contains("credentials that this pod does not have"), "{message}");
        // One that runs already goes on although its secret is gone.
        let mut worker =
            pod("worker", "Always", &json!({"image": image, "args": ["exit", "1"], "imagePullPolicy": "IfNotPresent"}));
        worker["spec"]["imagePullSecrets"] = json!([{"name": "passing"}]);
        create_secret(&kubectl, &namespace, "passing", host, PASSWORD);
        apply(&kubectl, &namespace, &[worker]);
        let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0);
        let name = format!("worker -n {namespace}");
        let seen = restarts(&until(&kubectl, &name, "restarting", |pod| restarts(pod) > 0));
        kubectl.run(&format!("delete secret passing -n {namespace}")).unwrap();
        until(&kubectl, &name, "restarting again", |pod| restarts(pod) > seen);
        kubectl.run(&format!("delete pod {name} --wait=false")).unwrap();

        apply(&kubectl, &namespace, &[greeter("again", &image, "Never", &["right"])]);
        phase(&kubectl, &format!("again -n {namespace}"), "Succeeded");
        let events = kubectl.run(&format!("get events -A -n {namespace}")).unwrap();
        assert!(!events.contains(PASSWORD) && !events.contains("a-wrong-guess"), "{events}");
    }
    let text = exposed(&cluster);
    assert!(!text.contains(PASSWORD) && !text.contains("a-wrong-guess"), "a password is where it should not be");
    assert_eq!(registry.answered("GET /v2/team/toolbox/blobs/"), 1, "{}", registry.log());
}

#[test]
fn tokens_and_an_own_authority() {
    let tokens = TokenServer::start();
    let registry = Registry::start(&Guard::Tokens(&tokens), true);
    // The token server speaks plain HTTP, which a user's command does not allow beside TLS.
    let refused = registry.coracle(&[
        "push",
        &guest("toolbox.wasm").display().to_string(),
        &format!("{}/x:1", registry.address()),
    ]);
    assert!(refused.unwrap_err().contains("a server without TLS"));
    let open = Registry::start(&Guard::Tokens(&tokens), false);
    let (image, _) = open.push(&[&guest("toolbox.wasm")], "team/toolbox:1");

    let directory = tempfile::tempdir().unwrap();
    docker_config(directory.path(), open.address(), PASSWORD);
    let mut settings = registries(&[&registry, &open]);
    settings["registries"][tokens.address()] = json!({"plainHttp": true});
    settings["credentials"] = json!(directory.path().join("config.json"));
    let cluster = cluster(&settings, &[]);
    let kubectl = cluster.kubectl();
    let given = tokens.given();
    for name in ["one", "two", "three"] {
        apply(&kubectl, "default", &[greeter(name, &image, "Always", &[])]);
        phase(&kubectl, name, "Succeeded");
    }
    assert_eq!(tokens.given(), given + 1, "a token lasts");
    // Over TLS with the test's own authority; there is nothing in it, which only one who was let in is told.
    create_secret(&kubectl, "default", "secure", registry.address(), PASSWORD);
    let missing = format!("{}/team/none:1", registry.address());
    apply(&kubectl, "default", &[greeter("missing", &missing, "Always", &["secure"])]);
    let message = waits(&kubectl, "missing", &FAILED_PULL);
    assert!(message.contains("not found in registry"), "{message}");
}

#[test]
fn what_is_wrong_with_a_connection_is_said() {
    let secure = Registry::start(&Guard::Nobody, true);
    let plain = Registry::start(&Guard::Nobody, false);
    let (image, _) = secure.push(&[&guest("toolbox.wasm")], "toolbox:1");
    let cluster = cluster(&json!({}), &[]);
    let kubectl = cluster.kubectl();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    apply(
        &kubectl,
        "default",
        &[
            greeter("unknown-ca", &image, "Always", &[]),
            greeter("no-tls", &format!("{}/toolbox:1", plain.address()), "Always", &[]),
            greeter("gone", &format!("{gone}/toolbox:1"), "Always", &[]),
        ],
    );
    for (name, reasons, part) in [
        ("unknown-ca", FAILED_PULL, "unknown authority; name its"),
        ("no-tls", FAILED_PULL, "it does not speak TLS"),
        ("gone", ["RegistryUnavailable", "ImagePullBackOff"], "refused"),
    ] {
        let message = waits(&kubectl, name, &reasons);
        assert!(message.contains(part), "{name}: {message}");
    }
    assert_eq!(plain.answered("GET /v2/toolbox"), 0);
}

#[test]
fn a_mirror_stands_in_for_its_registry() {
    let mirror = Registry::start(&Guard::Nobody, false);
    let (_, digest) = mirror.push(&[&guest("toolbox.wasm")], "team/toolbox:1");
    let mut settings = registries(&[&mirror]);
    // A name that nobody can reach, by its definition.
    settings["registries"]["registry.invalid"] = json!({"mirrors": [mirror.address()]});
    let cluster = cluster(&settings, &[]);
    let kubectl = cluster.kubectl();
    let image = "registry.invalid/team/toolbox:1";
    apply(&kubectl, "default", &[greeter("mirrored", image, "Always", &[])]);
    let done = phase(&kubectl, "mirrored", "Succeeded");
    let shown = &done["status"]["containerStatuses"][0]["imageID"];
    assert_eq!(*shown, format!("registry.invalid/team/toolbox@{digest}"), "it keeps its own name");
}

#[test]
fn many_pods_fetch_a_module_once() {
    let registry = Registry::start(&Guard::Nobody, false);
    let mut images = Vec::new();
    for tag in ["1", "2", "latest"] {
        images.push(registry.push(&[&guest("toolbox.wasm")], &format!("toolbox:{tag}")));
    }
    let cluster = cluster(&registries(&[&registry]), &[]);
    let kubectl = cluster.kubectl();
    let pods: Vec<Value> =
        (0..12).map(|index| greeter(&format!("pod-{index}"), &images[index % images.len()].0, "Always", &[])).collect();
    apply(&kubectl, "default", &pods);
    for index in 0..12 {
        phase(&kubectl, &format!("pod-{index}"), "Succeeded");
    }
    assert_eq!(registry.answered("GET /v2/toolbox/blobs/"), 1, "{}", registry.log());
    let events = kubectl.run("get events").unwrap();
    assert!(events.contains("Pulling image") && events.contains("Successfully pulled image"), "{events}");
    // What the tag means is asked for; what it meant once stays reachable by its digest.
    let (name, digest) = &images[0];
    registry.push(&[&guest("toolbox-p1.wasm")], "toolbox:1");
    let pinned = format!("{name}@{digest}");
    apply(&kubectl, "default", &[greeter("pinned", &pinned, "Always", &[])]);
    let done = phase(&kubectl, "pinned", "Succeeded");
    let shown = done["status"]["containerStatuses"][0]["imageID"].as_str().unwrap_or_default();
    assert!(shown.ends_with(digest.as_str()), "{shown}");
}

#[test]
fn several_modules_in_one_image() {
    let registry = Registry::start(&Guard::Basic, false);
    let (image, digest) = registry.push(&[&guest("toolbox.wasm"), &guest("toolbox-p1.wasm")], "tools:1");
    let inspected = registry.coracle(&["inspect", &image]).unwrap();
    for part in [digest.as_str(), "component (WASI 0.2)", "module (WASI preview 1)", "toolbox-p1.wasm"] {
        contains(&inspected, part).unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("out").display().to_string();
    registry.coracle(&["pull", &image, "--output", &output]).unwrap();
    for name in ["toolbox.wasm", "toolbox-p1.wasm"] {
        assert_eq!(fs::read(Path::new(&output).join(name)).unwrap(), fs::read(guest(name)).unwrap(), "{name}");
    }
    let anonymous = Registry::start(&Guard::Nobody, false);
    let denied = anonymous.coracle(&["pull", &image, "--output", &output]).unwrap_err();
    assert!(denied.contains("answers 401"), "{denied}");

    let mut settings = registries(&[&registry]);
    docker_config(directory.path(), registry.address(), PASSWORD);
    settings["credentials"] = json!(directory.path().join("config.json"));
    let cluster = cluster(&settings, &[]);
    let kubectl = cluster.kubectl();
    let tool = |name: &str, command: &[&str]| {
        pod(name, "Never", &json!({"image": image, "command": command, "args": ["exit", "7"]}))
    };
    let pods = [
        tool("module", &["toolbox-p1"]),
        tool("module-file", &["toolbox-p1.wasm"]),
        tool("component", &["toolbox"]),
        tool("unknown", &["hammer"]),
    ];
    apply(&kubectl, "default", &pods);
    for (name, code) in [("module", 7), ("module-file", 7), ("component", 1)] {
        let done = phase(&kubectl, name, "Failed");
        assert_eq!(done["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], code, "{name}");
    }
    told(&kubectl, "default", &["the image has no module \"hammer\"; it holds toolbox, toolbox-p1"]);
}

#[test]
fn a_full_disk_leaves_nothing_half() {
    let registry = Registry::start(&Guard::Nobody, false);
    let (image, _) = registry.push(&[&guest("toolbox.wasm")], "toolbox:1");
    let cluster = Cluster::unstarted();
    let disk = SmallDisk::mount(&cluster.data_dir().join("node/images"), 8);
    let mut cluster = cluster;
    write_settings(&cluster, &registries(&[&registry]));
    cluster.start_again();
    let kubectl = cluster.kubectl();
    disk.fill();
    apply(&kubectl, "default", &[greeter("full", &image, "IfNotPresent", &[])]);
    let message = waits(&kubectl, "full", &FAILED_PULL);
    assert!(message.contains("No space left on device"), "{message}");
    let below = |name: &str| fs::read_dir(cluster.data_dir().join("node/images").join(name)).unwrap().count();
    assert_eq!((below("partial"), below("blobs/sha256"), below("index")), (0, 0, 0));
    disk.free();
    apply(&kubectl, "default", &[greeter("roomy", &image, "IfNotPresent", &[])]);
    phase(&kubectl, "roomy", "Succeeded");
    // The process stands in it.
    cluster.stop();
}

#[test]
fn wrong_settings_are_named() {
    let mut cluster = Cluster::unstarted();
    for (settings, part) in [
        (json!({"registries": {"r.test": {"plainHTTP": true}}}), "registries[\"r.test\"]: unknown field \"plainHTTP\""),
        (json!({"credentials": "none.json"}), "credentials: cannot read none.json"),
    ] {
        write_settings(&cluster, &settings);
        let said = cluster.start_and_fail();
        assert!(said.contains("registries.json") && said.contains(part), "{said}");
    }
}

/// A valid command whose other function has a million blocks inside each other: five minutes of a compiler.
fn bomb() -> Vec<u8> {
    fn length(mut value: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let low = u8::try_from(value & 0x7f).unwrap();
            value >>= 7;
            bytes.push(if value == 0 { low } else { low | 0x80 });
            if value == 0 {
                return bytes;
            }
        }
    }
    let depth = 1_000_000;
    let body = [vec![0], b"\x02\x40".repeat(depth), vec![0x0b; depth + 1]].concat();
    let code = [vec![2, 2, 0, 0x0b], length(body.len()), body].concat();
    let start = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x03\x02\0\0\x07\x0a\x01\x06_start\0\0\x0a";
    [start.to_vec(), length(code.len()), code].concat()
}

#[test]
fn a_compile_bomb_is_one_pods_trouble() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bomb.wasm");
    fs::write(&file, bomb()).unwrap();
    let mut cluster = cluster(&json!({}), &["--compile-time", "5"]);
    let kubectl = cluster.kubectl();
    cluster.push(&file, "bomb:1");
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    apply(&kubectl, "default", &[greeter("before", "toolbox:1", "IfNotPresent", &[])]);
    phase(&kubectl, "before", "Succeeded");
    apply(&kubectl, "default", &[greeter("bomb", "bomb:1", "IfNotPresent", &[])]);
    // Code that is there needs no compiler.
    apply(&kubectl, "default", &[greeter("beside", "toolbox:1", "IfNotPresent", &[])]);
    phase(&kubectl, "beside", "Succeeded");
    cluster.push(&guest("toolbox-p1.wasm"), "toolbox-p1:1");
    apply(&kubectl, "default", &[greeter("behind", "toolbox-p1:1", "IfNotPresent", &[])]);
    phase(&kubectl, "behind", "Succeeded");
    let message = waits(&kubectl, "bomb", &["CreateContainerError"]);
    // Of processor time, or on the clock where the machine is busy.
    let limit = "module bomb cannot be compiled: compiling it takes more than";
    assert!(message.contains(limit), "{message}");
    told(&kubectl, "default", &[limit]);
    assert_eq!(kubectl.json("get pod bomb").unwrap()["status"]["phase"], "Pending");

    // What was compiled is there after a restart, as it was.
    let directory = cluster.data_dir().join("node/compiled");
    let compiled = || {
        let mut files = Vec::new();
        for engine in fs::read_dir(&directory).unwrap().flatten() {
            for file in fs::read_dir(engine.path()).unwrap().flatten() {
                if file.path().extension().is_some_and(|extension| extension == "cwasm") {
                    files.push((file.path(), file.metadata().unwrap().modified().unwrap()));
                }
            }
        }
        files.sort();
        files
    };
    let before = compiled();
    assert_eq!(before.len(), 2, "{before:?}");
    kubectl.run("delete pod bomb --wait=false").unwrap();
    cluster.stop();
    cluster.start_again();
    let kubectl = cluster.kubectl();
    apply(&kubectl, "default", &[greeter("after", "toolbox:1", "IfNotPresent", &[])]);
    phase(&kubectl, "after", "Succeeded");
    assert_eq!(compiled(), before, "it was compiled again");
}
