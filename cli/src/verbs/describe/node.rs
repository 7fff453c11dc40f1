//! A node for people: its state, what it is, what it offers, what runs on it and takes how much of it.

use super::{
    super::print::{columns, refusal},
    ago, scalar,
};
use anyhow::Result;
use coracle_objects::{
    ObjectKey, Reason, catalogue, meta,
    quantity::Quantity,
    resources::{self, Resources},
    rules::age,
};
use coracle_sdk::{
    Connection,
    connection::{CallError, ListOptions},
};
use serde_json::Value;
use std::{
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

/// Where nodes renew their leases.
const LEASES: &str = "kube-node-lease";
/// What is shown of `status.nodeInfo`, in this order.
const SYSTEM: [(&str, &str); 10] = [
    ("machineID", "Machine ID"),
    ("systemUUID", "System UUID"),
    ("bootID", "Boot ID"),
    ("kernelVersion", "Kernel Version"),
    ("osImage", "OS Image"),
    ("operatingSystem", "Operating System"),
    ("architecture", "Architecture"),
    ("containerRuntimeVersion", "Container Runtime Version"),
    ("kubeletVersion", "Kubelet Version"),
    ("kubeProxyVersion", "Kube-Proxy Version"),
];

/// What belongs to a node without being part of its object.
pub(super) struct Surroundings {
    pub(super) lease: Option<Value>,
    /// Its pods that have not ended.
    pub(super) pods: Vec<Value>,
    /// Unix time, in seconds.
    pub(super) now: i64,
}

impl Surroundings {
    pub(super) async fn find(connection: &Connection, node: &Value) -> Result<Self> {
        let name = meta::name(node);
        let lease = match connection.get(catalogue::leases(), &ObjectKey::namespaced(LEASES, name)).await {
            Ok(lease) => Some(lease),
            Err(CallError::Refused(error)) if error.reason == Reason::NotFound => None,
            Err(error) => return Err(refusal(error)),
        };
        let field_selector = format!("spec.nodeName={name},status.phase!=Failed,status.phase!=Succeeded");
        let options = ListOptions { field_selector, ..ListOptions::default() };
        let (pods, _) = connection.list(catalogue::pods(), &options).await.map_err(refusal)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        Ok(Self { lease, pods, now: i64::try_from(now).unwrap_or(i64::MAX) })
    }
}

/// Everything below the labels and annotations.
pub(super) fn describe(out: &mut impl Write, node: &Value, surroundings: &Surroundings) -> io::Result<()> {
    let (spec, status) = (&node["spec"], &node["status"]);
    describe_spec(out, spec, surroundings)?;
    writeln!(out, "Conditions:")?;
    let mut rows = vec![cells(&["  Type", "Status", "Last Heartbeat", "Last Transition", "Reason", "Message"])];
    for one in items(&status["conditions"]) {
        let mut row = vec![format!("  {}", scalar(&one["type"]))];
        row.push(scalar(&one["status"]));
        row.extend(["lastHeartbeatTime", "lastTransitionTime"].map(|field| ago(&one[field], surroundings.now)));
        row.extend(["reason", "message"].map(|field| scalar(&one[field])));
        rows.push(row);
    }
    columns(out, &rows, &mut Vec::new())?;
    writeln!(out, "Addresses:")?;
    for one in items(&status["addresses"]) {
        writeln!(out, "  {}: {}", scalar(&one["type"]), scalar(&one["address"]))?;
    }
    for (title, field) in [("Capacity", "capacity"), ("Allocatable", "allocatable")] {
        writeln!(out, "{title}:")?;
        let mut amounts: Vec<_> = status[field].as_object().into_iter().flatten().collect();
        amounts.sort_by_key(|(name, _)| *name);
        let rows: Vec<_> = amounts.iter().map(|(name, amount)| vec![format!("  {name}:"), scalar(amount)]).collect();
        columns(out, &rows, &mut Vec::new())?;
    }
    writeln!(out, "System Info:")?;
    let known =
        SYSTEM.iter().filter(|(field, _)| status["nodeInfo"][*field].as_str().is_some_and(|text| !text.is_empty()));
    let rows: Vec<_> =
        known.map(|(field, title)| vec![format!("  {title}:"), scalar(&status["nodeInfo"][*field])]).collect();
    columns(out, &rows, &mut Vec::new())?;
    describe_pods(out, status, surroundings)
}

fn describe_spec(out: &mut impl Write, spec: &Value, surroundings: &Surroundings) -> io::Result<()> {
    let taint = |one: &Value| {
        let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
        let value = if text("value").is_empty() { String::new() } else { format!("={}", text("value")) };
        format!("{}{value}:{}", text("key"), text("effect"))
    };
    let taints: Vec<String> = items(&spec["taints"]).iter().map(taint).collect();
    let mut rows = vec![vec!["Taints:".to_owned(), taints.first().cloned().unwrap_or_else(|| "<none>".to_owned())]];
    rows.extend(taints.into_iter().skip(1).map(|taint| vec![String::new(), taint]));
    let is_cordoned = spec["unschedulable"].as_bool().unwrap_or(false);
    rows.push(vec!["Unschedulable:".to_owned(), is_cordoned.to_string()]);
    let renewed = surroundings.lease.as_ref().map_or(&Value::Null, |lease| &lease["spec"]["renewTime"]);
    rows.push(vec!["Lease renewed:".to_owned(), ago(renewed, surroundings.now)]);
    rows.push(vec!["Pod CIDR:".to_owned(), scalar(&spec["podCIDR"])]);
    columns(out, &rows, &mut Vec::new())
}

fn describe_pods(out: &mut impl Write, status: &Value, surroundings: &Surroundings) -> io::Result<()> {
    let offer = Resources::from_list(&status["allocatable"]);
    let mut sums = (Resources::default(), Resources::default());
    let headings = ["  Namespace", "Name", "CPU Requests", "CPU Limits", "Memory Requests", "Memory Limits", "Age"];
    let mut rows = vec![cells(&headings)];
    for pod in &surroundings.pods {
        let (requests, limits) = (resources::requested(&pod["spec"]), resources::limited(&pod["spec"]));
        rows.push(vec![
            format!("  {}", meta::namespace(pod)),
            meta::name(pod).to_owned(),
            share(&cpu(requests.cpu_milli), requests.cpu_milli, offer.cpu_milli),
            share(&cpu(limits.cpu_milli), limits.cpu_milli, offer.cpu_milli),
            share(&memory(requests.memory), requests.memory, offer.memory),
            share(&memory(limits.memory), limits.memory, offer.memory),
            age::age(pod, surroundings.now),
        ]);
        sums.0.add(&requests);
        sums.1.add(&limits);
    }
    writeln!(out, "Pods that have not ended: {} in total", surroundings.pods.len())?;
    if !surroundings.pods.is_empty() {
        columns(out, &rows, &mut Vec::new())?;
    }
    writeln!(out, "Allocated resources:")?;
    let (requests, limits) = sums;
    let row = |name: &str, show: fn(i64) -> String, of: fn(&Resources) -> i64| {
        let one = |sum: &Resources| share(&show(of(sum)), of(sum), of(&offer));
        vec![format!("  {name}"), one(&requests), one(&limits)]
    };
    let rows = vec![
        cells(&["  Resource", "Requests", "Limits"]),
        row("cpu", cpu, |resources| resources.cpu_milli),
        row("memory", memory, |resources| resources.memory),
        row("ephemeral-storage", memory, |resources| resources.ephemeral_storage),
    ];
    columns(out, &rows, &mut Vec::new())
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn cells(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn cpu(milli: i64) -> String {
    Quantity::from_milli(milli).to_string()
}

fn memory(bytes: i64) -> String {
    Quantity::from_bytes(bytes).to_string()
}

/// An amount, and how many hundredths of the whole it is.
fn share(shown: &str, part: i64, whole: i64) -> String {
    let percent = if whole > 0 { i128::from(part) * 100 / i128::from(whole) } else { 0 };
    format!("{shown} ({percent}%)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_shows_what_it_is_and_who_takes_what_of_it() {
        let node = json!({
            "metadata": {"name": "n1"},
            "spec": {"podCIDR": "10.244.4.0/22", "unschedulable": true, "taints": [
                {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
                {"key": "team", "value": "red", "effect": "NoExecute"},
            ]},
            "status": {
                "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:05Z",
                    "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "KubeletReady", "message": "ready"}],
                "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
                "capacity": {"cpu": "2", "memory": "4Gi"},
                "allocatable": {"cpu": "2", "memory": "4Gi"},
                "nodeInfo": {"kernelVersion": "6.1", "kubeletVersion": "v1.33.0+coracle", "bootID": ""},
            },
        });
        let resources = json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}});
        let pod = json!({
            "metadata": {"namespace": "default", "name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "a", "resources": resources}]},
        });
        let lease = json!({"spec": {"renewTime": "2026-01-01T00:00:09.000000Z"}});
        let surroundings = Surroundings { lease: Some(lease), pods: vec![pod], now: 1_767_225_660 };
        let mut out = Vec::new();
        describe(&mut out, &node, &surroundings).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        Taints:          node.kubernetes.io/unschedulable:NoSchedule
                         team=red:NoExecute
        Unschedulable:   true
        Lease renewed:   2026-01-01T00:00:09.000000Z (51s ago)
        Pod CIDR:        10.244.4.0/22
        Conditions:
          Type    Status   Last Heartbeat                   Last Transition                  Reason         Message
          Ready   True     2026-01-01T00:00:05Z (55s ago)   2026-01-01T00:00:00Z (60s ago)   KubeletReady   ready
        Addresses:
          InternalIP: 192.0.2.1
        Capacity:
          cpu:      2
          memory:   4Gi
        Allocatable:
          cpu:      2
          memory:   4Gi
        System Info:
          Kernel Version:    6.1
          Kubelet Version:   v1.33.0+coracle
        Pods that have not ended: 1 in total
          Namespace   Name   CPU Requests   CPU Limits   Memory Requests   Memory Limits   Age
          default     web    500m (25%)     0 (0%)       1Gi (25%)         2Gi (50%)       60s
        Allocated resources:
          Resource            Requests     Limits
          cpu                 500m (25%)   0 (0%)
          memory              1Gi (25%)    2Gi (50%)
          ephemeral-storage   0 (0%)       0 (0%)
        ");
    }
}
