//! What a pod gets that its manifest leaves out.

use super::pod;
use crate::rules::pod::default;
use serde_json::json;

#[test]
fn an_empty_pod_becomes_a_whole_one() {
    let object = pod(&json!({}));
    assert_eq!(
        object["spec"],
        json!({
            "containers": [{
                "name": "a", "image": "app:1", "imagePullPolicy": "IfNotPresent",
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "resources": {},
            }],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "securityContext": {},
            "schedulerName": "default-scheduler",
            "enableServiceLinks": true,
        })
    );
    assert_eq!(object["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
}

#[test]
fn defaults_fill_nested_fields_and_keep_what_is_there() {
    let object = pod(&json!({"spec": {
        "restartPolicy": "Never", "dnsPolicy": "", "enableServiceLinks": false, "serviceAccount": "bot",
        "containers": [{
            "name": "a", "image": "app", "imagePullPolicy": "Never",
            "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}],
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
            "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 3},
            "readinessProbe": {"grpc": {"port": 80}},
            "lifecycle": {"preStop": {"httpGet": {"port": 80, "path": "/bye"}}},
        }],
        "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "x"}},
                    {"name": "c", "configMap": {"name": "x", "defaultMode": 256}},
                    {"name": "d", "downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}}],
    }}));
    let spec = &object["spec"];
    assert_eq!((&spec["restartPolicy"], &spec["dnsPolicy"]), (&json!("Never"), &json!("ClusterFirst")));
    assert_eq!((&spec["enableServiceLinks"], &spec["serviceAccountName"]), (&json!(false), &json!("bot")));
    let container = &spec["containers"][0];
    assert_eq!(container["imagePullPolicy"], "Never");
    assert_eq!(
        (&container["ports"][0]["protocol"], &container["ports"][1]["protocol"]),
        (&json!("TCP"), &json!("UDP"))
    );
    assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
    assert_eq!(container["env"][1]["valueFrom"]["resourceFieldRef"]["divisor"], "0");
    assert_eq!(
        container["livenessProbe"],
        json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "periodSeconds": 3, "timeoutSeconds": 1,
               "successThreshold": 1, "failureThreshold": 3})
    );
    assert_eq!(container["readinessProbe"]["grpc"], json!({"port": 80, "service": ""}));
    assert_eq!(container["lifecycle"]["preStop"]["httpGet"], json!({"port": 80, "path": "/bye", "scheme": "HTTP"}));
    assert_eq!(spec["volumes"][0], json!({"name": "e", "emptyDir": {}}));
    assert_eq!(spec["volumes"][1]["secret"]["defaultMode"], 420);
    assert_eq!(spec["volumes"][2]["configMap"]["defaultMode"], 256);
    assert_eq!(spec["volumes"][3]["downwardAPI"]["items"][0]["fieldRef"]["apiVersion"], "v1");

    let mut again = object.clone();
    default(&mut again);
    assert_eq!(again, object, "defaulting is idempotent");
}

#[test]
fn only_a_fixed_image_may_be_kept() {
    let cases = [
        ("app", "Always"),
        ("app:latest", "Always"),
        ("app:1.2", "IfNotPresent"),
        ("localhost:5000/app", "Always"),
        ("localhost:5000/app:1", "IfNotPresent"),
        ("host/team/app:latest", "Always"),
        ("app@sha256:00", "IfNotPresent"),
        ("app:latest@sha256:00", "Always"),
        ("app:1@sha256:00", "IfNotPresent"),
    ];
    for (image, policy) in cases {
        let object = pod(&json!({"spec": {"containers": [{"name": "a", "image": image}]}}));
        assert_eq!(object["spec"]["containers"][0]["imagePullPolicy"], policy, "{image}");
    }
}

#[test]
fn limits_are_requests_unless_said_otherwise() {
    let resources = json!({"limits": {"cpu": "0.5", "memory": "1024Mi"}, "requests": {"cpu": 0.25}});
    let object = pod(&json!({"spec": {"containers": [{"name": "a", "image": "i", "resources": resources}]}}));
    assert_eq!(
        object["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "250m", "memory": "1Gi"}})
    );
}

#[test]
fn defaulting_survives_any_shape() {
    for object in
        [json!(null), json!([]), json!({"spec": 1}), json!({"spec": {"containers": [1, null], "volumes": {}}})]
    {
        let mut copy = object.clone();
        default(&mut copy);
        assert!(!crate::rules::pod::validate_create(&copy).is_empty(), "{object}");
    }
}
