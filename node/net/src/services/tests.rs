//! The service table, as Kubernetes documents its behaviour.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

pub(crate) fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({
        "metadata": {"namespace": "default", "name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
    });
    service["spec"] = spec;
    service
}

pub(crate) fn slice(service: &str, ports: Value, endpoints: Value) -> Value {
    let mut slice = json!({
        "metadata": {
            "namespace": "default", "name": format!("{service}-x"), "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
    });
    slice["ports"] = ports;
    slice["endpoints"] = endpoints;
    slice
}

const NO_SUCH_PORT: &[&str] = &["no such port"];

/// Conditions of an endpoint.
type Conditions = &'static [(&'static str, bool)];

fn table(services: &[Value], slices: &[Value]) -> Services {
    Services::build(services, slices, "n1")
}

fn found(services: &Services, to: &str, protocol: Protocol, origin: Origin) -> Vec<String> {
    let to: SocketAddr = to.parse().unwrap();
    let target = services.target(to.ip(), to.port(), protocol);
    target.map_or(list(NO_SUCH_PORT), |target| target.eligible(origin).iter().map(ToString::to_string).collect())
}

fn inside(services: &Services, to: &str) -> Vec<String> {
    found(services, to, Protocol::Tcp, Origin::Inside)
}

fn list(addresses: &[&str]) -> Vec<String> {
    addresses.iter().map(|one| (*one).to_owned()).collect()
}

/// The state of one endpoint, as a slice says it, on a node.
fn endpoint(address: &str, node: &str, conditions: Conditions) -> Value {
    let conditions: serde_json::Map<String, Value> =
        conditions.iter().map(|(name, is)| ((*name).to_owned(), Value::from(*is))).collect();
    json!({"addresses": [address], "nodeName": node, "conditions": conditions})
}

const READY: Conditions = &[("ready", true), ("serving", true), ("terminating", false)];
const UNREADY: Conditions = &[("ready", false), ("serving", false), ("terminating", false)];
const LEAVING: Conditions = &[("ready", false), ("serving", true), ("terminating", true)];
const GONE: Conditions = &[("ready", false), ("serving", false), ("terminating", true)];

#[test]
fn a_service_port_leads_to_the_ports_of_its_endpoints_by_name_and_protocol() {
    let ports = json!([
        {"name": "http", "port": 80, "targetPort": "web"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        {"name": "sctp", "port": 9, "protocol": "SCTP"},
    ]);
    let of_slice = json!([
        {"name": "http", "port": 8080, "protocol": "TCP"},
        {"name": "dns", "port": 5353, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 5354},
        {"name": "sctp", "port": 9, "protocol": "SCTP"},
        {"name": "other", "port": 1},
        {"name": "http", "port": null},
    ]);
    // A named target port may have another number in other pods: they are in a slice of their own.
    let other = json!([{"name": "http", "port": 9090, "protocol": "TCP"}]);
    let services = table(
        &[service("web", json!({"clusterIP": "10.96.0.9", "ports": ports}))],
        &[
            slice("web", of_slice, json!([endpoint("10.244.0.5", "n1", READY)])),
            slice("web", other, json!([endpoint("10.244.0.6", "n2", READY)])),
            slice("nobody", json!([{"name": "http", "port": 8080}]), json!([endpoint("10.244.0.7", "n2", READY)])),
        ],
    );
    let rows = [
        ("10.96.0.9:80", Protocol::Tcp, list(&["10.244.0.5:8080", "10.244.0.6:9090"])),
        ("[::ffff:10.96.0.9]:80", Protocol::Tcp, list(&["10.244.0.5:8080", "10.244.0.6:9090"])),
        ("10.96.0.9:53", Protocol::Udp, list(&["10.244.0.5:5353"])),
        ("10.96.0.9:53", Protocol::Tcp, list(&["10.244.0.5:5354"])),
        ("10.96.0.9:80", Protocol::Udp, list(NO_SUCH_PORT)),
        ("10.96.0.9:9", Protocol::Tcp, list(NO_SUCH_PORT)),
        ("10.96.0.9:81", Protocol::Tcp, list(NO_SUCH_PORT)),
        ("10.96.0.8:80", Protocol::Tcp, list(NO_SUCH_PORT)),
    ];
    for (to, protocol, expected) in rows {
        assert_eq!(found(&services, to, protocol, Origin::Inside), expected, "{to} {protocol}");
    }
    assert!(services.knows_address("10.96.0.9".parse().unwrap()));
    assert!(!services.knows_address("10.96.0.8".parse().unwrap()));
}

#[test]
fn only_ready_endpoints_get_connections_and_leaving_ones_when_nobody_is_ready() {
    let rows: &[(&[Conditions], &[&str])] = &[
        (&[READY, UNREADY, LEAVING, GONE], &["10.244.0.0:80"]),
        (&[&[], UNREADY], &["10.244.0.0:80"]),
        (&[UNREADY, LEAVING, GONE, LEAVING], &["10.244.0.1:80", "10.244.0.3:80"]),
        (&[UNREADY, GONE], &[]),
        (&[], &[]),
        // A slice that does not say whether it serves means that it serves when it is ready.
        (&[&[("ready", false), ("terminating", true)]], &[]),
        (&[&[("ready", true), ("terminating", true)]], &["10.244.0.0:80"]),
    ];
    for (conditions, expected) in rows {
        let endpoints: Vec<Value> = conditions
            .iter()
            .enumerate()
            .map(|(index, conditions)| endpoint(&format!("10.244.0.{index}"), "n1", conditions))
            .collect();
        let services = table(
            &[service("web", json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}))],
            &[slice("web", json!([{"port": 80}]), endpoints.into())],
        );
        assert_eq!(inside(&services, "10.96.0.9:80"), list(expected), "{conditions:?}");
    }
}

#[test]
fn traffic_policies_keep_connections_on_the_node() {
    let here = |conditions| endpoint("10.244.0.1", "n1", conditions);
    let there = |conditions| endpoint("10.244.9.1", "n2", conditions);
    let (local, both) = (list(&["10.244.0.1:80"]), list(&["10.244.0.1:80", "10.244.9.1:80"]));
    let remote = list(&["10.244.9.1:80"]);
    // Endpoints, policies for inside and outside; who is sent to from inside by the cluster IP, by the outer door, and from
    // outside.
    let rows = [
        (vec![here(READY), there(READY)], "Cluster", "Cluster", &both, &both, &both),
        (vec![here(READY), there(READY)], "Local", "Cluster", &local, &both, &both),
        (vec![here(READY), there(READY)], "Cluster", "Local", &both, &both, &local),
        (vec![here(LEAVING), there(READY)], "Cluster", "Local", &remote, &remote, &local),
        (vec![here(LEAVING), there(READY)], "Local", "Cluster", &local, &remote, &remote),
        (vec![here(UNREADY), there(READY)], "Local", "Local", &list(&[]), &remote, &list(&[])),
        (vec![there(READY)], "Local", "Local", &list(&[]), &remote, &list(&[])),
    ];
    for (endpoints, internal, external, by_cluster, by_outer_door, from_outside) in rows {
        let spec = json!({
            "type": "NodePort", "clusterIP": "10.96.0.9", "externalIPs": ["198.51.100.1"],
            "ports": [{"port": 80, "nodePort": 30080}],
            "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
        });
        let what = format!("{endpoints:?} {internal} {external}");
        let services = table(&[service("web", spec)], &[slice("web", json!([{"port": 80}]), endpoints.into())]);
        assert_eq!(inside(&services, "10.96.0.9:80"), *by_cluster, "{what}");
        assert_eq!(inside(&services, "198.51.100.1:80"), *by_outer_door, "{what}");
        assert_eq!(found(&services, "198.51.100.1:80", Protocol::Tcp, Origin::Outside), *from_outside, "{what}");
        let node_port = services.node_port(30080, Protocol::Tcp).unwrap();
        let by_node_port: Vec<String> = node_port.eligible(Origin::Outside).iter().map(ToString::to_string).collect();
        assert_eq!(by_node_port, *from_outside, "{what}");
        assert_eq!((node_port.door, services.node_port(30080, Protocol::Udp)), (Door::Node, None));
    }
}

#[test]
fn several_slices_are_one_service_and_an_endpoint_in_two_of_them_is_one_endpoint() {
    let services = table(
        &[service("web", json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}))],
        &[
            slice("web", json!([{"port": 80}]), json!([endpoint("10.244.0.2", "n1", UNREADY)])),
            slice("web", json!([{"name": "", "port": 80}]), json!([endpoint("10.244.0.1", "n1", READY)])),
            slice("web", json!([{"name": null, "port": 80}]), json!([endpoint("10.244.0.2", "n1", READY)])),
        ],
    );
    assert_eq!(inside(&services, "10.96.0.9:80"), list(&["10.244.0.1:80", "10.244.0.2:80"]));
    assert_eq!(services.ports().next().unwrap().endpoints.all().len(), 2);
}

#[test]
fn an_address_leads_to_endpoints_of_its_family() {
    let spec = json!({
        "type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00::9"],
        "ports": [{"port": 80, "nodePort": 30080}],
    });
    let mut v6 = slice("web", json!([{"port": 80}]), json!([endpoint("fd00:1::5", "n1", READY)]));
    v6["addressType"] = "IPv6".into();
    let mut names = slice("web", json!([{"port": 80}]), json!([endpoint("10.244.0.77", "n1", READY)]));
    names["addressType"] = "FQDN".into();
    let v4 = slice("web", json!([{"port": 80}]), json!([endpoint("10.244.0.5", "n1", READY)]));
    let services = table(&[service("web", spec)], &[v6, v4, names]);
    assert_eq!(inside(&services, "10.96.0.9:80"), list(&["10.244.0.5:80"]));
    assert_eq!(inside(&services, "[fd00::9]:80"), list(&["[fd00:1::5]:80"]));
    assert_eq!(services.node_port(30080, Protocol::Tcp).unwrap().eligible(Origin::Outside).len(), 2);
}

#[test]
fn services_without_address_are_not_in_the_table_and_nonsense_is_left_out() {
    let services = table(
        &[
            service("headless", json!({"clusterIP": "None", "ports": [{"port": 80}]})),
            service("external", json!({"type": "ExternalName", "externalName": "a.b", "ports": [{"port": 80}]})),
            service("bad", json!({"clusterIP": "no address", "ports": [{"port": 0}, {"port": 70000}, {}, "x"]})),
            service("odd", json!(7)),
            json!({}),
            Value::Null,
        ],
        &[
            json!({"metadata": {"labels": {"kubernetes.io/service-name": "headless"}}, "ports": 1, "endpoints": "x"}),
            Value::Null,
        ],
    );
    assert_eq!(services, Services::default());
}

#[test]
fn who_was_first_keeps_an_address_that_two_claim_and_a_cluster_ip_is_never_taken() {
    let mut first =
        service("z", json!({"clusterIP": "10.96.0.1", "externalIPs": ["198.51.100.1"], "ports": [{"port": 80}]}));
    first["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z".into();
    let second =
        json!({"clusterIP": "10.96.0.2", "externalIPs": ["198.51.100.1", "10.96.0.1"], "ports": [{"port": 80}]});
    let services = table(&[service("a", second), first], &[]);
    for (address, owner, door) in
        [("198.51.100.1", "z", Door::External), ("10.96.0.1", "z", Door::Cluster), ("10.96.0.2", "a", Door::Cluster)]
    {
        let target = services.target(address.parse().unwrap(), 80, Protocol::Tcp).unwrap();
        assert_eq!((target.port.id.service.name.as_str(), target.door), (owner, door), "{address}");
    }
}

#[test]
fn affinity_and_load_balancer_addresses_are_read() {
    let mut web =
        service("web", json!({"clusterIP": "10.96.0.9", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]}));
    web["status"] = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.9"}, {"hostname": "x"}]}});
    let services = table(&[web.clone()], &[]);
    let target = services.target("198.51.100.9".parse().unwrap(), 80, Protocol::Tcp).unwrap();
    assert_eq!((target.door, target.port.affinity), (Door::External, Some(Duration::from_hours(3))));
    web["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 7}});
    assert_eq!(table(&[web.clone()], &[]).ports().next().unwrap().affinity, Some(Duration::from_secs(7)));
    web["spec"]["sessionAffinity"] = "None".into();
    assert_eq!(table(&[web], &[]).ports().next().unwrap().affinity, None);
}

#[test]
fn node_ports_are_listed_by_number_and_protocol() {
    let ports = json!([
        {"name": "a", "port": 53, "nodePort": 30053, "protocol": "UDP"},
        {"name": "b", "port": 53, "nodePort": 30053},
        {"name": "c", "port": 80},
        {"name": "d", "port": 81, "nodePort": 0},
    ]);
    let services = table(&[service("dns", json!({"type": "NodePort", "clusterIP": "10.96.0.9", "ports": ports}))], &[]);
    let listed: Vec<_> =
        services.node_ports().map(|(port, protocol, of)| (port, protocol, of.id.name.as_str())).collect();
    assert_eq!(listed, [(30053, Protocol::Tcp, "b"), (30053, Protocol::Udp, "a")]);
}

#[test]
fn a_change_touches_nothing_but_what_it_changes() {
    let services = [
        service("a", json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]})),
        service("b", json!({"clusterIP": "10.96.0.2", "ports": [{"port": 80}]})),
        service("c", json!({"clusterIP": "10.96.0.3", "ports": [{"port": 80}]})),
    ];
    let of = |name: &str, addresses: &[&str]| {
        let endpoints: Vec<Value> = addresses.iter().map(|one| endpoint(one, "n1", READY)).collect();
        slice(name, json!([{"port": 80}]), endpoints.into())
    };
    let before =
        table(&services, &[of("a", &["10.244.0.1", "10.244.0.2"]), of("b", &["10.244.0.3"]), of("c", &["10.244.0.4"])]);
    let slices = [of("a", &["10.244.0.2", "10.244.0.9"]), of("b", &["10.244.0.3"])];
    let after = before.rebuild(&services[..2], &slices, "n1");
    let id = |name: &str| PortId {
        service: ObjectKey::namespaced("default", name),
        name: String::new(),
        protocol: Protocol::Tcp,
    };
    assert!(Arc::ptr_eq(before.port(&id("b")).unwrap(), after.port(&id("b")).unwrap()), "nothing about it changed");
    assert!(!Arc::ptr_eq(before.port(&id("a")).unwrap(), after.port(&id("a")).unwrap()));
    let gone = after.gone_since(&before);
    assert_eq!(gone.ports, BTreeSet::from([id("c")]));
    let endpoints = [(id("a"), "10.244.0.1:80"), (id("c"), "10.244.0.4:80")];
    assert_eq!(gone.endpoints, endpoints.map(|(id, address)| (id, address.parse().unwrap())).into());
    assert_eq!(after, table(&services[..2], &slices), "built anew it is the same");
    assert_eq!(after.gone_since(&after), Gone::default());
    // An endpoint that is no longer ready is still behind the port: its connections and flows go on.
    let mut unready = of("b", &["10.244.0.3"]);
    unready["endpoints"][0]["conditions"]["ready"] = false.into();
    assert_eq!(after.rebuild(&services[..2], &[slices[0].clone(), unready], "n1").gone_since(&after), Gone::default());
}

#[test]
fn what_has_the_version_that_it_had_is_not_read_again_and_what_has_another_is() {
    let versioned = |mut object: Value, uid: &str, version: &str| {
        object["metadata"]["uid"] = uid.into();
        object["metadata"]["resourceVersion"] = version.into();
        object
    };
    let web =
        |version| versioned(service("web", json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]})), "s", version);
    let behind = |address, uid, version| {
        versioned(slice("web", json!([{"port": 80}]), json!([endpoint(address, "n1", READY)])), uid, version)
    };
    let first = table(&[web("1")], &[behind("10.244.0.1", "e", "2")]);
    // A text that differs under the same version shows whether it was read: the store never does that.
    let rows: Vec<(Value, Vec<Value>, &str, &[&str])> = vec![
        (web("1"), vec![behind("10.244.0.2", "e", "2")], "n1", &["10.244.0.1:80"]),
        (web("1"), vec![behind("10.244.0.2", "e", "3")], "n1", &["10.244.0.2:80"]),
        (web("9"), vec![behind("10.244.0.2", "e", "2")], "n1", &["10.244.0.2:80"]),
        (web("1"), vec![behind("10.244.0.2", "f", "2")], "n1", &["10.244.0.2:80"]),
        (web("1"), vec![behind("10.244.0.2", "e", "2")], "n2", &["10.244.0.2:80"]),
        (web("1"), vec![behind("10.244.0.2", "e", "")], "n1", &["10.244.0.2:80"]),
        (web("1"), vec![], "n1", &[]),
        (
            web("1"),
            vec![behind("10.244.0.1", "e", "2"), behind("10.244.0.2", "f", "2")],
            "n1",
            &["10.244.0.1:80", "10.244.0.2:80"],
        ),
    ];
    for (service, slices, node_name, expected) in rows {
        let what = format!("{service} {slices:?} {node_name}");
        let after = first.rebuild(&[service], &slices, node_name);
        assert_eq!(inside(&after, "10.96.0.9:80"), list(expected), "{what}");
    }
    // A service that comes back under its name is another one.
    let gone = first.rebuild(&[], &[], "n1");
    let back = gone.rebuild(&[web("1")], &[behind("10.244.0.2", "e", "2")], "n1");
    assert_eq!(inside(&back, "10.96.0.9:80"), list(&["10.244.0.2:80"]));
}

/// Any JSON, small.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..70_000_u32).prop_map(Value::from),
        "[a-z0-9.:-]{0,12}".prop_map(Value::from),
        Just(json!("10.96.0.9")),
        Just(json!("None")),
        Just(json!("UDP")),
    ];
    leaf.prop_recursive(2, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("[a-z]{1,6}", inner, 0..3)
                .prop_map(|map| Value::from(map.into_iter().collect::<serde_json::Map<_, _>>())),
        ]
    })
}

/// An object of a known shape in which one field says something else.
fn spoilt() -> impl Strategy<Value = Value> {
    let pointers = [
        "/spec",
        "/spec/clusterIP",
        "/spec/clusterIPs",
        "/spec/type",
        "/spec/ports",
        "/spec/ports/0",
        "/spec/ports/0/port",
        "/spec/ports/0/name",
        "/spec/ports/0/protocol",
        "/spec/ports/0/nodePort",
        "/spec/externalName",
        "/metadata",
        "/metadata/labels",
        "/ports",
        "/ports/0",
        "/ports/0/port",
        "/endpoints",
        "/endpoints/0",
        "/endpoints/0/addresses",
        "/endpoints/0/conditions",
        "/endpoints/0/hostname",
        "/addressType",
    ];
    (0..pointers.len(), anything()).prop_map(move |(which, value)| {
        let mut object = service(
            "web",
            json!({
                "type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "externalName": "a.b",
                "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}],
            }),
        );
        object["metadata"]["labels"] = json!({"kubernetes.io/service-name": "web"});
        object["addressType"] = "IPv4".into();
        object["ports"] = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
        object["endpoints"] = json!([{"addresses": ["10.244.0.5"], "conditions": {"ready": true}, "hostname": "h"}]);
        if let Some(place) = object.pointer_mut(pointers[which]) {
            *place = value;
        }
        object
    })
}

proptest! {
    #[test]
    fn no_object_is_too_odd_for_the_tables(services in proptest::collection::vec(spoilt(), 1..3), slice in spoilt()) {
        let table = Services::build(&services, [&slice], "n1");
        let again = table.rebuild(&services, [&slice], "n1");
        prop_assert_eq!(&table, &again);
        prop_assert_eq!(again.gone_since(&table), Gone::default());
        prop_assert!(table.node_ports().all(|(number, _, of)| of.node_port == Some(number)));
        for port in table.ports() {
            for address in &port.cluster_addresses {
                let target = table.target(*address, port.port, port.id.protocol);
                prop_assert!(target.is_some() && table.knows_address(*address));
            }
        }
        let names = crate::Names::build(&services, [&slice]);
        let _ = names.resolve("default", "web");
    }
}
