//! What is wrong with pods, and with their volumes.

use super::{expect_create, lines, pod};
use crate::rules::pod::validate_create;
use serde_json::{Value, json};

const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

#[test]
fn a_good_pod_passes() {
    expect_create(&[
        (json!({}), &[]),
        (
            json!({
                "initContainers": [{"name": "i", "image": "init"}],
                "containers": [{"name": "a", "image": "app:1", "ports": [{"name": "http", "containerPort": 80}],
                    "env": [{"name": "A", "value": "1"},
                            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                    "envFrom": [{"configMapRef": {"name": "c"}, "prefix": "C_"}],
                    "readinessProbe": {"tcpSocket": {"port": "http"}},
                    "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                    "resources": {"limits": {"cpu": "1", "memory": "1Gi", "example.com/gpu": 1}}}],
                "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}},
                            {"name": "w", "projected": {"sources": [{"secret": {"name": "s"}}]}}],
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"operator": "Exists"}],
                "affinity": {}, "hostNetwork": false, "os": {"name": "linux"},
            }),
            &[],
        ),
    ]);
}

#[test]
fn metadata_is_named_and_labelled() {
    let subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    let key_rule = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    let value_rule = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
    let cases: Vec<(Value, Vec<String>)> = vec![
        (json!({"name": "My_Pod"}), vec![format!("metadata.name: Invalid value: \"My_Pod\": {subdomain}")]),
        (json!({"name": null}), vec!["metadata.name: Required value: name or generateName is required".to_owned()]),
        (json!({"generateName": "job-"}), vec![]),
        (json!({"generateName": "Job-"}), vec![format!("metadata.generateName: Invalid value: \"Job-\": {subdomain}")]),
        (json!({"namespace": null}), vec!["metadata.namespace: Required value".to_owned()]),
        (json!({"labels": {"a b": "c"}}), vec![format!("metadata.labels: Invalid value: \"a b\": {key_rule}")]),
        (json!({"labels": {"a": "b c"}}), vec![format!("metadata.labels: Invalid value: \"b c\": {value_rule}")]),
        (json!({"annotations": {"Any.Case/Key": "any value"}}), vec![]),
        (json!({"annotations": {"a b": ""}}), vec![format!("metadata.annotations: Invalid value: \"a b\": {key_rule}")]),
        (
            json!({"annotations": {"a": "x".repeat(256 * 1024)}}),
            vec!["metadata.annotations: Too long: may not be more than 262144 bytes".to_owned()],
        ),
        (
            json!({"finalizers": ["mine"]}),
            vec![
                "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified"
                    .to_owned(),
            ],
        ),
        (
            json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "o"}]}),
            vec!["metadata.ownerReferences[0].uid: Required value: must not be empty".to_owned()],
        ),
    ];
    for (metadata, expected) in cases {
        assert_eq!(lines(&validate_create(&pod(&json!({"metadata": metadata})))), expected, "{metadata}");
    }
}

#[test]
fn fields_of_the_spec() {
    expect_create(&[
        (json!({"containers": []}), &["spec.containers: Required value"]),
        (
            json!({"restartPolicy": "Sometimes"}),
            &[
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ],
        ),
        (
            json!({"dnsPolicy": "Mine"}),
            &[
                "spec.dnsPolicy: Unsupported value: \"Mine\": supported values: \"ClusterFirstWithHostNet\", \"ClusterFirst\", \"Default\", \"None\"",
            ],
        ),
        (
            json!({"dnsPolicy": "None"}),
            &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        ),
        (
            json!({"activeDeadlineSeconds": 0}),
            &["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
        ),
        (
            json!({"hostAliases": [{"ip": "x", "hostnames": ["a"]}]}),
            &[
                "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        ),
        (
            json!({"ephemeralContainers": [{"name": "e"}]}),
            &["spec.ephemeralContainers: Forbidden: cannot be set on create"],
        ),
        (
            json!({"os": {"name": "windows"}}),
            &["spec.os.name: Unsupported value: \"windows\": supported values: \"linux\""],
        ),
    ]);
    let name = format!("spec.hostname: Invalid value: \"H\": {DNS_LABEL}");
    expect_create(&[(json!({"hostname": "H"}), &[name.as_str()])]);
}

#[test]
fn what_cannot_work_here_is_refused() {
    expect_create(&[
        (
            json!({"hostNetwork": true}),
            &[
                "spec.hostNetwork: Forbidden: pods have a virtual network of their own; a WebAssembly container cannot share the host's",
            ],
        ),
        (json!({"hostPID": true}), &["spec.hostPID: Forbidden: a WebAssembly container is no process of the host"]),
        (json!({"hostIPC": true}), &["spec.hostIPC: Forbidden: a WebAssembly container is no process of the host"]),
        (
            json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}}}),
            &["spec.affinity.podAntiAffinity: Forbidden: affinity between pods is not supported yet; nodeAffinity is"],
        ),
        (
            json!({"initContainers": [{"name": "i", "image": "x:1", "restartPolicy": "Never"}]}),
            &["spec.initContainers[0].restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
        ),
        (
            json!({"priorityClassName": "high"}),
            &["spec.priorityClassName: Forbidden: priority classes are not supported yet"],
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "a", "value": "b"}]}}),
            &["spec.securityContext.sysctls: Forbidden: a WebAssembly container has no kernel to configure"],
        ),
    ]);
}

#[test]
fn volumes_have_unique_names_and_one_known_source() {
    let label = format!("spec.volumes[0].name: Invalid value: \"A\": {DNS_LABEL}");
    expect_create(&[
        (json!({"volumes": [{"name": "a"}, {"name": "a"}]}), &["spec.volumes[1].name: Duplicate value: \"a\""]),
        (json!({"volumes": [{"emptyDir": {}}]}), &["spec.volumes[0].name: Required value"]),
        (json!({"volumes": [{"name": "A"}]}), &[label.as_str()]),
        (
            json!({"volumes": [{"name": "a", "emptyDir": {}, "secret": {"secretName": "x"}}]}),
            &["spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            json!({"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "x"}}]}),
            &[
                "spec.volumes[0].persistentVolumeClaim: Forbidden: not supported; supported volume types: configMap, downwardAPI, emptyDir, projected, secret",
            ],
        ),
        (
            json!({"volumes": [{"name": "a", "emptyDir": {"sizeLimit": "-1"}}]}),
            &["spec.volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity"],
        ),
        (json!({"volumes": [{"name": "a", "secret": {}}]}), &["spec.volumes[0].secret.secretName: Required value"]),
        (json!({"volumes": [{"name": "a", "configMap": {}}]}), &["spec.volumes[0].configMap.name: Required value"]),
        (
            json!({"volumes": [{"name": "a", "configMap": {"name": "c", "defaultMode": 512, "items": [
                {"key": "k", "path": "/abs"}, {"path": "..x"}, {"key": "k", "path": "a/../../b", "mode": -1}]}}]}),
            &[
                "spec.volumes[0].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
                "spec.volumes[0].configMap.items[0].path: Invalid value: \"/abs\": must be a relative path",
                "spec.volumes[0].configMap.items[1].key: Required value",
                "spec.volumes[0].configMap.items[1].path: Invalid value: \"..x\": must not start with '..'",
                "spec.volumes[0].configMap.items[2].path: Invalid value: \"a/../../b\": must not contain '..'",
                "spec.volumes[0].configMap.items[2].mode: Invalid value: -1: must be a number between 0 and 0777 (octal), both inclusive",
            ],
        ),
        (
            json!({"volumes": [{"name": "a", "downwardAPI": {"items": [{"path": "p"},
                {"path": "q", "fieldRef": {"fieldPath": "status.podIP"}}]}}]}),
            &[
                "spec.volumes[0].downwardAPI.items[0]: Required value: one of fieldRef and resourceFieldRef is required",
                "spec.volumes[0].downwardAPI.items[1].fieldRef.fieldPath: Unsupported value: \"status.podIP\": supported values: \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \"metadata.namespace\", \"metadata.uid\"",
            ],
        ),
        (
            json!({"volumes": [{"name": "a", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {}]}}]}),
            &[
                "spec.volumes[0].projected.sources[0].serviceAccountToken: Forbidden: not supported; supported sources: configMap, downwardAPI, secret",
                "spec.volumes[0].projected.sources[1]: Required value: must specify one of the source types",
            ],
        ),
    ]);
}

#[test]
fn tolerations_make_sense() {
    expect_create(&[
        (
            json!({"tolerations": [{"operator": "Equal"}]}),
            &[
                "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ],
        ),
        (
            json!({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}),
            &["spec.tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'"],
        ),
        (
            json!({"tolerations": [{"key": "a", "operator": "In"}]}),
            &["spec.tolerations[0].operator: Unsupported value: \"In\": supported values: \"Equal\", \"Exists\""],
        ),
        (
            json!({"tolerations": [{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1}]}),
            &[
                "spec.tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
            ],
        ),
        (
            json!({"tolerations": [{"key": "a", "effect": "Never"}]}),
            &[
                "spec.tolerations[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ],
        ),
    ]);
}

#[test]
fn node_affinity_has_terms_that_can_match() {
    let required = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
    let expression = |one: Value| required(json!([{"matchExpressions": [one]}]));
    let terms_path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let cases = [
        (expression(json!({"key": "a", "operator": "In", "values": ["b"]})), None),
        (required(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}])), None),
        (required(json!([])), Some(": Required value: must have at least one node selector term")),
        (
            expression(json!({"key": "a", "operator": "In"})),
            Some(
                "[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ),
        ),
        (
            expression(json!({"key": "a", "operator": "Exists", "values": ["b"]})),
            Some(
                "[0].matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
        ),
        (
            expression(json!({"key": "a", "operator": "Gt"})),
            Some(
                "[0].matchExpressions[0].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'",
            ),
        ),
        (
            expression(json!({"key": "a", "operator": "Is"})),
            Some("[0].matchExpressions[0].operator: Invalid value: \"Is\": not a valid selector operator"),
        ),
        (
            required(json!([{"matchFields": [{"key": "spec.x", "operator": "In", "values": ["n"]}]}])),
            Some("[0].matchFields[0].key: Invalid value: \"spec.x\": not a valid field selector key"),
        ),
    ];
    for (spec, expected) in cases {
        let expected: Vec<String> = expected.into_iter().map(|text| format!("{terms_path}{text}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        expect_create(&[(spec, &expected)]);
    }
    let preferred = json!({"weight": 0, "preference": {}});
    expect_create(&[(
        json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}}}),
        &[
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100",
        ],
    )]);
}

#[test]
fn a_hostile_pod_gets_a_bounded_answer() {
    let volumes: Vec<Value> = (0..100_000).map(|_| json!({"name": "-"})).collect();
    let causes = validate_create(&pod(&json!({"spec": {"volumes": volumes}})));
    assert_eq!(causes.len(), 100);
    let containers: Vec<Value> = (0..2000).map(|_| json!({})).collect();
    let found = lines(&validate_create(&pod(&json!({"spec": {"containers": containers}}))));
    assert_eq!(found, ["spec.containers: Too many: 2000: must have at most 1000 items"]);
}
