//! The stories, driven by every kubectl that must work: a pod whose init containers wait for two services; three web
//! servers with sidecars behind one service; three nodes of which one dies and comes back.

use coracle_tests::{
    Cluster, Kubectl,
    by_hand::{ByHand, kill_node},
    eventually, example,
    network::{self, address},
    pods::{condition, until},
    wait::contains,
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

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
    assert_eq!(condition(&pod, "Initialized")["status"], "False");
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
    assert_eq!(condition(&pod, "Initialized")["status"], "True");
    assert_eq!(condition(&pod, "Ready")["status"], "True");
    let address = kubectl.json("get service myservice").unwrap()["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let told = run("logs myapp-pod -c init-myservice");
    assert!(told.contains(&address), "the guest resolved something else than {address}:\n{told}");
    run(&format!("delete -f {} -f {} -f {}", file("pod.yaml"), file("myservice.yaml"), file("mydb.yaml")));
    assert!(kubectl.run("get pod myapp-pod").unwrap_err().contains("NotFound"));
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
fn a_node_dies_and_whoever_calls_its_service_hardly_notices() {
    let mut cluster = Cluster::of_nodes(3).with_arguments(&["--node-profile", "fast"]);
    cluster.start_again();
    cluster.push(&example("web/server.wasm"), "web-server:1");
    cluster.push(&example("fleet/caller.wasm"), "caller:1");
    let (mut words, mut by_hand) = (String::new(), None);
    for kubectl in cluster.kubectls() {
        tell_of_the_fleet(&cluster, &kubectl, &mut words, &mut by_hand);
    }
    drop(by_hand);
    assert!(cluster.stop().success(), "{}", cluster.log());
}

/// `by_hand` is node-3 when it was killed and started again before, with `words`.
fn tell_of_the_fleet(cluster: &Cluster, kubectl: &Kubectl, words: &mut String, by_hand: &mut Option<ByHand>) {
    const NAMES: [&str; 3] = ["web-1", "web-2", "web-3"];
    let run = |words: &str| kubectl.run(words).unwrap_or_else(|error| panic!("kubectl {words}: {error}"));
    let path = |name: &str| example(&format!("fleet/{name}")).display().to_string();
    run(&format!("apply -f {} -f {}", path("web.yaml"), path("caller.yaml")));
    for (index, name) in NAMES.iter().enumerate() {
        let pod = until(kubectl, name, "ready", |pod| condition(pod, "Ready")["status"] == "True");
        assert_eq!(pod["spec"]["nodeName"], format!("node-{}", index + 1), "{pod}");
    }
    network::endpoints(kubectl, "web", 3);
    let port = network::node_port_number(kubectl, "web", "http");
    let IpAddr::V4(first) = cluster.host() else { panic!("{} is no IPv4 address", cluster.host()) };
    let through = |node: u32| SocketAddr::from((Ipv4Addr::from_bits(first.to_bits() + node), port));
    let all_through = |node: u32| {
        let mut answered = BTreeSet::new();
        eventually("answers from all three through any node", || {
            let answer = network::get(through(node), "/")?;
            contains(&answer.text(), "one of three")?;
            answered
                .insert(answer.header("x-served-by").unwrap_or_default().split(' ').next().unwrap_or("").to_owned());
            if NAMES.iter().all(|name| answered.contains(*name)) { Ok(()) } else { Err(format!("{answered:?}")) }
        });
    };
    (0..3).for_each(all_through);
    let calls = || kubectl.run("logs caller");
    let lines_with = |log: &str, names: &[&str]| {
        let lines = log.lines().filter(|line| line.starts_with("calls to "));
        lines.filter(|line| NAMES.iter().all(|name| line.contains(name) == names.contains(name))).count()
    };
    let has_line = |names: &[&str], before: usize| {
        let log = calls()?;
        if lines_with(&log, names) > before { Ok(()) } else { Err(log) }
    };
    eventually("calls that all three answer", || has_line(&NAMES, 0));

    match by_hand.take() {
        Some(node) => drop(node),
        None => *words = kill_node(cluster, "node-3"),
    }
    eventually("NotReady", || contains(&kubectl.run("get node node-3 --no-headers")?, "NotReady"));
    until(kubectl, "web-3", "marked", |pod| condition(pod, "Ready")["status"] == "False");
    network::endpoints(kubectl, "web", 2);
    let before = lines_with(&calls().unwrap(), &NAMES[..2]);
    eventually("calls that two answer", || has_line(&NAMES[..2], before + 1));
    let (others, log) = (lines_with(&calls().unwrap(), &NAMES), calls().unwrap());
    // One call at a time: no more than one was in flight when the node died.
    assert!(log.matches("FAILED").count() <= 1, "{log}");

    *by_hand = Some(ByHand::start(words));
    eventually("Ready", || {
        let line = kubectl.run("get node node-3 --no-headers")?;
        if line.contains(" Ready") { Ok(()) } else { Err(line) }
    });
    let again = until(kubectl, "web-3", "ready again", |pod| condition(pod, "Ready")["status"] == "True");
    assert!(again["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(1), "{again}");
    network::endpoints(kubectl, "web", 3);
    eventually("calls that all three answer again", || has_line(&NAMES, others));
    (0..3).for_each(all_through);
    let log = calls().unwrap();
    assert!(log.matches("FAILED").count() <= 1, "{log}");
    run(&format!("delete -f {} -f {}", path("web.yaml"), path("caller.yaml")));
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
