//! What clients look for in the documents.

use super::{v2, v2_json, v2_protobuf, v3_index, v3_json};
use crate::{catalogue, kind::Verb};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn v3(path: &str) -> Value {
    serde_json::from_slice(v3_json(path).expect("served")).expect("JSON")
}

/// Every `$ref` anywhere below `value`.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                match inner {
                    Value::String(target) if name == "$ref" => {
                        found.insert(target.clone());
                    }
                    inner => references(inner, found),
                }
            }
        }
        Value::Array(elements) => elements.iter().for_each(|inner| references(inner, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let mut documents = vec![(v2(), "#/definitions/", "/definitions")];
    for (group, version) in catalogue::group_versions() {
        let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
        documents.push((v3(&path), "#/components/schemas/", "/components/schemas"));
    }
    for (document, prefix, place) in documents {
        let defined = document.pointer(place).and_then(Value::as_object).expect("definitions");
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for target in found {
            let name = target.strip_prefix(prefix).expect(&target);
            assert!(defined.contains_key(name), "{target}");
        }
    }
}

#[test]
fn the_index_leads_to_the_documents() {
    let index = v3_index();
    let paths = index["paths"].as_object().expect("paths");
    assert_eq!(
        paths.keys().collect::<Vec<_>>(),
        ["api/v1", "apis/certificates.k8s.io/v1", "apis/coordination.k8s.io/v1", "apis/discovery.k8s.io/v1"]
    );
    for (path, entry) in paths {
        let url = entry["serverRelativeURL"].as_str().expect("a URL");
        assert!(url.starts_with(&format!("/openapi/v3/{path}?hash=")), "{url}");
        assert_eq!(v3(path)["openapi"], "3.0.0");
    }
    assert!(v3_json("apis/apps/v1").is_none());
}

#[test]
fn schemas_of_both_versions() {
    let three = v3("api/v1");
    let three = |name: &str| three["components"]["schemas"][name].clone();
    let two = v2();
    let two = |name: &str| two["definitions"][name].clone();
    let pod = "io.k8s.api.core.v1.Pod";
    let identity = json!([{"group": "", "version": "v1", "kind": "Pod"}]);
    assert_eq!(three(pod)["x-kubernetes-group-version-kind"], identity);
    assert_eq!(two(pod)["x-kubernetes-group-version-kind"], identity);
    assert_eq!(
        three(pod)["properties"]["spec"]["allOf"],
        json!([{"$ref": "#/components/schemas/io.k8s.api.core.v1.PodSpec"}])
    );
    assert_eq!(two(pod)["properties"]["spec"]["$ref"], "#/definitions/io.k8s.api.core.v1.PodSpec");
    assert!(two(pod)["properties"]["spec"]["description"].is_string());

    let volumes = &two("io.k8s.api.core.v1.PodSpec")["properties"]["volumes"];
    assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
    assert_eq!(volumes["x-kubernetes-patch-merge-key"], "name");
    let ports = &three("io.k8s.api.core.v1.Container")["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
    assert_eq!(ports["x-kubernetes-list-type"], "map");

    let quantity = "io.k8s.apimachinery.pkg.api.resource.Quantity";
    assert_eq!(two(quantity)["type"], "string");
    assert_eq!(three(quantity)["oneOf"], json!([{"type": "string"}, {"type": "number"}]));
    let int_or_string = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
    assert_eq!(
        (&two(int_or_string)["type"], &two(int_or_string)["format"]),
        (&json!("string"), &json!("int-or-string"))
    );
    assert_eq!(three(int_or_string)["format"], "int-or-string");
    assert_eq!(two("io.k8s.apimachinery.pkg.apis.meta.v1.Time")["format"], "date-time");
    assert_eq!(
        two("io.k8s.api.core.v1.ConfigMap")["properties"]["data"]["additionalProperties"],
        json!({"type": "string"})
    );
    assert_eq!(
        two("io.k8s.api.core.v1.PodList")["properties"]["items"]["items"]["$ref"],
        "#/definitions/io.k8s.api.core.v1.Pod"
    );
    assert_eq!(three("io.k8s.api.core.v1.PodSpec")["properties"]["nodeSelector"]["x-kubernetes-map-type"], "atomic");
}

/// `kubectl` learns from the PATCH operation of a kind that the server takes `fieldValidation` and `dryRun`.
#[test]
fn patch_operations_of_every_kind_take_field_validation_and_dry_run() {
    for kind in catalogue::all().iter().filter(|kind| kind.allows(Verb::Patch)) {
        let identity = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let path = if kind.group.is_empty() {
            format!("api/{}", kind.version)
        } else {
            format!("apis/{}/{}", kind.group, kind.version)
        };
        for document in [v2(), v3(&path)] {
            let paths = document["paths"].as_object().expect("paths").values();
            let operations: Vec<&Value> = paths
                .filter_map(|item| item.get("patch"))
                .filter(|operation| operation["x-kubernetes-group-version-kind"] == identity)
                .collect();
            assert!(!operations.is_empty(), "{}", kind.kind);
            for operation in operations {
                let names: Vec<&Value> =
                    operation["parameters"].as_array().into_iter().flatten().map(|one| &one["name"]).collect();
                assert!(names.contains(&&json!("fieldValidation")) && names.contains(&&json!("dryRun")), "{names:?}");
            }
        }
    }
}

#[test]
fn paths_follow_the_catalogue() {
    let document = v3("api/v1");
    let paths = document["paths"].as_object().expect("paths");
    let table = [
        ("/api/v1/pods", vec![("get", "listCoreV1PodForAllNamespaces", "list")]),
        (
            "/api/v1/namespaces/{namespace}/pods",
            vec![
                ("get", "listCoreV1NamespacedPod", "list"),
                ("post", "createCoreV1NamespacedPod", "post"),
                ("delete", "deleteCoreV1CollectionNamespacedPod", "deletecollection"),
            ],
        ),
        (
            "/api/v1/namespaces/{namespace}/pods/{name}",
            vec![
                ("get", "readCoreV1NamespacedPod", "get"),
                ("put", "replaceCoreV1NamespacedPod", "put"),
                ("patch", "patchCoreV1NamespacedPod", "patch"),
                ("delete", "deleteCoreV1NamespacedPod", "delete"),
            ],
        ),
        (
            "/api/v1/namespaces/{namespace}/pods/{name}/binding",
            vec![("post", "createCoreV1NamespacedPodBinding", "post")],
        ),
        ("/api/v1/namespaces/{namespace}/pods/{name}/log", vec![("get", "readCoreV1NamespacedPodLog", "get")]),
        ("/api/v1/namespaces/{name}/finalize", vec![("put", "replaceCoreV1NamespaceFinalize", "put")]),
        ("/api/v1/namespaces", vec![("get", "listCoreV1Namespace", "list"), ("post", "createCoreV1Namespace", "post")]),
    ];
    for (path, operations) in table {
        let item = paths.get(path).expect(path);
        let methods = item.as_object().expect("an item").keys().filter(|name| *name != "parameters").count();
        assert_eq!(methods, operations.len(), "{path}");
        for (method, id, action) in operations {
            assert_eq!(item[method]["operationId"], id);
            assert_eq!(item[method]["x-kubernetes-action"], action);
        }
    }
    let mut ids = BTreeSet::new();
    let document = v2();
    for item in document["paths"].as_object().expect("paths").values() {
        for operation in item.as_object().expect("an item").values() {
            if let Some(id) = operation["operationId"].as_str() {
                assert!(ids.insert(id.to_owned()), "{id} twice");
            }
        }
    }
    assert!(ids.len() > 60, "{}", ids.len());
}

/// Spot checks on the wire: field numbers are what `kubectl` reads by.
#[test]
fn protobuf_has_gnostics_field_numbers() {
    let bytes = v2_protobuf();
    assert_eq!(&bytes[..5], b"\x0a\x032.0", "Document.swagger is field 1");
    let contains = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    assert!(contains(b"\xb2\x01\x09\x0a\x07integer"), "Schema.type is field 22 with a TypeItem");
    assert!(contains(b"\x0a\x2a#/definitions/io.k8s.api.core.v1.Container"), "Schema.$ref is field 1");
    let extension = b"\xfa\x01\x2f\x0a\x1cx-kubernetes-patch-merge-key\x12";
    assert!(contains(&extension[..2]) && contains(b"\x0a\x1cx-kubernetes-patch-merge-key\x12"), "extensions are 31");
    assert!(v2_json().len() > 100_000 && bytes.len() > 100_000);
}

#[test]
fn no_kind_requires_metadata() {
    let document = v2();
    for kind in catalogue::all() {
        let found = document["definitions"].as_object().expect("definitions").iter().find(|(_, schema)| {
            let stated = schema["x-kubernetes-group-version-kind"].as_array();
            stated.is_some_and(|list| list.iter().any(|one| one["kind"] == kind.kind && one["group"] == kind.group))
        });
        let (_, schema) = found.expect("a definition");
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        assert!(!required.contains(&json!("metadata")), "{}: {required:?}", kind.kind);
    }
}
