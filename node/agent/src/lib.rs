//! The node agent: one owner task per pod drives it from desired to actual and reports status.
//!
//! ```text
//!  control plane ──Follow──▶ view ──────▶ manager ──desired──▶ worker (one per pod, owns PodState)
//!       ▲  ▲                                                     │ attempts: images, compiler, volumes, environment
//!       │  └──status──── reports ◀──────────────────────────────┤
//!       │                ledger  ◀──────────────────────────────┤ what must survive, before it is reported
//!       │                network ◀──────────────────────────────┤ addresses, connections between runners
//!       └──Node, lease── heartbeat                               ▼
//!       ▲──events─────── recorder ◀────────────────────────── runners (one process per namespace) ──▶ logs on disk
//!       └──log sessions─ node link ◀───────────────────────────────────────────────────────────────────┘
//! ```
//!
//! It must never put a credential within a runner's reach, never let one pod's slowness hold another's, and never
//! report what the ledger does not know.

mod clock;
mod confinement;
mod contact;
mod context;
pub mod credentials;
pub mod directory;
mod events;
mod exec;
#[cfg(test)]
mod fake;
mod grpc;
mod guests;
mod heartbeat;
mod homes;
pub mod join;
mod ledger;
mod link;
mod logs;
mod machine;
pub mod naming;
mod network;
mod node;
mod output;
mod pod;
mod pressure;
mod reflector;
mod renewal;
mod reports;
mod retry;
mod samples;
mod sandbox;
mod server_place;
mod sessions;
mod signing_request;
mod sizing;
mod static_pods;
mod stats;
mod terminal;
mod tools;
mod view;
mod workloads;

use crate::{
    clock::Pace,
    confinement::{Gate, Verdict},
    contact::Contact,
    context::{Caches, Context},
    credentials::{Credentials, Wallet},
    directory::{DirectoryError, Hold},
    events::{Involved, Severity},
    grpc::{Connection, GrpcLink},
    guests::{Allowance, Runners},
    heartbeat::{Heartbeat, RENEWALS_IN_A_LEASE},
    homes::{Homes, Known},
    ledger::Ledger,
    link::Link,
    logs::Logs,
    machine::Facts,
    network::{
        Network,
        addresses::{Addresses, RANGE_PATIENCE},
        between::{Around, Between},
        ca_bundle, detours,
        exchange::{Exchange, TABLES_PATIENCE},
        notices::{Notices, Teller},
        place::Place,
        routes::Routes,
    },
    pod::{
        admission::{Offer, Room},
        checks,
        manager::Manager,
        probes::Probes,
        volumes::{self, live::Refresher},
    },
    pressure::{Pressure, images::RoomOnDisk, thresholds::allocatable},
    renewal::Renewal,
    reports::Reports,
    sandbox::Owners,
    sessions::{NodeLink, Sessions},
    static_pods::{StaticPods, mirror::Keeper},
    stats::Stats,
    view::View,
    workloads::LocalWorkloads,
};
use coracle_images::{ClientIdentity, ClusterRegistry, Images, RegistrySettings, SettingsError};
use coracle_net::{
    class::Ranges,
    fabric::{Fabric, FabricConfig, Limits, Notice},
    names::HostResolver,
    range::Ipv4Range,
    tunnel::Tunnel,
};
use coracle_objects::{
    node_affinity::Labels,
    ranges::{CLUSTER_DNS, POD_RANGE, SERVICE_RANGE},
};
use coracle_runner::{compile::CompileLimits, rest};
use nix::sys::stat::{Mode, umask};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use thiserror::Error;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

/// How long the control plane is waited for before the pods in the ledger run without it.
const LEDGER_START_DELAY: Duration = Duration::from_secs(10);
/// Grace of pods at most when the agent ends, where nobody says otherwise.
pub const SHUTDOWN_GRACE_DEFAULT: Duration = Duration::from_mins(1);
/// How long pods get to end when the agent does, beyond their grace: what killing them takes, twice.
const SHUTDOWN_SLACK: Duration = Duration::from_secs(15);
/// How long the server is waited for with the last words about pods and node.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);
/// How long an agent takes at most to end, beyond the grace of its pods.
pub const SHUTDOWN_BEYOND_GRACE: Duration =
    SHUTDOWN_SLACK.saturating_add(LAST_WORDS_MAX).saturating_add(NETWORK_STOP_MAX);
/// How long node ports and connections under way get to end with the agent.
const NETWORK_STOP_MAX: Duration = Duration::from_secs(5);
/// Name of the directory in the data directory that has what the node was told of its cluster.
const VIEW_DIRECTORY: &str = "view";
/// What begins the names of files that get their own when they are whole.
const TEMPORARY: &[u8] = b".tmp";
/// How the node looks names up.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// What runs guests, as `status.nodeInfo` names it.
const RUNTIME_VERSION: &str = "wasmtime://48.0.8";

/// Name of the file in the data directory that describes registries.
pub const REGISTRIES_FILE: &str = "registries.json";

/// Name of the directory in the data directory whose files describe static pods.
pub const STATIC_PODS_DIRECTORY: &str = "static-pods";

pub use heartbeat::HEARTBEAT_INTERVAL_DEFAULT;
pub use network::place::own_address;
pub use pressure::{
    images::ImageLimits,
    thresholds::{Amount, ParseError, Reserved, Thresholds},
};
pub use sizing::Size;

/// How a node runs.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Its name.
    pub node_name: String,
    /// Everything it keeps lies below.
    pub data_dir: PathBuf,
    /// That directory, where this process has taken it already; else the agent takes it.
    pub hold: Option<Hold>,
    /// API server, `https://HOST:PORT`.
    pub server: String,
    /// What it shows (user `system:node:NAME`, group `system:nodes`); those that it renewed itself and keeps in
    /// `data_dir` count where they were issued later.
    pub credentials: Credentials,
    /// The node's address as other hosts know it.
    pub address: String,
    /// Whether the node goes by the address that it has towards the server, whenever that changes; `address` and
    /// `node_port_address` are then where it begins.
    pub follow_address: bool,
    /// Where the node ports of services are opened.
    pub node_port_address: IpAddr,
    /// Where its end of the tunnel to other nodes listens (UDP). Where this address is not the machine's, or its port is
    /// taken, any other that is free. Other nodes are told `address` in place of an unspecified one.
    pub tunnel_listen: SocketAddr,
    /// Extra labels of the Node object.
    pub labels: BTreeMap<String, String>,
    /// This binary; `runner` and `compile` are appended to start child processes.
    pub program: Vec<OsString>,
    /// How other registries than the cluster's are reached; by default [`REGISTRIES_FILE`] in `data_dir`, if it is
    /// there.
    pub registries: Option<PathBuf>,
    /// Directory of the files that describe static pods; by default [`STATIC_PODS_DIRECTORY`] in `data_dir`. It need
    /// not be there.
    pub static_pods: Option<PathBuf>,
    /// Pods that it takes at most; its range of addresses is made for as many when it registers first.
    pub pods_max: u32,
    /// Instances that each runner has room for, where its address space allows that; a namespace with more containers than
    /// three quarters of that has several runners.
    pub runner_instances: u32,
    /// What of the machine is not for pods.
    pub reserved: Reserved,
    /// Memory of the machine, in bytes, where it is not to be what the machine says: for tests.
    pub memory_bytes: Option<u64>,
    /// Below which remainder pods have to go.
    pub thresholds: Thresholds,
    /// When images that nothing uses go.
    pub image_limits: ImageLimits,
    /// What the compiler process may use.
    pub compile_limits: CompileLimits,
    /// Guests run although the kernel cannot hold them in.
    pub allow_unconfined_guests: bool,
    /// How often it says that it lives, [`HEARTBEAT_INTERVAL_DEFAULT`]; servers give it up after four times that, or later.
    pub heartbeat_interval: Duration,
    /// When the agent ends, pods get their own grace and no more than this.
    pub shutdown_grace: Duration,
    /// The agent cancels it when it has set itself up and runs pods, whether or not a server is there.
    pub started: CancellationToken,
}

/// Why an agent ended.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Its directory cannot be used.
    #[error("cannot use the data directory {0}")]
    DataDir(PathBuf, #[source] io::Error),
    /// Its directory is in use, or another node's.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
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
    network::raise_descriptor_limit();
    let hold = match &config.hold {
        Some(hold) => hold.clone(),
        None => Hold::take(&config.data_dir)?,
    };
    hold.belongs_to(&config.node_name)?;
    let unusable = |error| AgentError::DataDir(config.data_dir.clone(), error);
    prepare_directory(&config.data_dir).map_err(unusable)?;
    let wallet = Arc::new(Wallet::open(&config.data_dir, config.credentials.clone()));
    let connection = Connection::new(&config.server, wallet.watch(), config.heartbeat_interval)?;
    let ledger = Ledger::open(config.data_dir.join(ledger::DIRECTORY)).map_err(unusable)?;
    let entries = ledger.load().map_err(unusable)?;
    let settings = registry_settings(config.registries.as_deref(), &config.data_dir)?;
    let agent = Agent::open(config.clone(), wallet, connection, ledger, settings).map_err(unusable)?;
    agent.run(entries, shutdown).await;
    drop(hold);
    Ok(())
}

/// Whether `registries`, or what `data_dir` has in its place, describes other registries well.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn check_registries(registries: Option<&Path>, data_dir: &Path) -> Result<(), AgentError> {
    registry_settings(registries, data_dir).map(drop)
}

fn registry_settings(registries: Option<&Path>, data_dir: &Path) -> Result<RegistrySettings, AgentError> {
    let settings = match registries {
        Some(path) => RegistrySettings::read(path),
        None => RegistrySettings::read_if_there(&data_dir.join(REGISTRIES_FILE)),
    };
    settings.map_err(AgentError::Registries)
}

/// Makes the data directory, for nobody else to read, and removes what only dead runners could use and what a killed
/// agent was about to write.
fn prepare_directory(data_dir: &Path) -> io::Result<()> {
    // Runners of other users read what is made for them, whatever the mask of who started the node.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let namespaces = data_dir.join("ns");
    fs::create_dir_all(&namespaces)?;
    fs::set_permissions(data_dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    for file in fs::read_dir(data_dir)? {
        let file = file?;
        if file.file_name().as_encoded_bytes().starts_with(TEMPORARY) {
            volumes::remove(&file.path())?;
        }
    }
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
    /// Whose `watch` gives the node's credentials, now and later.
    wallet: Arc<Wallet>,
    connection: Connection,
    link: Arc<dyn Link>,
    context: Arc<Context>,
    writer: events::Writer,
    exchange: Arc<Exchange>,
    /// The way to other nodes' pods, if there is one.
    between: Option<Between>,
    runners: Arc<Runners>,
    gate: Arc<Gate>,
    facts: Facts,
    pressure: watch::Sender<Pressure>,
    /// Where the node is.
    place: watch::Sender<Place>,
    /// From the fabric and from this crate.
    notices: [mpsc::Receiver<Notice>; 2],
}

impl Agent {
    fn open(
        config: AgentConfig,
        wallet: Arc<Wallet>,
        connection: Connection,
        ledger: Ledger,
        settings: RegistrySettings,
    ) -> io::Result<Self> {
        let link: Arc<dyn Link> = Arc::new(GrpcLink::new(connection.clone()));
        let registry = ClusterRegistry {
            address: config.server.trim_start_matches("https://").trim_end_matches('/').to_owned(),
            ca_pem: config.credentials.ca_pem().to_owned(),
            token: String::new(),
            identity: Some(shown(wallet.watch())),
        };
        let images = Images::open(&config.data_dir.join("images"), registry, settings)?;
        let owners = Arc::new(Owners::open(&config.data_dir)?);
        let limits = CompileLimits { user: owners.compiler().id(), ..config.compile_limits };
        let workloads = LocalWorkloads::open(images, &config.data_dir, &config.program, limits)?;
        ca_bundle::write(&config.data_dir)?;
        let addresses = Arc::new(Addresses::open(&config.data_dir, RANGE_PATIENCE));
        let (exchange, notices) = open_exchange(&config, addresses.clone());
        exchange.fabric().set_servers(connection.server_addresses().borrow().clone());
        let (between, place) = open_between(&config, &wallet, &exchange);
        let place = watch::Sender::new(place);
        let (recorder, writer) = events::Recorder::new(link.clone(), &config.node_name);
        let real_time = Pace::real();
        let gate = Arc::new(Gate::new(config.allow_unconfined_guests));
        let runners = Runners::new(
            &config.data_dir,
            &config.program,
            exchange.clone(),
            owners.clone(),
            gate.clone(),
            config.runner_instances,
            match config.memory_bytes {
                Some(bytes) => Some(Allowance::of(bytes, config.reserved.memory_bytes)),
                None => Allowance::of_this_machine(config.reserved.memory_bytes),
            },
        );
        let facts = machine::facts(&config.data_dir);
        let (pressure, felt) = watch::channel(Pressure::default());
        let context = Context {
            link: link.clone(),
            workloads: Arc::new(workloads),
            checks: Arc::new(checks::Real),
            guests: runners.clone(),
            homes: Homes::new(&config.data_dir, owners.clone()),
            owners,
            network: Network { addresses, switch: exchange.clone() },
            recorder,
            reports: Reports::new(link.clone()),
            logs: Arc::new(Logs::open(config.data_dir.join("logs"))?),
            ledger,
            caches: Caches::new(),
            room: Room::new(offer(&config, &facts)),
            pressure: felt,
            data_dir: config.data_dir.clone(),
            place: place.subscribe(),
            probes: Probes::new(&real_time),
            pace: real_time,
            contact: Arc::new(Contact::open(&config.data_dir, config.heartbeat_interval * RENEWALS_IN_A_LEASE)),
            shutdown_grace: config.shutdown_grace,
        };
        let context = Arc::new(context);
        Ok(Self {
            config,
            wallet,
            connection,
            link,
            context,
            writer,
            exchange,
            between,
            runners,
            gate,
            facts,
            pressure,
            place,
            notices,
        })
    }

    /// What runs the pods of the node's own files, and what shows them to the server.
    fn static_pods(&self, manager: &Manager) -> (StaticPods, Keeper) {
        let directory = self.config.static_pods.clone();
        let statics = StaticPods::new(
            directory.unwrap_or_else(|| self.config.data_dir.join(STATIC_PODS_DIRECTORY)),
            &self.config.node_name,
            manager.share(),
            manager.mirrors(),
            self.context.recorder.clone(),
        );
        let keeper = Keeper {
            mirrors: manager.mirrors(),
            link: self.link.clone(),
            node: self.config.node_name.clone(),
            registry: manager.registry(),
            reports: self.context.reports.clone(),
            recorder: self.context.recorder.clone(),
        };
        (statics, keeper)
    }

    #[expect(clippy::too_many_lines, reason = "everything is started here, in its order")]
    async fn run(self, entries: Vec<ledger::Entry>, shutdown: CancellationToken) {
        // The Node says from the beginning what holds its guests in.
        self.runners.probe().await;
        if let Some(narrowness) = sizing::narrowness() {
            warn!("{narrowness}");
            let node = Involved::node(&self.config.node_name);
            self.context.recorder.record_about(node, Severity::Warning, "SmallAddressSpace", &narrowness);
        }
        // Pods end first and may still use the link while they do.
        let (stop_pods, stop_link) = (shutdown.child_token(), CancellationToken::new());
        let (ready_sender, ready) = watch::channel(false);
        let manager = Manager::new(self.context.clone(), entries, stop_pods.clone(), ready_sender);
        let (pods, owners, remembered) = (manager.registry(), manager.tasks(), manager.share());
        let statics_known = manager.statics_known();
        let tasks = TaskTracker::new();
        let (statics, keeper) = self.static_pods(&manager);
        tasks.spawn(statics.run(stop_pods.clone()));
        tasks.spawn(keeper.run(stop_link.clone()));
        tasks.spawn(Refresher::new(self.context.clone(), pods.clone()).run(stop_link.clone()));
        let caches = self.context.caches.clone();
        let (services, slices) = (caches.services.clone(), caches.slices.clone());
        let directory = self.config.data_dir.join(VIEW_DIRECTORY);
        let view = View::open(self.link.clone(), caches, Box::new(manager), Some(&directory));
        tasks.spawn(view.run(stop_link.clone()));
        let known =
            Known { namespaces: self.context.caches.namespaces.clone(), pods: ready.clone(), statics: statics_known };
        tasks.spawn(self.context.homes.clone().tidy(self.context.guests.clone(), known, stop_link.clone()));
        let shut_out = shut_out(self.exchange.fabric().clone(), self.connection.server_addresses());
        tasks.spawn(stop_link.clone().run_until_cancelled_owned(shut_out));
        tasks.spawn(self.exchange.clone().keep_services(services.clone(), slices, stop_link.clone()));
        let shown_tunnel = self.between.as_ref().map(Between::tunnel);
        let tunnel = self.between.map(|between| {
            let tunnel = between.tunnel();
            let relay = between.keep_relay(self.connection.clone());
            tasks.spawn(stop_link.clone().run_until_cancelled_owned(relay));
            let keep = between.keep(Around {
                nodes: self.context.caches.nodes.clone(),
                credentials: self.wallet.watch(),
                follows: self.config.follow_address.then(|| self.connection.server_addresses()),
                fabric: self.exchange.fabric().clone(),
                place: self.place.clone(),
                say: self.exchange.notices.clone(),
            });
            tasks.spawn(stop_link.clone().run_until_cancelled_owned(keep));
            tunnel
        });
        let teller = Teller {
            recorder: self.context.recorder.clone(),
            pods: pods.clone(),
            services,
            node: self.config.node_name.clone(),
        };
        let [of_fabric, of_agent] = self.notices;
        tasks.spawn(stop_link.clone().run_until_cancelled_owned(teller.run(of_fabric, of_agent)));
        tasks.spawn(self.context.reports.clone().run(stop_link.clone()));
        let reports = self.context.reports.clone();
        tasks.spawn(stop_link.clone().run_until_cancelled_owned(async move { rest::after(reports.work()).await }));
        tasks.spawn(stop_link.clone().run_until_cancelled_owned(self.writer.run()));
        let own = Involved::node(&self.config.node_name);
        self.context.recorder.record_about(own, Severity::Normal, "Starting", "Starting the node agent.");
        let stats = Arc::new(Stats::new(
            self.context.guests.clone(),
            self.context.logs.clone(),
            pods.clone(),
            &self.config.node_name,
            self.config.data_dir.clone(),
        ));
        let (pods_in_use, manager_pods) = (pods.clone(), pods.clone());
        let resumed = Arc::new(Notify::new());
        let link = NodeLink {
            connection: self.connection,
            stats: stats.clone(),
            node: self.config.node_name.clone(),
            logs: self.context.logs.clone(),
            sessions: Sessions { context: self.context.clone(), pods: pods.clone() },
            pods,
            interval: self.config.heartbeat_interval,
            contact: self.context.contact.clone(),
            resumed: resumed.clone(),
        };
        tasks.spawn(link.run(stop_link.clone()));
        tasks.spawn(Renewal { link: self.link.clone(), wallet: self.wallet.clone() }.run(stop_link.clone()));
        let felt = self.context.pressure.clone();
        let relief = pressure::Keeper {
            stats,
            registry: pods_in_use,
            thresholds: self.config.thresholds,
            data_dir: self.config.data_dir.clone(),
            pressure: self.pressure,
            room_on_disk: RoomOnDisk {
                workloads: self.context.workloads.clone(),
                registry: manager_pods,
                recorder: self.context.recorder.clone(),
                node: self.config.node_name.clone(),
                data_dir: self.config.data_dir.clone(),
                limits: self.config.image_limits,
            },
        };
        tasks.spawn(relief.run(stop_pods.clone()));
        let heartbeat = Heartbeat {
            link: self.link.clone(),
            identity: identity(&self.config, self.facts, self.gate.verdict()),
            pressure: felt,
            ready: ready.clone(),
            ending: shutdown.clone(),
            addresses: self.context.network.addresses.clone(),
            resumed,
            place: self.place.subscribe(),
            peers: detours::Shown::new(Box::new(move || shown_tunnel.as_ref().map(Tunnel::detours))),
            nodes: self.context.caches.nodes.clone(),
            interval: heartbeat::STATUS_INTERVAL,
        };
        tasks.spawn(heartbeat.run(stop_link.clone()));
        tasks.spawn(stop_pods.clone().run_until_cancelled_owned(async move {
            let mut ready = ready;
            if tokio::time::timeout(LEDGER_START_DELAY, ready.wait_for(|ready| *ready)).await.is_err() {
                remembered.run_remembered();
            }
        }));

        self.config.started.cancel();
        shutdown.cancelled().await;
        owners.close();
        if tokio::time::timeout(self.config.shutdown_grace + SHUTDOWN_SLACK, owners.wait()).await.is_err() {
            warn!("some pods did not end in time");
        }
        // A server that is not there is told by the node's silence.
        if tokio::time::timeout(LAST_WORDS_MAX, self.context.reports.settled()).await.is_err() {
            warn!("the control plane does not know yet that the pods have ended");
        }
        let network = async {
            self.exchange.shutdown().await;
            if let Some(tunnel) = tunnel {
                tunnel.shutdown().await;
            }
        };
        if tokio::time::timeout(NETWORK_STOP_MAX, network).await.is_err() {
            warn!("the pod network did not end in time");
        }
        stop_link.cancel();
        tasks.close();
        tasks.wait().await;
    }
}

/// What the cluster's registry is shown: the node's certificate.
fn shown(credentials: watch::Receiver<Arc<Credentials>>) -> ClientIdentity {
    Arc::new(move || credentials.borrow().identity_pem().clone())
}

/// What the node has for pods, by what is reserved and kept back of it.
fn offer(config: &AgentConfig, facts: &Facts) -> Offer {
    let (cpu_milli, memory_bytes, storage_bytes) =
        allocatable(node::capacity(facts), &config.reserved, &config.thresholds);
    Offer {
        name: config.node_name.clone(),
        labels: Labels::from_map(&node::labels(&config.node_name, &config.labels).into()),
        cpu_milli,
        memory_bytes,
        storage_bytes,
        pods_max: config.pods_max,
    }
}

fn identity(config: &AgentConfig, facts: Facts, confined: Verdict) -> node::Identity {
    node::Identity {
        name: config.node_name.clone(),
        address: config.address.clone(),
        labels: config.labels.clone(),
        facts,
        runtime_version: RUNTIME_VERSION.to_owned(),
        pods_max: config.pods_max,
        confined,
        reserved: config.reserved,
        thresholds: config.thresholds,
    }
}

/// The fabric and what connects runners with it.
fn open_exchange(config: &AgentConfig, addresses: Arc<Addresses>) -> (Arc<Exchange>, [mpsc::Receiver<Notice>; 2]) {
    let routes = Arc::new(Routes::default());
    let range = |(first, bits)| Ipv4Range::new(first, bits);
    let fabric = FabricConfig {
        node_name: config.node_name.clone(),
        ranges: Ranges {
            pods: range(POD_RANGE),
            services: range(SERVICE_RANGE),
            node_addresses: config.address.parse().into_iter().collect(),
            servers: Vec::new(),
        },
        node_ranges: addresses.range().into_iter().collect(),
        dns_address: IpAddr::V4(CLUSTER_DNS),
        node_port_address: config.node_port_address,
        limits: Limits::default(),
    };
    let (fabric, of_fabric) = Fabric::new(fabric, routes.clone());
    let (notices, of_agent) = Notices::new();
    let host = HostResolver::parse(&fs::read_to_string(RESOLV_CONF).unwrap_or_default());
    (Exchange::new(fabric, routes, addresses, notices, host, TABLES_PATIENCE), [of_fabric, of_agent])
}

/// Keeps pods from the server, wherever it is found: they have no credentials, but they shall not even try.
async fn shut_out(fabric: Fabric, mut servers: watch::Receiver<Vec<SocketAddr>>) {
    loop {
        let known = servers.borrow_and_update().clone();
        fabric.set_servers(known);
        if servers.changed().await.is_err() {
            return;
        }
    }
}

/// The way to other nodes' pods, and where the node is. A node without goes on alone.
fn open_between(config: &AgentConfig, wallet: &Wallet, exchange: &Exchange) -> (Option<Between>, Place) {
    let credentials = wallet.watch().borrow().clone();
    match Between::open(config, &credentials, exchange.fabric()) {
        Ok((between, reached_at)) => (Some(between), Place { address: config.address.clone(), reached_at }),
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "there is no way to other nodes' pods");
            (None, Place { address: config.address.clone(), reached_at: String::new() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        fs::write(data.join(".tmpAbCdEf"), "half").unwrap();
        fs::write(data.join("pod-range"), "whole").unwrap();
        prepare_directory(&data).unwrap();
        assert!(!data.join(".tmpAbCdEf").exists() && data.join("pod-range").exists());
        assert!(
            data.join("ns/a/volumes/pod").exists() && !data.join("ns/a/code").exists() && !data.join("ns/b").exists()
        );
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&data).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o700);
    }
}
