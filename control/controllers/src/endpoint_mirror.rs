//! Slices of Endpoints that somebody wrote by hand, for a service without a selector: readers of traffic know slices only.
//!
//! One slice or more for every subset and address family. They follow the Endpoints and go with them, with the service, and
//! when the service gets a selector.

use crate::{
    endpoint_slices::{self, ENDPOINTS_MAX, Group, SERVICE_NAME},
    service_backends,
};
use coracle_client::{Part, Write};
use coracle_objects::{catalogue, meta};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// Says that a slice is a mirror.
pub const MANAGED_BY: (&str, &str) =
    ("endpointslice.kubernetes.io/managed-by", "endpointslicemirroring-controller.k8s.io");

/// Label by which Endpoints ask not to be mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";

/// Annotation of Endpoints that are a lock of some election and nobody's address.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// Addresses of one subset that are mirrored; the rest is left out, as Kubernetes does.
const ADDRESSES_MAX: usize = 1000;

/// Annotations that are about the Endpoints alone.
const NOT_COPIED: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];

/// Whether a slice is a mirror of the Endpoints called `name`.
#[must_use]
pub fn is_mirror(slice: &Value, name: &str) -> bool {
    meta::label(slice, SERVICE_NAME) == Some(name) && meta::label(slice, MANAGED_BY.0) == Some(MANAGED_BY.1)
}

/// The writes that bring `mirrors` (those of this service) in line with `service` and `endpoints`.
#[must_use]
pub fn plan(service: Option<&Value>, endpoints: Option<&Value>, mirrors: &[Arc<Value>]) -> Vec<Write> {
    let source = endpoints.filter(|endpoints| service.is_some_and(|service| is_mirrored(service, endpoints)));
    let mut wanted = source.map(slices).unwrap_or_default();
    let mut writes = Vec::new();
    for mirror in mirrors {
        if let Some(slice) = wanted.remove(meta::name(mirror)) {
            writes.extend(update(mirror, &slice));
        } else {
            writes.push(endpoint_slices::delete(mirror));
        }
    }
    writes.extend(wanted.into_values().map(|slice| Write::Create(catalogue::endpoint_slices(), slice)));
    writes
}

fn is_mirrored(service: &Value, endpoints: &Value) -> bool {
    service_backends::selector(service).is_none()
        && service["spec"]["type"] != "ExternalName"
        && meta::label(endpoints, SKIP) != Some("true")
        && meta::annotation(endpoints, LEADER).is_none()
        && !meta::is_terminating(endpoints)
}

fn update(mirror: &Value, wanted: &Value) -> Option<Write> {
    let mut updated = mirror.clone();
    for field in ["endpoints", "ports"] {
        updated[field] = wanted[field].clone();
    }
    if let Some(metadata) = updated["metadata"].as_object_mut() {
        for field in ["labels", "annotations"] {
            match wanted["metadata"].get(field) {
                Some(value) => metadata.insert(field.to_owned(), value.clone()),
                None => metadata.shift_remove(field),
            };
        }
    }
    (updated != *mirror).then_some(Write::Update(catalogue::endpoint_slices(), Part::Object, updated))
}

/// All slices that mirror `endpoints`, by name.
fn slices(endpoints: &Value) -> BTreeMap<String, Value> {
    let mut slices = BTreeMap::new();
    let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let ports = endpoint_slices::kept_ports(subset["ports"].as_array().map_or(&[], Vec::as_slice));
        for (family, of_family) in by_family(subset) {
            for chunk in of_family.chunks(ENDPOINTS_MAX) {
                let number = numbers.entry(family).or_default();
                // A slice's family is for ever: each has names of its own.
                let name = endpoint_slices::generated_name(endpoints, format!("{family}{number}").as_bytes());
                *number += 1;
                let group = Group { ports: ports.clone(), endpoints: chunk.to_vec() };
                slices.insert(name.clone(), slice(endpoints, &name, family, &group));
            }
        }
    }
    slices
}

/// The endpoints of a subset by their address family, each address once, ready ones first.
fn by_family(subset: &Value) -> BTreeMap<&'static str, Vec<Value>> {
    let of = |field: &str, is_ready: bool| {
        let listed = subset[field].as_array().into_iter().flatten();
        listed.map(move |address| (address, is_ready)).collect::<Vec<_>>()
    };
    let mut seen = BTreeSet::new();
    let mut families: BTreeMap<&'static str, Vec<Value>> = BTreeMap::new();
    let all = of("addresses", true).into_iter().chain(of("notReadyAddresses", false)).take(ADDRESSES_MAX);
    for (address, is_ready) in all {
        let Some(ip) = address["ip"].as_str().and_then(|text| text.parse::<IpAddr>().ok()) else { continue };
        if !seen.insert(ip) {
            continue;
        }
        let mut endpoint = json!({"addresses": [ip.to_string()], "conditions": {"ready": is_ready}});
        for field in ["hostname", "nodeName", "targetRef"] {
            if !address[field].is_null() {
                endpoint[field] = address[field].clone();
            }
        }
        families.entry(if ip.is_ipv4() { "IPv4" } else { "IPv6" }).or_default().push(endpoint);
    }
    families
}

fn slice(endpoints: &Value, name: &str, family: &str, group: &Group) -> Value {
    let mut labels = endpoints["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), meta::name(endpoints).into());
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.into());
    let mut annotations = endpoints["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    annotations.retain(|name, _| !NOT_COPIED.contains(&name.as_str()));
    let mut slice = endpoint_slices::slice((endpoints, "Endpoints"), name, &labels.into(), family, group);
    if !annotations.is_empty() {
        slice["metadata"]["annotations"] = annotations.into();
    }
    slice
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{endpoint_slices::tests::stored, service_backends::tests::service};

    fn manual() -> Value {
        let mut service = service("db", &json!([{"name": "sql", "port": 5432}]));
        service["spec"]["selector"] = Value::Null;
        service
    }

    fn endpoints(subsets: &Value) -> Value {
        json!({
            "metadata": {
                "namespace": "a", "name": "db", "uid": "e-uid", "labels": {"x": "y"},
                "annotations": {NOT_COPIED[0]: "{}", NOT_COPIED[1]: "2026-01-01T00:00:00Z", "note": "n"},
            },
            "subsets": subsets,
        })
    }

    fn created(writes: Vec<Write>) -> Vec<Arc<Value>> {
        let slices = writes.into_iter().map(|write| match write {
            Write::Create(_, slice) => stored(slice),
            other => panic!("{other:?}"),
        });
        slices.collect()
    }

    fn one_address() -> Value {
        json!([{"addresses": [{"ip": "192.0.2.5"}], "ports": [{"port": 5432, "protocol": "TCP"}]}])
    }

    #[test]
    fn what_somebody_wrote_becomes_slices_by_subset_and_family() {
        let ports = json!([{"name": "sql", "port": 5432, "protocol": "TCP"}]);
        let subsets = json!([
            {
                "addresses": [{"ip": "192.0.2.5", "hostname": "db-0", "nodeName": "n1"}, {"ip": "2001:db8::5"}, {"ip": "bad"}],
                "notReadyAddresses": [{"ip": "192.0.2.6"}, {"ip": "192.0.2.5"}], "ports": ports,
            },
            {"addresses": [{"ip": "192.0.2.7"}], "ports": [{"name": "sql", "port": 6543}]},
        ]);
        let made = created(plan(Some(&manual()), Some(&endpoints(&subsets)), &[]));
        let mut told: Vec<(Value, Value, Value)> = made
            .iter()
            .map(|slice| (slice["addressType"].clone(), slice["ports"][0]["port"].clone(), slice["endpoints"].clone()))
            .collect();
        told.sort_by_key(|(family, port, _)| (family.to_string(), port.as_u64()));
        let expected = [
            (
                json!("IPv4"),
                json!(5432),
                json!([
                    {"addresses": ["192.0.2.5"], "conditions": {"ready": true}, "hostname": "db-0", "nodeName": "n1"},
                    {"addresses": ["192.0.2.6"], "conditions": {"ready": false}},
                ]),
            ),
            (json!("IPv4"), json!(6543), json!([{"addresses": ["192.0.2.7"], "conditions": {"ready": true}}])),
            (json!("IPv6"), json!(5432), json!([{"addresses": ["2001:db8::5"], "conditions": {"ready": true}}])),
        ];
        assert_eq!(told, expected);
        for slice in &made {
            assert!(is_mirror(slice, "db") && !endpoint_slices::is_ours(slice, "db"));
            assert_eq!(slice["metadata"]["labels"]["x"], "y");
            assert_eq!(slice["metadata"]["annotations"], json!({"note": "n"}));
            assert_eq!(slice["metadata"]["ownerReferences"][0]["kind"], "Endpoints");
        }
    }

    #[test]
    fn mirrors_follow_and_settle() {
        let before = endpoints(&one_address());
        let made = created(plan(Some(&manual()), Some(&before), &[]));
        assert!(plan(Some(&manual()), Some(&before), &made).is_empty());
        let mut after = before;
        after["subsets"][0]["addresses"][0]["ip"] = "192.0.2.9".into();
        match &plan(Some(&manual()), Some(&after), &made)[..] {
            [Write::Update(_, Part::Object, slice)] => assert_eq!(slice["endpoints"][0]["addresses"][0], "192.0.2.9"),
            other => panic!("{other:?}"),
        }
        for (annotations, expected) in [(json!({"note": "new"}), json!({"note": "new"})), (json!({}), Value::Null)] {
            after["metadata"]["annotations"] = annotations;
            match &plan(Some(&manual()), Some(&after), &made)[..] {
                [Write::Update(_, Part::Object, slice)] => assert_eq!(slice["metadata"]["annotations"], expected),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn many_addresses_are_spread_and_bounded() {
        let many: Vec<Value> =
            (0..1200).map(|index| json!({"ip": format!("192.0.{}.{}", index / 200, index % 200)})).collect();
        let made = created(plan(Some(&manual()), Some(&endpoints(&json!([{"addresses": many}]))), &[]));
        assert_eq!(made.len(), ADDRESSES_MAX / ENDPOINTS_MAX);
        assert!(made.iter().all(|slice| slice["endpoints"].as_array().map(Vec::len) == Some(ENDPOINTS_MAX)));
    }

    #[test]
    fn what_is_not_to_be_mirrored_is_not_and_mirrors_of_it_go() {
        let good = || endpoints(&one_address());
        let made = created(plan(Some(&manual()), Some(&good()), &[]));
        let change = |pointer: &str, field: &str, value: Value| {
            let mut changed = good();
            changed.pointer_mut(pointer).unwrap()[field] = value;
            changed
        };
        let mut external = manual();
        external["spec"]["type"] = "ExternalName".into();
        let selecting = service("db", &json!([{"port": 5432}]));
        let rows = [
            (Some(manual()), None),
            (None, Some(good())),
            (Some(selecting), Some(good())),
            (Some(external), Some(good())),
            (Some(manual()), Some(change("/metadata/labels", SKIP, json!("true")))),
            (Some(manual()), Some(change("/metadata/annotations", LEADER, json!("{}")))),
            (Some(manual()), Some(change("/metadata", "deletionTimestamp", json!("2026-01-01T00:00:00Z")))),
            (Some(manual()), Some(change("", "subsets", Value::Null))),
        ];
        for (service, endpoints) in rows {
            let what = format!("{service:?} {endpoints:?}");
            assert!(plan(service.as_ref(), endpoints.as_ref(), &[]).is_empty(), "{what}");
            let writes = plan(service.as_ref(), endpoints.as_ref(), &made);
            assert!(matches!(&writes[..], [Write::Delete(_, _, _)]), "{what}");
        }
    }
}
