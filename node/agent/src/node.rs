//! The Node object and its lease, as values. Pure.

use crate::{
    clock,
    confinement::{self, Verdict},
    machine::{self, Facts},
    network::detours,
    pressure::{
        Pressure,
        thresholds::{Reserved, Thresholds, allocatable},
    },
};
use coracle_objects::{nodes::OWN_LABELS, ranges::MAX_PODS_ANNOTATION};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, net::IpAddr};
use time::OffsetDateTime;

/// Pods that a node takes where nobody says otherwise (`status.capacity.pods`).
pub(crate) const PODS_MAX_DEFAULT: u32 = 1000;
/// Version that the node claims: the Kubernetes minor whose objects it understands.
pub(crate) const NODE_VERSION: &str = "v1.33.0+coracle";

/// What does not change while the agent runs.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) facts: Facts,
    pub(crate) runtime_version: String,
    pub(crate) pods_max: u32,
    /// Whether guests are held in.
    pub(crate) confined: Verdict,
    pub(crate) reserved: Reserved,
    pub(crate) thresholds: Thresholds,
}

/// The Node as this agent would create it, without status.
pub(crate) fn object(identity: &Identity) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": identity.name,
            "labels": labels(&identity.name, &identity.labels),
            "annotations": {MAX_PODS_ANNOTATION: identity.pods_max.to_string()},
        },
        "spec": {},
    })
}

/// What the whole machine has: thousandths of a CPU, bytes of memory, bytes of storage.
pub(crate) fn capacity(facts: &Facts) -> (u64, u64, u64) {
    (facts.cpus as u64 * 1000, facts.memory_bytes, facts.storage_bytes)
}

/// Labels that the agent keeps on its Node: those that its operator `configured`, and what every node says of itself.
pub(crate) fn labels(name: &str, configured: &BTreeMap<String, String>) -> Map<String, Value> {
    let own = OWN_LABELS.into_iter().zip([name, "linux", machine::architecture()]);
    let mut labels: Map<String, Value> =
        configured.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
    for (key, value) in own {
        labels.insert(key.to_owned(), value.into());
    }
    labels
}

/// What the agent finds, which changes.
#[derive(Debug, Clone)]
pub(crate) struct Found<'a> {
    /// `Err` with why pods cannot run now.
    pub(crate) ready: Result<(), &'a str>,
    pub(crate) pressure: Pressure,
    /// How other nodes are reached.
    pub(crate) peers: detours::Verdict,
}

/// The Node's status. Conditions keep their transition time from `previous` while their status stays.
pub(crate) fn status(identity: &Identity, found: &Found<'_>, previous: &Value, now: OffsetDateTime) -> Value {
    let facts = &identity.facts;
    let resources = |(cpu_milli, memory_bytes, storage_bytes): (u64, u64, u64)| {
        json!({
            "cpu": if cpu_milli % 1000 == 0 { (cpu_milli / 1000).to_string() } else { format!("{cpu_milli}m") },
            "ephemeral-storage": format!("{}Ki", storage_bytes / 1024),
            "memory": format!("{}Ki", memory_bytes / 1024),
            "pods": identity.pods_max.to_string(),
        })
    };
    let whole = capacity(facts);
    let ip = if identity.address.parse::<IpAddr>().is_ok() { "InternalIP" } else { "InternalDNS" };
    json!({
        "conditions": conditions(identity, found, previous, now),
        "capacity": resources(whole),
        "allocatable": resources(allocatable(whole, &identity.reserved, &identity.thresholds)),
        "addresses": [
            {"type": ip, "address": identity.address},
            {"type": "Hostname", "address": identity.name},
        ],
        "nodeInfo": {
            "machineID": facts.machine_id,
            "systemUUID": facts.system_uuid,
            "bootID": facts.boot_id,
            "kernelVersion": facts.kernel,
            "osImage": facts.os_image,
            "containerRuntimeVersion": identity.runtime_version,
            "kubeletVersion": NODE_VERSION,
            "kubeProxyVersion": NODE_VERSION,
            "operatingSystem": "linux",
            "architecture": machine::architecture(),
        },
    })
}

fn conditions(identity: &Identity, found: &Found<'_>, previous: &Value, now: OffsetDateTime) -> Vec<Value> {
    let pressure = found.pressure;
    let pick = |under: bool, yes: [&'static str; 2], no: [&'static str; 2]| (under, if under { yes } else { no });
    let rows = [
        (
            "MemoryPressure",
            pick(
                pressure.memory,
                ["KubeletHasInsufficientMemory", "the node has insufficient memory available"],
                ["KubeletHasSufficientMemory", "the node has sufficient memory available"],
            ),
        ),
        (
            "DiskPressure",
            pick(
                pressure.disk,
                ["KubeletHasDiskPressure", "the node has disk pressure"],
                ["KubeletHasNoDiskPressure", "the node has no disk pressure"],
            ),
        ),
        (
            "PIDPressure",
            pick(
                pressure.processes,
                ["KubeletHasInsufficientPID", "the node has insufficient process ids available"],
                ["KubeletHasSufficientPID", "the node has sufficient process ids available"],
            ),
        ),
    ];
    let mut conditions: Vec<Value> = rows
        .into_iter()
        .map(|(kind, (status, [reason, message]))| condition(kind, status, reason, message, previous, now))
        .collect();
    conditions.push(match found.ready {
        Ok(()) => condition("Ready", true, "KubeletReady", "the node agent is ready to run pods", previous, now),
        Err(why) => condition("Ready", false, "KubeletNotReady", why, previous, now),
    });
    let own = [(confinement::CONDITION, &identity.confined), (detours::CONDITION, &found.peers)];
    conditions
        .extend(own.map(|(kind, (holds, reason, message))| condition(kind, *holds, reason, message, previous, now)));
    conditions
}

fn condition(kind: &str, holds: bool, reason: &str, message: &str, previous: &Value, now: OffsetDateTime) -> Value {
    let status = if holds { "True" } else { "False" };
    let now = clock::seconds(now);
    let known = previous["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let same = known.iter().find(|known| known["type"] == kind && known["status"] == status);
    let since = same.and_then(|known| known["lastTransitionTime"].as_str()).unwrap_or(&now).to_owned();
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": since,
    })
}

/// Whether two statuses differ in more than the time of the last heartbeat.
pub(crate) fn differs(one: &Value, other: &Value) -> bool {
    let without_heartbeat = |status: &Value| {
        let mut status = status.clone();
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            if let Some(condition) = condition.as_object_mut() {
                condition.shift_remove("lastHeartbeatTime");
            }
        }
        status
    };
    without_heartbeat(one) != without_heartbeat(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            name: "node-1".to_owned(),
            address: "127.0.0.1".to_owned(),
            labels: BTreeMap::from([
                ("zone".to_owned(), "a".to_owned()),
                ("kubernetes.io/os".to_owned(), "plan9".to_owned()),
            ]),
            facts: Facts { cpus: 2, memory_bytes: 4 << 30, storage_bytes: 10 << 30, ..Facts::default() },
            runtime_version: "wasmtime://48.0.3".to_owned(),
            pods_max: PODS_MAX_DEFAULT,
            confined: (true, "LandlockAndSeccomp", String::new()),
            reserved: Reserved { cpu_milli: 500, memory_bytes: 1 << 30, storage_bytes: 0 },
            thresholds: Thresholds::default(),
        }
    }

    fn found(ready: Result<(), &str>, pressure: Pressure) -> Found<'_> {
        Found { ready, pressure, peers: (true, "AllPeersDirect", String::new()) }
    }

    #[test]
    fn the_node_says_what_it_has() {
        let found = found(Ok(()), Pressure::default());
        let status = status(&identity(), &found, &Value::Null, clock::now());
        assert_eq!(
            status["capacity"],
            json!({"cpu": "2", "ephemeral-storage": "10485760Ki", "memory": "4194304Ki", "pods": "1000"})
        );
        let left = json!({"cpu": "1500m", "ephemeral-storage": "9961472Ki", "memory": "3043328Ki", "pods": "1000"});
        assert_eq!(status["allocatable"], left);
        assert_eq!(status["addresses"][0], json!({"type": "InternalIP", "address": "127.0.0.1"}));
        let labels = &object(&identity())["metadata"]["labels"];
        assert_eq!(labels["kubernetes.io/hostname"], "node-1");
        assert_eq!(labels["kubernetes.io/os"], "linux", "a configured label cannot lie about the machine");
        assert_eq!(labels["zone"], "a");
    }

    #[test]
    fn conditions_keep_their_transition_time_until_they_change() {
        let at = |text| clock::parse(text).unwrap();
        let good = found(Ok(()), Pressure::default());
        let first = status(&identity(), &good, &Value::Null, at("2026-01-01T00:00:00Z"));
        let second = status(&identity(), &good, &first, at("2026-01-01T00:01:00Z"));
        assert!(!differs(&first, &second));
        assert_eq!(second["conditions"][3]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(second["conditions"][3]["lastHeartbeatTime"], "2026-01-01T00:01:00Z");
        let under = Pressure { disk: true, ..Pressure::default() };
        let bad = Found { peers: (false, "SomePeersRelayed", "a".to_owned()), ..found(Err("starting"), under) };
        let third = status(&identity(), &bad, &second, at("2026-01-01T00:02:00Z"));
        assert!(differs(&second, &third));
        let state = |index: usize| {
            let condition = &third["conditions"][index];
            (condition["type"].as_str().unwrap(), condition["status"].as_str().unwrap())
        };
        assert_eq!(state(1), ("DiskPressure", "True"));
        assert_eq!(state(3), ("Ready", "False"));
        assert_eq!(state(5), ("PeersDirect", "False"));
        assert_eq!(third["conditions"][3]["lastTransitionTime"], "2026-01-01T00:02:00Z");
        assert_eq!(third["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
    }
}
