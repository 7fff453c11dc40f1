//! Shapes of real kinds.

use crate::{
    ApiError, Reason, catalogue,
    fields::{Checked, FieldValidation, check},
};
use serde_json::{Value, json};

fn strict(alias: &str, object: Value) -> Result<Checked, ApiError> {
    check(catalogue::by_alias(alias).expect("a kind"), object, FieldValidation::Strict)
}

#[test]
fn good_objects_pass_unchanged() {
    let table = [
        (
            "pod",
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": "a", "labels": {"a": "b"}, "creationTimestamp": "2026-01-02T03:04:05Z", "generation": 1,
                    "managedFields": [{"fieldsV1": {"f:metadata": {".": {}}}, "manager": "m"}]
                },
                "spec": {
                    "containers": [{
                        "name": "c", "image": "i", "ports": [{"containerPort": 80}],
                        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                        "readinessProbe": {"httpGet": {"port": "http", "path": "/"}},
                        "livenessProbe": {"tcpSocket": {"port": 80}},
                        "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
                    }],
                    "terminationGracePeriodSeconds": 30
                },
                "status": {"startTime": "2026-01-02T03:04:05Z"}
            }),
        ),
        (
            "secret",
            json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "YQ=="}, "stringData": {"b": "c"}, "type": "Opaque"}),
        ),
        (
            "lease",
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                   "spec": {"renewTime": "2026-01-02T03:04:05.000006Z", "leaseDurationSeconds": 40}}),
        ),
        (
            "endpointslice",
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                   "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}],
                   "ports": [{"name": "", "port": 80, "protocol": "TCP"}]}),
        ),
    ];
    for (alias, object) in table {
        assert_eq!(strict(alias, object.clone()).expect(alias).object, object);
    }
}

#[test]
fn wrong_types_are_named_with_their_path() {
    let container = |fields: Value| json!({"spec": {"containers": [{"name": "a"}, fields]}});
    let table = [
        (
            "pod",
            container(json!({"ports": [{"containerPort": "x"}]})),
            "spec.containers[1].ports[0].containerPort: expected integer, found string \"x\"",
        ),
        (
            "pod",
            container(json!({"ports": [{"containerPort": 80.5}]})),
            "spec.containers[1].ports[0].containerPort: expected integer, found number 80.5",
        ),
        (
            "pod",
            container(json!({"ports": [{"containerPort": 2_147_483_648_i64}]})),
            "spec.containers[1].ports[0].containerPort: expected 32-bit integer, found number 2147483648",
        ),
        (
            "pod",
            json!({"spec": {"terminationGracePeriodSeconds": u64::MAX}}),
            "spec.terminationGracePeriodSeconds: expected 64-bit integer, found number 18446744073709551615",
        ),
        ("pod", container(json!({"env": {}})), "spec.containers[1].env: expected list, found object"),
        ("pod", container(json!("b")), "spec.containers[1]: expected object, found string \"b\""),
        ("pod", json!({"spec": []}), "spec: expected object, found list"),
        ("pod", container(json!({"tty": "yes"})), "spec.containers[1].tty: expected boolean, found string \"yes\""),
        ("pod", json!({"metadata": {"labels": {"a": 1}}}), "metadata.labels[a]: expected string, found number 1"),
        (
            "pod",
            container(json!({"resources": {"limits": {"cpu": "much"}}})),
            "spec.containers[1].resources.limits[cpu]: expected quantity such as \"500m\" or \"1.5Gi\", found string \"much\"",
        ),
        (
            "pod",
            container(json!({"livenessProbe": {"tcpSocket": {"port": true}}})),
            "spec.containers[1].livenessProbe.tcpSocket.port: expected 32-bit integer or string, found boolean true",
        ),
        (
            "pod",
            json!({"metadata": {"deletionTimestamp": "yesterday"}}),
            "metadata.deletionTimestamp: expected time in RFC 3339 form such as \"2006-01-02T15:04:05Z\", \
             found string \"yesterday\"",
        ),
        ("secret", json!({"data": {"a": "hunter2!"}}), "data[a]: expected base64 string, found other text"),
    ];
    for (alias, object, detail) in table {
        let kind = catalogue::by_alias(alias).expect("a kind").kind;
        let error = strict(alias, object).expect_err(detail);
        assert_eq!(error.reason, Reason::BadRequest);
        assert_eq!(error.message, format!("{kind} in version \"v1\" cannot be handled as a {kind}: {detail}"));
    }
}

#[test]
fn a_long_wrong_value_is_cut() {
    let error = strict("pod", json!({"spec": "é".repeat(1_000)})).expect_err("refused");
    assert!(error.message.ends_with(&format!("found string \"{}\"…", "é".repeat(64))), "{}", error.message);
}

#[test]
fn other_kinds_are_refused() {
    let table = [
        (
            json!({"apiVersion": "v2", "kind": "Pod"}),
            "the API version in the data (v2) does not match the expected API version (v1)",
        ),
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment"}),
            "the API version in the data (apps/v1) does not match the expected API version (v1)",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Service"}),
            "Service in version \"v1\" cannot be handled as a Pod: kind: expected \"Pod\", found \"Service\"",
        ),
        (
            json!({"apiVersion": 1}),
            "the object provided is unrecognized (must be of type Pod): apiVersion: expected string, found number 1",
        ),
        (
            json!("pod"),
            "the object provided is unrecognized (must be of type Pod): expected a JSON object, found string \"pod\"",
        ),
    ];
    for (object, message) in table {
        assert_eq!(strict("pod", object).expect_err(message).message, message);
    }
}

#[test]
fn unstated_kind_and_version_are_filled_in() {
    let checked = strict("lease", json!({"kind": "", "metadata": {"name": "a"}})).expect("accepted");
    assert_eq!(
        checked.object.to_string(),
        r#"{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"a"}}"#
    );
}

#[test]
fn unknown_fields_are_pruned_at_every_depth() {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "sepc": {},
        "metadata": {"name": "a", "annotations": {"free": "key"}},
        "spec": {"foo": [{"deep": 1}], "containers": [{"name": "c"}, {"name": "d", "comand": ["x"]}]}
    });
    let pruned = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "annotations": {"free": "key"}},
        "spec": {"containers": [{"name": "c"}, {"name": "d"}]}
    });
    let error = strict("pod", object.clone()).expect_err("refused");
    let list = "unknown field \"sepc\", unknown field \"spec.foo\", unknown field \"spec.containers[1].comand\"";
    assert_eq!(
        error.message,
        format!("Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: {list}")
    );
    let warned = check(catalogue::pods(), object, FieldValidation::Warn).expect("accepted");
    assert_eq!(warned.object, pruned);
    assert_eq!(warned.warnings.join(", "), list);
}

#[test]
fn problems_are_listed_up_to_a_bound() {
    let fields: serde_json::Map<String, Value> = (0..1_000).map(|n| (format!("x{n}"), json!(1))).collect();
    let checked = check(catalogue::pods(), Value::Object(fields), FieldValidation::Warn).expect("accepted");
    assert_eq!(checked.warnings.len(), 100);
    assert_eq!(checked.object, json!({"apiVersion": "v1", "kind": "Pod"}));
}

#[test]
fn nulls_are_dropped_as_go_does() {
    let object = json!({
        "kind": null,
        "metadata": {"creationTimestamp": null, "labels": {"a": null}, "ownerReferences": null},
        "spec": {"containers": [null], "nodeName": null}, "status": null
    });
    let expected = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"labels": {"a": ""}}, "spec": {"containers": [{}]}
    });
    assert_eq!(strict("pod", object).expect("accepted").object, expected);
}

#[test]
fn values_are_brought_to_one_spelling() {
    let resources = |cpu: Value, memory: Value| json!({"spec": {"containers": [{"resources": {"limits": {"cpu": cpu, "memory": memory}}}]}});
    for (cpu, memory, cpu_out, memory_out) in [
        (json!(1), json!("1024Mi"), "1", "1Gi"),
        (json!(0.5), json!(1_048_576), "500m", "1048576"),
        (json!("1000m"), json!("1e3"), "1", "1e3"),
    ] {
        let object = strict("pod", resources(cpu, memory)).expect("accepted").object;
        let limits = &object["spec"]["containers"][0]["resources"]["limits"];
        assert_eq!(*limits, json!({"cpu": cpu_out, "memory": memory_out}));
    }
    let lease = strict("lease", json!({"spec": {"renewTime": "2026-01-02T03:04:05+02:00"}})).expect("accepted");
    assert_eq!(lease.object["spec"]["renewTime"], "2026-01-02T01:04:05.000000Z");
    let pod = strict("pod", json!({"status": {"startTime": "2026-01-02T03:04:05.678-01:00"}})).expect("accepted");
    assert_eq!(pod.object["status"]["startTime"], "2026-01-02T04:04:05Z");
    let secret = strict("secret", json!({"data": {"a": "YW\nJj\r\n"}})).expect("accepted");
    assert_eq!(secret.object["data"]["a"], "YWJj");
}
