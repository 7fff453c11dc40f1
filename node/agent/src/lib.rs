//! The node agent: one owner task per pod drives it from desired to actual and reports status.
//!
//! ```text
//!  control plane ──watch──▶ reflector ──▶ manager ──desired──▶ worker (one per pod, owns PodState)
//!       ▲  ▲                                                     │ attempts: images, compiler, volumes, environment
//!       │  └──status──── reports ◀──────────────────────────────┤
//!       │                ledger  ◀──────────────────────────────┤ what must survive, before it is reported
//!       └──Node, lease── heartbeat                               ▼
//!       ▲──events─────── recorder ◀────────────────────────── runners (one process per namespace) ──▶ logs on disk
//!       └──log sessions─ node link ◀───────────────────────────────────────────────────────────────────┘
//! ```
//!
//! It must never put a credential within a runner's reach, never let one pod's slowness hold another's, and never
//! report what the ledger does not know.

mod clock;
mod context;
mod events;
#[cfg(test)]
mod fake;
mod grpc;
mod guests;
mod heartbeat;
mod ledger;
mod link;
mod logs;
mod machine;
mod node;
mod pod;
mod reflector;
mod reports;
mod retry;
mod workloads;

use crate::{
    clock::Pace,
    context::{Caches, Context},
    grpc::GrpcLink,
    guests::{Runners, SharedNames},
    heartbeat::Heartbeat,
    ledger::Ledger,
    link::{ENDPOINT_SLICES, Link, NAMESPACES, PODS, Resource, SERVICES},
    logs::{Logs, session::NodeLink},
    pod::{manager::Manager, volumes},
    reflector::{Cache, Sink},
    reports::Reports,
    workloads::LocalWorkloads,
};
use coracle_images::{ClusterRegistry, Images, RegistrySettings, SettingsError};
use coracle_net::Names;
use coracle_objects::meta;
use coracle_runner::compile::CompileLimits;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Channel;
use tracing::warn;

/// How long the control plane is waited for before the pods in the ledger run without it.
const LEDGER_START_DELAY: Duration = Duration::from_secs(10);
/// How long all pods get to end when the agent does: the longest grace, and what killing takes.
const SHUTDOWN_MAX: Duration = Duration::from_secs(20);
/// What runs guests, as `status.nodeInfo` names it.
const RUNTIME_VERSION: &str = "wasmtime://48.0.8";

/// Name of the file in the data directory that describes registries.
pub const REGISTRIES_FILE: &str = "registries.json";

/// How a node runs.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Its name.
    pub node_name: String,
    /// Everything it keeps lies below.
    pub data_dir: PathBuf,
    /// API server, `https://HOST:PORT`.
    pub server: String,
    /// PEM of the cluster's CA.
    pub ca_pem: String,
    /// PEM of the node's client certificate (user `system:node:NAME`, group `system:nodes`).
    pub certificate_pem: String,
    /// PEM of its key.
    pub key_pem: String,
    /// Token for the cluster's registry.
    pub registry_token: String,
    /// The node's address as other hosts know it.
    pub address: String,
    /// Extra labels of the Node object.
    pub labels: BTreeMap<String, String>,
    /// This binary; `runner` and `compile` are appended to start child processes.
    pub program: Vec<OsString>,
    /// How other registries than the cluster's are reached; by default [`REGISTRIES_FILE`] in `data_dir`, if it is
    /// there.
    pub registries: Option<PathBuf>,
    /// What the compiler process may use.
    pub compile_limits: CompileLimits,
}

/// Why an agent ended.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Its directory cannot be used.
    #[error("cannot use the data directory {0}")]
    DataDir(PathBuf, #[source] io::Error),
    /// The description of other registries cannot be used.
    #[error("cannot use the node's registry settings")]
    Registries(#[source] SettingsError),
    /// Its credentials or the server's address cannot be used.
    #[error("cannot set up the connection to the control plane: {0}")]
    Connection(String),
}

/// Runs until `shutdown` is cancelled, then ends its pods with their grace and returns.
///
/// # Errors
/// Only what cannot be retried; a lost server is waited for.
pub async fn run(config: AgentConfig, shutdown: CancellationToken) -> Result<(), AgentError> {
    let channel = grpc::channel(&config)?;
    let unusable = |error| AgentError::DataDir(config.data_dir.clone(), error);
    prepare_directory(&config.data_dir).map_err(unusable)?;
    let ledger = Ledger::open(config.data_dir.join("ledger")).map_err(unusable)?;
    let entries = ledger.load().map_err(unusable)?;
    let settings = match &config.registries {
        Some(path) => RegistrySettings::read(path),
        None => RegistrySettings::read_if_there(&config.data_dir.join(REGISTRIES_FILE)),
    };
    let settings = settings.map_err(AgentError::Registries)?;
    let agent = Agent::open(config.clone(), channel, ledger, settings).map_err(unusable)?;
    agent.run(entries, shutdown).await;
    Ok(())
}

/// Makes the data directory, for nobody else to read, and removes what only dead runners could use.
fn prepare_directory(data_dir: &Path) -> io::Result<()> {
    let namespaces = data_dir.join("ns");
    fs::create_dir_all(&namespaces)?;
    fs::set_permissions(data_dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    for namespace in fs::read_dir(&namespaces)? {
        let namespace = namespace?.path();
        volumes::remove(&namespace.join("code"))?;
        // Both fail where pods still have volumes.
        let _ = fs::remove_dir(namespace.join("volumes"));
        let _ = fs::remove_dir(&namespace);
    }
    Ok(())
}

/// Everything wired up, nothing running.
struct Agent {
    config: AgentConfig,
    channel: Channel,
    link: Arc<dyn Link>,
    context: Arc<Context>,
    writer: events::Writer,
    names: SharedNames,
}

impl Agent {
    fn open(config: AgentConfig, channel: Channel, ledger: Ledger, settings: RegistrySettings) -> io::Result<Self> {
        let link: Arc<dyn Link> = Arc::new(GrpcLink::new(channel.clone()));
        let registry = ClusterRegistry {
            address: config.server.trim_start_matches("https://").trim_end_matches('/').to_owned(),
            ca_pem: config.ca_pem.clone(),
            token: config.registry_token.clone(),
        };
        let images = Images::open(&config.data_dir.join("images"), registry, settings)?;
        let workloads = LocalWorkloads::open(images, &config.data_dir, &config.program, config.compile_limits)?;
        let names = SharedNames::default();
        let (recorder, writer) = events::Recorder::new(link.clone(), &config.node_name);
        let context = Context {
            link: link.clone(),
            workloads: Arc::new(workloads),
            guests: Runners::new(&config.data_dir, &config.program, names.clone()),
            recorder,
            reports: Reports::new(link.clone()),
            logs: Arc::new(Logs::open(config.data_dir.join("logs"))?),
            ledger,
            caches: Caches { services: Cache::new(), namespaces: Cache::new() },
            data_dir: config.data_dir.clone(),
            host_ip: config.address.clone(),
            pace: Pace::real(),
        };
        Ok(Self { config, channel, link, context: Arc::new(context), writer, names })
    }

    async fn run(self, entries: Vec<ledger::Entry>, shutdown: CancellationToken) {
        // Pods end first and may still use the link while they do.
        let (stop_pods, stop_link) = (shutdown.child_token(), CancellationToken::new());
        let (ready_sender, ready) = watch::channel(false);
        let manager = Manager::new(self.context.clone(), entries, stop_pods.clone(), ready_sender);
        let (pods, owners, remembered) = (manager.registry(), manager.tasks(), manager.share());
        let tasks = TaskTracker::new();
        let follow = |resource: Resource, selector: String, sink: Box<dyn Sink>| {
            tasks.spawn(reflector::run(self.link.clone(), resource, selector, sink, stop_link.clone()));
        };
        let slices = Cache::new();
        follow(PODS, format!("spec.nodeName={}", self.config.node_name), Box::new(manager));
        follow(SERVICES, String::new(), Box::new(self.context.caches.services.clone()));
        follow(NAMESPACES, String::new(), Box::new(self.context.caches.namespaces.clone()));
        follow(ENDPOINT_SLICES, String::new(), Box::new(slices.clone()));
        let services = self.context.caches.services.clone();
        let namespaces = self.config.data_dir.join("ns");
        tasks.spawn(remove_deleted_namespaces(self.context.caches.namespaces.clone(), namespaces, stop_link.clone()));
        tasks.spawn(keep_names(services, slices, self.names, stop_link.clone()));
        tasks.spawn(self.context.reports.clone().run(stop_link.clone()));
        tasks.spawn(stop_link.clone().run_until_cancelled_owned(self.writer.run()));
        let link = NodeLink {
            channel: self.channel,
            node: self.config.node_name.clone(),
            logs: self.context.logs.clone(),
            pods,
        };
        tasks.spawn(link.run(stop_link.clone()));
        let heartbeat = Heartbeat {
            link: self.link.clone(),
            identity: identity(&self.config),
            data_dir: self.config.data_dir.clone(),
            ready: ready.clone(),
        };
        tasks.spawn(heartbeat.run(stop_link.clone()));
        tasks.spawn(stop_pods.clone().run_until_cancelled_owned(async move {
            let mut ready = ready;
            if tokio::time::timeout(LEDGER_START_DELAY, ready.wait_for(|ready| *ready)).await.is_err() {
                remembered.run_remembered();
            }
        }));

        shutdown.cancelled().await;
        owners.close();
        if tokio::time::timeout(SHUTDOWN_MAX, owners.wait()).await.is_err() {
            warn!("some pods did not end in time");
        }
        stop_link.cancel();
        tasks.close();
        tasks.wait().await;
    }
}

fn identity(config: &AgentConfig) -> node::Identity {
    node::Identity {
        name: config.node_name.clone(),
        address: config.address.clone(),
        labels: config.labels.clone(),
        facts: machine::facts(&config.data_dir),
        runtime_version: RUNTIME_VERSION.to_owned(),
    }
}

/// Removes the directory of a namespace once it is deleted: its pods are gone by then, and a uid never comes back.
/// One that was never seen is left alone: a pod may be known before its namespace is.
async fn remove_deleted_namespaces(namespaces: Cache, directory: PathBuf, stop: CancellationToken) {
    let mut version = namespaces.version();
    let mut seen = BTreeSet::new();
    loop {
        version.borrow_and_update();
        let now: BTreeSet<String> = namespaces.all().iter().map(|one| meta::uid(one).to_owned()).collect();
        for uid in seen.difference(&now).filter(|uid| ledger::is_file_name(uid)) {
            if let Err(error) = volumes::remove(&directory.join(uid)) {
                warn!(uid, %error, "cannot remove what a namespace left");
            }
        }
        seen = now;
        tokio::select! {
            changed = version.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Rebuilds the name table whenever services or endpoints change; several changes at once make one new table.
async fn keep_names(services: Cache, slices: Cache, names: SharedNames, stop: CancellationToken) {
    let (mut services_version, mut slices_version) = (services.version(), slices.version());
    let keep = async {
        loop {
            let known = *services_version.borrow_and_update() > 0 && *slices_version.borrow_and_update() > 0;
            if known {
                let (all_services, all_slices) = (services.all(), slices.all());
                let table = Names::build(all_services.iter().map(|one| &**one), all_slices.iter().map(|one| &**one));
                *names.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(table));
            }
            tokio::select! {
                changed = services_version.changed() => if changed.is_err() { return },
                changed = slices_version.changed() => if changed.is_err() { return },
            }
        }
    };
    tokio::select! {
        () = keep => {}
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Link;
    use coracle_objects::ObjectKey;
    use serde_json::json;

    #[test]
    fn the_runtime_is_the_one_that_is_built_in() {
        let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock")).unwrap();
        let version = RUNTIME_VERSION.strip_prefix("wasmtime://").unwrap();
        assert!(
            lock.contains(&format!("name = \"wasmtime\"\nversion = \"{version}\"\n")),
            "{RUNTIME_VERSION} is stale"
        );
    }

    #[test]
    fn only_volumes_outlive_the_agent() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("node");
        for path in ["ns/a/code", "ns/a/volumes/pod", "ns/b/code", "ns/b/volumes"] {
            fs::create_dir_all(data.join(path)).unwrap();
        }
        prepare_directory(&data).unwrap();
        assert!(
            data.join("ns/a/volumes/pod").exists() && !data.join("ns/a/code").exists() && !data.join("ns/b").exists()
        );
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&data).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o700);
    }

    #[tokio::test]
    async fn a_deleted_namespace_leaves_no_directory() {
        let directory = tempfile::tempdir().unwrap();
        for uid in ["kept", "gone", "unseen"] {
            fs::create_dir_all(directory.path().join(uid).join("code")).unwrap();
        }
        let mut namespaces = Cache::new();
        let namespace = |name: &str| json!({"metadata": {"name": name, "uid": name}});
        namespaces.replace(vec![namespace("kept"), namespace("gone"), namespace("../kept")]);
        let stop = CancellationToken::new();
        let task =
            tokio::spawn(remove_deleted_namespaces(namespaces.clone(), directory.path().to_owned(), stop.clone()));
        tokio::task::yield_now().await;
        namespaces.delete(&namespace("../kept"));
        namespaces.delete(&namespace("gone"));
        fake::eventually("it is removed", || !directory.path().join("gone").exists()).await;
        stop.cancel();
        task.await.unwrap();
        assert!(directory.path().join("kept").exists() && directory.path().join("unseen").exists());
    }

    #[tokio::test]
    async fn a_service_can_be_looked_up_soon_after_it_appears() {
        let link = fake::FakeLink::new();
        let (services, slices) = (Cache::new(), Cache::new());
        let names = SharedNames::default();
        let stop = CancellationToken::new();
        let dynamic: Arc<dyn Link> = link.clone();
        tokio::spawn(reflector::run(
            dynamic.clone(),
            SERVICES,
            String::new(),
            Box::new(services.clone()),
            stop.clone(),
        ));
        tokio::spawn(reflector::run(dynamic, ENDPOINT_SLICES, String::new(), Box::new(slices.clone()), stop.clone()));
        tokio::spawn(keep_names(services, slices, names.clone(), stop.clone()));
        let resolved = |name: &str| {
            let table = names.read().unwrap().clone();
            table.is_some_and(|table| table.resolve("default", name).is_ok())
        };
        link.put(
            SERVICES,
            json!({"metadata": {"namespace": "default", "name": "db"}, "spec": {"clusterIP": "10.96.0.1"}}),
        );
        fake::eventually("it resolves", || resolved("db")).await;
        link.remove(SERVICES, &ObjectKey::namespaced("default", "db"));
        fake::eventually("it does not resolve", || !resolved("db")).await;
        stop.cancel();
    }
}
