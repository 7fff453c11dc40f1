//! A look at the node as kubelet's summary shows it. Pure.

use super::usage::{ContainerUse, PodUse, Traffic, VolumeUse};
use crate::clock;
use coracle_objects::meta;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// The machine, by its kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MachineUse {
    pub(crate) cpu_nanos: u64,
    pub(crate) cpu_nanocores: Option<u64>,
    pub(crate) memory_bytes: u64,
    pub(crate) memory_available_bytes: u64,
    pub(crate) disk: DiskUse,
}

/// The file system that everything of the node lies on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DiskUse {
    pub(crate) capacity_bytes: u64,
    pub(crate) available_bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
}

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) at: OffsetDateTime,
    pub(crate) node: String,
    pub(crate) machine: MachineUse,
    pub(crate) pods: Vec<PodUse>,
}

/// The summary as JSON.
pub(crate) fn summary(snapshot: &Snapshot) -> Value {
    let at = clock::seconds(snapshot.at);
    let machine = &snapshot.machine;
    let used = machine.memory_bytes.saturating_sub(machine.memory_available_bytes);
    let disk = machine.disk;
    json!({
        "node": {
            "nodeName": snapshot.node,
            "cpu": cpu(&at, machine.cpu_nanos, machine.cpu_nanocores),
            "memory": {
                "time": at, "availableBytes": machine.memory_available_bytes,
                "usageBytes": used, "workingSetBytes": used,
            },
            "fs": {
                "time": at, "availableBytes": disk.available_bytes, "capacityBytes": disk.capacity_bytes,
                "usedBytes": disk.capacity_bytes.saturating_sub(disk.available_bytes),
                "inodes": disk.inodes, "inodesFree": disk.inodes_free,
                "inodesUsed": disk.inodes.saturating_sub(disk.inodes_free),
            },
        },
        "pods": snapshot.pods.iter().map(|pod| of_pod(&at, pod, disk)).collect::<Vec<_>>(),
    })
}

fn cpu(at: &str, nanos: u64, nanocores: Option<u64>) -> Value {
    let mut cpu = json!({"time": at, "usageCoreNanoSeconds": nanos});
    if let Some(nanocores) = nanocores {
        cpu["usageNanoCores"] = nanocores.into();
    }
    cpu
}

fn of_pod(at: &str, used: &PodUse, disk: DiskUse) -> Value {
    let (nanos, nanocores) = used.cpu();
    let memory = used.memory_bytes();
    let Traffic { received_bytes, sent_bytes } = used.network;
    let volume = |volume: &VolumeUse| {
        json!({
            "name": volume.name, "time": at, "usedBytes": volume.used_bytes,
            "availableBytes": disk.available_bytes, "capacityBytes": disk.capacity_bytes,
        })
    };
    json!({
        "podRef": {"name": meta::name(&used.pod), "namespace": meta::namespace(&used.pod), "uid": meta::uid(&used.pod)},
        "startTime": used.pod["status"]["startTime"],
        "containers": used.containers.iter().map(|container| of_container(at, container)).collect::<Vec<_>>(),
        "cpu": cpu(at, nanos, nanocores),
        "memory": {"time": at, "usageBytes": memory, "workingSetBytes": memory},
        "network": {"time": at, "name": "pod", "rxBytes": received_bytes, "txBytes": sent_bytes},
        "volume": used.volumes.iter().map(volume).collect::<Vec<_>>(),
        "ephemeral-storage": {"time": at, "usedBytes": used.storage_bytes()},
    })
}

fn of_container(at: &str, used: &ContainerUse) -> Value {
    let mut memory = json!({"time": at, "usageBytes": used.memory_bytes, "workingSetBytes": used.memory_bytes});
    if let Some(limit) = used.memory_limit_bytes {
        memory["availableBytes"] = limit.saturating_sub(used.memory_bytes).into();
    }
    json!({
        "name": used.name,
        "startTime": used.started_at.map(clock::seconds),
        "restartCount": used.restarts,
        "cpu": cpu(at, used.cpu_nanos, used.cpu_nanocores),
        "memory": memory,
        "logs": {"time": at, "usedBytes": used.logs_bytes},
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::Arc;

    /// A node with one pod of one container.
    pub(crate) fn snapshot() -> Snapshot {
        let pod = json!({"metadata": {"namespace": "default", "name": "web", "uid": "u"},
            "status": {"startTime": "2026-01-01T00:00:00Z"}});
        let container = ContainerUse {
            name: "main".to_owned(),
            started_at: clock::parse("2026-01-01T00:00:01Z"),
            restarts: 2,
            cpu_nanos: 1_500_000_000,
            cpu_nanocores: Some(200_000_000),
            memory_bytes: 3 << 20,
            memory_limit_bytes: Some(4 << 20),
            logs_bytes: 5,
            root_bytes: 0,
        };
        let network = Traffic { received_bytes: 10, sent_bytes: 20 };
        let volumes = vec![VolumeUse { name: "data".to_owned(), used_bytes: 7, in_memory: false }];
        Snapshot {
            at: clock::parse("2026-01-01T00:01:00Z").unwrap(),
            node: "n".to_owned(),
            machine: MachineUse {
                cpu_nanos: 9_000_000_000,
                cpu_nanocores: None,
                memory_bytes: 100,
                memory_available_bytes: 60,
                disk: DiskUse { capacity_bytes: 1000, available_bytes: 400, inodes: 50, inodes_free: 20 },
            },
            pods: vec![PodUse { pod: Arc::new(pod), containers: vec![container], network, volumes }],
        }
    }

    #[test]
    fn a_summary_reads_as_kubelets() {
        let summary = summary(&snapshot());
        let node = &summary["node"];
        assert_eq!((&node["nodeName"], &node["memory"]["workingSetBytes"]), (&json!("n"), &json!(40)));
        assert_eq!((&node["fs"]["usedBytes"], &node["fs"]["inodesUsed"]), (&json!(600), &json!(30)));
        assert!(node["cpu"]["usageNanoCores"].is_null(), "what is not known is not invented");
        let pod = &summary["pods"][0];
        assert_eq!(pod["podRef"], json!({"name": "web", "namespace": "default", "uid": "u"}));
        assert_eq!(pod["cpu"]["usageNanoCores"], 200_000_000);
        assert_eq!(pod["network"]["txBytes"], 20);
        assert_eq!(pod["ephemeral-storage"]["usedBytes"], 12);
        let container = &pod["containers"][0];
        assert_eq!(container["memory"]["workingSetBytes"], 3 << 20);
        assert_eq!(container["memory"]["availableBytes"], 1 << 20);
        assert_eq!(container["startTime"], "2026-01-01T00:00:01Z");
    }
}
