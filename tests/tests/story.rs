//! The stories, driven by every kubectl that must work: a pod whose init containers wait for two services; three web
//! servers with sidecars behind one service.

use coracle_tests::{
    Cluster, Kubectl, eventually, example,
    network::{self, address},
    wait::contains,
};
use std::collections::BTreeSet;

fn pod_line(kubectl: &Kubectl) -> String {
    kubectl.run("get pod myapp-pod --no-headers").unwrap_or_else(|error| error)
}

fn file(name: &str) -> String {
    example(&format!("init-pod/{name}")).display().to_string()
}

#[test]
fn a_pod_waits_for_its_services() {
    let cluster = Cluster::start();
    cluster.push(&example("init-pod/wait-for.wasm"), "wait-for:1");
    cluster.push(&example("init-pod/app.wasm"), "myapp:1");
    for kubectl in cluster.kubectls() {
        tell(&kubectl);
    }
}

fn tell(kubectl: &Kubectl) {
    let run = |words: &str| kubectl.run(words).unwrap_or_else(|error| panic!("kubectl {words}: {error}"));
    assert!(run(&format!("apply -f {}", file("pod.yaml"))).contains("pod/myapp-pod created"));
    eventually("the first init container's cry", || {
        contains(&kubectl.run("logs myapp-pod -c init-myservice")?, "waiting for myservice")
    });
    eventually("Init:0/2", || contains(&pod_line(kubectl), "Init:0/2"));
    let pod = kubectl.json("get pod myapp-pod").unwrap();
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(condition(&pod, "Initialized"), "False");
    let described = run("describe pod myapp-pod");
    for part in ["init-myservice", "init-mydb", "PodInitializing", "Started", "ContainersNotInitialized"] {
        assert!(described.contains(part) || pod.to_string().contains(part), "{part} is missing in:\n{described}");
    }
    run(&format!("apply -f {}", file("myservice.yaml")));
    eventually("Init:1/2", || contains(&pod_line(kubectl), "Init:1/2"));
    run(&format!("apply -f {}", file("mydb.yaml")));
    eventually("Running", || contains(&pod_line(kubectl), "Running"));
    assert!(pod_line(kubectl).contains("1/1"), "{}", pod_line(kubectl));
    eventually("the app's word", || contains(&kubectl.run("logs myapp-pod")?, "The app is running!"));
    let pod = kubectl.json("get pod myapp-pod").unwrap();
    assert_eq!(condition(&pod, "Initialized"), "True");
    assert_eq!(condition(&pod, "Ready"), "True");
    let address = kubectl.json("get service myservice").unwrap()["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let told = run("logs myapp-pod -c init-myservice");
    assert!(told.contains(&address), "the guest resolved something else than {address}:\n{told}");
    run(&format!("delete -f {} -f {} -f {}", file("pod.yaml"), file("myservice.yaml"), file("mydb.yaml")));
    assert!(kubectl.run("get pod myapp-pod").unwrap_err().contains("NotFound"));
}

fn condition(pod: &serde_json::Value, name: &str) -> String {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|one| one["type"] == name);
    found.and_then(|one| one["status"].as_str()).unwrap_or("missing").to_owned()
}

#[test]
fn containers_talk_and_a_service_finds_them() {
    let cluster = Cluster::start();
    cluster.push(&example("web/server.wasm"), "web-server:1");
    cluster.push(&example("web/rewriter.wasm"), "web-rewriter:1");
    for kubectl in cluster.kubectls() {
        tell_of_the_web(&cluster, &kubectl);
    }
}

fn tell_of_the_web(cluster: &Cluster, kubectl: &Kubectl) {
    let run = |words: &str| kubectl.run(words).unwrap_or_else(|error| panic!("kubectl {words}: {error}"));
    let path = |name: &str| example(&format!("web/{name}")).display().to_string();
    run(&format!("apply -f {} -f {}", path("pod.yaml"), path("service.yaml")));
    eventually("the sidecar over localhost", || {
        contains(&kubectl.run("logs web -c rewriter")?, "localhost serves edition ")
    });
    network::endpoints(kubectl, "web", 1);
    let from_the_host = network::node_port(cluster, "web", "http");
    let who = || {
        let answer = network::get(from_the_host, "/")?;
        let name = answer.header("x-served-by").unwrap_or_default().to_owned();
        contains(&answer.text(), "written beside web").map(|()| name)
    };
    let seen = format!("web at {}", address(kubectl, "web"));
    eventually("the first answer", || contains(&who()?, &seen));
    run(&format!("apply -f {}", path("replicas.yaml")));
    network::endpoints(kubectl, "web", 3);
    let expected: BTreeSet<String> =
        ["web", "web-2", "web-3"].map(|name| format!("{name} at {}", address(kubectl, name))).into();
    let mut answered = BTreeSet::new();
    eventually("answers from all three", || {
        answered.insert(who()?);
        if answered == expected { Ok(()) } else { Err(format!("{answered:?}, not {expected:?}")) }
    });
    for name in ["web", "web-2", "web-3"] {
        let wide = run(&format!("get pod {name} -o wide --no-headers"));
        assert!(wide.contains(&address(kubectl, name).to_string()), "{wide}");
    }
    run(&format!("delete -f {} -f {} -f {}", path("pod.yaml"), path("replicas.yaml"), path("service.yaml")));
    eventually("nobody at the node port", || match network::get(from_the_host, "/") {
        Ok(answer) => Err(answer.text()),
        Err(_) => Ok(()),
    });
}

#[test]
fn mistakes_are_refused_with_their_place() {
    let cluster = Cluster::start();
    for kubectl in cluster.kubectls() {
        for (manifest, part) in [
            ("pod-unknown-field.yaml", "spec.initContainer"),
            ("pod-duplicate-container.yaml", "spec.containers[1].name: Duplicate value"),
            ("pod-init-readiness.yaml", "spec.initContainers[0].readinessProbe: Forbidden"),
        ] {
            // kubectl 1.20 checks field names by itself unless told not to; the server must refuse as well.
            let error = kubectl.run(&format!("apply -f {}", file(manifest))).unwrap_err();
            let shown = if manifest == "pod-unknown-field.yaml" { "unknown field" } else { part };
            assert!(error.contains(shown), "{manifest}: {error}");
        }
        assert!(!kubectl.run("get pods").unwrap().contains("myapp"), "a refused pod was stored");
    }
}
