//! Environment and command line of containers, by tables.

use super::*;
use serde_json::json;
use std::sync::LazyLock;

fn pod() -> Value {
    json!({
        "metadata": {"name": "p", "namespace": "default", "uid": "u", "labels": {"app": "web", "b": "1"},
            "annotations": {"note": "a \"quoted\" one"}},
        "spec": {"nodeName": "n", "serviceAccountName": "robot"},
        "status": {"podIP": "10.244.0.7", "podIPs": [{"ip": "10.244.0.7"}, {"ip": "fd00::7"}]},
    })
}

static OFFER: LazyLock<Offer> =
    LazyLock::new(|| Offer { cpu_milli: 1500, memory_bytes: 3 << 30, storage_bytes: 5 << 30, ..Offer::default() });

fn node() -> NodeFacts<'static> {
    NodeFacts { host_ip: "127.0.0.1", offer: &OFFER }
}

fn sources() -> Sources {
    let data = |rows: &[(&str, &str)]| {
        rows.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect::<BTreeMap<_, _>>()
    };
    Sources {
        config_maps: BTreeMap::from([("cm".to_owned(), data(&[("color", "red"), ("size", "xl")]))]),
        secrets: BTreeMap::from([("sec".to_owned(), data(&[("token", "t0p")]))]),
    }
}

fn env_of(container: &Value) -> Result<Vec<(String, String)>, String> {
    let services = BTreeMap::from([
        ("DB_SERVICE_HOST".to_owned(), "10.96.0.9".to_owned()),
        ("A".to_owned(), "from a service".to_owned()),
    ]);
    let (pod, sources) = (pod(), sources());
    let around = Surroundings { pod: &pod, node: node(), sources: &sources, services: &services };
    environment(container, &around).map(|variables| {
        assert_eq!(variables.skipped, [""; 0]);
        variables.all
    })
}

fn value<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
    env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

#[test]
fn variables_come_from_everywhere_and_the_last_one_counts() {
    let env = env_of(&json!({
        "envFrom": [{"prefix": "CM_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "none", "optional": true}}],
        "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)-$(DB_SERVICE_HOST)-$(NOBODY)-$$(A)"},
            {"name": "CM_size", "value": "m"},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
            {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "color"}}},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "token"}}},
            {"name": "OPT", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "nope", "optional": true}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        ],
        "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}},
    }))
    .unwrap();
    for (name, expected) in [
        ("HOSTNAME", Some("p")),
        ("A", Some("1")),
        ("B", Some("1-10.96.0.9-$(NOBODY)-$(A)")),
        ("CM_color", Some("red")),
        ("CM_size", Some("m")),
        ("NODE", Some("n")),
        ("APP", Some("web")),
        ("IP", Some("127.0.0.1")),
        ("COLOR", Some("red")),
        ("TOKEN", Some("t0p")),
        ("OPT", None),
        ("CPU", Some("2")),
        ("MEM", Some("64")),
        ("DB_SERVICE_HOST", Some("10.96.0.9")),
    ] {
        assert_eq!(value(&env, name), expected, "{name}");
    }
    assert_eq!(env.iter().filter(|(name, _)| name == "CM_size").count(), 1);
}

#[test]
fn what_is_missing_is_named_as_kubelet_does() {
    for (container, message) in [
        (json!({"envFrom": [{"configMapRef": {"name": "x"}}]}), "configmap \"x\" not found"),
        (json!({"envFrom": [{"secretRef": {"name": "x"}}]}), "secret \"x\" not found"),
        (
            json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]}),
            "couldn't find key k in ConfigMap default/cm",
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "k"}}}]}),
            "couldn't find key k in Secret default/sec",
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]}),
            "unsupported fieldPath: spec.x",
        ),
    ] {
        assert_eq!(env_of(&container), Err(message.to_owned()));
    }
    let container = json!({
        "envFrom": [{"configMapRef": {"name": "a"}}],
        "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "b", "key": "k"}}}],
    });
    assert_eq!(needed(&container), (vec!["a"], vec!["b"]));
}

#[test]
fn who_has_a_terminal_is_told_its_kind() {
    let kind = |container: Value| env_of(&container).map(|env| value(&env, "TERM").map(str::to_owned));
    assert_eq!(kind(json!({})), Ok(None));
    assert_eq!(kind(json!({"tty": true})), Ok(Some("xterm".to_owned())));
    let own = json!({"tty": true, "env": [{"name": "TERM", "value": "dumb"}]});
    assert_eq!(kind(own), Ok(Some("dumb".to_owned())), "it knows better");
}

#[test]
fn expansion_follows_kubernetes() {
    let known = "v".to_owned();
    let lookup = |name: &str| (name == "A").then_some(&known);
    for (text, expected) in [
        ("$(A)", "v"),
        ("x$(A)y$(A)", "xvyv"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$v"),
        ("$(B)", "$(B)"),
        ("$(A", "$(A"),
        ("$A", "$A"),
        ("$", "$"),
        ("", ""),
        ("é$(A)é", "évé"),
    ] {
        assert_eq!(expand(text, lookup), expected, "{text}");
    }
}

#[test]
fn the_command_line_is_the_designs() {
    let module = |name: &str| ImageModule { name: name.to_owned(), digest: String::new(), path: "/".into() };
    let (one, two) = (vec![module("app")], vec![module("app"), module("tool")]);
    let env = [("A".to_owned(), "1".to_owned())];
    let run = |modules: &[ImageModule], container: Value| {
        command_line(&container, modules, &env).map(|(module, argv)| (module.name.clone(), argv.join(" ")))
    };
    for (modules, container, name, argv) in [
        (&one, json!({}), "app", "app"),
        (&one, json!({"args": ["$(A)", "b"]}), "app", "app 1 b"),
        (&one, json!({"command": ["sh", "-c"], "args": ["x"]}), "app", "sh -c x"),
        (&two, json!({}), "app", "app"),
        (&two, json!({"command": ["tool", "-v"], "args": ["x"]}), "tool", "tool -v x"),
        (&two, json!({"command": ["tool.wasm"]}), "tool", "tool.wasm"),
        (&two, json!({"command": ["/bin/tool.wasm"]}), "tool", "/bin/tool.wasm"),
    ] {
        assert_eq!(run(modules, container.clone()), Ok((name.to_owned(), argv.to_owned())), "{container}");
    }
    let error = run(&two, json!({"command": ["sh"]})).unwrap_err();
    assert_eq!(error, "the image has no module \"sh\"; it holds app, tool");
    assert!(run(&one, json!({"args": ["a\u{0}b"]})).is_err());
}

#[test]
fn services_are_told_by_variables() {
    let services = [
        json!({"metadata": {"namespace": "default", "name": "my-db"},
            "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "sql-a", "port": 5432}, {"port": 53, "protocol": "UDP"}]}}),
        json!({"metadata": {"namespace": "default", "name": "headless"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}),
        json!({"metadata": {"namespace": "other", "name": "far"}, "spec": {"clusterIP": "10.96.0.8", "ports": [{"port": 1}]}}),
    ];
    let variables = service_variables(&services, &pod());
    for (name, expected) in [
        ("MY_DB_SERVICE_HOST", "10.96.0.9"),
        ("MY_DB_SERVICE_PORT", "5432"),
        ("MY_DB_SERVICE_PORT_SQL_A", "5432"),
        ("MY_DB_PORT", "tcp://10.96.0.9:5432"),
        ("MY_DB_PORT_53_UDP", "udp://10.96.0.9:53"),
        ("MY_DB_PORT_53_UDP_ADDR", "10.96.0.9"),
    ] {
        assert_eq!(variables.get(name).map(String::as_str), Some(expected), "{name}");
    }
    assert!(!variables.keys().any(|name| name.starts_with("HEADLESS") || name.starts_with("FAR")));
    let mut without = pod();
    without["spec"]["enableServiceLinks"] = json!(false);
    assert!(service_variables(&services, &without).is_empty());
}

#[test]
fn limits_are_read() {
    let container = json!({"resources": {"limits": {"memory": "64Mi", "cpu": "250m"}}});
    assert_eq!(limits(&container), (Some(64 << 20), Some(250)));
    assert_eq!(limits(&json!({})), (None, None));
    assert_eq!(limits(&json!({"resources": {"limits": {"cpu": "0"}}})), (None, None));
    for (resources, request) in [
        (json!({}), None),
        (json!({"limits": {"cpu": "250m"}}), Some(250)),
        (json!({"limits": {"cpu": "2"}, "requests": {"cpu": "0.1"}}), Some(100)),
        (json!({"requests": {"cpu": "0"}}), None),
    ] {
        assert_eq!(cpu_request(&json!({"resources": resources})), request, "{resources}");
    }
}

#[test]
fn every_field_of_the_downward_api_is_there() {
    for (path, expected) in [
        ("metadata.name", "p"),
        ("metadata.namespace", "default"),
        ("metadata.uid", "u"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['none']", ""),
        ("metadata.labels", "app=\"web\"\nb=\"1\""),
        ("metadata.annotations", "note=\"a \\\"quoted\\\" one\""),
        ("metadata.annotations['note']", "a \"quoted\" one"),
        ("spec.nodeName", "n"),
        ("spec.serviceAccountName", "robot"),
        ("status.hostIP", "127.0.0.1"),
        ("status.hostIPs", "127.0.0.1"),
        ("status.podIP", "10.244.0.7"),
        ("status.podIPs", "10.244.0.7,fd00::7"),
    ] {
        assert_eq!(field(&pod(), "127.0.0.1", path).as_deref(), Ok(expected), "{path}");
    }
}

#[test]
fn resources_are_told_in_their_divisors_and_a_missing_limit_is_the_nodes() {
    let container = json!({"resources": {"limits": {"memory": "100Mi", "cpu": "250m", "ephemeral-storage": "1Gi"},
        "requests": {"cpu": "100m"}}});
    let tell = |container: &Value, resource: &str, divisor: &str| {
        resource_field(container, &json!({"resource": resource, "divisor": divisor}), node())
    };
    for (resource, divisor, expected) in [
        ("limits.memory", "0", "104857600"),
        ("limits.memory", "1Mi", "100"),
        ("limits.memory", "1Gi", "1"),
        ("limits.cpu", "0", "1"),
        ("limits.cpu", "1m", "250"),
        ("requests.cpu", "1m", "100"),
        ("requests.memory", "1", "0"),
        ("limits.ephemeral-storage", "1Mi", "1024"),
    ] {
        assert_eq!(tell(&container, resource, divisor).as_deref(), Ok(expected), "{resource} in {divisor}");
    }
    let none = json!({});
    for (resource, divisor, expected) in [
        ("limits.cpu", "1", "2"),
        ("limits.cpu", "1m", "1500"),
        ("limits.memory", "1Mi", "3072"),
        ("limits.ephemeral-storage", "1Gi", "5"),
        ("requests.cpu", "1m", "0"),
    ] {
        assert_eq!(tell(&none, resource, divisor).as_deref(), Ok(expected), "{resource} in {divisor}");
    }
    assert!(tell(&none, "limits.pods", "1").is_err() && tell(&none, "memory", "1").is_err());
}

#[test]
fn names_that_no_environment_can_carry_are_skipped_and_told() {
    let mut sources = sources();
    let data = BTreeMap::from([("good".to_owned(), b"1".to_vec()), ("b\u{e4}d=".to_owned(), b"2".to_vec())]);
    sources.config_maps.insert("odd".to_owned(), data);
    let (pod, services) = (pod(), BTreeMap::new());
    let around = Surroundings { pod: &pod, node: node(), sources: &sources, services: &services };
    let container = json!({"envFrom": [{"prefix": "X-", "configMapRef": {"name": "odd"}}]});
    let variables = environment(&container, &around).unwrap();
    assert_eq!(value(&variables.all, "X-good"), Some("1"));
    assert_eq!(
        variables.skipped,
        ["Keys [X-b\u{e4}d=] from the EnvFrom ConfigMap default/odd were skipped since they are considered invalid \
          environment variable names."]
    );
}

#[test]
fn a_pod_calls_itself_by_its_full_name_where_it_says_so() {
    for (spec, expected) in [
        (json!({}), "p"),
        (json!({"hostname": "h", "subdomain": "s"}), "h"),
        (json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true}), "h.s.default.svc.cluster.local"),
        (json!({"setHostnameAsFQDN": true}), "p"),
    ] {
        let pod = json!({"metadata": {"name": "p", "namespace": "default"}, "spec": spec});
        assert_eq!(full_hostname(&pod), expected, "{spec}");
    }
}
