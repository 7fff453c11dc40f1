//! Which pod goes first when something is short, and which goes because it uses more of the disk than it may. Pure; the
//! order and the words are kubelet's.

use super::thresholds::{Resource, Shortage};
use crate::{
    pod::{
        admission::{is_critical, priority},
        spec,
    },
    stats::usage::{ContainerUse, PodUse},
};
use coracle_objects::{meta, quantity::Quantity, rules::pod::requests};
use serde_json::Value;
use std::{cmp::Reverse, fmt::Write};

/// A pod that may have to go.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Victim {
    pub(crate) uid: String,
    pub(crate) message: String,
}

/// Those that may go, first first: who uses more than it asked for; then lower priority; then who is further above what it
/// asked for.
pub(crate) fn victims(shortage: &Shortage, pods: &[PodUse]) -> Vec<Victim> {
    let mut candidates: Vec<(&PodUse, u64, u64)> = match shortage.resource {
        // No guest is a process.
        Resource::Processes => return Vec::new(),
        Resource::Memory => with(pods, |used| (used.memory_bytes(), requests(&used.pod).memory_bytes())),
        Resource::Disk | Resource::Inodes => {
            with(pods, |used| (used.storage_bytes(), requests(&used.pod).ephemeral_storage_bytes()))
        }
    };
    candidates.retain(|(used, ..)| may_go(&used.pod));
    candidates.sort_by_key(|(used, amount, asked)| {
        let above = i128::from(*amount) - i128::from(*asked);
        (above <= 0, priority(&used.pod), Reverse(above))
    });
    let victim = |(used, ..): (&PodUse, u64, u64)| Victim {
        uid: meta::uid(&used.pod).to_owned(),
        message: message(shortage, used),
    };
    candidates.into_iter().map(victim).collect()
}

fn with(pods: &[PodUse], amounts: impl Fn(&PodUse) -> (u64, i64)) -> Vec<(&PodUse, u64, u64)> {
    let with = |used| {
        let (amount, asked) = amounts(used);
        (used, amount, u64::try_from(asked).unwrap_or(0))
    };
    pods.iter().map(with).collect()
}

/// Whether it runs, and is not the system's or the node's own.
fn may_go(pod: &Value) -> bool {
    !spec::is_finished(pod) && !meta::is_terminating(pod) && !is_critical(pod)
}

fn message(shortage: &Shortage, used: &PodUse) -> String {
    let Shortage { resource, threshold, available } = shortage;
    let (threshold, available) = (show(*resource, *threshold), show(*resource, *available));
    let mut message =
        format!("The node was low on resource: {resource}. Threshold quantity: {threshold}, available: {available}. ");
    for container in &used.containers {
        let amount = match resource {
            Resource::Memory => container.memory_bytes,
            _ => container.storage_bytes(),
        };
        let found = spec::containers(&used.pod).find(|one| one["name"] == container.name.as_str());
        let asked = found.map(|one| &one["resources"]["requests"][resource.to_string()]);
        let asked = asked.and_then(|amount| Quantity::from_value(amount).ok()).unwrap_or_default();
        if i128::from(amount) > i128::from(asked.ceil()) {
            let (name, amount) = (&container.name, show(*resource, amount));
            let _ = write!(
                message,
                "Container {name} was using {amount}, request is {asked}, has larger consumption of {resource}. "
            );
        }
    }
    message
}

fn show(resource: Resource, amount: u64) -> String {
    match resource {
        Resource::Memory | Resource::Disk => format!("{}Ki", amount / 1024),
        Resource::Inodes | Resource::Processes => amount.to_string(),
    }
}

/// Why a pod has to go for what it has on the disk, if it has to.
pub(crate) fn over_its_storage(used: &PodUse) -> Option<String> {
    let pod = &used.pod;
    if spec::is_finished(pod) || meta::is_terminating(pod) {
        return None;
    }
    let amount = |value: &Value| Quantity::from_value(value).ok().filter(|amount| !amount.is_zero());
    let above = |used: u64, limit: Quantity| i128::from(used) > i128::from(limit.ceil());
    for volume in spec::items(&pod["spec"], "volumes") {
        let name = spec::text(volume, "name");
        let Some(limit) = amount(&volume["emptyDir"]["sizeLimit"]) else { continue };
        let size = used.volumes.iter().find(|one| one.name == name).map_or(0, |one| one.used_bytes);
        if above(size, limit) {
            return Some(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". "));
        }
    }
    let limits: Vec<Option<Quantity>> = spec::app_containers(pod)
        .iter()
        .map(|container| amount(&container["resources"]["limits"]["ephemeral-storage"]))
        .collect();
    // Only a pod whose containers all have a limit has one as a whole.
    let total = limits.iter().copied().collect::<Option<Vec<_>>>();
    if let Some(total) = total.filter(|limits| !limits.is_empty()) {
        let total = total.into_iter().fold(Quantity::ZERO, Quantity::saturating_add);
        if above(used.storage_bytes(), total) {
            let text = "Pod ephemeral local storage usage exceeds the total limit of containers";
            return Some(format!("{text} {total}. "));
        }
    }
    for (container, limit) in spec::app_containers(pod).iter().zip(limits) {
        let name = spec::text(container, "name");
        let size = used.containers.iter().find(|one| one.name == name).map_or(0, ContainerUse::storage_bytes);
        if let Some(limit) = limit.filter(|limit| above(size, *limit)) {
            return Some(format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". "));
        }
    }
    None
}

/// Whether the pod has any limit for its part of the disk: others need not be measured.
pub(crate) fn has_storage_limit(pod: &Value) -> bool {
    let limited = |container: &Value| !container["resources"]["limits"]["ephemeral-storage"].is_null();
    spec::app_containers(pod).iter().any(limited)
        || spec::items(&pod["spec"], "volumes").iter().any(|volume| !volume["emptyDir"]["sizeLimit"].is_null())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::usage::{ContainerUse, Traffic, VolumeUse};
    use serde_json::json;
    use std::sync::Arc;

    const MIB: u64 = 1 << 20;

    fn used(name: &str, memory_mib: u64, resources: &Value, change: impl Fn(&mut Value)) -> PodUse {
        let mut pod = json!({
            "metadata": {"namespace": "default", "name": name, "uid": format!("uid-{name}")},
            "spec": {"containers": [{"name": "main", "resources": resources}], "volumes": []},
            "status": {"phase": "Running"},
        });
        change(&mut pod);
        let container = ContainerUse {
            name: "main".to_owned(),
            started_at: None,
            restarts: 0,
            cpu_nanos: 0,
            cpu_nanocores: None,
            memory_bytes: memory_mib * MIB,
            memory_limit_bytes: None,
            logs_bytes: MIB,
            root_bytes: 0,
        };
        PodUse { pod: Arc::new(pod), containers: vec![container], network: Traffic::default(), volumes: Vec::new() }
    }

    #[test]
    fn those_above_their_requests_go_first() {
        let asks = |memory: &str| json!({"requests": {"memory": memory}});
        let nothing = |_: &mut Value| {};
        let pods = [
            used("within", 50, &asks("60Mi"), nothing),
            used("far-above", 70, &asks("10Mi"), nothing),
            used("best-effort", 20, &json!({}), nothing),
            used("important", 90, &asks("10Mi"), |pod| pod["spec"]["priority"] = 1000.into()),
            used("system", 90, &json!({}), |pod| pod["spec"]["priority"] = 2_000_001_000.into()),
            used("static", 90, &json!({}), |pod| pod["metadata"]["uid"] = "0".repeat(32).into()),
            used("over", 90, &json!({}), |pod| pod["status"]["phase"] = "Succeeded".into()),
            used("ending", 90, &json!({}), |pod| pod["metadata"]["deletionTimestamp"] = "now".into()),
        ];
        let shortage = Shortage { resource: Resource::Memory, threshold: 100 * MIB, available: 10 * MIB };
        let victims = victims(&shortage, &pods);
        let order: Vec<&str> = victims.iter().map(|victim| victim.uid.as_str()).collect();
        assert_eq!(order, ["uid-far-above", "uid-best-effort", "uid-important", "uid-within"]);
        assert_eq!(
            victims[0].message,
            "The node was low on resource: memory. Threshold quantity: 102400Ki, available: 10240Ki. Container main was \
             using 71680Ki, request is 10Mi, has larger consumption of memory. "
        );
        assert!(!victims[3].message.contains("Container main"), "{}", victims[3].message);
    }

    #[test]
    fn too_much_on_the_disk_is_told() {
        let limited = json!({"limits": {"ephemeral-storage": "512Ki"}});
        let volume = |size: &str| {
            let size = size.to_owned();
            move |pod: &mut Value| pod["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {"sizeLimit": size}}])
        };
        let over = |mut used: PodUse, volume_bytes: u64| {
            used.volumes = vec![VolumeUse { name: "data".to_owned(), used_bytes: volume_bytes, in_memory: false }];
            over_its_storage(&used)
        };
        let free = json!({});
        assert_eq!(over(used("a", 0, &free, volume("1Mi")), MIB), None);
        let message = "Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\". ";
        assert_eq!(over(used("a", 0, &free, volume("1Mi")), MIB + 1).as_deref(), Some(message));
        let message = "Pod ephemeral local storage usage exceeds the total limit of containers 512Ki. ";
        assert_eq!(over(used("a", 0, &limited, |_| {}), 0).as_deref(), Some(message));
        assert_eq!(over(used("a", 0, &json!({"limits": {"ephemeral-storage": "9Mi"}}), |_| {}), 2 * MIB), None);
        assert!(has_storage_limit(&used("a", 0, &limited, |_| {}).pod));
        assert!(!has_storage_limit(&used("a", 0, &free, |_| {}).pod));
    }
}
