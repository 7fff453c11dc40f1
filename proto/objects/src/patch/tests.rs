//! Patches as kubectl sends them, and worse ones.

use super::{PatchType, apply};
use crate::{ApiError, catalogue};
use serde_json::{Value, json};

fn patched(original: &Value, patch: &Value, patch_type: PatchType) -> Result<Value, ApiError> {
    let kind = catalogue::by_kind("v1", original["kind"].as_str().unwrap_or("Pod")).expect("a kind");
    apply(kind, original, patch, patch_type)
}

/// Rows of (what it shows, original, patch, result).
fn holds(patch_type: PatchType, rows: &[(&str, Value, Value, Value)]) {
    for (what, original, patch, result) in rows {
        let got = patched(original, patch, patch_type).expect(what);
        assert_eq!(got, *result, "{what}");
    }
}

fn refusal(original: &Value, patch: &Value, patch_type: PatchType) -> (u16, String) {
    let error = patched(original, patch, patch_type).expect_err("refused");
    (error.code(), error.message)
}

fn pod(spec: &Value) -> Value {
    json!({"kind": "Pod", "spec": spec})
}

/// A pod whose containers are called `names` and use image `i`.
fn containers(names: &[&str]) -> Value {
    let list: Vec<Value> = names.iter().map(|name| json!({"name": name, "image": "i"})).collect();
    pod(&json!({"containers": list}))
}

#[test]
fn content_types() {
    let table = [
        ("application/json-patch+json", Some(PatchType::Json)),
        ("application/merge-patch+json; charset=utf-8", Some(PatchType::Merge)),
        ("Application/Strategic-Merge-Patch+JSON", Some(PatchType::Strategic)),
        ("application/apply-patch+yaml", None),
        ("application/json", None),
        ("", None),
    ];
    for (text, patch_type) in table {
        assert_eq!(PatchType::from_content_type(text), patch_type, "{text}");
    }
}

#[test]
fn merge_patch() {
    holds(
        PatchType::Merge,
        &[
            (
                "fields are set, replaced and removed",
                json!({"a": 1, "b": {"c": 2, "d": 3}}),
                json!({"a": 4, "b": {"c": null}, "e": {"f": null, "g": 5}}),
                json!({"a": 4, "b": {"d": 3}, "e": {"g": 5}}),
            ),
            ("lists are replaced", json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            ("an object takes a plain value's place", json!({"a": 1}), json!({"a": {"b": 2}}), json!({"a": {"b": 2}})),
        ],
    );
    assert_eq!(refusal(&json!({}), &json!([]), PatchType::Merge).0, 400);
}

#[test]
fn json_patch() {
    let original = json!({"a": [1, 2], "b": {"c": 3}});
    let patch = json!([
        {"op": "test", "path": "/b/c", "value": 3},
        {"op": "add", "path": "/a/-", "value": 4},
        {"op": "remove", "path": "/a/0"},
        {"op": "copy", "from": "/b", "path": "/d"},
        {"op": "move", "from": "/b/c", "path": "/e"},
        {"op": "replace", "path": "/d/c", "value": 5}
    ]);
    assert_eq!(
        patched(&original, &patch, PatchType::Json).expect("applies"),
        json!({"a": [2, 4], "b": {}, "d": {"c": 5}, "e": 3})
    );
}

#[test]
fn json_patch_refusals() {
    let original = json!({"a": [1], "s": "x".repeat(1_000), "metadata": {"name": "p"}});
    let repeated = |operation: Value, times: usize| Value::Array(vec![operation; times]);
    let table = [
        (json!({"op": "remove"}), 400, "a JSON patch must be a list of operations"),
        (json!([{"op": "frobnicate", "path": "/a"}]), 400, "operation 0 of the JSON patch: unknown variant"),
        (json!([{"op": "add", "path": "a", "value": 1}]), 400, "operation 0 of the JSON patch:"),
        (
            json!([{"op": "add", "path": "/b", "value": 1}, {"op": "remove", "path": "/nowhere"}]),
            422,
            "Pod \"p\" is invalid: patch: operation 1 of the JSON patch failed at \"/nowhere\": ",
        ),
        (
            json!([{"op": "test", "path": "/a/0", "value": 2}]),
            422,
            "Pod \"p\" is invalid: patch: operation 0 of the JSON patch failed at \"/a/0\": ",
        ),
        (
            repeated(json!({"op": "test", "path": "/a/0", "value": 1}), 10_001),
            413,
            "a JSON patch may have 10000 operations, this one has 10001",
        ),
        (
            repeated(json!({"op": "copy", "from": "/s", "path": "/a/-"}), 10_000),
            413,
            "operation 3139 of the JSON patch: the patch makes too much work",
        ),
        // Doubles the document with every operation.
        (repeated(json!({"op": "copy", "from": "", "path": "/a/-"}), 64), 413, "operation "),
    ];
    for (patch, code, message) in table {
        let got = refusal(&original, &patch, PatchType::Json);
        assert_eq!(got.0, code, "{}", got.1);
        assert!(got.1.starts_with(message), "{}", got.1);
    }
    let long = json!({"a": vec![0; 100_000]});
    let shifts = repeated(json!({"op": "add", "path": "/a/0", "value": 1}), 10_000);
    assert_eq!(refusal(&long, &shifts, PatchType::Json).0, 413);
}

#[test]
fn what_kubectl_apply_sends() {
    let ordered = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Value>();
    holds(
        PatchType::Strategic,
        &[
            (
                "a container removed",
                containers(&["a", "b"]),
                json!({"spec": {
                    "$setElementOrder/containers": ordered(&["a"]),
                    "containers": [{"$patch": "delete", "name": "b"}]
                }}),
                containers(&["a"]),
            ),
            (
                "an image changed",
                containers(&["a", "b"]),
                json!({"spec": {
                    "$setElementOrder/containers": ordered(&["a", "b"]),
                    "containers": [{"image": "j", "name": "b"}]
                }}),
                pod(&json!({"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]})),
            ),
            (
                "a container added in front, one that the server added stays behind its neighbour",
                containers(&["a", "injected", "b"]),
                json!({"spec": {
                    "$setElementOrder/containers": ordered(&["new", "a", "b"]),
                    "containers": [{"image": "i", "name": "new"}]
                }}),
                containers(&["new", "a", "injected", "b"]),
            ),
            (
                "only the order changed",
                containers(&["a", "b", "c"]),
                json!({"spec": {"$setElementOrder/containers": ordered(&["c", "a", "b"])}}),
                containers(&["c", "a", "b"]),
            ),
            (
                "a port of a service changed",
                json!({"kind": "Service", "spec": {"ports": [{"port": 80, "targetPort": 9376}, {"port": 81}]}}),
                json!({"spec": {
                    "$setElementOrder/ports": [{"port": 80}, {"port": 81}],
                    "ports": [{"port": 80, "targetPort": 9377}]
                }}),
                json!({"kind": "Service", "spec": {"ports": [{"port": 80, "targetPort": 9377}, {"port": 81}]}}),
            ),
            (
                "a volume changes what it is",
                pod(&json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w"}]})),
                json!({"spec": {
                    "$setElementOrder/volumes": ordered(&["v", "w"]),
                    "volumes": [{"$retainKeys": ["configMap", "name"], "emptyDir": null, "name": "v", "configMap": {"name": "c"}}]
                }}),
                pod(&json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}, {"name": "w"}]})),
            ),
            (
                "annotations and labels",
                json!({"metadata": {"labels": {"a": "1", "b": "2"}, "annotations": {"x": "y"}}}),
                json!({"metadata": {"labels": {"a": null, "c": "3"}, "annotations": {"x": "z"}}}),
                json!({"metadata": {"labels": {"b": "2", "c": "3"}, "annotations": {"x": "z"}}}),
            ),
        ],
    );
}

#[test]
fn lists_merge_as_the_field_table_says() {
    holds(
        PatchType::Strategic,
        &[
            (
                "new elements come first when nothing is said of the order",
                containers(&["a", "b"]),
                json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}),
                containers(&["c", "a", "b"]),
            ),
            (
                "atomic lists are replaced",
                pod(&json!({"tolerations": [{"key": "a"}, {"key": "b"}]})),
                json!({"spec": {"tolerations": [{"key": "c"}]}}),
                pod(&json!({"tolerations": [{"key": "c"}]})),
            ),
            (
                "lists within elements",
                pod(&json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}], "args": ["x", "y"]}]})),
                json!({"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "2"}], "args": ["z"]}]}}),
                pod(&json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "2"}], "args": ["z"]}]})),
            ),
            (
                "conditions by type",
                json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "x"}]}}),
                json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": null}]}}),
                json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
            ),
            (
                "plain values are added once and taken away by name",
                json!({"metadata": {"finalizers": ["a", "b"]}}),
                json!({"metadata": {
                    "$setElementOrder/finalizers": ["b", "c"],
                    "$deleteFromPrimitiveList/finalizers": ["a"],
                    "finalizers": ["b", "c"]
                }}),
                json!({"metadata": {"finalizers": ["b", "c"]}}),
            ),
            (
                "a port used by two protocols keeps both",
                pod(&json!({"containers": [{"name": "a"}]})),
                json!({"spec": {"containers": [{"name": "a", "ports": [
                    {"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}
                ]}]}}),
                pod(&json!({"containers": [{"name": "a", "ports": [
                    {"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}
                ]}]})),
            ),
            (
                "what the table does not know is replaced",
                json!({"spec": {"unknown": [{"name": "a"}]}}),
                json!({"spec": {"unknown": [{"name": "b"}]}}),
                json!({"spec": {"unknown": [{"name": "b"}]}}),
            ),
        ],
    );
}

#[test]
fn directives() {
    let original =
        pod(&json!({"nodeName": "n", "nodeSelector": {"a": "1"}, "containers": [{"name": "a"}, {"name": "b"}]}));
    holds(
        PatchType::Strategic,
        &[
            (
                "$patch: replace in an object",
                original.clone(),
                json!({"spec": {"$patch": "replace", "nodeName": "m", "hostname": null}}),
                pod(&json!({"nodeName": "m"})),
            ),
            (
                "$patch: delete in an object",
                original.clone(),
                json!({"spec": {"nodeSelector": {"$patch": "delete"}, "affinity": {"$patch": "delete"}}}),
                pod(&json!({"nodeName": "n", "nodeSelector": {}, "containers": [{"name": "a"}, {"name": "b"}]})),
            ),
            (
                "$patch: merge says what happens anyway",
                original.clone(),
                json!({"spec": {"nodeSelector": {"$patch": "merge", "b": "2"}}}),
                pod(
                    &json!({"nodeName": "n", "nodeSelector": {"a": "1", "b": "2"}, "containers": [{"name": "a"}, {"name": "b"}]}),
                ),
            ),
            (
                "$patch: replace in a list",
                original.clone(),
                json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "c"}]}}),
                pod(&json!({"nodeName": "n", "nodeSelector": {"a": "1"}, "containers": [{"name": "c"}]})),
            ),
            (
                "directives never reach the object",
                json!({}),
                json!({"spec": {
                    "volumes": [{"name": "v", "$retainKeys": ["name"]}, {"$patch": "delete", "name": "w"}],
                    "$setElementOrder/volumes": [{"name": "v"}],
                    "$deleteFromPrimitiveList/x": [1],
                    "securityContext": {"$patch": "replace"}
                }}),
                json!({"spec": {"volumes": [{"name": "v"}], "securityContext": {}}}),
            ),
        ],
    );
}

#[test]
fn strategic_refusals() {
    let original = containers(&["a"]);
    let table = [
        (json!("x"), "the patch must be a JSON object"),
        (
            json!({"spec": {"containers": [{"image": "j"}]}}),
            "spec.containers[0]: does not contain the declared merge key \"name\"",
        ),
        (json!({"spec": {"$patch": "explode"}}), "spec: $patch must be \"merge\", \"replace\" or \"delete\""),
        (json!({"$patch": 1}), "$patch must be \"merge\", \"replace\" or \"delete\""),
        (
            json!({"spec": {"containers": [{"name": "a", "$patch": "merge"}]}}),
            "spec.containers[0]: $patch must be \"replace\" or \"delete\" in an element of a list",
        ),
        (json!({"spec": {"$setElementOrder/containers": "a"}}), "spec.$setElementOrder/containers: must be a list"),
        (json!({"metadata": {"$deleteFromPrimitiveList/finalizers": {}}}), "finalizers: must be a list"),
        (
            json!({"spec": {"containers": [{"name": "a", "image": "x", "$retainKeys": ["name"]}]}}),
            "spec.containers[0].$retainKeys: must list every field of the patch, \"image\" is missing",
        ),
    ];
    let mut original = original;
    original["metadata"] = json!({"finalizers": ["x"]});
    for (patch, message) in table {
        let (code, text) = refusal(&original, &patch, PatchType::Strategic);
        assert_eq!(code, 400, "{text}");
        assert!(text.ends_with(message), "{text}");
    }
}

#[test]
fn long_lists_merge_without_comparing_all_pairs() {
    let env: Vec<Value> = (0..50_000).map(|n| json!({"name": format!("V{n}"), "value": "x"})).collect();
    let mut changed = env.clone();
    changed.reverse();
    let original = pod(&json!({"containers": [{"name": "a", "env": env}]}));
    let patch = json!({"spec": {"containers": [{"name": "a", "env": changed}]}});
    let result = patched(&original, &patch, PatchType::Strategic).expect("applies");
    assert_eq!(result["spec"]["containers"][0]["env"][0]["name"], "V49999");
}
