//! What unmodified kubectls of different ages ask of the API: every verb and output that a person uses daily.

use coracle_tests::{Cluster, Kubectl, eventually, guest, wait::contains};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

fn each(test: impl Fn(&Cluster, &Kubectl)) {
    let cluster = Cluster::start();
    for kubectl in cluster.kubectls() {
        test(&cluster, &kubectl);
    }
}

fn run(kubectl: &Kubectl, words: &str) -> String {
    kubectl.run(words).unwrap_or_else(|error| panic!("kubectl {words}: {error}"))
}

#[test]
fn it_says_what_it_is() {
    each(|_, kubectl| {
        assert!(run(kubectl, "version").contains("v1.33"), "the server's version is not shown");
        assert!(run(kubectl, "cluster-info").contains("is running at"));
        let resources = run(kubectl, "api-resources");
        for (plural, kind) in [
            ("pods", "Pod"),
            ("services", "Service"),
            ("endpoints", "Endpoints"),
            ("endpointslices", "EndpointSlice"),
            ("namespaces", "Namespace"),
            ("nodes", "Node"),
            ("events", "Event"),
            ("configmaps", "ConfigMap"),
            ("secrets", "Secret"),
        ] {
            let listed = resources.lines().any(|line| line.starts_with(plural) && line.trim_end().ends_with(kind));
            assert!(listed, "{plural} is missing in:\n{resources}");
            run(kubectl, &format!("get {plural} -A"));
            run(kubectl, &format!("get {plural} -A -o wide"));
        }
        let explained = run(kubectl, "explain pod.spec");
        for part in ["containers", "initContainers", "-required-", "restartPolicy", "List of containers"] {
            assert!(explained.contains(part), "{part} is missing in:\n{explained}");
        }
        assert!(run(kubectl, "explain pod.spec.containers.resources.limits").to_lowercase().contains("limits"));
        assert!(run(kubectl, "get nodes").contains("Ready"));
        assert!(run(kubectl, "describe node").contains("Allocatable"));
    });
}

#[test]
fn objects_are_created_printed_selected_and_deleted() {
    each(|_, kubectl| {
        run(kubectl, "create namespace team");
        run(kubectl, "create configmap one --from-literal=a=1 --from-literal=b=2 -n team");
        run(kubectl, "create secret generic two --from-literal=password=hunter2 -n team");
        run(kubectl, "create service clusterip three --tcp=80:8080 -n team");
        run(kubectl, "label configmap one -n team tier=back");
        run(kubectl, "annotate configmap one -n team note=hello");
        assert_eq!(run(kubectl, "get configmap one -n team -o jsonpath={.data.b}"), "2");
        assert_eq!(run(kubectl, "get configmap -n team -l tier=back -o name").trim(), "configmap/one");
        assert_eq!(run(kubectl, "get configmap -n team -l tier!=back,tier -o name").trim(), "");
        assert!(run(kubectl, "get configmap one -n team -o yaml").contains("note: hello"));
        assert_eq!(kubectl.json("get secret two -n team").unwrap()["data"]["password"], "aHVudGVyMg==");
        let service = kubectl.json("get service three -n team").unwrap();
        assert!(service["spec"]["clusterIP"].as_str().unwrap().starts_with("10.96."), "{service}");
        for part in ["Name:", "three", "ClusterIP", "8080/TCP"] {
            assert!(run(kubectl, "describe service three -n team").contains(part), "{part}");
        }
        assert!(!run(kubectl, "describe secret two -n team").contains("hunter2"));
        let all = run(kubectl, "get configmaps -A");
        assert!(all.contains("NAMESPACE") && all.contains("team"), "{all}");
        let changed = kubectl.run_arguments([
            "patch",
            "configmap",
            "one",
            "-n",
            "team",
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/data/a"}]"#,
        ]);
        changed.unwrap();
        let one = kubectl.json("get configmap one -n team").unwrap();
        assert_eq!(one["data"], json!({"b": "2"}));
        assert!(kubectl.run("create namespace team").unwrap_err().contains("AlreadyExists"));
        assert!(kubectl.run("get configmap nobody -n team").unwrap_err().contains("NotFound"));
        assert!(kubectl.run("create configmap x -n nowhere").unwrap_err().contains("\"nowhere\" not found"));
        run(kubectl, "delete namespace team --timeout=60s");
        assert!(kubectl.run("get namespace team").unwrap_err().contains("NotFound"));
        assert!(!run(kubectl, "get configmaps -A").contains("team"), "the namespace's objects are still there");
    });
}

fn service(ports: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": ports}})
    .to_string()
}

#[test]
fn apply_twice_changes_nothing_and_merges_lists_by_key() {
    each(|_, kubectl| {
        let two = json!([{"name": "http", "port": 80}, {"name": "admin", "port": 81, "targetPort": "adm"}]);
        assert!(kubectl.apply(&service(&two)).unwrap().contains("created"));
        let first = kubectl.json("get service web").unwrap();
        assert!(kubectl.apply(&service(&two)).unwrap().contains("unchanged"));
        let second = kubectl.json("get service web").unwrap();
        assert_eq!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
        // Somebody else adds a label; an apply that never had it leaves it alone.
        run(kubectl, "label service web owner=me");
        let one = json!([{"name": "http", "port": 80}]);
        assert!(kubectl.apply(&service(&one)).unwrap().contains("configured"));
        let third = kubectl.json("get service web").unwrap();
        assert_eq!(third["spec"]["ports"].as_array().unwrap().len(), 1, "the removed port is still there");
        assert_eq!(third["metadata"]["labels"]["owner"], "me");
        assert_eq!(third["spec"]["clusterIP"], first["spec"]["clusterIP"]);
        run(kubectl, "delete service web");
    });
}

#[test]
fn apply_with_a_container_removed_is_refused_as_kubernetes_does() {
    each(|cluster, kubectl| {
        cluster.push(&guest("toolbox.wasm"), "toolbox:1");
        let pod = |names: &[&str]| {
            let containers: Vec<_> =
                names.iter().map(|name| json!({"name": name, "image": "toolbox:1", "args": ["wait-eof"]})).collect();
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pair"},
                "spec": {"containers": containers, "terminationGracePeriodSeconds": 1}})
            .to_string()
        };
        assert!(kubectl.apply(&pod(&["a", "b"])).unwrap().contains("created"));
        assert!(kubectl.apply(&pod(&["a", "b"])).unwrap().contains("unchanged"));
        let error = kubectl.apply(&pod(&["a"])).unwrap_err();
        assert!(error.contains("pod updates may not add or remove containers"), "{error}");
        assert_eq!(kubectl.json("get pod pair").unwrap()["spec"]["containers"].as_array().unwrap().len(), 2);
        run(kubectl, "delete pod pair");
    });
}

#[test]
fn logs_follow_tail_and_remember_the_previous_run() {
    each(|cluster, kubectl| {
        cluster.push(&guest("toolbox.wasm"), "toolbox:1");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "talker"},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [
                {"name": "lines", "image": "toolbox:1", "args": ["flood", "99", "--", "wait-eof"]},
                {"name": "crash", "image": "toolbox:1", "args": ["echo", "a last word", "--", "exit", "1"]}]}});
        kubectl.apply(&pod.to_string()).unwrap();
        eventually("all lines", || {
            let log = kubectl.run("logs talker -c lines")?;
            if log.lines().count() == 100 && log.contains("waiting") {
                Ok(())
            } else {
                Err(format!("{} lines", log.lines().count()))
            }
        });
        let log = run(kubectl, "logs talker -c lines");
        let tail = run(kubectl, "logs talker -c lines --tail=3");
        assert_eq!(tail.lines().collect::<Vec<_>>(), log.lines().skip(97).collect::<Vec<_>>());
        let stamped = run(kubectl, "logs talker -c lines --tail=1 --timestamps");
        assert!(stamped.starts_with("20") && stamped.contains('T'), "{stamped}");
        let error = kubectl.run("logs talker").unwrap_or_else(|error| error);
        assert!(error.contains("lines"), "two containers and no choice: {error}");
        eventually("the previous run", || contains(&kubectl.run("logs talker -c crash --previous")?, "a last word"));
        // A follower sees the end of the container.
        let mut follower = kubectl.command(["logs", "-f", "talker", "-c", "lines"]);
        let mut follower = follower.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.next().is_some(), "the follower gets nothing");
        let reader = std::thread::spawn(move || lines.collect::<Vec<_>>());
        run(kubectl, "delete pod talker");
        let lines = reader.join().unwrap();
        assert_eq!(lines.len(), 100, "99 lines and `waiting` were there, `bye` follows: {lines:?}");
        assert_eq!(lines.last().map(String::as_str), Some("bye"));
        follower.wait().unwrap();
    });
}

#[test]
fn a_watch_prints_every_change() {
    each(|_, kubectl| {
        run(kubectl, "create configmap watched --from-literal=n=0");
        let mut watcher = kubectl.command([
            "get",
            "configmap",
            "-w",
            "--no-headers",
            "-o",
            "jsonpath={.metadata.name}={.data.n};{\"\\n\"}",
        ]);
        let mut watcher = watcher.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(watcher.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "watched=0;"), "the watch does not begin with what is there");
        for number in 1..=3 {
            let patch = format!("{{\"data\":{{\"n\":\"{number}\"}}}}");
            kubectl.run_arguments(["patch", "configmap", "watched", "-p", &patch]).unwrap();
            let wanted = format!("watched={number};");
            assert_eq!(lines.next(), Some(wanted));
        }
        watcher.kill().unwrap();
        watcher.wait().unwrap();
        run(kubectl, "delete configmap watched");
    });
}

#[test]
fn pods_that_fit_nowhere_wait_and_say_why() {
    each(|cluster, kubectl| {
        cluster.push(&guest("toolbox.wasm"), "toolbox:1");
        let pod = |name: &str, spec: Value| {
            let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
                "spec": {"terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "c", "image": "toolbox:1", "args": ["wait-eof"]}]}});
            for (key, value) in spec.as_object().unwrap() {
                if key == "resources" {
                    pod["spec"]["containers"][0]["resources"] = value.clone();
                } else {
                    pod["spec"][key] = value.clone();
                }
            }
            pod.to_string()
        };
        let node = run(kubectl, "get nodes -o jsonpath={.items[0].metadata.name}");
        kubectl.apply(&pod("huge", json!({"resources": {"requests": {"cpu": "1000"}}}))).unwrap();
        kubectl.apply(&pod("picky", json!({"nodeSelector": {"moon": "full"}}))).unwrap();
        kubectl.apply(&pod("placed", json!({"nodeName": node}))).unwrap();
        kubectl.apply(&pod("modest", json!({"resources": {"requests": {"cpu": "1m", "memory": "1Mi"}}}))).unwrap();
        for (name, part) in [
            ("huge", "0/1 nodes are available: 1 Insufficient cpu"),
            ("picky", "0/1 nodes are available: 1 node(s) didn't match"),
        ] {
            eventually(name, || {
                let described = kubectl.run(&format!("describe pod {name}"))?;
                contains(&described, "FailedScheduling")?;
                contains(&described, part)
            });
            assert_eq!(kubectl.json(&format!("get pod {name}")).unwrap()["status"]["phase"], "Pending");
        }
        for name in ["placed", "modest"] {
            eventually(name, || contains(&kubectl.run(&format!("get pod {name}"))?, "Running"));
        }
        // The label that was missing arrives; nobody touches the pod.
        run(kubectl, &format!("label node {node} moon=full"));
        eventually("picky to run", || contains(&kubectl.run("get pod picky")?, "Running"));
        run(kubectl, &format!("label node {node} moon-"));
        run(kubectl, "delete pod huge picky placed modest");
    });
}
