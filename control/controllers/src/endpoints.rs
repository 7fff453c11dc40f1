//! The Endpoints of a service: all addresses in one object of the same name, for readers that know no slices.

use crate::service_backends::{self, Backend};
use coracle_client::{DeleteOptions, Part, Write};
use coracle_objects::{catalogue, meta};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// Says that an Endpoints object is ours; others are left alone when their service goes.
pub const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");

/// More addresses than this are left out, ready ones first in: one object must stay small. Slices have them all.
const ADDRESSES_MAX: usize = 1000;

/// Says that some were left out.
const OVER_CAPACITY: (&str, &str) = ("endpoints.kubernetes.io/over-capacity", "truncated");

/// The write that brings `current` in line with `service` and `pods`, if one is needed.
#[must_use]
pub fn plan(service: Option<&Value>, pods: &[Arc<Value>], current: Option<&Value>) -> Option<Write> {
    let kind = catalogue::endpoints();
    let Some(service) = service else {
        let ours = current.filter(|endpoints| meta::label(endpoints, MANAGED_BY.0) == Some(MANAGED_BY.1))?;
        let options = DeleteOptions { uid: Some(meta::uid(ours).to_owned()), ..DeleteOptions::default() };
        return Some(Write::Delete(kind, meta::key(ours), options));
    };
    service_backends::selector(service)?;
    let (subsets, truncated) = subsets(service, &service_backends::backends(service, pods));
    let labels = service_backends::labels(service, &[MANAGED_BY]);
    let Some(current) = current else {
        let mut endpoints = json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"namespace": meta::namespace(service), "name": meta::name(service), "labels": labels},
        });
        set(&mut endpoints, subsets, truncated);
        return Some(Write::Create(kind, endpoints));
    };
    let mut wanted = current.clone();
    wanted["metadata"]["labels"] = labels;
    set(&mut wanted, subsets, truncated);
    (!is_same(&wanted, current)).then_some(Write::Update(kind, Part::Object, wanted))
}

fn is_same(wanted: &Value, current: &Value) -> bool {
    let list = |endpoints: &Value| endpoints["subsets"].as_array().cloned().unwrap_or_default();
    let note = |endpoints: &Value| meta::annotation(endpoints, OVER_CAPACITY.0).map(str::to_owned);
    wanted["metadata"]["labels"] == current["metadata"]["labels"]
        && note(wanted) == note(current)
        && list(wanted) == list(current)
}

fn set(endpoints: &mut Value, subsets: Vec<Value>, truncated: bool) {
    let Some(object) = endpoints.as_object_mut() else { return };
    object.shift_remove("subsets");
    if !subsets.is_empty() {
        object.insert("subsets".to_owned(), subsets.into());
    }
    let metadata = &mut endpoints["metadata"];
    if truncated {
        metadata["annotations"][OVER_CAPACITY.0] = OVER_CAPACITY.1.into();
    } else if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.shift_remove(OVER_CAPACITY.0);
    }
}

/// Addresses that have the same ports share a subset; everything is ordered, so that equal things look equal. Also
/// whether some had to be left out.
fn subsets(service: &Value, backends: &[Backend]) -> (Vec<Value>, bool) {
    let is_listed = |backend: &&Backend| !backend.is_terminating || service_backends::publishes_not_ready(service);
    // A pod that has none of the ports cannot be reached, unless there are none to be had.
    let is_portless = service["spec"]["ports"].as_array().is_none_or(Vec::is_empty);
    let mut listed: Vec<&Backend> =
        backends.iter().filter(is_listed).filter(|backend| is_portless || !backend.ports.is_empty()).collect();
    listed.sort_by_key(|backend| (!backend.is_ready(service), backend.address));
    let truncated = listed.len() > ADDRESSES_MAX;
    listed.truncate(ADDRESSES_MAX);
    let mut by_ports: BTreeMap<String, Value> = BTreeMap::new();
    for backend in listed {
        let mut ports = backend.ports.clone();
        ports.sort_by_key(ToString::to_string);
        let subset = by_ports.entry(Value::from(ports.clone()).to_string()).or_insert_with(|| json!({}));
        let list = if backend.is_ready(service) { "addresses" } else { "notReadyAddresses" };
        if let Some(list) = subset[list].as_array_mut() {
            list.push(address(backend));
        } else {
            subset[list] = json!([address(backend)]);
        }
        if !ports.is_empty() && subset["ports"].is_null() {
            subset["ports"] = ports.into();
        }
    }
    (by_ports.into_values().collect(), truncated)
}

fn address(backend: &Backend) -> Value {
    let mut address = json!({"ip": backend.address.to_string()});
    if let Some(hostname) = &backend.hostname {
        address["hostname"] = hostname.as_str().into();
    }
    if !backend.node_name.is_empty() {
        address["nodeName"] = backend.node_name.as_str().into();
    }
    address["targetRef"] = backend.target.clone();
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service_backends::tests::{pod, service};

    fn created(service: &Value, pods: &[Arc<Value>]) -> Value {
        match plan(Some(service), pods, None) {
            Some(Write::Create(_, endpoints)) => endpoints,
            other => panic!("{other:?}"),
        }
    }

    fn addresses(endpoints: &Value) -> Vec<(String, String)> {
        let names = |list: &Value| {
            let list = list.as_array().cloned().unwrap_or_default();
            list.iter()
                .map(|address| address["targetRef"]["name"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
                .join(" ")
        };
        let subsets = endpoints["subsets"].as_array().cloned().unwrap_or_default();
        subsets.iter().map(|subset| (names(&subset["addresses"]), names(&subset["notReadyAddresses"]))).collect()
    }

    #[test]
    fn ready_and_unready_addresses_stand_apart() {
        let web = service("web", &json!([{"name": "http", "port": 80, "targetPort": "http"}]));
        let pods =
            [pod("b", "10.244.0.2", true), pod("a", "10.244.0.10", true), pod("c", "10.244.0.3", false)].map(Arc::new);
        let endpoints = created(&web, &pods);
        assert_eq!(addresses(&endpoints), [("b a".to_owned(), "c".to_owned())], "in the order of their addresses");
        assert_eq!(endpoints["subsets"][0]["ports"], json!([{"port": 8080, "protocol": "TCP", "name": "http"}]));
        assert_eq!(endpoints["metadata"]["name"], "web");
        assert_eq!(endpoints["metadata"]["labels"], json!({"team": "red", MANAGED_BY.0: MANAGED_BY.1}));
        assert_eq!(
            endpoints["subsets"][0]["addresses"][0],
            json!({
                "ip": "10.244.0.2", "nodeName": "n1",
                "targetRef": {"kind": "Pod", "namespace": "a", "name": "b", "uid": "b-uid"},
            })
        );
    }

    #[test]
    fn pods_with_other_ports_have_their_own_subset_and_those_without_any_are_left_out() {
        let web = service("web", &json!([{"port": 80, "targetPort": "http"}]));
        let (mut other, mut none) = (pod("other", "10.244.0.2", true), pod("none", "10.244.0.3", true));
        other["spec"]["containers"][0]["ports"][0]["containerPort"] = 9090.into();
        none["spec"]["containers"] = json!([]);
        let pods = [pod("p", "10.244.0.1", true), other, none].map(Arc::new);
        assert_eq!(
            addresses(&created(&web, &pods)),
            [("p".to_owned(), String::new()), ("other".to_owned(), String::new())]
        );
    }

    #[test]
    fn nothing_is_written_when_nothing_changes() {
        let web = service("web", &json!([{"port": 80}]));
        let pods = [Arc::new(pod("p", "10.244.0.1", true))];
        let stored = created(&web, &pods);
        assert!(plan(Some(&web), &pods, Some(&stored)).is_none());
        let Some(Write::Update(_, Part::Object, emptied)) = plan(Some(&web), &[], Some(&stored)) else { panic!() };
        assert_eq!(emptied.get("subsets"), None);
        let mut explicit = emptied.clone();
        explicit["subsets"] = json!([]);
        assert!(plan(Some(&web), &[], Some(&explicit)).is_none());
    }

    #[test]
    fn a_service_without_selector_is_left_alone_and_one_that_is_gone_takes_ours_along() {
        let mut manual = service("web", &json!([{"port": 80}]));
        let stored = created(&manual, &[]);
        manual["spec"]["selector"] = json!({});
        assert!(plan(Some(&manual), &[], None).is_none());
        assert!(plan(Some(&manual), &[], Some(&stored)).is_none());
        assert!(matches!(plan(None, &[], Some(&stored)), Some(Write::Delete(_, key, _)) if key.name == "web"));
        let mut foreign = stored;
        foreign["metadata"]["labels"] = json!({});
        assert!(plan(None, &[], Some(&foreign)).is_none());
        assert!(plan(None, &[], None).is_none());
    }

    #[test]
    fn a_headless_service_may_have_no_ports() {
        let mut headless = service("db", &json!([]));
        headless["spec"]["clusterIP"] = "None".into();
        let endpoints = created(&headless, &[Arc::new(pod("p", "10.244.0.1", true))]);
        assert_eq!(addresses(&endpoints), [("p".to_owned(), String::new())]);
        assert_eq!(endpoints["subsets"][0].get("ports"), None);
        assert_eq!(endpoints["metadata"]["labels"][service_backends::HEADLESS_LABEL], "");
    }

    #[test]
    fn too_many_addresses_are_cut_and_it_says_so() {
        let web = service("web", &json!([{"port": 80}]));
        let pods: Vec<_> = (0..=ADDRESSES_MAX)
            .map(|index| {
                Arc::new(pod(&format!("p{index}"), &format!("10.244.{}.{}", index / 200, index % 200), index > 0))
            })
            .collect();
        let endpoints = created(&web, &pods);
        assert_eq!(meta::annotation(&endpoints, OVER_CAPACITY.0), Some(OVER_CAPACITY.1));
        assert_eq!(endpoints["subsets"][0]["addresses"].as_array().map(Vec::len), Some(ADDRESSES_MAX));
        assert_eq!(endpoints["subsets"][0]["notReadyAddresses"], Value::Null, "ready ones first");
        let Some(Write::Update(_, _, fewer)) = plan(Some(&web), &pods[1..], Some(&endpoints)) else { panic!() };
        assert_eq!(meta::annotation(&fewer, OVER_CAPACITY.0), None);
    }
}
