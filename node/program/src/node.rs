//! A node alone, whose control plane is elsewhere: `coracle-node`, and `coracle node`.

use crate::{Signals, Supervisor, WorkloadOptions, absolute, join::Join, process};
use anyhow::{Context as _, Result, bail};
use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};
use coracle_agent::{
    AgentConfig, HEARTBEAT_INTERVAL_DEFAULT, ImageLimits, Reserved, SHUTDOWN_BEYOND_GRACE, SHUTDOWN_GRACE_DEFAULT,
    Size, Thresholds,
    credentials::{self, Credentials},
    join,
};
use coracle_runner::compile::CompileLimits;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Where nodes await each other's traffic where nobody says otherwise (UDP).
const TUNNEL_PORT: u16 = 6444;

/// Name of the file in the data directory with the address that the node had last.
const ADDRESS_FILE: &str = "address";

/// Its options: how to join, or how to run with what it has.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Node {
    /// Address of the control plane [default: the one that it has joined]
    #[arg(long, value_name = "https://HOST:PORT")]
    server: Option<String>,
    /// Directory with the node's credentials, as `coracle server --node NAME` makes it [default: those that it has got by joining]
    #[arg(long, value_name = "DIR", requires = "server")]
    credentials: Option<PathBuf>,
    #[command(flatten)]
    run: UnlessCommand<Run>,
    // Behind the options, which look whether there is a subcommand: reading it takes it away.
    #[command(subcommand)]
    what: Option<What>,
}

/// Options that are there unless a subcommand, which has its own, is.
#[derive(Debug)]
struct UnlessCommand<T>(Option<T>);

impl<T: Args> Args for UnlessCommand<T> {
    fn augment_args(command: Command) -> Command {
        T::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}

impl<T: FromArgMatches> FromArgMatches for UnlessCommand<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_there = matches.subcommand_name().is_none();
        Ok(Self(if is_there { Some(T::from_arg_matches(matches)?) } else { None }))
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        let is_there = matches.subcommand_name().is_none();
        Ok(Self(if is_there { Some(T::from_arg_matches_mut(matches)?) } else { None }))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[derive(Debug, Subcommand)]
enum What {
    Join(Join),
}

/// How it runs, whatever it has to show.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Name of the node, as its credentials have it [default: theirs; of one that joins: this machine's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Process that has started this one, which does not outlive it
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<i32>,
    /// Directory for everything the node keeps; made when it is not there
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The node's address for others [default: the one it reaches the server from]
    #[arg(long, value_name = "IP")]
    address: Option<String>,
    /// Where other nodes' traffic for pods comes in (UDP) [default: the node's address, port 6444]
    #[arg(long, value_name = "IP:PORT")]
    tunnel_listen: Option<SocketAddr>,
    /// Label of the Node object; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    workloads: WorkloadOptions,
}

impl Node {
    /// Runs until a signal asks it to stop.
    ///
    /// # Errors
    /// When the options, the credentials or the directory cannot be used, or the agent fails.
    pub async fn run(self) -> Result<ExitCode> {
        if let Some(What::Join(join)) = self.what {
            return join.run().await;
        }
        let run = self.run.0.context("--data-dir is missing")?;
        let own = run.data_dir()?.join(credentials::DIRECTORY);
        let directory = match &self.credentials {
            Some(directory) => directory,
            None if Credentials::are_in(&own) => &own,
            None => bail!(
                "{} is not the directory of a node: join with the line that `coracle token create` prints, or name --server and --credentials",
                run.data_dir.display()
            ),
        };
        let credentials = Credentials::read(directory)?;
        if let Some(name) = run.name().filter(|name| *name != credentials.node_name()) {
            bail!("the credentials in {} are those of {}, not of {name}", directory.display(), credentials.node_name());
        }
        let server = match self.server {
            Some(server) => server,
            None => join::server_of(directory)?,
        };
        run.run(server, credentials).await
    }
}

impl Run {
    /// The name that is asked for.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The node's directory.
    pub(crate) fn data_dir(&self) -> Result<PathBuf> {
        absolute(&self.data_dir)
    }

    /// Runs until a signal asks it to stop.
    pub(crate) async fn run(self, server: String, credentials: Credentials) -> Result<ExitCode> {
        let mut signals = Signals::listen()?;
        if let Some(parent) = self.parent {
            process::end_with(parent)?;
        }
        let follow_address = self.address.is_none();
        let address = match self.address {
            Some(address) => address,
            None => own_address(&server).or_else(|error| remembered_address(&self.data_dir).ok_or(error))?,
        };
        let node_ports: IpAddr = address.parse().with_context(|| format!("--address {address} is no IP address"))?;
        remember_address(&self.data_dir, &address);
        let config = AgentConfig {
            labels: self.labels.into_iter().collect(),
            follow_address,
            tunnel_listen: self.tunnel_listen.unwrap_or(SocketAddr::new(node_ports, TUNNEL_PORT)),
            ..self.workloads.apply(config(credentials, absolute(&self.data_dir)?, server, address, node_ports)?)?
        };
        run_agent(config, &mut signals).await
    }
}

/// Runs an agent until a signal, and tells the service manager that started this process, if one did.
async fn run_agent(config: AgentConfig, signals: &mut Signals) -> Result<ExitCode> {
    let (supervisor, stop) = (Supervisor::of_environment(), CancellationToken::new());
    let (started, within) = (config.started.clone(), config.shutdown_grace + SHUTDOWN_BEYOND_GRACE);
    let mut agent = tokio::spawn(coracle_agent::run(config, stop.clone()));
    let told = async {
        started.cancelled().await;
        supervisor.ready();
        supervisor.watch().await;
    };
    tokio::select! {
        outcome = &mut agent => {
            outcome.context("the node agent failed")??;
            bail!("the node agent has ended by itself");
        }
        () = told => {}
        () = signals.next() => {}
    }
    supervisor.stopping(within);
    stop.cancel();
    tokio::select! {
        outcome = signals.or_exit(agent) => outcome.context("the node agent failed")??,
        () = supervisor.watch() => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// An agent's configuration, without labels; node ports are opened on `node_ports`, and the tunnel to other nodes on any
/// port there.
///
/// # Errors
/// When this program's own file cannot be found.
pub fn config(
    credentials: Credentials,
    data_dir: PathBuf,
    server: String,
    address: String,
    node_ports: IpAddr,
) -> Result<AgentConfig> {
    let program =
        std::env::current_exe().context("cannot find this program's own file, which runners are started from")?;
    let size = Size::of_this_machine();
    Ok(AgentConfig {
        node_name: credentials.node_name().to_owned(),
        data_dir,
        server,
        credentials,
        address,
        follow_address: false,
        node_port_address: node_ports,
        tunnel_listen: SocketAddr::new(node_ports, 0),
        labels: BTreeMap::new(),
        program: vec![OsString::from(program)],
        registries: None,
        static_pods: None,
        pods_max: size.pods_max,
        runner_instances: size.runner_instances,
        reserved: Reserved::default(),
        memory_bytes: None,
        thresholds: Thresholds::default(),
        image_limits: ImageLimits::default(),
        compile_limits: CompileLimits::default(),
        allow_unconfined_guests: false,
        heartbeat_interval: HEARTBEAT_INTERVAL_DEFAULT,
        shutdown_grace: SHUTDOWN_GRACE_DEFAULT,
        started: CancellationToken::new(),
    })
}

/// The address that this machine uses towards the server.
fn own_address(server: &str) -> Result<String> {
    let explain = || format!("cannot tell this node's address towards {server}; name it with --address");
    Ok(coracle_agent::own_address(server).with_context(explain)?.to_string())
}

/// The address that this node had when it ran last: what it goes on with where no network tells another.
fn remembered_address(data_dir: &Path) -> Option<String> {
    let address = fs::read_to_string(data_dir.join(ADDRESS_FILE)).ok()?.trim().to_owned();
    address.parse::<IpAddr>().ok()?;
    warn!(address, "the network does not tell this node's address: it keeps the one that it had");
    Some(address)
}

fn remember_address(data_dir: &Path, address: &str) {
    // It is asked for again at the next start; only a start without a network misses it.
    let file = data_dir.join(ADDRESS_FILE);
    let is_known = fs::read_to_string(&file).is_ok_and(|known| known.trim() == address);
    if !is_known && let Err(error) = fs::create_dir_all(data_dir).and_then(|()| fs::write(&file, address)) {
        warn!(%error, "cannot remember this node's address");
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_waits_for_the_pods_grace() {
        let unit = include_str!("../../../packaging/coracle-node.service");
        let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap();
        let most = SHUTDOWN_GRACE_DEFAULT + SHUTDOWN_BEYOND_GRACE;
        assert!(value("TimeoutStopSec").parse::<u64>().unwrap() >= most.as_secs(), "{most:?}");
        assert_eq!((value("Type"), value("NotifyAccess"), value("KillMode")), ("notify", "main", "mixed"));
        assert!(value("ExecStart") == "/usr/bin/coracle-node $CORACLE_NODE_OPTIONS --data-dir ${STATE_DIRECTORY}");
        assert!(value("User") != "root");
        for denied in ["MemoryDenyWriteExecute=yes", "RestrictSUIDSGID=yes", "DynamicUser=yes"] {
            assert!(!unit.contains(denied), "{denied}: no pod would run");
        }
    }

    #[test]
    fn an_address_is_remembered_for_a_start_without_a_network() {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path().join("node");
        assert_eq!(remembered_address(&data_dir), None);
        remember_address(&data_dir, "192.0.2.7");
        assert_eq!(remembered_address(&data_dir).as_deref(), Some("192.0.2.7"));
        fs::write(data_dir.join(ADDRESS_FILE), "nonsense").unwrap();
        assert_eq!(remembered_address(&data_dir), None);
        assert!(own_address("https://no-port").is_err());
    }
}
