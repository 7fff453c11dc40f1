//! Rules of services, as tables of what goes in and what comes out.

use super::{cells, default, prepare_create, prepare_update, validate_create, validate_update};
use crate::Cause;
use serde_json::{Value, json};

fn service(spec: &Value) -> Value {
    let mut object = json!({
        "metadata": {"name": "s", "namespace": "default", "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": {"ports": [{"port": 80}]},
    });
    json_patch::merge(&mut object["spec"], spec);
    default(&mut object);
    prepare_create(&mut object);
    object
}

fn lines(causes: &[Cause]) -> Vec<String> {
    causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
}

#[test]
fn defaults_depend_on_the_type() {
    assert_eq!(
        service(&json!({"selector": {"app": "web"}}))["spec"],
        json!({
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "selector": {"app": "web"},
            "sessionAffinity": "None", "type": "ClusterIP", "internalTrafficPolicy": "Cluster",
        })
    );
    let node_port =
        service(&json!({"type": "NodePort", "ports": [{"port": 80, "targetPort": "web", "protocol": "UDP"}]}));
    assert_eq!(node_port["spec"]["externalTrafficPolicy"], "Cluster");
    assert_eq!(node_port["spec"]["ports"][0], json!({"port": 80, "targetPort": "web", "protocol": "UDP"}));
    let balanced = service(&json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP"}));
    assert_eq!(balanced["spec"]["allocateLoadBalancerNodePorts"], true);
    assert_eq!(balanced["spec"]["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10800}}));
    assert_eq!(service(&json!({"type": "ExternalName"}))["spec"].get("internalTrafficPolicy"), None);
    assert_eq!(balanced["status"], json!({"loadBalancer": {}}));
}

#[test]
fn a_service_is_checked_field_by_field() {
    let cases: &[(Value, &[&str])] = &[
        (json!({}), &[]),
        (json!({"clusterIP": "None", "ports": []}), &[]),
        (json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"]}), &[]),
        (json!({"type": "ExternalName", "externalName": "example.com.", "ports": []}), &[]),
        (json!({"ports": []}), &["spec.ports: Required value"]),
        (json!({"ports": [{"port": 80}, {"port": 81, "name": "b"}]}), &["spec.ports[0].name: Required value"]),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}),
            &["spec.ports[1].name: Duplicate value: \"a\""],
        ),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}),
            &["spec.ports[1]: Duplicate value: {\"protocol\":\"TCP\",\"port\":80}"],
        ),
        (
            json!({"ports": [{"port": 70000, "targetPort": "no_name"}]}),
            &[
                "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: \"no_name\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            ],
        ),
        (
            json!({"ports": [{"port": 80, "protocol": "ICMP"}]}),
            &["spec.ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\""],
        ),
        (
            json!({"type": "Magic"}),
            &[
                "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ],
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30000}]}),
            &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            json!({"type": "NodePort", "clusterIP": "None"}),
            &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
        ),
        (
            json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30000}, {"name": "b", "port": 81, "nodePort": 30000}]}),
            &["spec.ports[1].nodePort: Duplicate value: 30000"],
        ),
        (json!({"type": "ExternalName"}), &["spec.externalName: Required value"]),
        (
            json!({"type": "ExternalName", "externalName": "a.b", "clusterIP": "10.96.0.9"}),
            &["spec.clusterIPs: Forbidden: may not be set for ExternalName services"],
        ),
        (
            json!({"clusterIP": "nine"}),
            &[
                "spec.clusterIPs[0]: Invalid value: \"nine\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        ),
        (
            json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.8"]}),
            &["spec.clusterIPs: Invalid value: [\"10.96.0.8\"]: first value must match `clusterIP`"],
        ),
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 90000}}}),
            &[
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 90000: must be greater than 0 and less than 86400",
            ],
        ),
        (
            json!({"sessionAffinity": "Cookie"}),
            &["spec.sessionAffinity: Unsupported value: \"Cookie\": supported values: \"ClientIP\", \"None\""],
        ),
        (
            json!({"externalTrafficPolicy": "Local"}),
            &[
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ],
        ),
        (
            json!({"externalIPs": ["127.0.0.1"], "internalTrafficPolicy": "Near"}),
            &[
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "spec.internalTrafficPolicy: Unsupported value: \"Near\": supported values: \"Cluster\", \"Local\"",
            ],
        ),
        (
            json!({"ipFamilyPolicy": "Both"}),
            &[
                "spec.ipFamilyPolicy: Unsupported value: \"Both\": supported values: \"PreferDualStack\", \"RequireDualStack\", \"SingleStack\"",
            ],
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(lines(&validate_create(&service(spec))), *expected, "{spec}");
    }
    let mut named = service(&json!({}));
    named["metadata"]["name"] = json!("1st");
    assert_eq!(
        lines(&validate_create(&named)),
        [
            "metadata.name: Invalid value: \"1st\": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
        ]
    );
}

#[test]
fn a_cluster_ip_is_for_ever() {
    let old = service(&json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]}));
    let mut moved = old.clone();
    moved["spec"]["clusterIP"] = json!("10.96.0.10");
    moved["spec"]["clusterIPs"] = json!(["10.96.0.10"]);
    prepare_update(&mut moved, &old, "");
    assert_eq!(
        lines(&validate_update(&moved, &old, "")),
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.10\"]: may not change once set"]
    );
    let external = service(&json!({"type": "ExternalName", "externalName": "example.com", "ports": []}));
    assert_eq!(lines(&validate_update(&external, &old, "")), Vec::<String>::new());
}

#[test]
fn a_new_type_drops_what_only_the_old_one_had() {
    let old = service(&json!({"type": "LoadBalancer"}));
    let mut new = old.clone();
    new["spec"]["type"] = json!("ClusterIP");
    default(&mut new);
    prepare_update(&mut new, &old, "");
    assert_eq!(new["spec"], service(&json!({}))["spec"]);
    assert_eq!(lines(&validate_update(&new, &old, "")), Vec::<String>::new());

    let mut asked = old.clone();
    asked["spec"]["type"] = json!("ClusterIP");
    asked["spec"]["externalTrafficPolicy"] = json!("Local");
    prepare_update(&mut asked, &old, "");
    assert_eq!(
        lines(&validate_update(&asked, &old, "")),
        ["spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services"]
    );
}

#[test]
fn a_health_check_port_is_there_while_load_balancers_need_it() {
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30_001});
    let old = service(&local);
    assert_eq!(lines(&validate_create(&old)), Vec::<String>::new());
    let mut other = old.clone();
    other["spec"]["healthCheckNodePort"] = json!(30_002);
    prepare_update(&mut other, &old, "");
    assert_eq!(
        lines(&validate_update(&other, &old, "")),
        ["spec.healthCheckNodePort: Invalid value: 30002: field is immutable"]
    );
    let mut cluster = old.clone();
    cluster["spec"]["externalTrafficPolicy"] = json!("Cluster");
    prepare_update(&mut cluster, &old, "");
    assert_eq!(lines(&validate_update(&cluster, &old, "")), Vec::<String>::new());
    assert!(cluster["spec"].get("healthCheckNodePort").is_none(), "{cluster}");
    let asked = service(&json!({"type": "NodePort", "healthCheckNodePort": 30_001}));
    assert_eq!(
        lines(&validate_create(&asked)),
        ["spec.healthCheckNodePort: Invalid value: 30001: may only be set when `type` is 'LoadBalancer' and \
          `externalTrafficPolicy` is 'Local'"]
    );
}

#[test]
fn status_is_written_on_its_own_path() {
    let old = service(&json!({}));
    let mut new = old.clone();
    new["spec"] = json!({});
    new["status"] = json!({"loadBalancer": {"ingress": [{"ip": "x"}]}});
    prepare_update(&mut new, &old, "status");
    assert_eq!(new["spec"], old["spec"]);
    assert_eq!(
        lines(&validate_update(&new, &old, "status")),
        [
            "status.loadBalancer.ingress[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
        ]
    );
}

#[test]
fn rows_show_addresses_and_ports() {
    let cases = [
        (json!({"clusterIP": "10.96.0.9"}), ["s", "ClusterIP", "10.96.0.9", "<none>", "80/TCP", "5s", "<none>"]),
        (
            json!({"clusterIP": "None", "ports": [], "selector": {"b": "2", "a": "1"}}),
            ["s", "ClusterIP", "None", "<none>", "<none>", "5s", "a=1,b=2"],
        ),
        (
            json!({"type": "NodePort", "clusterIP": "10.96.0.9", "externalIPs": ["1.2.3.4"],
                   "ports": [{"port": 80, "nodePort": 30000}, {"port": 53, "protocol": "UDP"}]}),
            ["s", "NodePort", "10.96.0.9", "1.2.3.4", "80:30000/TCP,53/UDP", "5s", "<none>"],
        ),
        (
            json!({"type": "LoadBalancer", "clusterIP": "10.96.0.9"}),
            ["s", "LoadBalancer", "10.96.0.9", "<pending>", "80/TCP", "5s", "<none>"],
        ),
        (
            json!({"type": "ExternalName", "externalName": "example.com", "ports": []}),
            ["s", "ExternalName", "<none>", "example.com", "<none>", "5s", "<none>"],
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(cells(&service(&spec), 5), expected.map(Value::from), "{spec}");
    }
}
