//! A node alone, whose control plane is elsewhere: `coracle-node`, and `coracle node`.

use crate::{Signals, Supervisor, WorkloadOptions, absolute, join::Join, process};
use anyhow::{Context as _, Result, bail};
use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};
use coracle_agent::{
    AgentConfig, HEARTBEAT_INTERVAL_DEFAULT, ImageLimits, Reserved, SHUTDOWN_BEYOND_GRACE, SHUTDOWN_GRACE_DEFAULT,
    Size, Thresholds,
    credentials::{self, Credentials},
    directory::Hold,
    join, naming,
};
use coracle_runner::compile::CompileLimits;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{self, IsTerminal as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
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
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    name: Option<String>,
    /// Process that has started this one, which does not outlive it
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<i32>,
    /// Directory for everything the node keeps; made when it is not there
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The node's address for others [default: the one it reaches the server from]
    #[arg(long, value_name = "IP", value_parser = address)]
    address: Option<IpAddr>,
    /// Where other nodes' traffic for pods comes in (UDP) [default: the node's address, port 6444]
    #[arg(long, value_name = "IP:PORT")]
    tunnel_listen: Option<SocketAddr>,
    /// Label of the Node object; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = naming::label)]
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
        run.check()?;
        let hold = run.hold()?;
        let credentials = Credentials::read(directory)?;
        if let Some(name) = run.name().filter(|name| *name != credentials.node_name()) {
            bail!("the credentials in {} are those of {}, not of {name}", directory.display(), credentials.node_name());
        }
        hold.check_owner(credentials.node_name())?;
        let server = match self.server {
            Some(server) => server,
            None => join::server_of(directory)?,
        };
        run.run(hold, &mut Signals::listen()?, server, credentials).await
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

    /// Judges everything that was asked for, so that nothing is begun that cannot go on.
    pub(crate) fn check(&self) -> Result<()> {
        self.workloads.check(&self.data_dir()?)
    }

    /// Takes the node's directory.
    pub(crate) fn hold(&self) -> Result<Hold> {
        Ok(Hold::take(&self.data_dir()?)?)
    }

    /// Runs until a signal asks it to stop.
    pub(crate) async fn run(
        self,
        hold: Hold,
        signals: &mut Signals,
        server: String,
        credentials: Credentials,
    ) -> Result<ExitCode> {
        if let Some(parent) = self.parent {
            process::end_with(parent)?;
        }
        let follow_address = self.address.is_none();
        let address = match self.address {
            Some(address) => address,
            None => own_address(&server).or_else(|error| remembered_address(hold.path()).ok_or(error))?,
        };
        remember_address(&hold, address);
        let running = format!("node {} of {server} runs", credentials.node_name());
        let config = config(credentials, hold.path().to_owned(), server, address.to_string(), address)?;
        let config = AgentConfig {
            hold: Some(hold),
            labels: self.labels.into_iter().collect(),
            follow_address,
            tunnel_listen: self.tunnel_listen.unwrap_or(SocketAddr::new(address, TUNNEL_PORT)),
            ..self.workloads.apply(config)?
        };
        // One that was started by another process is not its user's to end.
        run_agent(config, signals, self.parent.is_none().then_some(running.as_str())).await
    }
}

/// Runs an agent until a signal, and tells the service manager that started this process, if one did, and a person what is
/// `running`.
async fn run_agent(config: AgentConfig, signals: &mut Signals, running: Option<&str>) -> Result<ExitCode> {
    let (supervisor, stop) = (Supervisor::of_environment(), CancellationToken::new());
    let (started, within) = (config.started.clone(), config.shutdown_grace + SHUTDOWN_BEYOND_GRACE);
    let mut agent = tokio::spawn(coracle_agent::run(config, stop.clone()));
    let told = async {
        started.cancelled().await;
        supervisor.ready();
        if let Some(running) = running {
            let end = if io::stderr().is_terminal() { "; Ctrl-C ends it, and its pods with their grace" } else { "" };
            say(&format!("{running}{end}"));
        }
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
        hold: None,
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
fn own_address(server: &str) -> Result<IpAddr> {
    let explain = || format!("cannot tell this node's address towards {server}; name it with --address");
    coracle_agent::own_address(server).with_context(explain)
}

/// The address that this node had when it ran last: what it goes on with where no network tells another.
fn remembered_address(data_dir: &Path) -> Option<IpAddr> {
    let address: IpAddr = fs::read_to_string(data_dir.join(ADDRESS_FILE)).ok()?.trim().parse().ok()?;
    warn!(%address, "the network does not tell this node's address: it keeps the one that it had");
    Some(address)
}

fn remember_address(hold: &Hold, address: IpAddr) {
    // It is asked for again at the next start; only a start without a network misses it.
    let address = address.to_string();
    let is_known = fs::read_to_string(hold.path().join(ADDRESS_FILE)).is_ok_and(|known| known.trim() == address);
    if !is_known && let Err(error) = hold.replace(ADDRESS_FILE, &address) {
        warn!(%error, "cannot remember this node's address");
    }
}

fn node_name(text: &str) -> Result<String, String> {
    naming::check_node_name(text).map(|()| text.to_owned())
}

/// An address that others can reach one machine by.
fn address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "must be an IP address")?;
    if address.is_unspecified() || address.is_multicast() || address == Ipv4Addr::BROADCAST {
        return Err("must be an address that others reach this machine by".to_owned());
    }
    Ok(address)
}

/// Says something to the person who has started this, if anybody still listens.
pub(crate) fn say(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
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
    fn a_node_is_somewhere() {
        for good in ["127.0.0.1", "192.0.2.7", "2001:db8::7"] {
            assert_eq!(address(good).map(|address| address.to_string()), Ok(good.to_owned()));
        }
        for bad in ["foo", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "192.0.2.7:1"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_is_remembered_for_a_start_without_a_network() {
        let directory = tempfile::tempdir().unwrap();
        let hold = Hold::take(directory.path()).unwrap();
        assert_eq!(remembered_address(hold.path()), None);
        for address in [IpAddr::from([192, 0, 2, 7]), IpAddr::from([192, 0, 2, 8])] {
            remember_address(&hold, address);
            assert_eq!(remembered_address(hold.path()), Some(address));
        }
        fs::write(hold.path().join(ADDRESS_FILE), "nonsense").unwrap();
        assert_eq!(remembered_address(hold.path()), None);
        assert!(own_address("https://no-port").is_err());
    }
}
