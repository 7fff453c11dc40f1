//! The examples of services and endpoint slices that Kubernetes publishes, and what its documents say of each: from the
//! concepts "Service", "`EndpointSlices`" and "Virtual IPs and Service Proxies", and the tutorials "Using Source IP" and "Explore
//! Termination Behavior for Pods And Their Endpoints".

use super::{
    tests::{service, slice},
    *,
};
use serde_json::{Value, json};

/// Where a connection goes that enters by one of these doors.
enum By {
    /// From a pod, to an address of a service.
    Address(&'static str),
    /// From a client outside, to an address of a service.
    FromOutside(&'static str),
    /// From a client outside, to a port of the node.
    NodePort(u16),
}

struct Example {
    what: &'static str,
    spec: Value,
    slices: Vec<Value>,
    /// On the node `node-1`: by which door, and which endpoints may get it. `None`: no service has that port.
    leads: Vec<(By, Option<Vec<&'static str>>)>,
}

fn ends(ports: Value, endpoints: Value) -> Vec<Value> {
    vec![slice("my-service", ports, endpoints)]
}

/// Two addresses that several examples have.
fn two() -> Value {
    json!([{"addresses": ["10.4.5.6"]}, {"addresses": ["10.1.2.3"]}])
}

/// Kinds of services, and the doors that they have.
fn doors() -> Vec<Example> {
    vec![
        Example {
            what: "a Service with a selector: port 80 leads to 9376 of each Pod",
            spec: json!({"clusterIP": "10.0.171.239", "ports": [{"protocol": "TCP", "port": 80, "targetPort": 9376}]}),
            slices: ends(json!([{"port": 9376, "protocol": "TCP"}]), two()),
            leads: vec![
                (By::Address("10.0.171.239:80"), Some(vec!["10.1.2.3:9376", "10.4.5.6:9376"])),
                (By::Address("10.0.171.239:9376"), None),
            ],
        },
        Example {
            what: "a Service without a selector: its EndpointSlice names the port with an empty string",
            spec: json!({"clusterIP": "10.0.171.239", "ports": [{"protocol": "TCP", "port": 80, "targetPort": 9376}]}),
            slices: ends(json!([{"name": "", "appProtocol": "http", "protocol": "TCP", "port": 9376}]), two()),
            leads: vec![(By::Address("10.0.171.239:80"), Some(vec!["10.1.2.3:9376", "10.4.5.6:9376"]))],
        },
        Example {
            what: "a multi-port Service: ports are told apart by their names",
            spec: json!({"clusterIP": "10.0.0.1", "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 9376},
                {"name": "https", "protocol": "TCP", "port": 443, "targetPort": 9377}]}),
            slices: ends(json!([{"name": "https", "port": 9377}, {"name": "http", "port": 9376}]), two()),
            leads: vec![
                (By::Address("10.0.0.1:80"), Some(vec!["10.1.2.3:9376", "10.4.5.6:9376"])),
                (By::Address("10.0.0.1:443"), Some(vec!["10.1.2.3:9377", "10.4.5.6:9377"])),
            ],
        },
        Example {
            what: "type NodePort with a port of one's own choice",
            spec: json!({"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [
                {"port": 80, "targetPort": 80, "nodePort": 30007}]}),
            slices: ends(json!([{"port": 80}]), two()),
            leads: vec![
                (By::NodePort(30007), Some(vec!["10.1.2.3:80", "10.4.5.6:80"])),
                (By::Address("10.0.0.1:80"), Some(vec!["10.1.2.3:80", "10.4.5.6:80"])),
                (By::NodePort(30008), None),
            ],
        },
        Example {
            what: "external IPs: traffic with that destination IP and the Service port is routed to an endpoint",
            spec: json!({"clusterIP": "10.0.0.1", "externalIPs": ["198.51.100.32"], "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 49152}]}),
            slices: ends(json!([{"name": "http", "port": 49152}]), two()),
            leads: vec![
                (By::FromOutside("198.51.100.32:80"), Some(vec!["10.1.2.3:49152", "10.4.5.6:49152"])),
                (By::Address("198.51.100.32:80"), Some(vec!["10.1.2.3:49152", "10.4.5.6:49152"])),
                (By::FromOutside("198.51.100.32:81"), None),
            ],
        },
        Example {
            what: "type LoadBalancer: the address in its status leads there",
            spec: json!({"type": "LoadBalancer", "clusterIP": "10.0.171.239", "ports": [
                {"protocol": "TCP", "port": 80, "targetPort": 9376}]}),
            slices: ends(json!([{"port": 9376}]), two()),
            leads: vec![(By::FromOutside("192.0.2.127:80"), Some(vec!["10.1.2.3:9376", "10.4.5.6:9376"]))],
        },
        Example {
            what: "headless: no cluster IP, and proxies do not handle it",
            spec: json!({"clusterIP": "None", "ports": [{"port": 80, "targetPort": 9376}]}),
            slices: ends(json!([{"port": 9376}]), two()),
            leads: vec![(By::Address("10.0.171.239:80"), None)],
        },
        Example {
            what: "an EndpointSlice with a hostname, a node name and a zone",
            spec: json!({"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80}]}),
            slices: ends(
                json!([{"name": "http", "protocol": "TCP", "port": 80}]),
                json!([{"addresses": ["10.1.2.3"], "conditions": {"ready": true}, "hostname": "pod-1",
                    "nodeName": "node-1", "zone": "us-west2-a"}]),
            ),
            leads: vec![(By::Address("10.0.0.1:80"), Some(vec!["10.1.2.3:80"]))],
        },
    ]
}

/// Endpoints that leave, and policies that keep to a node.
fn choices() -> Vec<Example> {
    let conditions = |ready: bool, serving: bool, terminating: bool| json!({"ready": ready, "serving": serving, "terminating": terminating});
    let nginx = |last: u8, node: &str, conditions: Value| json!({"addresses": [format!("10.12.1.{last}")], "nodeName": node, "conditions": conditions});
    vec![
        Example {
            what: "a terminating endpoint serves on and gets nothing new while another one is ready",
            spec: json!({"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}),
            slices: ends(
                json!([{"name": "", "port": 80, "protocol": "TCP"}]),
                json!([
                    nginx(201, "node-1", conditions(false, true, true)),
                    nginx(202, "node-2", conditions(true, true, false))
                ]),
            ),
            leads: vec![(By::Address("10.0.0.1:80"), Some(vec!["10.12.1.202:80"]))],
        },
        Example {
            what: "when all endpoints terminate, those that serve get traffic",
            spec: json!({"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}),
            slices: ends(
                json!([{"port": 80}]),
                json!([
                    nginx(201, "node-1", conditions(false, true, true)),
                    nginx(202, "node-2", conditions(false, false, true))
                ]),
            ),
            leads: vec![(By::Address("10.0.0.1:80"), Some(vec!["10.12.1.201:80"]))],
        },
        Example {
            what: "internalTrafficPolicy Local: where the node has no endpoints the Service behaves as if it had none",
            spec: json!({"clusterIP": "10.0.0.1", "internalTrafficPolicy": "Local", "ports": [{"port": 80}]}),
            slices: ends(json!([{"port": 80}]), json!([nginx(202, "node-2", conditions(true, true, false))])),
            leads: vec![(By::Address("10.0.0.1:80"), Some(vec![]))],
        },
        Example {
            what: "externalTrafficPolicy Local: only endpoints of the node, and none means that it is dropped",
            spec: json!({"type": "NodePort", "clusterIP": "10.0.0.1", "externalTrafficPolicy": "Local", "ports": [
                {"port": 80, "nodePort": 31000}]}),
            slices: ends(
                json!([{"port": 80}]),
                json!([
                    nginx(202, "node-2", conditions(true, true, false)),
                    nginx(203, "node-1", conditions(true, true, false))
                ]),
            ),
            leads: vec![
                (By::NodePort(31000), Some(vec!["10.12.1.203:80"])),
                (By::Address("10.0.0.1:80"), Some(vec!["10.12.1.202:80", "10.12.1.203:80"])),
            ],
        },
        Example {
            what: "externalTrafficPolicy Local, and all local endpoints terminate: those that serve get it",
            spec: json!({"type": "NodePort", "clusterIP": "10.0.0.1", "externalTrafficPolicy": "Local", "ports": [
                {"port": 80, "nodePort": 31000}]}),
            slices: ends(
                json!([{"port": 80}]),
                json!([
                    nginx(202, "node-2", conditions(true, true, false)),
                    nginx(203, "node-1", conditions(false, true, true))
                ]),
            ),
            leads: vec![
                (By::NodePort(31000), Some(vec!["10.12.1.203:80"])),
                (By::Address("10.0.0.1:80"), Some(vec!["10.12.1.202:80"])),
            ],
        },
    ]
}

#[test]
fn published_examples_lead_where_their_documents_say() {
    for Example { what, spec, slices, leads } in doors().into_iter().chain(choices()) {
        let mut object = service("my-service", spec);
        if object["spec"]["type"] == "LoadBalancer" {
            object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.127"}]}});
        }
        let table = Services::build([&object], &slices, "node-1");
        for (by, expected) in leads {
            let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
            let at = |text: &str| table.target(parse(text).ip(), parse(text).port(), Protocol::Tcp);
            let (target, origin, door) = match by {
                By::Address(text) => (at(text), Origin::Inside, text.to_owned()),
                By::FromOutside(text) => (at(text), Origin::Outside, text.to_owned()),
                By::NodePort(port) => (table.node_port(port, Protocol::Tcp), Origin::Outside, port.to_string()),
            };
            let found =
                target.map(|target| target.eligible(origin).iter().map(ToString::to_string).collect::<Vec<_>>());
            let expected = expected.map(|all| all.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(found, expected, "{what}, by {door}");
        }
    }
}

#[test]
fn load_balancers_ask_about_ready_endpoints_of_the_node() {
    let spec = json!({"type": "LoadBalancer", "clusterIP": "10.0.0.1", "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 32122, "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]});
    let object = service("my-service", spec);
    let endpoint = |last: u8, node: &str, ready: bool| json!({"addresses": [format!("10.12.1.{last}")], "nodeName": node, "conditions": {"ready": ready}});
    let endpoints = json!([endpoint(1, "node-1", true), endpoint(2, "node-1", false), endpoint(3, "node-2", true)]);
    let slices = ends(json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]), endpoints);
    for (node, count) in [("node-1", 1), ("node-2", 1), ("node-3", 0)] {
        let table = Services::build([&object], &slices, node);
        let asked: Vec<_> = table.health_check_ports().map(|(port, service)| (port, service.name.as_str())).collect();
        assert!(asked.iter().all(|one| *one == (32122, "my-service")), "{asked:?}");
        assert_eq!(table.local_endpoints(&meta_key(&object)), count, "{node}");
    }
}

fn meta_key(object: &Value) -> ObjectKey {
    coracle_objects::meta::key(object)
}
