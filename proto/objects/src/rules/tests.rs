//! Rules of the small kinds, and what holds for all kinds.

mod hostile;

use super::{config_map, endpoint_slice, endpoints, event, lease, namespace, node, secret};
use crate::Cause;
use serde_json::{Value, json};

fn lines(causes: &[Cause]) -> Vec<String> {
    causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
}

fn named(body: &Value) -> Value {
    let mut object =
        json!({"metadata": {"name": "x", "namespace": "default", "creationTimestamp": "1970-01-01T00:00:00Z"}});
    json_patch::merge(&mut object, body);
    object
}

fn in_cluster(body: &Value) -> Value {
    let mut object = named(body);
    json_patch::merge(&mut object, &json!({"metadata": {"namespace": null}}));
    object
}

#[test]
fn config_maps_have_good_keys_and_a_bounded_size() {
    let mebibyte = "x".repeat(config_map::MAX_BYTES);
    let cases: &[(Value, &[&str])] = &[
        (json!({"data": {"a.conf": "x", "B_C-d": ""}, "binaryData": {"bin": "AAEC"}}), &[]),
        (json!({"data": {"a": mebibyte}}), &[]),
        (json!({"data": {"a": mebibyte, "b": "x"}}), &["[]: Too long: may not be more than 1048576 bytes"]),
        (
            json!({"data": {"a/b": ""}}),
            &[
                "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            ],
        ),
        (
            json!({"data": {"a": ""}, "binaryData": {"a": ""}}),
            &["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"],
        ),
        (
            json!({"binaryData": {"a": "?"}}),
            &["binaryData[a]: Invalid value: \"<value omitted>\": must be base64: Invalid symbol 63, offset 0."],
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(lines(&config_map::validate_create(&named(body))), *expected);
    }
    let object = named(&json!({"data": {"a": "", "b": ""}, "binaryData": {"c": ""}}));
    assert_eq!(config_map::cells(&object, 5), [json!("x"), json!(3), json!("5s")]);
}

#[test]
fn immutable_content_stays() {
    let old = named(&json!({"data": {"a": "YQ=="}, "immutable": true}));
    let mut new = old.clone();
    new["immutable"] = json!(false);
    new["data"]["a"] = json!("Yg==");
    let expected = [
        "immutable: Forbidden: field is immutable when `immutable` is set",
        "data: Forbidden: field is immutable when `immutable` is set",
    ];
    assert_eq!(lines(&config_map::validate_update(&new, &old, "")), expected);
    assert_eq!(lines(&secret::validate_update(&new, &old, "")), expected);
    assert_eq!(lines(&config_map::validate_update(&old, &old, "")), Vec::<String>::new());
}

#[test]
fn secrets_take_plain_text_and_keep_it_encoded() {
    let mut object = named(&json!({"data": {"a": "b2xk", "b": "Yg=="}, "stringData": {"a": "new", "c": ""}}));
    secret::default(&mut object);
    assert_eq!(object["data"], json!({"a": "bmV3", "b": "Yg==", "c": ""}));
    assert_eq!((object.get("stringData"), &object["type"]), (None, &json!("Opaque")));
    assert_eq!(secret::cells(&object, 5), [json!("x"), json!("Opaque"), json!(3), json!("5s")]);
}

#[test]
fn secrets_hold_what_their_type_promises() {
    let cases: &[(Value, &[&str])] = &[
        (json!({"type": "Opaque"}), &[]),
        (json!({"type": "mine.example.com/any", "data": {"a": "YQ=="}}), &[]),
        (
            json!({"data": {"a": "not base64"}}),
            &["data[a]: Invalid value: \"<value omitted>\": must be base64: Invalid symbol 32, offset 3."],
        ),
        (json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}), &["data[tls.key]: Required value"]),
        (json!({"type": "kubernetes.io/basic-auth", "data": {"password": ""}}), &[]),
        (
            json!({"type": "kubernetes.io/basic-auth"}),
            &["data[username]: Required value", "data[password]: Required value"],
        ),
        (json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="}}), &[]),
        (
            json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "ew=="}}),
            &[
                "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": EOF while parsing an object at line 1 column 1",
            ],
        ),
        (
            json!({"type": "kubernetes.io/service-account-token"}),
            &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(lines(&secret::validate_create(&named(body))), *expected, "{body}");
    }
    let (old, new) = (named(&json!({"type": "Opaque"})), named(&json!({"type": "kubernetes.io/tls"})));
    let found = lines(&secret::validate_update(&new, &old, ""));
    assert_eq!(found[0], "type: Invalid value: \"kubernetes.io/tls\": field is immutable");
}

#[test]
fn namespaces_are_labelled_with_their_name_and_finalized() {
    let mut object = in_cluster(&json!({"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Terminating"}}));
    namespace::default(&mut object);
    namespace::prepare_create(&mut object);
    assert_eq!(object["metadata"]["labels"], json!({"a": "b", "kubernetes.io/metadata.name": "x"}));
    assert_eq!(
        (&object["spec"], &object["status"]),
        (&json!({"finalizers": ["kubernetes"]}), &json!({"phase": "Active"}))
    );
    assert_eq!(lines(&namespace::validate_create(&object)), Vec::<String>::new());
    assert_eq!(namespace::cells(&object, 5), ["x", "Active", "5s"].map(Value::from));

    let mut misnamed = object.clone();
    misnamed["metadata"]["name"] = json!("a.b");
    assert_eq!(
        lines(&namespace::validate_create(&misnamed)),
        ["metadata.name: Invalid value: \"a.b\": must not contain dots"]
    );
}

#[test]
fn namespaces_have_three_ways_in() {
    let mut old = in_cluster(&json!({}));
    namespace::prepare_create(&mut old);
    let wanted =
        in_cluster(&json!({"metadata": {"labels": {"a": "b"}}, "spec": {}, "status": {"phase": "Terminating"}}));
    for (subresource, label, finalizers, phase) in
        [("", true, true, "Active"), ("finalize", false, false, "Active"), ("status", false, true, "Terminating")]
    {
        let mut new = wanted.clone();
        namespace::prepare_update(&mut new, &old, subresource);
        assert_eq!(new["metadata"].get("labels").is_some(), label, "{subresource}");
        assert_eq!(new["spec"].get("finalizers").is_some(), finalizers, "{subresource}");
        assert_eq!(new["status"]["phase"], phase, "{subresource}");
        let expected: &[&str] = match subresource {
            "status" => {
                &["status.phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"]
            }
            _ => &[],
        };
        assert_eq!(lines(&namespace::validate_update(&new, &old, subresource)), expected);
    }
}

#[test]
fn nodes_say_whether_they_are_ready() {
    let info = json!({"kubeletVersion": "v1", "osImage": "Debian", "kernelVersion": "6", "containerRuntimeVersion": "wasmtime://48"});
    let ready = |status: &str| json!([{"type": "Ready", "status": status}]);
    let cases = [
        (json!({}), ["x", "Unknown", "<none>", "5s", "", "<none>", "<none>", "<unknown>", "<unknown>", "<unknown>"]),
        (
            json!({
                "metadata": {"labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge"}},
                "spec": {"unschedulable": true},
                "status": {"conditions": ready("True"), "nodeInfo": info,
                    "addresses": [{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "ExternalIP", "address": "1.2.3.4"}]},
            }),
            [
                "x",
                "Ready,SchedulingDisabled",
                "control-plane,edge,worker",
                "5s",
                "v1",
                "10.0.0.1",
                "1.2.3.4",
                "Debian",
                "6",
                "wasmtime://48",
            ],
        ),
        (
            json!({"status": {"conditions": ready("Unknown")}}),
            ["x", "NotReady", "<none>", "5s", "", "<none>", "<none>", "<unknown>", "<unknown>", "<unknown>"],
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(node::cells(&in_cluster(&body), 5), expected.map(Value::from), "{body}");
    }
}

#[test]
fn nodes_are_checked_and_their_status_is_their_own() {
    let object = in_cluster(&json!({
        "spec": {"taints": [{"key": "a", "effect": "Never"}, {"key": "b", "effect": "NoSchedule"}, {"key": "b", "effect": "NoSchedule"}]},
        "status": {"capacity": {"cpu": "x", "memory": "-1"}},
    }));
    assert_eq!(
        lines(&node::validate_create(&object)),
        [
            "spec.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            "spec.taints[2]: Duplicate value: {\"key\":\"b\",\"effect\":\"NoSchedule\"}",
            "status.capacity[cpu]: Invalid value: \"x\": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            "status.capacity[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
        ]
    );

    let mut created = in_cluster(&json!({"status": {"capacity": {"cpu": "2"}}}));
    node::default(&mut created);
    node::prepare_create(&mut created);
    assert_eq!(created["status"]["allocatable"], json!({"cpu": "2"}), "a node creates itself with its status");

    let mut changed = in_cluster(&json!({"spec": {"unschedulable": true}, "status": {"capacity": {}}}));
    node::prepare_update(&mut changed, &created, "");
    assert_eq!((&changed["spec"]["unschedulable"], &changed["status"]), (&json!(true), &created["status"]));
    let mut changed = in_cluster(&json!({"spec": {"unschedulable": true}, "status": {"capacity": {"cpu": "4"}}}));
    node::prepare_update(&mut changed, &created, "status");
    assert_eq!((changed["spec"].get("unschedulable"), &changed["status"]["capacity"]["cpu"]), (None, &json!("4")));
}

#[test]
fn endpoints_are_addresses_that_reach_pods() {
    let cases: &[(Value, &[&str])] = &[
        (json!({"subsets": [{"addresses": [{"ip": "10.244.0.5"}], "ports": [{"port": 80}]}]}), &[]),
        (json!({"subsets": [{}]}), &["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]),
        (
            json!({"subsets": [{"addresses": [{"ip": "127.0.0.1"}, {"ip": "169.254.169.254"}, {"ip": "0.0.0.0"}, {"ip": "a"}]}]}),
            &[
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "subsets[0].addresses[1].ip: Invalid value: \"169.254.169.254\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
                "subsets[0].addresses[2].ip: Invalid value: \"0.0.0.0\": may not be unspecified (0.0.0.0)",
                "subsets[0].addresses[3].ip: Invalid value: \"a\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        ),
        (
            json!({"subsets": [{"notReadyAddresses": [{"ip": "10.244.0.5"}], "ports": [{"port": 0}, {"name": "b", "port": 1}]}]}),
            &[
                "subsets[0].ports[0].name: Required value",
                "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
        (json!({"metadata": {"name": "kubernetes"}, "subsets": [{"addresses": [{"ip": "127.0.0.1"}]}]}), &[]),
    ];
    for (body, expected) in cases {
        let mut object = named(body);
        endpoints::default(&mut object);
        assert_eq!(lines(&endpoints::validate_create(&object)), *expected, "{body}");
    }
    for (subsets, expected) in [
        (json!([]), "<none>"),
        (
            json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}]}]),
            "10.0.0.1:80,[fd00::1]:80",
        ),
        (json!([{"addresses": [{"ip": "10.0.0.1"}]}]), "10.0.0.1"),
        (
            json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 80}, {"port": 81}]}]),
            "10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more...",
        ),
    ] {
        assert_eq!(endpoints::cells(&named(&json!({"subsets": subsets})), 5), ["x", expected, "5s"].map(Value::from));
    }
}

#[test]
fn endpoint_slices_hold_addresses_of_one_family() {
    let cases: &[(Value, &[&str])] = &[
        (json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.244.0.5"]}], "ports": [{"port": 80}]}), &[]),
        (json!({}), &["addressType: Required value"]),
        (
            json!({"addressType": "IP"}),
            &["addressType: Unsupported value: \"IP\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
        ),
        (
            json!({"addressType": "IPv4", "endpoints": [{}, {"addresses": ["fd00::1"]}, {"addresses": ["127.0.0.1"]}]}),
            &[
                "endpoints[0].addresses: Required value: must contain at least 1 address",
                "endpoints[1].addresses[0]: Invalid value: \"fd00::1\": must be an IPv4 address",
                "endpoints[2].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
        ),
        (
            json!({"addressType": "IPv4", "ports": [{"port": 1}, {"port": 2}]}),
            &["ports[1].name: Duplicate value: \"\""],
        ),
        (
            json!({"addressType": "IPv4", "endpoints": vec![json!({"addresses": ["10.0.0.1"]}); 1001]}),
            &["endpoints: Too many: 1001: must have at most 1000 items"],
        ),
    ];
    for (body, expected) in cases {
        let mut object = named(body);
        endpoint_slice::default(&mut object);
        assert_eq!(lines(&endpoint_slice::validate_create(&object)), *expected);
    }
    let (old, new) = (named(&json!({"addressType": "IPv4"})), named(&json!({"addressType": "IPv6"})));
    assert_eq!(
        lines(&endpoint_slice::validate_update(&new, &old, "")),
        ["addressType: Invalid value: \"IPv6\": field is immutable"]
    );
    let object = named(&json!({"addressType": "IPv4", "ports": [{"port": 80}, {"name": "any"}],
        "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]}));
    assert_eq!(endpoint_slice::cells(&object, 5), ["x", "IPv4", "80,any", "10.0.0.1,10.0.0.2", "5s"].map(Value::from));
    assert_eq!(endpoint_slice::cells(&named(&json!({})), 5)[2..4], ["<unset>", "<unset>"].map(Value::from));
}

#[test]
fn leases_have_a_holder_and_a_length() {
    let object = named(&json!({"spec": {"holderIdentity": "", "leaseDurationSeconds": 0, "leaseTransitions": -1}}));
    assert_eq!(
        lines(&lease::validate_create(&object)),
        [
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            "spec.holderIdentity: Invalid value: \"\": must not be empty",
        ]
    );
    let object = named(&json!({"spec": {"holderIdentity": "node-1", "leaseDurationSeconds": 40}}));
    assert_eq!(lines(&lease::validate_create(&object)), Vec::<String>::new());
    assert_eq!(lease::cells(&object, 5), ["x", "node-1", "5s"].map(Value::from));
}

#[test]
fn events_live_beside_what_they_are_about() {
    let about = |namespace: &str| json!({"involvedObject": {"kind": "Pod", "namespace": namespace}});
    assert_eq!(lines(&event::validate_create(&named(&about("default")))), Vec::<String>::new());
    assert_eq!(
        lines(&event::validate_create(&named(&json!({"involvedObject": {"kind": "Node"}})))),
        Vec::<String>::new()
    );
    assert_eq!(
        lines(&event::validate_create(&named(&about("other")))),
        ["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"]
    );
}

#[test]
fn event_rows_count_and_date() {
    let cases = [
        (
            json!({
                "type": "Warning", "reason": "FailedScheduling", "message": " no room\n", "count": 3,
                "firstTimestamp": "1970-01-01T00:00:00Z", "lastTimestamp": "1970-01-01T00:01:00Z",
                "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{a}"},
                "source": {"component": "kubelet", "host": "n"},
            }),
            (["40s", "Warning", "FailedScheduling", "pod/p", "spec.containers{a}", "kubelet, n", "no room", "100s"], 3),
        ),
        (
            json!({"reason": "R", "eventTime": "1970-01-01T00:01:30.5Z", "involvedObject": {"kind": "Node"}, "reportingComponent": "scheduler"}),
            (["10s", "", "R", "node", "", "scheduler", "", "10s"], 1),
        ),
        (
            json!({"series": {"count": 7, "lastObservedTime": "1970-01-01T00:01:35Z"}, "eventTime": "1970-01-01T00:00:00Z"}),
            (["5s", "", "", "", "", "", "", "100s"], 7),
        ),
        (json!({}), (["<unknown>", "", "", "", "", "", "", "<unknown>"], 1)),
    ];
    for (body, (texts, count)) in cases {
        let mut expected: Vec<Value> = texts.map(Value::from).to_vec();
        expected.extend([json!(count), json!("x")]);
        assert_eq!(event::cells(&named(&body), 100), expected, "{body}");
    }
}
