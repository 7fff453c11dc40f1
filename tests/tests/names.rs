//! Names as guests ask for them: by WASI lookup, and by DNS messages of their own to the cluster's DNS address.

use coracle_tests::{
    Kubectl,
    network::{address, client, cluster, endpoints, probe, server, service},
    pods::{self, phase, running},
};
use serde_json::{Value, json};

const DNS: &str = "10.96.0.10";
const ZONE: &str = "default.svc.cluster.local";

/// Servers `web` (a service with an address) and `alpha`, `beta` (hostnames below the headless service `peers`).
fn prepare(kubectl: &Kubectl) {
    let named = |name: &str| {
        let mut pod = server(name, "peer");
        pod["spec"]["hostname"] = name.into();
        pod["spec"]["subdomain"] = "peers".into();
        pod
    };
    pods::apply(
        kubectl,
        "default",
        &[
            server("web", "web"),
            named("alpha"),
            named("beta"),
            service(
                "web",
                "web",
                &json!({"ports": [{"name": "http", "port": 80, "targetPort": "http"},
                {"name": "udp", "port": 91, "targetPort": "udp", "protocol": "UDP"}]}),
            ),
            service("peers", "peer", &json!({"clusterIP": "None", "ports": [{"name": "echo", "port": 9000}]})),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "alias"},
                "spec": {"type": "ExternalName", "externalName": format!("web.{ZONE}")}}),
        ],
    );
    for name in ["web", "alpha", "beta"] {
        running(kubectl, name);
    }
    endpoints(kubectl, "web", 1);
    endpoints(kubectl, "peers", 2);
}

fn cluster_ip(kubectl: &Kubectl, service: &str) -> String {
    kubectl.json(&format!("get service {service}")).unwrap()["spec"]["clusterIP"].as_str().unwrap().to_owned()
}

fn reversed(address: &str) -> String {
    let parts: Vec<_> = address.split('.').rev().collect();
    format!("{}.in-addr.arpa", parts.join("."))
}

#[test]
fn dns_answers_over_udp_and_tcp() {
    let (_cluster, kubectl) = cluster();
    prepare(&kubectl);
    let web = cluster_ip(&kubectl, "web");
    let [alpha, beta] = ["alpha", "beta"].map(|name| address(&kubectl, name).to_string());
    let mut both = [alpha.clone(), beta.clone()];
    both.sort();
    // (type, name, what the answer is)
    let table: Vec<(&str, String, String)> = vec![
        ("A", format!("web.{ZONE}"), format!("NOERROR {web}")),
        ("A", format!("WEB.{ZONE}"), format!("NOERROR {web}")),
        ("AAAA", format!("web.{ZONE}"), "NOERROR".to_owned()),
        ("A", format!("peers.{ZONE}"), format!("NOERROR {}", both.join("; "))),
        ("A", format!("alpha.peers.{ZONE}"), format!("NOERROR {alpha}")),
        ("A", format!("nobody.{ZONE}"), "NXDOMAIN".to_owned()),
        ("A", format!("gamma.peers.{ZONE}"), "NXDOMAIN".to_owned()),
        ("A", format!("{}.default.pod.cluster.local", alpha.replace('.', "-")), format!("NOERROR {alpha}")),
        ("CNAME", format!("alias.{ZONE}"), format!("NOERROR alias web.{ZONE}")),
        ("PTR", reversed(&web), format!("NOERROR web.{ZONE}")),
        ("PTR", reversed(&alpha), format!("NOERROR alpha.peers.{ZONE}")),
        (
            "A",
            "kubernetes.default.svc.cluster.local".to_owned(),
            format!("NOERROR {}", cluster_ip(&kubectl, "kubernetes")),
        ),
        ("A", "kube-dns.kube-system.svc.cluster.local".to_owned(), format!("NOERROR {DNS}")),
    ];
    for transport in ["udp", "tcp"] {
        let commands: Vec<Vec<&str>> =
            table.iter().map(|(kind, name, _)| vec!["dns", transport, DNS, *kind, name.as_str()]).collect();
        let commands: Vec<&[&str]> = commands.iter().map(Vec::as_slice).collect();
        let log = probe(&kubectl, &format!("asks-by-{transport}"), &commands);
        let expected: Vec<_> = table.iter().map(|(kind, name, answer)| format!("{kind} {name}: {answer}")).collect();
        assert_eq!(log.lines().collect::<Vec<_>>(), expected, "by {transport}");
    }
    let service = format!("_http._tcp.web.{ZONE}");
    let peers = format!("_echo._tcp.peers.{ZONE}");
    let wrong = format!("_http._udp.web.{ZONE}");
    let log = probe(&kubectl, "services", &[&["dns", "udp", DNS, "SRV", &service, &peers, &wrong]]);
    let lines: Vec<_> = log.lines().collect();
    assert!(lines[0].contains("NOERROR") && lines[0].ends_with(&format!(" 80 web.{ZONE}")), "{log}");
    for name in ["alpha", "beta"] {
        assert!(lines[1].contains(&format!(" 9000 {name}.peers.{ZONE}")), "{log}");
    }
    assert!(lines[2].ends_with("NXDOMAIN"), "{log}");
}

#[test]
fn lookups_walk_the_search_path_of_their_namespace() {
    let (_cluster, kubectl) = cluster();
    prepare(&kubectl);
    let web = cluster_ip(&kubectl, "web");
    let alpha = address(&kubectl, "alpha").to_string();
    let log = probe(
        &kubectl,
        "here",
        &[
            &[
                "resolve",
                "web",
                "web.default",
                "web.default.svc",
                &format!("web.{ZONE}"),
                "alias",
                "alpha.peers",
                "nobody",
            ],
            &["resolve", "localhost", "10.9.8.7", "127.0.0.1"],
        ],
    );
    let lines: Vec<_> = log.lines().collect();
    for line in &lines[..5] {
        assert!(line.ends_with(&format!(" is at {web}")), "{line} in:\n{log}");
    }
    assert_eq!(lines[5], format!("alpha.peers is at {alpha}"));
    assert!(!lines[6].contains("is at"), "{log}");
    assert!(lines[7].contains("127.0.0.1"), "{log}");
    assert_eq!(&lines[8..], ["10.9.8.7 is at 10.9.8.7", "127.0.0.1 is at 127.0.0.1"], "{log}");

    kubectl.run("create namespace away").unwrap();
    let log = probe(&kubectl, "there -n away", &[&["resolve", "web", "web.default", "web.default.svc"]]);
    let lines: Vec<_> = log.lines().collect();
    assert!(!lines[0].contains("is at"), "{log}");
    assert!(lines[1..].iter().all(|line| line.ends_with(&format!(" is at {web}"))), "{log}");

    // What a pod says of its DNS counts.
    let asks = |name: &str, spec: Value| {
        let mut pod = client(name, &[&["resolve", "web", "web.default.svc.cluster.local"]]);
        for (field, value) in spec.as_object().into_iter().flatten() {
            pod["spec"][field] = value.clone();
        }
        pod
    };
    pods::apply(
        &kubectl,
        "away",
        &[
            asks("searches", json!({"dnsConfig": {"searches": [ZONE]}})),
            asks("own", json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": [DNS], "searches": [ZONE]}})),
            asks("of-the-host", json!({"dnsPolicy": "Default"})),
        ],
    );
    for (pod, found) in [("searches", true), ("own", true), ("of-the-host", false)] {
        phase(&kubectl, &format!("{pod} -n away"), "Succeeded");
        let log = kubectl.run(&format!("logs {pod} -n away")).unwrap();
        let all = log.lines().all(|line| line.ends_with(&format!(" is at {web}")));
        let none = log.lines().all(|line| !line.contains("is at"));
        assert!(if found { all } else { none }, "{pod}:\n{log}");
    }
}

#[test]
fn names_follow_what_they_stand_for() {
    let (_cluster, kubectl) = cluster();
    prepare(&kubectl);
    let beta = address(&kubectl, "beta").to_string();
    kubectl.run("delete pod alpha --timeout=30s").unwrap();
    endpoints(&kubectl, "peers", 1);
    kubectl.run("delete service web").unwrap();
    coracle_tests::eventually("names that have gone", || {
        // A name of its own each time: pods end.
        let uid = kubectl.run("get pods -o name")?.lines().count();
        let pod = format!("late-{uid}");
        let log = probe(&kubectl, &pod, &[&["resolve", "peers", "alpha.peers", "web"]]);
        let lines: Vec<_> = log.lines().collect();
        let gone = lines[0] == format!("peers is at {beta}") && lines[1..].iter().all(|line| !line.contains("is at"));
        if gone { Ok(()) } else { Err(log) }
    });
}
