//! What the agent reads from a pod's spec, with Kubernetes' defaults for what an old object may lack.

use coracle_images::{PullPolicy, Reference};
use coracle_net::names::hostname;
use coracle_objects::meta;
use coracle_runner::protocol::PodNetwork;
use serde_json::{Value, json};
use std::{net::Ipv4Addr, sync::Arc, time::Duration};

/// `spec.restartPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// Grace of a pod that names none.
const GRACE_DEFAULT_SECONDS: u64 = 30;

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Items of an array field; none where there is no array.
pub(crate) fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    list(value, field)
}

/// A string field; "" where there is none.
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

pub(crate) fn init_containers(pod: &Value) -> &[Value] {
    list(&pod["spec"], "initContainers")
}

pub(crate) fn app_containers(pod: &Value) -> &[Value] {
    list(&pod["spec"], "containers")
}

/// Init containers, then app containers: the order of every per-container list in the agent.
pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    init_containers(pod).iter().chain(app_containers(pod))
}

pub(crate) fn restart_policy(pod: &Value) -> RestartPolicy {
    match text(&pod["spec"], "restartPolicy") {
        "Never" => RestartPolicy::Never,
        "OnFailure" => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

/// How long containers get between being asked to stop and being ended.
pub(crate) fn grace(pod: &Value) -> Duration {
    let asked = pod["metadata"]["deletionGracePeriodSeconds"].as_u64();
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_u64();
    Duration::from_secs(asked.or(own).unwrap_or(GRACE_DEFAULT_SECONDS))
}

pub(crate) fn pull_policy(container: &Value) -> PullPolicy {
    match text(container, "imagePullPolicy") {
        "Always" => PullPolicy::Always,
        "Never" => PullPolicy::Never,
        "IfNotPresent" => PullPolicy::IfNotPresent,
        _ if Reference::parse(text(container, "image")).is_ok_and(|name| name.is_latest()) => PullPolicy::Always,
        _ => PullPolicy::IfNotPresent,
    }
}

/// Where events about a container point.
pub(crate) fn field_path(container: &str, init: bool) -> String {
    let list = if init { "initContainers" } else { "containers" };
    format!("spec.{list}{{{container}}}")
}

/// `name_namespace(uid)`, as kubelet's messages name a pod.
pub(crate) fn describe(pod: &Value) -> String {
    format!("{}_{}({})", meta::name(pod), meta::namespace(pod), meta::uid(pod))
}

/// Whether the pod ended for good, by what its status says.
pub(crate) fn is_finished(pod: &Value) -> bool {
    matches!(text(&pod["status"], "phase"), "Succeeded" | "Failed")
}

/// The pod with its address in its status, as its containers may read it there.
pub(crate) fn with_address(pod: &Arc<Value>, address: Option<Ipv4Addr>) -> Arc<Value> {
    let Some(address) = address.map(|address| address.to_string()) else { return pod.clone() };
    if text(&pod["status"], "podIP") == address {
        return pod.clone();
    }
    let mut pod = Value::clone(pod);
    pod["status"]["podIPs"] = json!([{"ip": address}]);
    pod["status"]["podIP"] = address.into();
    Arc::new(pod)
}

/// What a container's network is to be: the pod's address and name, and the TCP ports that the container names.
pub(crate) fn network(pod: &Value, container: &Value) -> PodNetwork {
    let tcp = list(container, "ports").iter().filter(|port| matches!(text(port, "protocol"), "" | "TCP"));
    let mut listen: Vec<u16> = Vec::new();
    for number in tcp.filter_map(|port| port["containerPort"].as_u64()?.try_into().ok()) {
        if !listen.contains(&number) {
            listen.push(number);
        }
    }
    PodNetwork {
        addresses: text(&pod["status"], "podIP").parse().into_iter().collect(),
        hostname: hostname(pod).to_owned(),
        listen,
    }
}

/// What containers ask for and nobody does yet: a reason and a message for each, said once per pod.
pub(crate) fn unsupported(pod: &Value) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if pod["spec"]["hostNetwork"] == true {
        let message = "This node does not share its own network with pods: the pod gets an address of its own (hostNetwork ignored)";
        found.push(("HostNetworkNotSupported", message.to_owned()));
    }
    for container in containers(pod) {
        let name = text(container, "name");
        let host_ports: Vec<String> =
            list(container, "ports").iter().filter_map(|port| Some(port["hostPort"].as_u64()?.to_string())).collect();
        if !host_ports.is_empty() && pod["spec"]["hostNetwork"] != true {
            let message = format!(
                "This node opens no host ports: {} of container {name} ignored; a Service of type NodePort reaches it from outside",
                host_ports.join(", ")
            );
            found.push(("HostPortNotSupported", message));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_kubernetes() {
        assert_eq!(restart_policy(&json!({})), RestartPolicy::Always);
        assert_eq!(grace(&json!({})), Duration::from_secs(30));
        let pod = json!({"metadata": {"deletionGracePeriodSeconds": 1}, "spec": {"terminationGracePeriodSeconds": 9}});
        assert_eq!(grace(&pod), Duration::from_secs(1));
        for (container, policy) in [
            (json!({"image": "a"}), PullPolicy::Always),
            (json!({"image": "a:v1"}), PullPolicy::IfNotPresent),
            (json!({"image": "a", "imagePullPolicy": "Never"}), PullPolicy::Never),
        ] {
            assert_eq!(pull_policy(&container), policy, "{container}");
        }
    }

    #[test]
    fn a_container_hears_of_its_network() {
        let container = json!({"ports": [
            {"containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 80, "protocol": "TCP"},
            {"containerPort": 8080, "protocol": "TCP"}, {"containerPort": 70_000},
        ]});
        let pod =
            Arc::new(json!({"metadata": {"name": "p"}, "spec": {"hostname": "h"}, "status": {"phase": "Pending"}}));
        assert_eq!(network(&pod, &container).addresses, [] as [std::net::IpAddr; 0]);
        let pod = with_address(&pod, Some(Ipv4Addr::new(10, 244, 0, 7)));
        let network = network(&pod, &container);
        assert_eq!((network.hostname.as_str(), network.listen.as_slice()), ("h", [8080, 80].as_slice()));
        assert_eq!(network.addresses, ["10.244.0.7".parse::<std::net::IpAddr>().unwrap()]);
        assert!(Arc::ptr_eq(&pod, &with_address(&pod, Some(Ipv4Addr::new(10, 244, 0, 7)))));
    }

    #[test]
    fn what_is_not_run_is_told() {
        let ports = json!([{"containerPort": 80, "hostPort": 8080}]);
        let told = |host_network: bool| {
            let spec = json!({"hostNetwork": host_network, "containers": [{"name": "a", "ports": ports}]});
            unsupported(&json!({"spec": spec})).into_iter().map(|row| row.0).collect::<Vec<_>>()
        };
        assert_eq!((told(false), told(true)), (vec!["HostPortNotSupported"], vec!["HostNetworkNotSupported"]));
        assert!(unsupported(&json!({"spec": {"containers": [{"name": "a"}]}})).is_empty());
    }
}
