//! What pods and the node use, as values, and how fast: rates come from two looks at counters. Pure.

use coracle_objects::meta;
use coracle_runner::protocol::RunSample;
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use time::OffsetDateTime;

use crate::{clock, pod::spec};

/// Looks that are closer to each other say little about a rate: the earlier one before is taken.
const WINDOW_MIN: Duration = Duration::from_secs(5);
/// A rate over longer is no news.
const WINDOW_MAX: Duration = Duration::from_mins(2);
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// One running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerUse {
    pub(crate) name: String,
    pub(crate) started_at: Option<OffsetDateTime>,
    pub(crate) restarts: u64,
    /// CPU time since it was started.
    pub(crate) cpu_nanos: u64,
    /// CPU time per second, now; unknown while it is too young.
    pub(crate) cpu_nanocores: Option<u64>,
    /// What counts against its memory limit.
    pub(crate) memory_bytes: u64,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) logs_bytes: u64,
    /// What it wrote outside its volumes.
    pub(crate) root_bytes: u64,
}

impl ContainerUse {
    /// What it has on the node's disk beside its pod's volumes.
    pub(crate) fn storage_bytes(&self) -> u64 {
        self.logs_bytes + self.root_bytes
    }
}

/// What a pod has on the node's disk.
#[derive(Debug, Default)]
pub(crate) struct OnDisk {
    /// Bytes by container.
    pub(crate) logs: BTreeMap<String, u64>,
    /// Bytes by container, outside its volumes.
    pub(crate) roots: BTreeMap<String, u64>,
    pub(crate) volumes: Vec<VolumeUse>,
}

/// Bytes that a pod has received and sent over all its connections and datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
}

impl Traffic {
    /// A pod's containers share one network: the sample of each tells what all have used by then.
    fn see(&mut self, sample: &RunSample) {
        self.received_bytes = self.received_bytes.max(sample.pod_received_bytes);
        self.sent_bytes = self.sent_bytes.max(sample.pod_sent_bytes);
    }
}

/// One volume on the node's own disk, or in its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeUse {
    pub(crate) name: String,
    pub(crate) used_bytes: u64,
    pub(crate) in_memory: bool,
}

/// One pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PodUse {
    pub(crate) pod: Arc<Value>,
    pub(crate) containers: Vec<ContainerUse>,
    pub(crate) network: Traffic,
    pub(crate) volumes: Vec<VolumeUse>,
}

impl PodUse {
    /// Everything of its containers that counts as memory, and its volumes there.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let containers: u64 = self.containers.iter().map(|container| container.memory_bytes).sum();
        containers + self.volumes_bytes(true)
    }

    fn volumes_bytes(&self, in_memory: bool) -> u64 {
        let volumes = self.volumes.iter().filter(|volume| volume.in_memory == in_memory);
        volumes.map(|volume| volume.used_bytes).sum()
    }

    /// Everything that it has on the node's disk.
    pub(crate) fn storage_bytes(&self) -> u64 {
        let own: u64 = self.containers.iter().map(ContainerUse::storage_bytes).sum();
        own + self.volumes_bytes(false)
    }

    /// Sums over its containers; no rate while one of them has none.
    pub(crate) fn cpu(&self) -> (u64, Option<u64>) {
        let nanos = self.containers.iter().map(|container| container.cpu_nanos).sum();
        let rates = self.containers.iter().map(|container| container.cpu_nanocores);
        (nanos, rates.sum())
    }
}

/// CPU counters at one moment, by what they count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Look {
    at: Option<OffsetDateTime>,
    cpu_nanos: HashMap<String, u64>,
}

impl Look {
    fn age(&self, now: OffsetDateTime) -> Duration {
        self.at.and_then(|at| (now - at).try_into().ok()).unwrap_or(Duration::MAX)
    }
}

/// Remembers the two latest looks that are far enough apart.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    earlier: Look,
    latest: Look,
}

impl Rates {
    /// Takes counters at `now`; answers nanoseconds per second of each since a moment ago, or, where nobody looked
    /// then, since the time that `began` names.
    pub(crate) fn take(
        &mut self,
        now: OffsetDateTime,
        counters: HashMap<String, u64>,
        began: impl Fn(&str) -> Option<OffsetDateTime>,
    ) -> HashMap<String, u64> {
        if self.latest.age(now) >= WINDOW_MIN {
            self.earlier = std::mem::take(&mut self.latest);
        }
        let known = if self.earlier.age(now) <= WINDOW_MAX { Some(&self.earlier) } else { None };
        let rate = |key: &String, nanos: u64| {
            let seen = known.and_then(|look| Some((*look.cpu_nanos.get(key)?, look.at?)));
            let (before, since) = seen.or_else(|| began(key).map(|since| (0, since)))?;
            let window: Duration = (now - since).try_into().ok()?;
            if seen.is_none() && window < Duration::from_secs(1) {
                return None;
            }
            let used = u128::from(nanos.saturating_sub(before)) * NANOS_PER_SECOND;
            u64::try_from(used / window.as_nanos().max(1)).ok()
        };
        let rates = counters.iter().filter_map(|(key, nanos)| Some((key.clone(), rate(key, *nanos)?))).collect();
        if self.latest.at.is_none() {
            self.latest = Look { at: Some(now), cpu_nanos: counters };
        }
        rates
    }
}

/// What the running containers of `pods` use, by what their runners say. `rates` are by run.
pub(crate) fn pods_in_use(
    pods: Vec<Arc<Value>>,
    samples: &[RunSample],
    rates: &HashMap<String, u64>,
    on_disk: impl Fn(&Value) -> OnDisk,
) -> Vec<PodUse> {
    let samples: HashMap<&str, &RunSample> = samples.iter().map(|sample| (sample.run.0.as_str(), sample)).collect();
    let in_use = |pod: Arc<Value>| {
        let OnDisk { logs, roots, volumes } = on_disk(&pod);
        let statuses = ["initContainerStatuses", "containerStatuses"];
        let statuses = statuses.iter().flat_map(|list| spec::items(&pod["status"], list));
        let mut network = Traffic::default();
        let containers: Vec<ContainerUse> = statuses
            .filter_map(|status| {
                let started = &status["state"]["running"]["startedAt"];
                let run = run_of(status).filter(|_| started.is_string())?;
                let sample = samples.get(run)?;
                network.see(sample);
                let name = spec::text(status, "name");
                Some(ContainerUse {
                    name: name.to_owned(),
                    started_at: started.as_str().and_then(clock::parse),
                    restarts: status["restartCount"].as_u64().unwrap_or(0),
                    cpu_nanos: sample.cpu_nanos,
                    cpu_nanocores: rates.get(run).copied(),
                    memory_bytes: sample.memory_bytes,
                    memory_limit_bytes: memory_limit(&pod, name),
                    logs_bytes: logs.get(name).copied().unwrap_or(0),
                    root_bytes: roots.get(name).copied().unwrap_or(0),
                })
            })
            .collect();
        PodUse { pod, containers, network, volumes }
    };
    let mut pods: Vec<PodUse> = pods.into_iter().map(in_use).collect();
    pods.sort_by_key(|used| meta::key(&used.pod));
    pods
}

/// The run that a container's status names.
pub(crate) fn run_of(status: &Value) -> Option<&str> {
    status["containerID"].as_str()?.strip_prefix("coracle://")
}

fn memory_limit(pod: &Value, container: &str) -> Option<u64> {
    let found = spec::containers(pod).find(|one| one["name"] == container)?;
    crate::pod::env::limits(found).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_runner::protocol::RunId;
    use serde_json::json;

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(second)
    }

    #[test]
    fn rates_are_those_of_the_last_moments() {
        let mut rates = Rates::default();
        let counters = |nanos: u64| HashMap::from([("a".to_owned(), nanos)]);
        let of = |rates: HashMap<String, u64>| rates.get("a").copied();
        let began = |_: &str| Some(at(100));
        assert_eq!(of(rates.take(at(100), counters(0), began)), None, "it is too young");
        // 10 s, half a core.
        assert_eq!(of(rates.take(at(110), counters(5_000_000_000), began)), Some(500_000_000));
        // Looked at again at once: the same window goes on.
        assert_eq!(of(rates.take(at(111), counters(5_000_000_000), began)), Some(454_545_454));
        // Idle since.
        assert_eq!(of(rates.take(at(120), counters(5_000_000_000), began)), Some(0));
        // Nobody looked for an hour: over its life.
        assert_eq!(of(rates.take(at(3_700), counters(360_000_000_000), began)), Some(100_000_000));
        // A counter that began anew is no negative rate.
        assert_eq!(of(rates.take(at(3_710), counters(0), began)), Some(0));
    }

    #[test]
    fn containers_are_found_by_their_runs() {
        let pod = Arc::new(json!({
            "metadata": {"namespace": "default", "name": "p"},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"memory": "1Mi"}}}, {"name": "b"}]},
            "status": {"containerStatuses": [
                {"name": "a", "containerID": "coracle://one", "restartCount": 3,
                 "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}},
                {"name": "b", "containerID": "coracle://two", "state": {"terminated": {"exitCode": 0}}},
            ]},
        }));
        let sample = |run: &str, cpu_nanos, memory_bytes| RunSample {
            run: RunId(run.to_owned()),
            cpu_nanos,
            memory_bytes,
            pod_received_bytes: 5,
            pod_sent_bytes: 6,
        };
        let samples = [sample("one", 7, 65_536), sample("two", 9, 9), sample("other", 1, 1)];
        let rates = HashMap::from([("one".to_owned(), 11)]);
        let on_disk = |_: &Value| {
            let volume = |name: &str, used_bytes, in_memory| VolumeUse { name: name.to_owned(), used_bytes, in_memory };
            let volumes = vec![volume("data", 100, false), volume("cache", 50, true)];
            OnDisk {
                logs: BTreeMap::from([("a".to_owned(), 20)]),
                roots: BTreeMap::from([("a".to_owned(), 3)]),
                volumes,
            }
        };
        let pods = pods_in_use(vec![pod], &samples, &rates, on_disk);
        let [only] = pods[0].containers.as_slice() else { panic!("{pods:?}") };
        assert_eq!((only.name.as_str(), only.cpu_nanos, only.cpu_nanocores), ("a", 7, Some(11)));
        assert_eq!((only.memory_bytes, only.memory_limit_bytes, only.restarts), (65_536, Some(1 << 20), 3));
        assert_eq!(pods[0].network, Traffic { received_bytes: 5, sent_bytes: 6 });
        assert_eq!((pods[0].memory_bytes(), pods[0].storage_bytes(), pods[0].cpu()), (65_586, 123, (7, Some(11))));
    }
}
