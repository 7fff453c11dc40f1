//! Discovery documents, derived from the catalogue.

use crate::{
    Kind, catalogue,
    kind::{Subresource, Verb},
    metrics, reviews,
};
use serde_json::{Map, Value, json};

/// `GET /api`: `APIVersions`.
#[must_use]
pub fn core_versions() -> Value {
    let versions: Vec<&str> = catalogue::group_versions()
        .into_iter()
        .filter(|(group, _)| group.is_empty())
        .map(|(_, version)| version)
        .collect();
    json!({"kind": "APIVersions", "versions": versions, "serverAddressByClientCIDRs": []})
}

/// `GET /apis`: `APIGroupList`.
#[must_use]
pub fn groups() -> Value {
    let groups: Vec<Value> = named_groups().into_iter().map(group_body).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/GROUP`: `APIGroup`.
#[must_use]
pub fn group(group: &str) -> Option<Value> {
    let known = named_groups().into_iter().find(|known| *known == group)?;
    let mut body = json!({"kind": "APIGroup", "apiVersion": "v1"});
    if let (Value::Object(body), Value::Object(rest)) = (&mut body, group_body(known)) {
        body.extend(rest);
    }
    Some(body)
}

/// `GET /api/v1` or `/apis/GROUP/VERSION`: `APIResourceList`.
#[must_use]
pub fn resources(group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in in_group(group, version) {
        let mut resource = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": verbs(kind.verbs),
        });
        add_names(&mut resource, kind);
        resources.push(resource);
        resources.extend(kind.subresources.iter().map(|sub| {
            let mut resource = json!({
                "name": format!("{}/{}", kind.plural, sub.name), "singularName": "", "namespaced": kind.namespaced,
                "kind": sub.kind, "verbs": verbs(sub.verbs),
            });
            let (group, version, _) = sub.body(kind);
            if (group, version) != (kind.group, kind.version) {
                resource["group"] = group.into();
                resource["version"] = version.into();
            }
            resource
        }));
    }
    let group_version = group_version(group, version);
    (!resources.is_empty() || (group, version) == OF_EVICTIONS).then(|| {
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
    })
}

/// `GET /api` or `/apis` for `apidiscovery.k8s.io/v2` `APIGroupDiscoveryList`; `core` picks `/api`.
#[must_use]
pub fn aggregated(core: bool) -> Value {
    let groups = if core { vec![""] } else { named_groups() };
    let items: Vec<Value> = groups
        .into_iter()
        .map(|group| {
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            let versions: Vec<Value> = versions(group)
                .map(|version| {
                    let resources: Vec<Value> = in_group(group, version).map(aggregated_resource).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(kind: &'static Kind) -> Value {
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": response_kind((kind.group, kind.version, kind.kind)),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": verbs(kind.verbs),
    });
    add_names(&mut resource, kind);
    let subresources: Vec<Value> = kind.subresources.iter().map(|sub| aggregated_subresource(kind, sub)).collect();
    if !subresources.is_empty() {
        resource["subresources"] = Value::Array(subresources);
    }
    resource
}

fn aggregated_subresource(kind: &Kind, sub: &Subresource) -> Value {
    json!({"subresource": sub.name, "responseKind": response_kind(sub.body(kind)), "verbs": verbs(sub.verbs)})
}

fn response_kind((group, version, kind): (&str, &str, &str)) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn group_body(group: &'static str) -> Value {
    let versions: Vec<Value> = versions(group)
        .map(|version| json!({"groupVersion": group_version(group, version), "version": version}))
        .collect();
    let mut body = Map::new();
    body.insert("name".to_owned(), Value::from(group));
    body.insert("preferredVersion".to_owned(), versions.first().cloned().unwrap_or_default());
    body.insert("versions".to_owned(), Value::Array(versions));
    Value::Object(body)
}

/// Every group but the core group.
fn named_groups() -> Vec<&'static str> {
    let mut groups: Vec<&str> = group_versions().map(|(group, _)| group).collect();
    groups.dedup();
    groups.retain(|group| !group.is_empty());
    groups
}

fn versions(group: &'static str) -> impl Iterator<Item = &'static str> {
    group_versions().filter(move |(known, _)| *known == group).map(|(_, version)| version)
}

/// The group of evictions. It has no resources of its own, but older clients evict only where there is such a group.
const OF_EVICTIONS: (&str, &str) = ("policy", "v1");

/// Every group and version that is served: those of stored kinds, then those of computed ones.
fn group_versions() -> impl Iterator<Item = (&'static str, &'static str)> {
    let stored = catalogue::group_versions().into_iter();
    let mut all: Vec<_> =
        stored.chain(computed().map(|kind| (kind.group, kind.version))).chain([OF_EVICTIONS]).collect();
    all.dedup();
    all.into_iter()
}

/// What is answered and never stored.
fn computed() -> impl Iterator<Item = &'static Kind> {
    metrics::all().into_iter().chain(reviews::all())
}

/// The kinds of one group and version, stored or computed.
fn in_group(group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
    let computed = computed().filter(move |kind| kind.group == group && kind.version == version);
    catalogue::in_group(group, version).chain(computed)
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn verbs(verbs: &[Verb]) -> Vec<&'static str> {
    verbs.iter().map(|verb| verb.as_str()).collect()
}

fn add_names(resource: &mut Value, kind: &Kind) {
    for (name, list) in [("shortNames", kind.short_names), ("categories", kind.categories)] {
        if !list.is_empty() {
            resource[name] = json!(list);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_versions() {
        assert_eq!(core_versions()["versions"], json!(["v1"]));
        let names: Vec<Value> =
            groups()["groups"].as_array().into_iter().flatten().map(|g| g["name"].clone()).collect();
        assert_eq!(
            names,
            [
                "certificates.k8s.io",
                "coordination.k8s.io",
                "discovery.k8s.io",
                "metrics.k8s.io",
                "authentication.k8s.io",
                "authorization.k8s.io",
                "policy"
            ]
        );
        assert_eq!(
            group("discovery.k8s.io"),
            Some(json!({
                "kind": "APIGroup", "apiVersion": "v1", "name": "discovery.k8s.io",
                "preferredVersion": {"groupVersion": "discovery.k8s.io/v1", "version": "v1"},
                "versions": [{"groupVersion": "discovery.k8s.io/v1", "version": "v1"}]
            }))
        );
        assert_eq!(group(""), None);
        assert_eq!(group("apps"), None);
        assert_eq!(resources("apps", "v1"), None);
        assert_eq!(resources("", "v2"), None);
    }

    #[test]
    fn resources_of_the_core_group() {
        let list = resources("", "v1").expect("served");
        assert_eq!(list["groupVersion"], "v1");
        let find = |name: &str| {
            list["resources"].as_array().into_iter().flatten().find(|row| row["name"] == name).expect(name).clone()
        };
        assert_eq!(
            find("pods"),
            json!({
                "name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod",
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
                "shortNames": ["po"], "categories": ["all"]
            })
        );
        assert_eq!(
            find("pods/binding"),
            json!({"name": "pods/binding", "singularName": "", "namespaced": true, "kind": "Binding", "verbs": ["create"]})
        );
        assert_eq!(
            find("pods/eviction"),
            json!({
                "name": "pods/eviction", "singularName": "", "namespaced": true, "group": "policy", "version": "v1",
                "kind": "Eviction", "verbs": ["create"]
            })
        );
        assert_eq!(resources("policy", "v1").map(|list| list["resources"].clone()), Some(json!([])));
        assert_eq!(find("namespaces/finalize")["namespaced"], false);
    }

    /// Both forms say the same of every kind.
    #[test]
    fn aggregated_discovery_lists_what_legacy_discovery_lists() {
        let mut listed = Vec::new();
        for (document, core) in [(aggregated(true), true), (aggregated(false), false)] {
            assert_eq!(document["apiVersion"], "apidiscovery.k8s.io/v2");
            for item in document["items"].as_array().into_iter().flatten() {
                let group = item["metadata"]["name"].as_str().unwrap_or_default();
                assert_eq!(group.is_empty(), core);
                for version in item["versions"].as_array().into_iter().flatten() {
                    let version_name = version["version"].as_str().expect("a version");
                    let legacy = resources(group, version_name).expect("served");
                    for row in version["resources"].as_array().into_iter().flatten() {
                        let plural = row["resource"].as_str().expect("a resource");
                        let other = legacy["resources"].as_array().into_iter().flatten();
                        let other = other.clone().find(|one| one["name"] == plural).expect(plural);
                        assert_eq!(row["verbs"], other["verbs"]);
                        assert_eq!(row["responseKind"]["kind"], other["kind"]);
                        assert_eq!(row["scope"] == "Namespaced", other["namespaced"] == true);
                        assert_eq!(row.get("shortNames"), other.get("shortNames"));
                        listed.push(plural.to_owned());
                    }
                }
            }
        }
        assert_eq!(
            listed,
            catalogue::all().iter().copied().chain(computed()).map(|kind| kind.plural).collect::<Vec<_>>()
        );
        let subresources = &aggregated(true)["items"][0]["versions"][0]["resources"][5]["subresources"];
        let expected = |name: &str, verbs: &[&str], kind: &str| {
            json!({
                "subresource": name, "verbs": verbs, "responseKind": {"group": "", "version": "v1", "kind": kind}
            })
        };
        assert_eq!(subresources[0], expected("attach", &["create", "get"], "PodAttachOptions"));
        assert_eq!(subresources[1], expected("binding", &["create"], "Binding"));
        assert_eq!(subresources[2]["responseKind"], json!({"group": "policy", "version": "v1", "kind": "Eviction"}));
        assert_eq!(subresources[3], expected("exec", &["create", "get"], "PodExecOptions"));
    }
}
