//! What endpoints and endpoint slices have in common: which pods a service sends to, at which address and ports.

use coracle_objects::meta;
use serde_json::{Map, Value, json};
use std::net::Ipv4Addr;

/// Label of everything that belongs to a headless service.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// A pod behind a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// Its address.
    pub address: Ipv4Addr,
    /// The node it is on.
    pub node_name: String,
    /// Its own name in the service's domain, if it asks for one.
    pub hostname: Option<String>,
    /// `targetRef`.
    pub target: Value,
    /// The service's ports as this pod has them; what it does not have is left out.
    pub ports: Vec<Value>,
    /// Whether it says that it is ready.
    pub is_serving: bool,
    /// Whether it is on its way out.
    pub is_terminating: bool,
}

impl Backend {
    /// Whether new connections go there.
    #[must_use]
    pub fn is_ready(&self, service: &Value) -> bool {
        publishes_not_ready(service) || (self.is_serving && !self.is_terminating)
    }
}

/// The pods that a service selects: `None` for services whose endpoints are somebody else's business.
#[must_use]
pub fn selector(service: &Value) -> Option<&Map<String, Value>> {
    let spec = &service["spec"];
    spec["selector"].as_object().filter(|map| !map.is_empty() && spec["type"] != "ExternalName")
}

/// Whether the service selects this pod.
#[must_use]
pub fn selects(service: &Value, pod: &Value) -> bool {
    let labels = &pod["metadata"]["labels"];
    selector(service).is_some_and(|map| map.iter().all(|(key, value)| labels.get(key) == Some(value)))
        && meta::namespace(service) == meta::namespace(pod)
}

/// Whether the service has no address of its own.
#[must_use]
pub fn is_headless(service: &Value) -> bool {
    service["spec"]["clusterIP"] == "None"
}

/// Whether pods that are not ready count as ready.
#[must_use]
pub fn publishes_not_ready(service: &Value) -> bool {
    service["spec"]["publishNotReadyAddresses"] == true
}

/// The part of a pod that [`backends`] looks at: when it stays the same, nothing needs to be looked at again.
#[must_use]
pub fn relevant_part(pod: &Value) -> [&Value; 10] {
    let (metadata, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
    [
        &metadata["uid"],
        &metadata["labels"],
        &metadata["deletionTimestamp"],
        &spec["nodeName"],
        &spec["hostname"],
        &spec["subdomain"],
        &spec["containers"],
        &status["podIP"],
        &status["phase"],
        ready_condition(pod),
    ]
}

fn ready_condition(pod: &Value) -> &Value {
    let conditions = pod["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().find(|condition| condition["type"] == "Ready").map_or(&Value::Null, |ready| &ready["status"])
}

/// The pods behind a service, in the order of `pods`.
pub fn backends<'a, P: AsRef<Value> + 'a>(service: &Value, pods: impl IntoIterator<Item = &'a P>) -> Vec<Backend> {
    let pods = pods.into_iter().map(AsRef::as_ref);
    pods.filter(|pod| selects(service, pod)).filter_map(|pod| backend(service, pod)).collect()
}

fn backend(service: &Value, pod: &Value) -> Option<Backend> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    if matches!(status["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let address = status["podIP"].as_str()?.parse().ok()?;
    let is_in_domain = spec["subdomain"] == meta::name(service) && !meta::name(service).is_empty();
    let hostname = spec["hostname"].as_str().filter(|name| is_in_domain && !name.is_empty()).map(str::to_owned);
    Some(Backend {
        address,
        node_name: spec["nodeName"].as_str().unwrap_or_default().to_owned(),
        hostname,
        target: json!({
            "kind": "Pod", "namespace": meta::namespace(pod), "name": meta::name(pod), "uid": meta::uid(pod),
        }),
        ports: ports(service, pod),
        is_serving: ready_condition(pod) == "True",
        is_terminating: meta::is_terminating(pod),
    })
}

fn ports(service: &Value, pod: &Value) -> Vec<Value> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let resolved = ports.filter_map(|port| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let number = match &port["targetPort"] {
            Value::String(name) => container_port(pod, name, protocol)?,
            Value::Number(number) => number.as_u64().filter(|number| *number > 0).or(port["port"].as_u64())?,
            _ => port["port"].as_u64()?,
        };
        let mut resolved = json!({"port": number, "protocol": protocol});
        for field in ["name", "appProtocol"] {
            if let Some(text) = port[field].as_str().filter(|text| !text.is_empty()) {
                resolved[field] = text.into();
            }
        }
        Some(resolved)
    });
    resolved.collect()
}

/// The number of a container's port, by its name.
fn container_port(pod: &Value, name: &str, protocol: &str) -> Option<u64> {
    let list = |field: &str| pod["spec"][field].as_array().map_or(&[][..], Vec::as_slice);
    let sidecars = list("initContainers").iter().filter(|container| container["restartPolicy"] == "Always");
    let containers = list("containers").iter().chain(sidecars);
    let mut ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let is_it = |port: &&Value| port["name"] == name && port["protocol"].as_str().unwrap_or("TCP") == protocol;
    ports.find(is_it)?["containerPort"].as_u64()
}

/// The labels of what belongs to a service: its own, and ours.
#[must_use]
pub fn labels(service: &Value, ours: &[(&str, &str)]) -> Value {
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.shift_remove(HEADLESS_LABEL);
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), "".into());
    }
    for (key, value) in ours {
        labels.insert((*key).to_owned(), (*value).into());
    }
    Value::Object(labels)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn service(name: &str, ports: &Value) -> Value {
        json!({
            "metadata": {"namespace": "a", "name": name, "uid": format!("{name}-uid"), "labels": {"team": "red"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.9", "ports": ports},
        })
    }

    pub(crate) fn pod(name: &str, address: &str, is_ready: bool) -> Value {
        let ready = if is_ready { "True" } else { "False" };
        json!({
            "metadata": {"namespace": "a", "name": name, "uid": format!("{name}-uid"), "labels": {"app": "web", "x": "y"}},
            "spec": {"nodeName": "n1", "containers": [{"ports": [
                {"name": "http", "containerPort": 8080, "protocol": "TCP"},
                {"name": "dns", "containerPort": 5353, "protocol": "UDP"},
            ]}]},
            "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    fn set(mut object: Value, pointer: &str, value: Value) -> Value {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[field] = value;
        object
    }

    #[test]
    fn a_pod_is_behind_a_service_that_selects_it_and_when_it_has_an_address() {
        let web = || service("web", &json!([]));
        let good = || pod("p", "10.244.0.1", true);
        let table = [
            (web(), good(), true),
            (web(), set(good(), "/metadata/labels", json!({"x": "y"})), false),
            (web(), set(good(), "/metadata/namespace", json!("b")), false),
            (web(), set(good(), "/status/podIP", Value::Null), false),
            (web(), set(good(), "/status/podIP", json!("fd00::1")), false),
            (web(), set(good(), "/status/phase", json!("Succeeded")), false),
            (web(), set(good(), "/status/phase", json!("Failed")), false),
            (set(web(), "/spec/selector", json!({})), good(), false),
            (set(web(), "/spec/type", json!("ExternalName")), good(), false),
        ];
        for (service, pod, expected) in table {
            assert_eq!(!backends(&service, [&Box::new(pod.clone())]).is_empty(), expected, "{service} {pod}");
        }
    }

    #[test]
    fn ready_serving_and_terminating_are_told_apart() {
        let web = || service("web", &json!([]));
        let lenient = || set(web(), "/spec/publishNotReadyAddresses", json!(true));
        let ending =
            |ready| set(pod("p", "10.244.0.1", ready), "/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"));
        let table = [
            (web(), pod("p", "10.244.0.1", true), (true, true, false)),
            (web(), pod("p", "10.244.0.1", false), (false, false, false)),
            (web(), ending(true), (false, true, true)),
            (web(), ending(false), (false, false, true)),
            // Published although not ready: whether it serves is told as it is.
            (lenient(), pod("p", "10.244.0.1", true), (true, true, false)),
            (lenient(), pod("p", "10.244.0.1", false), (true, false, false)),
            (lenient(), ending(true), (true, true, true)),
            (lenient(), ending(false), (true, false, true)),
        ];
        for (service, pod, expected) in table {
            let backend = backends(&service, [&Box::new(pod.clone())]).remove(0);
            let actual = (backend.is_ready(&service), backend.is_serving, backend.is_terminating);
            assert_eq!(actual, expected, "{pod}");
        }
    }

    #[test]
    fn target_ports_are_numbers_names_or_the_port_itself() {
        let table = [
            (json!([{"port": 80}]), json!([{"port": 80, "protocol": "TCP"}])),
            (json!([{"port": 80, "targetPort": 9376}]), json!([{"port": 9376, "protocol": "TCP"}])),
            (json!([{"port": 80, "targetPort": "http"}]), json!([{"port": 8080, "protocol": "TCP"}])),
            (json!([{"port": 80, "targetPort": "dns"}]), json!([])),
            (json!([{"port": 53, "targetPort": "dns", "protocol": "UDP"}]), json!([{"port": 5353, "protocol": "UDP"}])),
            (
                json!([{"name": "udp", "port": 53, "protocol": "UDP", "targetPort": 5353}, {"name": "tcp", "port": 53}]),
                json!([{"port": 5353, "protocol": "UDP", "name": "udp"}, {"port": 53, "protocol": "TCP", "name": "tcp"}]),
            ),
            (
                json!([{"name": "in", "port": 80, "targetPort": "http"}, {"name": "metrics", "port": 90, "targetPort": "http"}]),
                json!([{"port": 8080, "protocol": "TCP", "name": "in"}, {"port": 8080, "protocol": "TCP", "name": "metrics"}]),
            ),
            (
                json!([{"name": "a", "port": 80, "appProtocol": "http"}, {"name": "b", "port": 81, "targetPort": "none"}]),
                json!([{"port": 80, "protocol": "TCP", "name": "a", "appProtocol": "http"}]),
            ),
        ];
        for (wanted, expected) in table {
            let backends = backends(&service("web", &wanted), [&Box::new(pod("p", "10.244.0.1", true))]);
            assert_eq!(Value::from(backends[0].ports.clone()), expected, "{wanted}");
        }
    }

    #[test]
    fn a_sidecars_named_port_counts_and_an_init_containers_does_not() {
        for (restart_policy, expected) in
            [(json!("Always"), json!([{"port": 9, "protocol": "TCP"}])), (Value::Null, json!([]))]
        {
            let ports = json!([{"name": "proxy", "containerPort": 9}]);
            let containers = json!([{"restartPolicy": restart_policy, "ports": ports}]);
            let pod = set(pod("p", "10.244.0.1", true), "/spec/initContainers", containers);
            let web = service("web", &json!([{"port": 80, "targetPort": "proxy"}]));
            assert_eq!(Value::from(backends(&web, [&Box::new(pod)])[0].ports.clone()), expected, "{restart_policy}");
        }
    }

    #[test]
    fn a_hostname_counts_only_in_the_services_own_domain() {
        for (subdomain, expected) in [("web", Some("db-0")), ("other", None)] {
            let named = set(pod("p", "10.244.0.1", true), "/spec/hostname", json!("db-0"));
            let named = set(named, "/spec/subdomain", json!(subdomain));
            let backend = backends(&service("web", &json!([])), [&Box::new(named)]).remove(0);
            assert_eq!(backend.hostname.as_deref(), expected, "{subdomain}");
        }
    }
}
