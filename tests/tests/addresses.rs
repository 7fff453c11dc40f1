//! Addresses of pods, from the node's range to what a guest sees, and what the network has to say in events.

use coracle_tests::{
    Cluster, Kubectl, eventually, guest,
    network::{address, endpoints, get, node_port, probe, server, service},
    pods,
    wait::contains,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    net::{IpAddr, TcpListener},
};

/// The first node's range.
const RANGE: &str = "10.244.0.0/22";

fn cluster() -> (Cluster, Kubectl) {
    let cluster = Cluster::start();
    cluster.push(&guest("probe.wasm"), "probe:1");
    cluster.push(&guest("toolbox.wasm"), "toolbox:1");
    let kubectl = cluster.kubectl();
    (cluster, kubectl)
}

fn is_in_range(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.octets()[..2] == [10, 244] && address.octets()[2] < 4)
}

fn addresses_of_slices(kubectl: &Kubectl, name: &str) -> Result<BTreeSet<IpAddr>, String> {
    let slices = kubectl.json(&format!("get endpointslices -l kubernetes.io/service-name={name}"))?;
    let slices = slices["items"].as_array().cloned().unwrap_or_default();
    let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    Ok(ready.filter_map(|endpoint| endpoint["addresses"][0].as_str()?.parse().ok()).collect())
}

fn restarts(pod: &Value) -> u64 {
    pods::container(pod)["restartCount"].as_u64().unwrap_or_default()
}

#[test]
fn a_pod_keeps_its_address_for_its_life_and_no_longer() {
    let (mut cluster, kubectl) = cluster();
    let node = kubectl.run("describe nodes").unwrap();
    contains(&node, &format!("PodCIDR:                      {RANGE}")).unwrap();
    let only_first = service(
        "first",
        "",
        &json!({"type": "NodePort", "selector": {"number": "1"}, "ports": [{"port": 80, "targetPort": "http"}]}),
    );
    let mut first = server("a", "web");
    first["metadata"]["labels"]["number"] = "1".into();
    let all = service("web", "web", &json!({"ports": [{"port": 80, "targetPort": "http"}]}));
    pods::apply(&kubectl, "default", &[only_first, all, first, server("b", "web")]);
    let (a, b) = (address(&kubectl, "a"), address(&kubectl, "b"));
    assert!(a != b && is_in_range(a) && is_in_range(b), "{a} and {b}");
    let wide = kubectl.run("get pod a -o wide").unwrap();
    contains(&wide, &a.to_string()).unwrap();
    endpoints(&kubectl, "web", 2);
    eventually("the slices name both", || {
        let found = addresses_of_slices(&kubectl, "web")?;
        if found == BTreeSet::from([a, b]) { Ok(()) } else { Err(format!("{found:?}")) }
    });

    // The container begins again; the pod does not.
    let port = node_port(&cluster, "first", "");
    eventually("a asks for its own end", || {
        // The answer may be cut off by the end.
        let _ = get(port, "/exit");
        let pod = kubectl.json("get pod a")?;
        if restarts(&pod) > 0 { Ok(()) } else { Err(pod["status"].to_string()) }
    });
    pods::running(&kubectl, "a");
    assert_eq!(address(&kubectl, "a"), a);
    eventually("a answers", || get(port, "/"));

    // So does the agent.
    assert!(cluster.stop().success());
    cluster.start_again();
    let kubectl = cluster.kubectl();
    pods::running(&kubectl, "a");
    assert_eq!((address(&kubectl, "a"), address(&kubectl, "b")), (a, b));
    let port = node_port(&cluster, "first", "");
    eventually("a answers after the restart", || get(port, "/"));

    kubectl.run("delete pod b").unwrap();
    pods::apply(&kubectl, "default", &[server("c", "web")]);
    let c = address(&kubectl, "c");
    assert!(is_in_range(c) && c != a && c != b, "{c} instead of {b}, which was freed a moment ago");
    endpoints(&kubectl, "web", 2);
    assert!(kubectl.run("describe nodes").unwrap().contains(RANGE));
}

#[test]
fn a_guest_sees_its_own_address_and_name() {
    let (_cluster, kubectl) = cluster();
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut pod = pods::toolbox("seen", "Never", &["env"]);
    pod["spec"]["containers"][0]["env"] =
        json!([field("POD_IP", "status.podIP"), field("POD_IPS", "status.podIPs"), field("HOST_IP", "status.hostIP")]);
    pods::apply(&kubectl, "default", &[pod]);
    let finished = pods::phase(&kubectl, "seen", "Succeeded");
    let ip = finished["status"]["podIP"].as_str().unwrap_or_default();
    assert!(is_in_range(ip.parse().unwrap()), "{ip}");
    let seen = kubectl.run("logs seen").unwrap();
    let host = finished["status"]["hostIP"].as_str().unwrap();
    for line in [format!("POD_IP={ip}"), format!("POD_IPS={ip}"), format!("HOST_IP={host}"), "HOSTNAME=seen".to_owned()]
    {
        contains(&seen, &line).unwrap();
    }
    let said = probe(&kubectl, "asks", &[&["resolve", "kubernetes", "kube-dns.kube-system", "asks"]]);
    contains(&said, "10.96.0.1\n").unwrap();
    contains(&said, "10.96.0.10\n").unwrap();
}

#[test]
fn what_the_network_cannot_do_is_told_in_events() {
    let (cluster, kubectl) = cluster();
    let taken = TcpListener::bind((cluster.host(), 30_999)).unwrap();
    let ports = json!([{"port": 80, "targetPort": 8080, "nodePort": 30_999}]);
    let blocked = service("blocked", "web", &json!({"type": "NodePort", "ports": ports}));
    let mut wishful = pods::toolbox("wishful", "Always", &["wait-eof"]);
    wishful["spec"]["containers"][0]["ports"] = json!([{"containerPort": 8080, "hostPort": 8080}]);
    pods::apply(&kubectl, "default", &[blocked, wishful]);
    let told = |what: &str, reason: &str| {
        eventually(&format!("event {reason} on {what}"), || {
            contains(&kubectl.run(&format!("get events --field-selector reason={reason}"))?, what)
        });
    };
    told("service/blocked", "NodePortNotOpen");
    told("pod/wishful", "HostPortNotSupported");
    drop(taken);
    told("service/blocked", "NodePortOpen");
}
