//! What `kubectl apply` makes of the same manifests.

use super::{LAST_APPLIED, first, three_way};
use crate::catalogue;
use serde_json::{Value, json};

fn kind_of(object: &Value) -> &'static crate::Kind {
    catalogue::by_kind("v1", object["kind"].as_str().expect("a kind")).expect("in the catalogue")
}

/// `live` as after applying `applied` first (with what the cluster added, in `added`) and then `wanted`.
fn applied_twice(applied: &Value, added: impl FnOnce(&mut Value), wanted: &Value) -> Value {
    let mut live = first(applied);
    added(&mut live);
    let mut result = three_way(kind_of(applied), &live, wanted).expect("applies");
    let annotations = result["metadata"]["annotations"].as_object_mut().expect("annotations");
    assert_eq!(
        annotations.shift_remove(LAST_APPLIED),
        Some(first(wanted)["metadata"]["annotations"][LAST_APPLIED].clone())
    );
    if annotations.is_empty() {
        result["metadata"].as_object_mut().expect("metadata").shift_remove("annotations");
    }
    result
}

#[test]
fn the_annotation_is_kubectls_to_the_byte() {
    let wanted = json!({
        "kind": "Pod", "apiVersion": "v1",
        "spec": {"containers": [{"name": "a", "command": ["sh", "-c", "a < b && c > d"]}]},
        "metadata": {"name": "p", "annotations": {LAST_APPLIED: "old"}}
    });
    assert_eq!(
        first(&wanted)["metadata"]["annotations"][LAST_APPLIED],
        concat!(
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{},"name":"p"},"#,
            r#""spec":{"containers":[{"command":["sh","-c","a \u003c b \u0026\u0026 c \u003e d"],"name":"a"}]}}"#,
            "\n"
        )
    );
    assert_eq!(
        first(&json!({"kind": "Pod"}))["metadata"]["annotations"][LAST_APPLIED],
        "{\"kind\":\"Pod\",\"metadata\":{\"annotations\":{}}}\n"
    );
}

#[test]
fn unchanged_equals_live() {
    let wanted = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "creationTimestamp": null, "labels": {"a": "b"}},
        "spec": {
            "containers": [
                {"name": "a", "image": "i", "ports": [{"containerPort": 53}, {"containerPort": 53, "protocol": "UDP"}],
                 "resources": {"requests": {"cpu": 0.5, "memory": "1024Mi"}}, "args": ["x"]},
                {"name": "b", "image": "i"}
            ],
            "volumes": [{"name": "v", "configMap": {"name": "c"}}]
        }
    });
    let mut live = first(&wanted);
    live["metadata"]["creationTimestamp"] = json!("2026-01-02T03:04:05Z");
    live["metadata"]["uid"] = json!("u");
    live["metadata"]["labels"]["added"] = json!("by a controller");
    live["spec"]["nodeName"] = json!("n");
    live["spec"]["containers"][0]["ports"][0]["protocol"] = json!("TCP");
    live["spec"]["containers"][0]["resources"]["requests"] = json!({"cpu": "500m", "memory": "1Gi"});
    live["spec"]["volumes"][0]["configMap"]["defaultMode"] = json!(420);
    live["spec"]["containers"].as_array_mut().expect("a list").insert(1, json!({"name": "injected"}));
    live["status"] = json!({"phase": "Running"});
    let result = three_way(catalogue::pods(), &live, &wanted).expect("applies");
    assert_eq!(result, live);
}

#[test]
fn removed_fields_and_elements_go_others_stay() {
    let applied = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "1", "b": "2"}},
        "spec": {"hostname": "h", "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i", "tty": true}]}
    });
    let wanted = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"b": "3"}},
        "spec": {"containers": [{"name": "new", "image": "i"}, {"name": "b", "image": "j"}]}
    });
    let added = |live: &mut Value| {
        live["metadata"]["labels"]["c"] = json!("added");
        live["spec"]["nodeName"] = json!("n");
        live["spec"]["containers"][1]["imagePullPolicy"] = json!("Always");
        live["spec"]["containers"].as_array_mut().expect("a list").push(json!({"name": "injected"}));
    };
    assert_eq!(
        applied_twice(&applied, added, &wanted),
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"b": "3", "c": "added"}},
            "spec": {
                "nodeName": "n",
                "containers": [
                    {"name": "new", "image": "i"},
                    {"name": "b", "image": "j", "imagePullPolicy": "Always"},
                    {"name": "injected"}
                ]
            }
        })
    );
}

#[test]
fn fields_of_the_cluster_survive_on_services() {
    let applied = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80, "targetPort": 1}, {"port": 81}], "selector": {"app": "a", "old": "x"}}
    });
    let wanted = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80, "targetPort": 2}], "selector": {"app": "b"}}
    });
    let added = |live: &mut Value| {
        live["spec"]["clusterIP"] = json!("10.96.0.9");
        live["spec"]["ports"][0]["nodePort"] = json!(30000);
    };
    assert_eq!(
        applied_twice(&applied, added, &wanted)["spec"],
        json!({
            "ports": [{"port": 80, "targetPort": 2, "nodePort": 30000}],
            "selector": {"app": "b"}, "clusterIP": "10.96.0.9"
        })
    );
}

#[test]
fn a_volume_changes_what_it_is() {
    let volumes = |volume: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"volumes": [volume]}});
    let result = applied_twice(
        &volumes(json!({"name": "v"})),
        |live| live["spec"]["volumes"][0]["emptyDir"] = json!({}),
        &volumes(json!({"name": "v", "configMap": {"name": "c"}})),
    );
    assert_eq!(result["spec"]["volumes"], json!([{"name": "v", "configMap": {"name": "c"}}]));
}

#[test]
fn nulls_delete_and_lists_without_keys_are_replaced() {
    let applied = json!({"kind": "Pod", "metadata": {}, "spec": {"tolerations": [{"key": "a"}]}});
    let wanted = json!({"kind": "Pod", "metadata": {}, "spec": {"nodeName": null, "tolerations": [{"key": "b"}]}});
    let result = applied_twice(&applied, |live| live["spec"]["nodeName"] = json!("n"), &wanted);
    assert_eq!(result["spec"], json!({"tolerations": [{"key": "b"}]}));
}

#[test]
fn finalizers_are_a_set() {
    let with = |finalizers: Value| json!({"kind": "Pod", "metadata": {"finalizers": finalizers}});
    let result = applied_twice(
        &with(json!(["a", "b"])),
        |live| live["metadata"]["finalizers"] = json!(["a", "b", "server"]),
        &with(json!(["b", "c"])),
    );
    assert_eq!(result["metadata"]["finalizers"], json!(["b", "c", "server"]));
    let reordered = applied_twice(&with(json!(["a", "b"])), |_| {}, &with(json!(["b", "a"])));
    assert_eq!(reordered["metadata"]["finalizers"], json!(["b", "a"]));
}

#[test]
fn without_a_readable_annotation_nothing_is_deleted() {
    let wanted = json!({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}});
    for annotations in [json!(null), json!({}), json!({LAST_APPLIED: "{"}), json!({LAST_APPLIED: "[]"})] {
        let live = json!({
            "kind": "ConfigMap", "metadata": {"name": "c", "annotations": annotations}, "data": {"b": "2"}
        });
        let result = three_way(catalogue::config_maps(), &live, &wanted).expect("applies");
        assert_eq!(result["data"], json!({"b": "2", "a": "1"}));
        assert!(result["metadata"]["annotations"][LAST_APPLIED].is_string());
    }
}

#[test]
fn an_element_without_its_name_is_refused() {
    let live = json!({"kind": "Pod", "spec": {"containers": [{"name": "a"}]}});
    let wanted = json!({"kind": "Pod", "spec": {"containers": [{"image": "i"}]}});
    let error = three_way(catalogue::pods(), &live, &wanted).expect_err("refused");
    assert_eq!(error.message, "cannot apply: spec.containers[0] does not contain the declared merge key \"name\"");
}
