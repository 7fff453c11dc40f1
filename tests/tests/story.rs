//! The story: a pod whose init containers wait for two services, driven by every kubectl that must work.

use coracle_tests::{Cluster, Kubectl, eventually, example, wait::contains};

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
