//! What the metrics API wants of a node's summary (the kubelet's `stats/v1alpha1` Summary). Pure.

use coracle_objects::metrics::Usage;
use serde::Deserialize;
use std::collections::HashMap;

/// One node and its pods.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeUsage {
    /// `None` before there is a rate.
    pub(crate) node: Option<(String, Usage)>,
    /// By namespace and name.
    pods: HashMap<(String, String), PodUsage>,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodUsage {
    /// When it was looked at, in RFC 3339.
    pub(crate) time: String,
    /// Name → usage, in the summary's order.
    pub(crate) containers: Vec<(String, Usage)>,
}

#[derive(Deserialize)]
struct Summary {
    node: Stats,
    #[serde(default)]
    pods: Vec<Pod>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    pod_ref: PodRef,
    #[serde(default)]
    containers: Vec<Stats>,
}

#[derive(Deserialize)]
struct PodRef {
    name: String,
    namespace: String,
}

#[derive(Deserialize)]
struct Stats {
    #[serde(default)]
    name: String,
    cpu: Option<Cpu>,
    memory: Option<Memory>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: String,
    usage_nano_cores: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    working_set_bytes: Option<u64>,
}

impl Stats {
    fn usage(&self) -> Option<(&str, Usage)> {
        let (cpu, memory) = (self.cpu.as_ref()?, self.memory.as_ref()?);
        let usage = Usage { cpu_nanocores: cpu.usage_nano_cores?, memory_bytes: memory.working_set_bytes? };
        Some((&cpu.time, usage))
    }
}

impl NodeUsage {
    /// Reads a summary. Pods of which a container has no rate yet are left out.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let summary: Summary = serde_json::from_slice(text).ok()?;
        let pods = summary.pods.into_iter().filter_map(|pod| {
            let usages: Option<Vec<_>> =
                pod.containers.iter().map(|one| Some((one.name.clone(), one.usage()?))).collect();
            let usages = usages.filter(|usages| !usages.is_empty())?;
            let time = usages.iter().map(|(_, (time, _))| *time).min()?.to_owned();
            let containers = usages.into_iter().map(|(name, (_, usage))| (name, usage)).collect();
            Some(((pod.pod_ref.namespace, pod.pod_ref.name), PodUsage { time, containers }))
        });
        let node = summary.node.usage().map(|(time, usage)| (time.to_owned(), usage));
        Some(Self { node, pods: pods.collect() })
    }

    /// A pod's usage.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<&PodUsage> {
        self.pods.get(&(namespace.to_owned(), name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_has_no_rate_yet_is_left_out() {
        let stats = |name: &str, nanocores: Option<u64>| {
            json!({
                "name": name, "startTime": "2026-01-01T00:00:00Z",
                "cpu": {"time": "2026-01-01T00:00:10Z", "usageNanoCores": nanocores, "usageCoreNanoSeconds": 5},
                "memory": {"time": "2026-01-01T00:00:10Z", "workingSetBytes": 4096, "usageBytes": 9999},
            })
        };
        let pod = |name: &str, containers: serde_json::Value| json!({"podRef": {"name": name, "namespace": "d", "uid": "u"}, "containers": containers, "network": {}});
        let summary = json!({
            "node": stats("", Some(7)),
            "pods": [
                pod("good", json!([stats("a", Some(1)), stats("b", Some(2))])),
                pod("new", json!([stats("a", Some(1)), stats("b", None)])),
                pod("empty", json!([])),
                {"podRef": {"name": "bare", "namespace": "d"}},
            ],
        });
        let usage = NodeUsage::parse(summary.to_string().as_bytes()).unwrap();
        let used = |cpu_nanocores| Usage { cpu_nanocores, memory_bytes: 4096 };
        assert_eq!(usage.node, Some(("2026-01-01T00:00:10Z".to_owned(), used(7))));
        let containers = vec![("a".to_owned(), used(1)), ("b".to_owned(), used(2))];
        let good = PodUsage { time: "2026-01-01T00:00:10Z".to_owned(), containers };
        assert_eq!(usage.pod("d", "good"), Some(&good));
        assert_eq!(usage.pods.len(), 1);
        for garbage in ["", "[]", "{}", "{\"node\": 1}"] {
            assert_eq!(NodeUsage::parse(garbage.as_bytes()), None, "{garbage}");
        }
    }
}
