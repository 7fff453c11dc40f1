//! What is wrong with containers.

use super::{expect_container, expect_create};
use serde_json::json;

#[test]
fn names_are_unique_among_all_containers() {
    expect_create(&[
        (
            json!({"containers": [{"name": "a", "image": "x:1"}, {"name": "a", "image": "x:1"}]}),
            &["spec.containers[1].name: Duplicate value: \"a\""],
        ),
        (
            json!({"containers": [{"name": "a", "image": "x:1"}], "initContainers": [{"name": "a", "image": "x:1"}]}),
            &["spec.initContainers[0].name: Duplicate value: \"a\""],
        ),
    ]);
}

#[test]
fn init_containers_take_no_probes_or_hooks() {
    let init = |extra: serde_json::Value| {
        let mut container = json!({"name": "i", "image": "x:1"});
        json_patch::merge(&mut container, &extra);
        json!({"initContainers": [container]})
    };
    let probe = json!({"tcpSocket": {"port": 80}});
    expect_create(&[
        (
            init(json!({"readinessProbe": probe})),
            &[
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ],
        ),
        (
            init(json!({"livenessProbe": probe})),
            &[
                "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ],
        ),
        (
            init(json!({"startupProbe": probe})),
            &[
                "spec.initContainers[0].startupProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ],
        ),
        (
            init(json!({"lifecycle": {"preStop": probe}})),
            &[
                "spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always",
            ],
        ),
    ]);
}

#[test]
fn sidecars_are_init_containers_with_all_that_app_containers_have() {
    let init = |extra: serde_json::Value| {
        let mut container = json!({"name": "s", "image": "x:1", "restartPolicy": "Always"});
        json_patch::merge(&mut container, &extra);
        json!({"initContainers": [container]})
    };
    let probe = json!({"tcpSocket": {"port": 80}});
    expect_create(&[
        (init(json!({})), &[]),
        (
            init(json!({
                "readinessProbe": probe, "livenessProbe": probe, "startupProbe": probe,
                "lifecycle": {"postStart": probe, "preStop": {"sleep": {"seconds": 1}}},
            })),
            &[],
        ),
        (
            init(json!({"livenessProbe": {"tcpSocket": {"port": 0}}})),
            &[
                "spec.initContainers[0].livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            init(json!({"startupProbe": {"tcpSocket": {"port": 80}, "successThreshold": 2}})),
            &["spec.initContainers[0].startupProbe.successThreshold: Invalid value: 2: must be 1"],
        ),
        (
            init(json!({"lifecycle": {"preStop": {}}})),
            &["spec.initContainers[0].lifecycle.preStop: Required value: must specify a handler type"],
        ),
        (
            init(json!({"restartPolicy": "OnFailure"})),
            &["spec.initContainers[0].restartPolicy: Unsupported value: \"OnFailure\": supported values: \"Always\""],
        ),
    ]);
}

#[test]
fn a_container_has_a_name_and_an_image() {
    expect_container(&[
        (json!({"name": null}), &["spec.containers[0].name: Required value"]),
        (json!({"name": "a.b"}), &["spec.containers[0].name: Invalid value: \"a.b\": must not contain dots"]),
        (json!({"image": null}), &["spec.containers[0].image: Required value"]),
        (
            json!({"image": "app:1 "}),
            &["spec.containers[0].image: Invalid value: \"app:1 \": must not have leading or trailing whitespace"],
        ),
        (
            json!({"imagePullPolicy": "Often"}),
            &[
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Often\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ],
        ),
        (
            json!({"terminationMessagePolicy": "Mail"}),
            &[
                "spec.containers[0].terminationMessagePolicy: Unsupported value: \"Mail\": supported values: \"File\", \"FallbackToLogsOnError\"",
            ],
        ),
        (
            json!({"securityContext": {"privileged": true, "runAsUser": -1}}),
            &[
                "spec.containers[0].securityContext.privileged: Forbidden: a WebAssembly container has no privileges on the host; there is no privileged mode",
                "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ],
        ),
        (
            json!({"restartPolicy": "Always"}),
            &["spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers"],
        ),
        (
            json!({"volumeDevices": [{"name": "v", "devicePath": "/d"}]}),
            &["spec.containers[0].volumeDevices: Forbidden: a WebAssembly container cannot use block devices"],
        ),
    ]);
}

#[test]
fn ports_are_in_range_and_named_once() {
    expect_container(&[
        (json!({"ports": [{"containerPort": 1}, {"containerPort": 65535}]}), &[]),
        (
            json!({"ports": [{"containerPort": 65536}]}),
            &[
                "spec.containers[0].ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
            ],
        ),
        (json!({"ports": [{}]}), &["spec.containers[0].ports[0].containerPort: Required value"]),
        (
            json!({"ports": [{"containerPort": 1, "name": "web"}, {"containerPort": 2, "name": "web"}]}),
            &["spec.containers[0].ports[1].name: Duplicate value: \"web\""],
        ),
        (
            json!({"ports": [{"containerPort": 1, "name": "8080"}]}),
            &["spec.containers[0].ports[0].name: Invalid value: \"8080\": must contain at least one letter (a-z)"],
        ),
        (
            json!({"ports": [{"containerPort": 1, "protocol": "ICMP"}]}),
            &[
                "spec.containers[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        ),
        (
            json!({"ports": [{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}]}),
            &["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//9\""],
        ),
    ]);
}

#[test]
fn environment_has_good_names_and_one_source() {
    expect_container(&[
        (json!({"env": [{"value": "x"}]}), &["spec.containers[0].env[0].name: Required value"]),
        (
            json!({"env": [{"name": "a=b"}]}),
            &[
                "spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='",
            ],
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {}}]}),
            &[
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            ],
        ),
        (
            json!({"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
            &[
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            ],
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"},
                "secretKeyRef": {"name": "s", "key": "k"}}}]}),
            &[
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not have more than one field specified at a time",
            ],
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c"}}}]}),
            &["spec.containers[0].env[0].valueFrom.configMapKeyRef.key: Required value"],
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.volumes"}}}]}),
            &[
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.volumes\": error converting fieldPath: field label not supported: spec.volumes",
            ],
        ),
        (json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}]}), &[]),
        (
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels"}}}]}),
            &[
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            ],
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}}]}),
            &[
                "spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource",
            ],
        ),
        (
            json!({"envFrom": [{}]}),
            &["spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"],
        ),
        (json!({"envFrom": [{"secretRef": {}}]}), &["spec.containers[0].envFrom[0].secretRef.name: Required value"]),
    ]);
}

#[test]
fn mounts_name_volumes_and_paths() {
    expect_container(&[
        (
            json!({"volumeMounts": [{"name": "x", "mountPath": "/x"}]}),
            &["spec.containers[0].volumeMounts[0].name: Not found: \"x\""],
        ),
        (json!({"volumeMounts": [{"name": "v"}]}), &["spec.containers[0].volumeMounts[0].mountPath: Required value"]),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}, {"name": "w", "mountPath": "/x"}]}),
            &["spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/x\": must be unique"],
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "../y"}]}),
            &["spec.containers[0].volumeMounts.subPath: Invalid value: \"../y\": must not contain '..'"],
        ),
    ]);
}

#[test]
fn resources_are_amounts_within_limits() {
    let both = |requests: serde_json::Value, limits: serde_json::Value| json!({"resources": {"requests": requests, "limits": limits}});
    expect_container(&[
        (
            both(json!({"cpu": "2"}), json!({"cpu": "1"})),
            &[
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ],
        ),
        (
            both(json!({"memory": "-1"}), json!({})),
            &[
                "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            ],
        ),
        (
            both(json!({"memory": "lots"}), json!({})),
            &[
                "spec.containers[0].resources.requests[memory]: Invalid value: \"lots\": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ],
        ),
        (
            both(json!({"disk": "1"}), json!({})),
            &[
                "spec.containers[0].resources.requests[disk]: Invalid value: \"disk\": must be a standard resource type or fully qualified",
                "spec.containers[0].resources.requests[disk]: Invalid value: \"disk\": must be a standard resource for containers",
            ],
        ),
        (
            both(json!({"example.com/gpu": "1"}), json!({"example.com/gpu": "2"})),
            &[
                "spec.containers[0].resources.requests: Invalid value: \"1\": must be equal to example.com/gpu limit of 2",
            ],
        ),
        (
            both(json!({"example.com/gpu": "1"}), json!({})),
            &[
                "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
            ],
        ),
        (
            both(json!({}), json!({"example.com/gpu": "0.5"})),
            &[
                "spec.containers[0].resources.limits[example.com/gpu]: Invalid value: \"500m\": must be an integer",
                "spec.containers[0].resources.requests[example.com/gpu]: Invalid value: \"500m\": must be an integer",
            ],
        ),
    ]);
}

#[test]
fn probes_have_one_action_and_sane_numbers() {
    expect_container(&[
        (
            json!({"livenessProbe": {}}),
            &["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
        ),
        (
            json!({"livenessProbe": {"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}}}),
            &["spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"],
        ),
        (json!({"livenessProbe": {"exec": {}}}), &["spec.containers[0].livenessProbe.exec.command: Required value"]),
        (
            json!({"readinessProbe": {"httpGet": {"port": 0, "scheme": "FTP"}}}),
            &[
                "spec.containers[0].readinessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.containers[0].readinessProbe.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
            ],
        ),
        (
            json!({"startupProbe": {"tcpSocket": {"port": 1}, "periodSeconds": -1, "successThreshold": 2}}),
            &[
                "spec.containers[0].startupProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
                "spec.containers[0].startupProbe.successThreshold: Invalid value: 2: must be 1",
            ],
        ),
        (
            json!({"readinessProbe": {"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 1}}),
            &[
                "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes",
            ],
        ),
        (
            json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}),
            &[
                "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
            ],
        ),
    ]);
}
