//! Names as guests ask for them.

use super::*;
use crate::services::build::SERVICE_NAME_LABEL;
use serde_json::Value;
use serde_json::json;

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
