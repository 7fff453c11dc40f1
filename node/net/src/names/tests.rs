//! Names as guests ask for them.

use super::*;
use crate::services::build::SERVICE_NAME_LABEL;
use serde_json::{Value, json};

fn service(namespace: &str, name: &str, spec: Value) -> Value {
    let mut service = json!({"metadata": {"namespace": namespace, "name": name}});
    service["spec"] = spec;
    service
}

fn table() -> Names {
    let services = [
        service("default", "web", json!({"clusterIP": "10.96.0.10"})),
        service("default", "dual", json!({"clusterIP": "10.96.0.11", "clusterIPs": ["10.96.0.11", "fd00::b"]})),
        service("prod", "web", json!({"clusterIP": "10.96.0.20"})),
        service("default", "db", json!({"clusterIP": "None"})),
        service("default", "empty", json!({"clusterIP": "None"})),
        service("default", "pending", json!({})),
        service("default", "ext", json!({"type": "ExternalName", "externalName": "example.com"})),
        service("default", "ext-ip", json!({"type": "ExternalName", "externalName": "192.0.2.7"})),
        service("default", "alias", json!({"type": "ExternalName", "externalName": "Web.prod.svc.cluster.local."})),
        service("default", "loop", json!({"type": "ExternalName", "externalName": "loop.default.svc.cluster.local"})),
        // A namespace called like a part of the domain must not confuse anything.
        service("svc", "web", json!({"clusterIP": "10.96.0.30"})),
    ];
    let slices = [
        json!({
            "metadata": {"namespace": "default", "name": "db-1", "labels": {SERVICE_NAME_LABEL: "db"}},
            "endpoints": [
                {"addresses": ["10.244.0.5"], "conditions": {"ready": true}, "hostname": "db-0"},
                {"addresses": ["10.244.0.6"], "conditions": {"ready": false}, "hostname": "db-1"},
            ],
        }),
        json!({
            "metadata": {"namespace": "default", "name": "db-2", "labels": {SERVICE_NAME_LABEL: "db"}},
            "endpoints": [{"addresses": ["10.244.0.4", "not an address"], "conditions": {}}],
        }),
        json!({"metadata": {"namespace": "default", "name": "stray"}, "endpoints": [{"addresses": ["10.244.0.9"]}]}),
    ];
    Names::build(&services, &slices)
}

#[test]
fn names_resolve_as_in_cluster_dns() {
    let rows: &[(&str, &str, &[&str])] = &[
        ("default", "web", &["10.96.0.10"]),
        ("prod", "web", &["10.96.0.20"]),
        ("other", "web", &[]),
        ("default", "WEB", &["10.96.0.10"]),
        ("default", "web.prod", &["10.96.0.20"]),
        ("default", "web.prod.svc", &["10.96.0.20"]),
        ("other", "web.prod.svc.cluster.local", &["10.96.0.20"]),
        ("other", "Web.Prod.SVC.Cluster.Local.", &["10.96.0.20"]),
        ("default", "web.", &[]),
        ("default", "web.default.", &[]),
        ("default", "web.svc", &["10.96.0.30"]),
        ("default", "dual", &["10.96.0.11", "fd00::b"]),
        ("default", "db", &["10.244.0.4", "10.244.0.5"]),
        ("default", "db-0.db", &["10.244.0.5"]),
        ("prod", "db-0.db.default.svc.cluster.local", &["10.244.0.5"]),
        ("default", "db-1.db", &[]),
        ("default", "x.web", &[]),
        ("default", "empty", &[]),
        ("default", "pending", &[]),
        ("default", "stray", &[]),
        ("default", "ext", &[]),
        ("default", "ext-ip", &["192.0.2.7"]),
        ("default", "alias", &["10.96.0.20"]),
        ("default", "loop", &[]),
        ("default", "localhost", &["127.0.0.1"]),
        ("default", "api.localhost.", &["127.0.0.1"]),
        ("default", "10.1.2.3", &["10.1.2.3"]),
        ("default", "::1", &["::1"]),
        ("default", "example.com", &[]),
        ("default", "cluster.local", &[]),
    ];
    let names = table();
    for (namespace, name, expected) in rows {
        let expected: Vec<IpAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
        let expected = if expected.is_empty() { Err(NameError::NotFound) } else { Ok(expected) };
        assert_eq!(names.resolve(namespace, name), expected, "{name} in {namespace}");
    }
}

#[test]
fn what_is_no_name_is_invalid() {
    let long_label = "a".repeat(64);
    let long_name = ["a".repeat(62).as_str(); 5].join(".");
    for name in ["", ".", "..", "a..b", ".a", "a b", "a\0", "ä", "a/b", &long_label, &long_name] {
        assert_eq!(table().resolve("default", name), Err(NameError::Invalid), "{name:?}");
    }
}

#[test]
fn a_name_that_goes_away_is_gone() {
    let service = service("default", "web", json!({"clusterIP": "10.96.0.10"}));
    assert!(Names::build([&service], []).resolve("default", "web").is_ok());
    assert_eq!(Names::build([], []).resolve("default", "web"), Err(NameError::NotFound));
}

fn text(record: &Record) -> String {
    let data = match &record.data {
        Data::Address(address) => address.to_string(),
        Data::Srv { priority, weight, port, target } => format!("{priority} {weight} {port} {target}"),
        Data::Ptr(name) | Data::Cname(name) => name.clone(),
        Data::Txt(text) => format!("{text:?}"),
    };
    format!("{} {} {data}", record.name, record.ttl_seconds)
}

/// A table with one of everything that the specification describes.
fn specified() -> Names {
    let services = [
        service(
            "default",
            "web",
            json!({"clusterIP": "10.96.0.20", "ports": [
                {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 9},
            ]}),
        ),
        service("default", "dual", json!({"clusterIP": "10.96.0.21", "clusterIPs": ["10.96.0.21", "fd00::21"]})),
        service("default", "db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]})),
        service("default", "empty", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]})),
        service("default", "out", json!({"type": "ExternalName", "externalName": "WWW.example.com."})),
        service("default", "in", json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"})),
        service("default", "nowhere", json!({"type": "ExternalName", "externalName": "no.default.svc.cluster.local"})),
        service("default", "loop", json!({"type": "ExternalName", "externalName": "pool.default.svc.cluster.local"})),
        service("default", "pool", json!({"type": "ExternalName", "externalName": "loop.default.svc.cluster.local"})),
        service("default", "pending", json!({"ports": [{"port": 80}]})),
        service("quiet", "pending", json!({})),
    ];
    let slice = |ports: Value, endpoints: Value| {
        json!({
            "metadata": {"namespace": "default", "name": "db-1", "labels": {SERVICE_NAME_LABEL: "db"}},
            "ports": ports, "endpoints": endpoints,
        })
    };
    let slices = [
        slice(
            json!([{"name": "SQL", "port": 5432}]),
            json!([
                {"addresses": ["10.244.0.5"], "hostname": "DB-0"},
                {"addresses": ["10.244.0.6"], "hostname": "db-1", "conditions": {"ready": false, "serving": true}},
                {"addresses": ["10.244.0.7"]},
            ]),
        ),
        slice(json!([{"name": "sql", "port": 6543}]), json!([{"addresses": ["fd00:1::8"], "hostname": "db-6"}])),
    ];
    let ranges = Ranges {
        pods: "10.244.0.0/16".parse().unwrap(),
        services: "10.96.0.0/16".parse().unwrap(),
        node_addresses: Vec::new(),
        servers: Vec::new(),
    };
    Names::build(&services, &slices).with_ranges(&ranges)
}

#[test]
fn records_are_those_of_the_specification() {
    use Kind::{A, Aaaa, Cname, Ptr, Srv, Txt};
    let rows: &[(Kind, &str, &[&str])] = &[
        (Txt, "dns-version.cluster.local", &["dns-version.cluster.local 28800 \"1.1.0\""]),
        // A service with a cluster IP.
        (A, "web.default.svc.cluster.local.", &["web.default.svc.cluster.local 5 10.96.0.20"]),
        (A, "WEB.Default.SVC.Cluster.Local", &["web.default.svc.cluster.local 5 10.96.0.20"]),
        (A, "dual.default.svc.cluster.local", &["dual.default.svc.cluster.local 5 10.96.0.21"]),
        (Aaaa, "dual.default.svc.cluster.local", &["dual.default.svc.cluster.local 5 fd00::21"]),
        (
            Srv,
            "_http._tcp.web.default.svc.cluster.local",
            &["_http._tcp.web.default.svc.cluster.local 5 0 100 80 web.default.svc.cluster.local"],
        ),
        (
            Srv,
            "_dns._udp.web.default.svc.cluster.local",
            &["_dns._udp.web.default.svc.cluster.local 5 0 100 53 web.default.svc.cluster.local"],
        ),
        (Ptr, "20.0.96.10.in-addr.arpa", &["20.0.96.10.in-addr.arpa 5 web.default.svc.cluster.local"]),
        (
            Ptr,
            "1.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
            &[
                "1.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa 5 dual.default.svc.cluster.local",
            ],
        ),
        // A headless one.
        (
            A,
            "db.default.svc.cluster.local",
            &["db.default.svc.cluster.local 5 10.244.0.5", "db.default.svc.cluster.local 5 10.244.0.7"],
        ),
        (Aaaa, "db.default.svc.cluster.local", &["db.default.svc.cluster.local 5 fd00:1::8"]),
        (A, "db-0.db.default.svc.cluster.local", &["db-0.db.default.svc.cluster.local 5 10.244.0.5"]),
        (A, "10-244-0-7.db.default.svc.cluster.local", &["10-244-0-7.db.default.svc.cluster.local 5 10.244.0.7"]),
        (
            Srv,
            "_sql._tcp.db.default.svc.cluster.local",
            &[
                "_sql._tcp.db.default.svc.cluster.local 5 0 100 5432 10-244-0-7.db.default.svc.cluster.local",
                "_sql._tcp.db.default.svc.cluster.local 5 0 100 5432 db-0.db.default.svc.cluster.local",
                "_sql._tcp.db.default.svc.cluster.local 5 0 100 6543 db-6.db.default.svc.cluster.local",
            ],
        ),
        (Ptr, "5.0.244.10.in-addr.arpa", &["5.0.244.10.in-addr.arpa 5 db-0.db.default.svc.cluster.local"]),
        (Ptr, "7.0.244.10.in-addr.arpa", &["7.0.244.10.in-addr.arpa 5 10-244-0-7.db.default.svc.cluster.local"]),
        // A pod by its address.
        (A, "10-244-0-9.default.pod.cluster.local", &["10-244-0-9.default.pod.cluster.local 5 10.244.0.9"]),
        (Aaaa, "fd00-1--8.default.pod.cluster.local", &["fd00-1--8.default.pod.cluster.local 5 fd00:1::8"]),
        // An alias within the cluster.
        (Cname, "out.default.svc.cluster.local", &["out.default.svc.cluster.local 5 www.example.com"]),
        (
            A,
            "in.default.svc.cluster.local",
            &[
                "in.default.svc.cluster.local 5 web.default.svc.cluster.local",
                "web.default.svc.cluster.local 5 10.96.0.20",
            ],
        ),
        // Loopback.
        (A, "localhost", &["localhost 5 127.0.0.1"]),
        (Aaaa, "api.localhost", &["api.localhost 5 ::1"]),
    ];
    let names = specified();
    for (kind, name, expected) in rows {
        let outcome = names.query(name, *kind);
        assert_eq!(outcome.records.iter().map(text).collect::<Vec<_>>(), *expected, "{kind:?} {name}");
        assert_eq!(outcome.end, End::Answered, "{kind:?} {name}");
    }
}

#[test]
fn what_is_there_without_having_that_and_what_is_not_there_are_told_apart() {
    use Kind::{A, Aaaa, Other, Ptr, Srv, Txt};
    let names = specified();
    let none: &[(Kind, &str, End)] = &[
        (Aaaa, "web.default.svc.cluster.local", End::NoData),
        (Srv, "web.default.svc.cluster.local", End::NoData),
        (Other, "web.default.svc.cluster.local", End::NoData),
        (A, "_http._tcp.web.default.svc.cluster.local", End::NoData),
        (A, "_tcp.web.default.svc.cluster.local", End::NoData),
        (A, "_udp.db.default.svc.cluster.local", End::NoName),
        (Srv, "_http._udp.web.default.svc.cluster.local", End::NoName),
        (Srv, "_http._sctp.web.default.svc.cluster.local", End::NoName),
        (Srv, "__http._tcp.web.default.svc.cluster.local", End::NoName),
        (Srv, "http._tcp.web.default.svc.cluster.local", End::NoName),
        (Srv, "_._tcp.web.default.svc.cluster.local", End::NoName),
        (A, "db-6.db.default.svc.cluster.local", End::NoData),
        (A, "db-1.db.default.svc.cluster.local", End::NoName),
        (A, "x.web.default.svc.cluster.local", End::NoName),
        (A, "empty.default.svc.cluster.local", End::NoName),
        (A, "pending.default.svc.cluster.local", End::NoName),
        (A, "no.default.svc.cluster.local", End::NoName),
        (A, "web.other.svc.cluster.local", End::NoName),
        (A, "default.svc.cluster.local", End::NoData),
        (A, "quiet.svc.cluster.local", End::NoData),
        (A, "other.svc.cluster.local", End::NoName),
        (A, "svc.cluster.local", End::NoData),
        (A, "pod.cluster.local", End::NoData),
        (A, "default.pod.cluster.local", End::NoData),
        (A, "nobody.default.pod.cluster.local", End::NoName),
        (A, "10-244-0-300.default.pod.cluster.local", End::NoName),
        (A, "cluster.local", End::NoData),
        (A, "dns-version.cluster.local", End::NoData),
        (Txt, "web.cluster.local", End::NoName),
        (A, "a.b.c.web.default.svc.cluster.local", End::NoName),
        (Ptr, "99.0.96.10.in-addr.arpa", End::NoName),
        (Ptr, "6.0.244.10.in-addr.arpa", End::NoName),
        (A, "20.0.96.10.in-addr.arpa", End::NoData),
        (Txt, "localhost", End::NoData),
        (A, "", End::NoName),
        (A, "not a name", End::NoName),
        (A, "loop.default.svc.cluster.local", End::NoName),
    ];
    for (kind, name, end) in none {
        assert_eq!(names.query(name, *kind), Outcome { records: Vec::new(), end: end.clone() }, "{kind:?} {name}");
    }
}

#[test]
fn what_is_not_the_clusters_is_asked_outside() {
    let names = specified();
    for (kind, name, target) in [
        (Kind::A, "Example.com.", "example.com"),
        (Kind::A, "notcluster.local", "notcluster.local"),
        (Kind::A, "xcluster.local", "xcluster.local"),
        (Kind::A, "local", "local"),
        (Kind::Ptr, "8.8.8.8.in-addr.arpa", "8.8.8.8.in-addr.arpa"),
        (Kind::Ptr, "8.in-addr.arpa", "8.in-addr.arpa"),
        (Kind::Ptr, "1.0.d.f.ip6.arpa", "1.0.d.f.ip6.arpa"),
    ] {
        let outcome = names.query(name, kind);
        assert_eq!(outcome, Outcome { records: Vec::new(), end: End::Outside(target.to_owned()) }, "{name}");
    }
    let outcome = names.query("out.default.svc.cluster.local", Kind::A);
    assert_eq!(
        outcome.records.iter().map(text).collect::<Vec<_>>(),
        ["out.default.svc.cluster.local 5 www.example.com"]
    );
    assert_eq!(outcome.end, End::Outside("www.example.com".to_owned()));
    let broken = names.query("nowhere.default.svc.cluster.local", Kind::A);
    assert_eq!((broken.records.len(), broken.end), (1, End::NoName), "the alias is there, what it names is not");
}

#[test]
fn hosts_of_srv_records_come_with_their_addresses() {
    let names = specified();
    let records = names.query("_sql._tcp.db.default.svc.cluster.local", Kind::Srv).records;
    let expected = [
        "10-244-0-7.db.default.svc.cluster.local 5 10.244.0.7",
        "db-0.db.default.svc.cluster.local 5 10.244.0.5",
        "db-6.db.default.svc.cluster.local 5 fd00:1::8",
    ];
    assert_eq!(names.additional(&records).iter().map(text).collect::<Vec<_>>(), expected);
    assert!(names.additional(&names.query("web.default.svc.cluster.local", Kind::A).records).is_empty());
}

fn pod(spec: Value) -> Value {
    let mut pod = json!({"metadata": {"namespace": "default", "name": "web-0"}});
    pod["spec"] = spec;
    pod
}

fn host() -> HostResolver {
    HostResolver::parse(
        "# comment\nsearch lab.example corp.example\nnameserver 192.0.2.53\noptions rotate ndots:2 ; x\n",
    )
}

fn dns_of(spec: Value) -> PodDns {
    PodDns::of(&pod(spec), &["10.244.0.5".parse().unwrap()], "10.96.0.10".parse().unwrap(), &host())
}

#[test]
fn a_pods_resolver_follows_its_policy() {
    let cluster = "search default.svc.cluster.local svc.cluster.local cluster.local lab.example corp.example\n\
                   nameserver 10.96.0.10\noptions ndots:5\n";
    let like_host = "search lab.example corp.example\nnameserver 192.0.2.53\noptions ndots:2\n";
    let config = json!({
        "nameservers": ["192.0.2.1", "192.0.2.1", "bad"], "searches": ["my.Dns.", "lab.example", "no name"],
        "options": [{"name": "ndots", "value": "3"}, {"name": "edns0"}, {"name": "ndots", "value": "x"}],
    });
    let rows = [
        (json!({}), Asks::Cluster, cluster.to_owned()),
        (json!({"dnsPolicy": "ClusterFirst"}), Asks::Cluster, cluster.to_owned()),
        (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), Asks::Host, like_host.to_owned()),
        (json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), Asks::Cluster, cluster.to_owned()),
        (json!({"dnsPolicy": "Default"}), Asks::Host, like_host.to_owned()),
        (
            json!({"dnsPolicy": "ClusterFirst", "dnsConfig": config}),
            Asks::Cluster,
            "search default.svc.cluster.local svc.cluster.local cluster.local lab.example corp.example my.dns\n\
             nameserver 10.96.0.10\nnameserver 192.0.2.1\noptions ndots:3\n"
                .to_owned(),
        ),
        (
            json!({"dnsPolicy": "None", "dnsConfig": config}),
            Asks::Own,
            "search my.dns lab.example\nnameserver 192.0.2.1\noptions ndots:3\n".to_owned(),
        ),
        (
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["10.96.0.10"]}}),
            Asks::Cluster,
            "nameserver 10.96.0.10\noptions ndots:1\n".to_owned(),
        ),
    ];
    for (spec, asks, conf) in rows {
        let dns = dns_of(spec.clone());
        assert_eq!((dns.asks(), dns.resolv_conf()), (asks, conf), "{spec}");
    }
}

#[test]
fn a_pods_search_list_and_servers_are_bounded() {
    let many: Vec<String> = (0..100).map(|index| format!("d{index}.example")).collect();
    let servers: Vec<String> = (0..100).map(|index| format!("192.0.2.{index}")).collect();
    let spec = json!({"dnsPolicy": "None", "dnsConfig": {
        "searches": many, "nameservers": servers, "options": [{"name": "ndots", "value": "99"}],
    }});
    let dns = dns_of(spec);
    assert_eq!((dns.search().len(), dns.servers().len(), dns.ndots()), (32, 3, 15));
    let long = format!("{}.example", ["a".repeat(60).as_str(); 3].join("."));
    let long: Vec<String> = (0..40).map(|index| format!("x{index}.{long}")).collect();
    let dns = dns_of(json!({"dnsPolicy": "None", "dnsConfig": {"searches": long}}));
    assert!(dns.search().iter().map(String::len).sum::<usize>() < 2048);
    assert_eq!(HostResolver::parse("nameserver\nsearch\n\u{0}\ndomain a b\noptions ndots:x").search, ["a"]);
}

#[test]
fn a_pod_walks_its_search_list_before_it_asks_outside() {
    let outside = |names: &[&str], otherwise: &[&str]| {
        Ok(Lookup::Outside(AskOutside {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            otherwise: otherwise.iter().map(|text| text.parse().unwrap()).collect(),
        }))
    };
    let found = |address: &str| Ok(Lookup::Found(vec![address.parse().unwrap()]));
    let cluster = json!({});
    let default = json!({"dnsPolicy": "Default"});
    let few_dots = json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}});
    let rows = [
        (&cluster, "web", found("10.96.0.20")),
        (&cluster, "web.default", found("10.96.0.20")),
        (&cluster, "web.default.svc.cluster.local.", found("10.96.0.20")),
        (&cluster, "nobody", outside(&["nobody.lab.example", "nobody.corp.example", "nobody"], &[])),
        (
            &cluster,
            "example.com",
            outside(&["example.com.lab.example", "example.com.corp.example", "example.com"], &[]),
        ),
        (&cluster, "example.com.", outside(&["example.com"], &[])),
        (&cluster, "no.default.svc.cluster.local.", Err(NameError::NotFound)),
        (&cluster, "out", outside(&["www.example.com"], &[])),
        (
            &cluster,
            "a.b.c.d.e.f",
            outside(&["a.b.c.d.e.f", "a.b.c.d.e.f.lab.example", "a.b.c.d.e.f.corp.example"], &[]),
        ),
        (
            &few_dots,
            "example.com",
            outside(&["example.com", "example.com.lab.example", "example.com.corp.example"], &[]),
        ),
        // Asked as it is first, found in the cluster after that.
        (&few_dots, "web.default", outside(&["web.default"], &["10.96.0.20"])),
        (&few_dots, "web.default.svc.cluster.local", found("10.96.0.20")),
        (&default, "web", outside(&["web.lab.example", "web.corp.example", "web"], &[])),
        (&default, "web.default.svc.cluster.local.", outside(&["web.default.svc.cluster.local"], &[])),
        (&default, "localhost", found("127.0.0.1")),
        (&default, "192.0.2.7", found("192.0.2.7")),
        (&cluster, "no name", Err(NameError::Invalid)),
    ];
    let names = specified();
    for (spec, name, expected) in rows {
        assert_eq!(names.look_up(&dns_of(spec.clone()), name), expected, "{name} {spec}");
    }
}

#[test]
fn a_pod_knows_itself_and_its_host_aliases_without_asking() {
    let spec = json!({
        "hostname": "Db-0", "subdomain": "db",
        "hostAliases": [
            {"ip": "192.0.2.1", "hostnames": ["foo.local", "web"]}, {"ip": "192.0.2.2", "hostnames": ["foo.local"]},
            {"ip": "bad", "hostnames": ["x"]}, {"ip": "192.0.2.3", "hostnames": ["no name"]},
        ],
    });
    let names = specified();
    let dns = dns_of(spec);
    for (name, expected) in [
        ("db-0", &["10.244.0.5"][..]),
        ("db-0.db.default.svc.cluster.local", &["10.244.0.5"]),
        ("foo.local", &["192.0.2.1", "192.0.2.2"]),
        ("web", &["192.0.2.1"]),
    ] {
        let expected = expected.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(names.look_up(&dns, name), Ok(Lookup::Found(expected)), "{name}");
    }
    assert!(matches!(names.look_up(&dns, "x"), Ok(Lookup::Outside(_))));
    let plain = dns_of(json!({}));
    assert_eq!(names.look_up(&plain, "web-0"), Ok(Lookup::Found(vec!["10.244.0.5".parse().unwrap()])));
}

#[test]
fn a_pod_calls_itself_by_its_hostname_or_its_name_cut_to_a_label() {
    let named = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let long = format!("{}-{}", "a".repeat(62), "b".repeat(20));
    for (pod, expected) in [
        (named("web-0", json!({})), "web-0".to_owned()),
        (named("web-0", json!({"hostname": ""})), "web-0".to_owned()),
        (named("web-0", json!({"hostname": "db"})), "db".to_owned()),
        (named("web.0", json!({})), "web.0".to_owned()),
        (named(&long, json!({})), "a".repeat(62)),
        (named(&"c".repeat(63), json!({})), "c".repeat(63)),
    ] {
        assert_eq!(hostname(&pod), expected);
    }
}

#[test]
fn addresses_are_labels_and_back() {
    for (address, label) in
        [("10.244.0.5", "10-244-0-5"), ("fd00:1::8", "fd00-1--8"), ("::1", "0--1"), ("fd00::", "fd00--0")]
    {
        assert_eq!(spelling::label_of_address(address.parse().unwrap()), label);
        assert_eq!(spelling::address_of_pod_label(label), Some(address.parse().unwrap()));
    }
    for label in ["", "x", "10-244-0", "10-244-0-5-6", "1-2-3-4-5-6-7-8-9"] {
        assert_eq!(spelling::address_of_pod_label(label), None, "{label}");
    }
}
