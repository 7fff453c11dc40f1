//! `coracle node`: a node alone, that joins a control plane elsewhere.

use crate::{server::absolute, signals::Signals};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use coracle_agent::{AgentConfig, ImageLimits, PODS_MAX_DEFAULT, RUNNER_INSTANCES_DEFAULT, Reserved, Thresholds};
use coracle_runner::compile::CompileLimits;
use coracle_server::NodeCredentials;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{IpAddr, ToSocketAddrs as _, UdpSocket},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The options of `coracle node`.
#[derive(Debug, Args)]
pub(crate) struct Node {
    /// Address of the control plane
    #[arg(long, value_name = "https://HOST:PORT")]
    server: String,
    /// Directory with the node's credentials, as `coracle server --node NAME` makes it
    #[arg(long, value_name = "DIR")]
    credentials: PathBuf,
    /// Directory for everything the node keeps; made when it is not there
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The node's address for others [default: the one it reaches the server from]
    #[arg(long, value_name = "IP")]
    address: Option<String>,
    /// Label of the Node object; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    workloads: WorkloadOptions,
}

/// How a node gets and compiles workloads.
#[derive(Debug, Args)]
pub(crate) struct WorkloadOptions {
    /// File that says how other registries are reached [default: registries.json in the node's directory]
    #[arg(long, value_name = "FILE")]
    registries: Option<PathBuf>,
    /// Memory that compiling one module may take [default: half of the machine's, from 1 to 8 GiB]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..=1 << 20))]
    compile_memory: Option<u64>,
    /// Processor time that compiling one module may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    compile_time: u64,
    /// Run guests although the kernel lacks what holds them in (Landlock, seccomp)
    #[arg(long)]
    allow_unconfined_guests: bool,
    /// Directory whose files describe pods that run on this node, with or without a server [default: static-pods in the node's directory]
    #[arg(long, value_name = "DIR")]
    static_pods: Option<PathBuf>,
    /// Pods that the node takes at most; its range of addresses is made for as many when it registers first
    #[arg(long, value_name = "N", default_value_t = PODS_MAX_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=32_765))]
    max_pods: u32,
    /// Instances that each runner process has room for; a namespace with more has several
    #[arg(long, hide = true, value_name = "N", default_value_t = RUNNER_INSTANCES_DEFAULT, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    runner_instances: u32,
    /// Memory of the machine that guests are held to [default: what it has]
    #[arg(long, hide = true, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    guests_machine_memory: Option<u64>,
    /// What of the machine is not for pods, e.g. cpu=500m,memory=256Mi
    #[arg(long, value_name = "RESOURCES", value_parser = Reserved::parse, default_value = "", hide_default_value = true)]
    system_reserved: Reserved,
    /// What has to be left, or pods are evicted [default: memory.available<100Mi, at most 5 % of it; of disk, inodes and process ids 5 %]
    #[arg(long, value_name = "SIGNALS", value_parser = Thresholds::parse, default_value = "", hide_default_value = true)]
    eviction_hard: Thresholds,
    /// Part of the disk in use from which on images that nothing uses are removed; 100: only when the disk is short
    #[arg(long, value_name = "PERCENT", default_value_t = 85, value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_high_threshold: u8,
    /// Part of the disk in use down to which they are removed
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_low_threshold: u8,
    /// How long an image that nothing uses stays in any case
    #[arg(long, hide = true, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
    image_minimum_age: u64,
}

impl WorkloadOptions {
    /// The configuration with these options.
    pub(crate) fn apply(self, config: AgentConfig) -> Result<AgentConfig> {
        let usual = config.compile_limits;
        let compile_limits = CompileLimits {
            user: None,
            memory_bytes: self.compile_memory.map_or(usual.memory_bytes, |mib| mib << 20),
            cpu_seconds: self.compile_time,
        };
        let (high_percent, low_percent) = (self.image_gc_high_threshold, self.image_gc_low_threshold);
        if low_percent >= high_percent {
            bail!("--image-gc-low-threshold {low_percent} must be below --image-gc-high-threshold {high_percent}");
        }
        let unused_for = Duration::from_secs(self.image_minimum_age);
        let registries = self.registries.as_deref().map(absolute).transpose()?;
        let static_pods = self.static_pods.as_deref().map(absolute).transpose()?;
        Ok(AgentConfig {
            registries,
            compile_limits,
            static_pods,
            pods_max: self.max_pods,
            runner_instances: self.runner_instances,
            allow_unconfined_guests: self.allow_unconfined_guests,
            reserved: self.system_reserved,
            memory_bytes: self.guests_machine_memory.map(|mib| mib << 20),
            thresholds: self.eviction_hard,
            image_limits: ImageLimits { high_percent, low_percent, unused_for },
            ..config
        })
    }
}

impl Node {
    /// Runs until a signal asks it to stop.
    pub(crate) async fn run(self) -> Result<ExitCode> {
        let mut signals = Signals::listen()?;
        let credentials = NodeCredentials::read(&self.credentials)?;
        let address = match self.address {
            Some(address) => address,
            None => own_address(&self.server)?,
        };
        let node_ports = address.parse().with_context(|| format!("--address {address} is no IP address"))?;
        let config = AgentConfig {
            labels: self.labels.into_iter().collect(),
            ..self.workloads.apply(config(credentials, absolute(&self.data_dir)?, self.server, address, node_ports)?)?
        };
        let stop = CancellationToken::new();
        let mut agent = tokio::spawn(coracle_agent::run(config, stop.clone()));
        tokio::select! {
            outcome = &mut agent => {
                outcome.context("the node agent failed")??;
                bail!("the node agent has ended by itself");
            }
            () = signals.next() => {}
        }
        stop.cancel();
        signals.or_exit(agent).await.context("the node agent failed")??;
        Ok(ExitCode::SUCCESS)
    }
}

/// An agent's configuration, without labels; node ports are opened on `node_ports`.
pub(crate) fn config(
    credentials: NodeCredentials,
    data_dir: PathBuf,
    server: String,
    address: String,
    node_ports: IpAddr,
) -> Result<AgentConfig> {
    let program =
        std::env::current_exe().context("cannot find this program's own file, which runners are started from")?;
    let NodeCredentials { node_name, ca_pem, certificate_pem, key_pem, registry_token } = credentials;
    Ok(AgentConfig {
        node_name,
        data_dir,
        server,
        ca_pem,
        certificate_pem,
        key_pem,
        registry_token,
        address,
        node_port_address: node_ports,
        labels: BTreeMap::new(),
        program: vec![OsString::from(program)],
        registries: None,
        static_pods: None,
        pods_max: PODS_MAX_DEFAULT,
        runner_instances: RUNNER_INSTANCES_DEFAULT,
        reserved: Reserved::default(),
        memory_bytes: None,
        thresholds: Thresholds::default(),
        image_limits: ImageLimits::default(),
        compile_limits: CompileLimits::default(),
        allow_unconfined_guests: false,
    })
}

/// The address that this machine uses towards the server. Connecting a datagram socket sends nothing.
fn own_address(server: &str) -> Result<String> {
    let explain = || format!("cannot tell this node's address towards {server}; name it with --address");
    let authority = server.strip_prefix("https://").unwrap_or(server).trim_end_matches('/');
    let target = authority.to_socket_addrs().with_context(explain)?.next().with_context(explain)?;
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).with_context(explain)?;
    socket.connect(target).with_context(explain)?;
    Ok(socket.local_addr().with_context(explain)?.ip().to_string())
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
