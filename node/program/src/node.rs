//! A node alone, whose control plane is elsewhere: `coracle-node`, and `coracle node`.

use crate::{Signals, WorkloadOptions, absolute, process};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use coracle_agent::{
    AgentConfig, HEARTBEAT_INTERVAL_DEFAULT, ImageLimits, Reserved, Size, Thresholds, credentials::Credentials,
};
use coracle_runner::compile::CompileLimits;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket},
    path::PathBuf,
    process::ExitCode,
};
use tokio_util::sync::CancellationToken;

/// Where nodes await each other's traffic where nobody says otherwise (UDP).
const TUNNEL_PORT: u16 = 6444;

/// Its options.
#[derive(Debug, Args)]
pub struct Node {
    /// Name of the node, as its credentials have it [default: theirs]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Process that has started this one, which does not outlive it
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<i32>,
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
        let mut signals = Signals::listen()?;
        if let Some(parent) = self.parent {
            process::end_with(parent)?;
        }
        let credentials = Credentials::read(&self.credentials)?;
        if let Some(name) = self.name.filter(|name| *name != credentials.node_name()) {
            bail!(
                "the credentials in {} are those of {}, not of {name}",
                self.credentials.display(),
                credentials.node_name()
            );
        }
        let address = match self.address {
            Some(address) => address,
            None => own_address(&self.server)?,
        };
        let node_ports: IpAddr = address.parse().with_context(|| format!("--address {address} is no IP address"))?;
        let config = AgentConfig {
            labels: self.labels.into_iter().collect(),
            tunnel_listen: self.tunnel_listen.unwrap_or(SocketAddr::new(node_ports, TUNNEL_PORT)),
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
