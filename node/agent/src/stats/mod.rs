//! What the node's pods and the node itself use. Nobody is asked before somebody wants to know: an idle node measures
//! nothing.

pub(crate) mod prometheus;
pub(crate) mod summary;
pub(crate) mod usage;

use crate::{
    clock,
    guests::Guests,
    ledger::is_file_name,
    logs::Logs,
    machine,
    pod::{
        manager::Registry,
        volumes::{self, PodUsage},
    },
};
use bytes::Bytes;
use coracle_objects::{ApiError, Reason, meta};
use coracle_runner::tree::Usage;
use coracle_wire::v1::summary_request::Format;
use serde_json::Value;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use summary::Snapshot;
use time::OffsetDateTime;
use tokio::{sync::Mutex, time::Instant};
use usage::{OnDisk, PodUse, Rates, VolumeUse, pods_in_use, run_of};

/// A look this recent is as good as a new one.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// The machine among the counters; no run is called so.
const MACHINE: &str = "";

/// See the module.
pub(crate) struct Stats {
    guests: Arc<dyn Guests>,
    logs: Arc<Logs>,
    registry: Registry,
    node: String,
    data_dir: PathBuf,
    /// Held while somebody looks: others wait for the same look.
    latest: Mutex<(Rates, Option<(Instant, Snapshot)>)>,
}

impl Stats {
    pub(crate) fn new(
        guests: Arc<dyn Guests>,
        logs: Arc<Logs>,
        registry: Registry,
        node: &str,
        data_dir: PathBuf,
    ) -> Self {
        Self { guests, logs, registry, node: node.to_owned(), data_dir, latest: Mutex::default() }
    }

    /// The answer to who asks for a summary.
    ///
    /// # Errors
    /// For a format that this agent does not know.
    pub(crate) async fn answer(&self, format: i32) -> Result<Bytes, ApiError> {
        let format = Format::try_from(format)
            .map_err(|_| ApiError::new(Reason::BadRequest, "the node does not know this form of a summary"))?;
        let snapshot = self.snapshot().await;
        match format {
            Format::Prometheus => {
                let text = prometheus::text(snapshot).map_err(|error| ApiError::internal(error.to_string()))?;
                Ok(text.into())
            }
            Format::Unspecified | Format::Json => Ok(summary::summary(&snapshot).to_string().into()),
        }
    }

    /// What is used now.
    pub(crate) async fn snapshot(&self) -> Snapshot {
        let mut latest = self.latest.lock().await;
        if let (_, Some((at, snapshot))) = &*latest
            && at.elapsed() < FRESH_FOR
        {
            return snapshot.clone();
        }
        let pods = self.registry.all();
        let samples = self.guests.sample().await;
        let (at, machine) = (clock::now(), machine::in_use(&self.data_dir));
        let mut counters: HashMap<String, u64> =
            samples.iter().map(|sample| (sample.run.0.clone(), sample.cpu_nanos)).collect();
        counters.insert(MACHINE.to_owned(), machine.cpu_nanos);
        let began = start_times(&pods);
        let rates = latest.0.take(at, counters, |run| began.get(run).copied());
        let (logs, data_dir) = (self.logs.clone(), self.data_dir.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let pods = pods_in_use(pods, &samples, &rates, |pod| on_disk(&logs, &data_dir, pod));
            (pods, rates.get(MACHINE).copied())
        });
        let (pods, cpu_nanocores): (Vec<PodUse>, _) = looked.await.unwrap_or_default();
        let machine = summary::MachineUse { cpu_nanocores, ..machine };
        let snapshot = Snapshot { at, node: self.node.clone(), machine, pods };
        latest.1 = Some((Instant::now(), snapshot.clone()));
        snapshot
    }
}

/// What a pod has on disk: logs, what its containers wrote, volumes.
fn on_disk(logs: &Logs, data_dir: &Path, pod: &Value) -> OnDisk {
    let bytes = |(name, usage): (String, Usage)| (name, usage.bytes);
    let used = directory_of(data_dir, meta::uid(pod)).map(|directory| volumes::usage(pod, &directory));
    let PodUsage { volumes, in_memory, layers } = used.unwrap_or_default();
    let volume = |(name, usage): (String, Usage)| {
        let in_memory = in_memory.contains(&name);
        VolumeUse { name, used_bytes: usage.bytes, in_memory }
    };
    let volumes = volumes.into_iter().map(volume).collect();
    OnDisk { logs: logs.usage(pod), roots: layers.into_iter().map(bytes).collect(), volumes }
}

/// Where a pod's volumes are, in whichever namespace's directory.
fn directory_of(data_dir: &Path, uid: &str) -> Option<PathBuf> {
    let namespaces = std::fs::read_dir(data_dir.join("ns")).ok()?;
    let mut of_pod = namespaces.flatten().map(|namespace| namespace.path().join("volumes").join(uid));
    is_file_name(uid).then(|| of_pod.find(|directory| directory.is_dir()))?
}

/// When each run that pods show began.
fn start_times(pods: &[Arc<Value>]) -> HashMap<String, OffsetDateTime> {
    let statuses = ["initContainerStatuses", "containerStatuses"];
    let all = pods.iter().flat_map(|pod| {
        statuses.iter().flat_map(|list| crate::pod::spec::items(&pod["status"], list)).filter_map(|status| {
            let since = status["state"]["running"]["startedAt"].as_str().and_then(clock::parse)?;
            Some((run_of(status)?.to_owned(), since))
        })
    });
    all.collect()
}
