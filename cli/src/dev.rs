//! `coracle dev`: control plane and one node in this process, or several nodes as processes of their own; guests run in
//! processes of their own here too.

mod forwarded;
mod processes;

use crate::{
    banner,
    patience::PatienceOptions,
    server::{IdentityOptions, address},
};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use coracle_agent::SHUTDOWN_BEYOND_GRACE;
use coracle_node::{Credentials, Signals, WorkloadOptions, absolute};
use coracle_server::{RunningServer, ServerConfig};
use forwarded::Forwarded;
use processes::{NODES_MAX, NodeProcess, Planned};
use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::{Pin, pin},
    process::ExitCode,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The options of `coracle dev`.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Directory for everything; made when it is not there, continued when it is
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Address of the API; with port 0 the system picks a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6443", value_parser = address)]
    pub(crate) listen: SocketAddr,
    /// Name of the node
    #[arg(long, value_name = "NAME", default_value = "node-1", conflicts_with = "nodes")]
    node_name: String,
    /// Nodes, node-1 to node-N; several are processes of their own, each with a loopback address, from HOST of --listen on
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(NODES_MAX)))]
    nodes: u32,
    /// Servers of the control plane
    #[arg(long, hide = true, value_name = "N", default_value = "1", value_parser = one_server)]
    servers: u8,
    #[command(flatten)]
    patience: PatienceOptions,
    #[command(flatten)]
    identity: IdentityOptions,
    #[command(flatten)]
    workloads: Forwarded<WorkloadOptions>,
}

/// Who tries something out does not want to wait long for its end: the grace of pods at most when Ctrl-C is typed.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// What runs the nodes until they are asked to stop.
type Nodes = Pin<Box<dyn Future<Output = Result<()>>>>;

impl Dev {
    /// Runs until a signal asks it to stop.
    pub(crate) async fn run(self) -> Result<ExitCode> {
        let mut signals = Signals::listen()?;
        let data_dir = absolute(&self.data_dir)?;
        let planned = match self.nodes {
            1 => Vec::new(),
            count => processes::plan(count, self.listen.ip(), &data_dir)?,
        };
        let (server_stop, node_stop) = (CancellationToken::new(), CancellationToken::new());
        let nodes = match planned.as_slice() {
            [] => vec![self.node_name.clone()],
            several => several.iter().map(|node| node.name.clone()).collect(),
        };
        let config = ServerConfig {
            name: format!("server-{}", self.servers),
            nodes,
            patience: self.patience.patience(),
            ..ServerConfig::new(data_dir.clone(), self.listen)
        };
        let config = self.identity.apply(config);
        let server = coracle_server::start(config, server_stop.clone()).await?;
        let reachable = coracle_server::reachable(server.address);
        let nodes = if planned.is_empty() {
            let name = self.node_name.clone();
            let node = self.here(&data_dir, reachable, node_stop.clone())?;
            banner::print(&banner::dev(reachable, &data_dir, &name));
            node
        } else {
            let nodes = self.beside(&planned, &data_dir, reachable, node_stop.clone())?;
            let named: Vec<_> = planned.iter().map(|node| (node.name.as_str(), node.address)).collect();
            banner::print(&banner::fleet(reachable, &data_dir, &named));
            nodes
        };
        until_stopped(&mut signals, server, server_stop, nodes, node_stop).await
    }

    /// The one node, in this process.
    fn here(self, data_dir: &Path, server: SocketAddr, stop: CancellationToken) -> Result<Nodes> {
        let credentials = Credentials::read(&coracle_server::node_directory(data_dir, &self.node_name))?;
        let mut config = coracle_node::config(
            credentials,
            data_dir.join("node"),
            format!("https://{server}"),
            server.ip().to_string(),
            self.listen.ip(),
        )?;
        config.heartbeat_interval = self.patience.heartbeat_interval().unwrap_or(config.heartbeat_interval);
        config.shutdown_grace = SHUTDOWN_GRACE;
        let config = self.workloads.options.apply(config)?;
        let agent = tokio::spawn(coracle_agent::run(config, stop));
        Ok(Box::pin(async { Ok(agent.await??) }))
    }

    /// Several nodes, as processes.
    fn beside(
        &self,
        planned: &[Planned],
        data_dir: &Path,
        server: SocketAddr,
        stop: CancellationToken,
    ) -> Result<Nodes> {
        let mut more = self.workloads.words.clone();
        let says_it = |word: &OsString| word.as_encoded_bytes().starts_with(b"--heartbeat-interval");
        if let Some(interval) = self.patience.heartbeat_interval().filter(|_| !more.iter().any(says_it)) {
            more.push(format!("--heartbeat-interval={}", interval.as_secs()).into());
        }
        let grace = self.workloads.options.shutdown_grace().unwrap_or(SHUTDOWN_GRACE);
        if self.workloads.options.shutdown_grace().is_none() {
            more.push(format!("--shutdown-grace={}", grace.as_secs()).into());
        }
        let mut nodes = Vec::new();
        for node in planned {
            let credentials = coracle_server::node_directory(data_dir, &node.name);
            let words = node.words(&format!("https://{server}"), &credentials, &more);
            nodes.push(NodeProcess::start(node.name.clone(), words)?);
        }
        Ok(Box::pin(processes::run(nodes, stop, grace + SHUTDOWN_BEYOND_GRACE)))
    }
}

/// Runs server and nodes until a signal asks to stop, or one of them ends.
async fn until_stopped(
    signals: &mut Signals,
    server: RunningServer,
    server_stop: CancellationToken,
    mut nodes: Nodes,
    node_stop: CancellationToken,
) -> Result<ExitCode> {
    let mut server = pin!(server.stopped());
    tokio::select! {
        outcome = nodes.as_mut() => {
            server_stop.cancel();
            signals.or_exit(server).await?;
            outcome.context("the node agent failed")?;
            bail!("the node agent has ended by itself");
        }
        outcome = server.as_mut() => {
            node_stop.cancel();
            signals.or_exit(nodes).await.context("the node agent failed")?;
            outcome?;
            bail!("the server has ended by itself");
        }
        () = signals.next() => {}
    }
    // The nodes first: they still have to say how their pods ended.
    node_stop.cancel();
    let nodes = signals.or_exit(nodes).await;
    server_stop.cancel();
    signals.or_exit(server).await?;
    nodes.context("the node agent failed")?;
    Ok(ExitCode::SUCCESS)
}

/// A cluster has one server so far.
fn one_server(text: &str) -> Result<u8, String> {
    if text == "1" { Ok(1) } else { Err("a cluster has one server".to_owned()) }
}
