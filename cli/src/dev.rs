//! `coracle dev`: control plane and one node in this process; guests run in processes of their own here too.

use crate::{banner, server::address};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use coracle_node::{Credentials, Signals, WorkloadOptions, absolute};
use coracle_server::ServerConfig;
use std::{net::SocketAddr, path::PathBuf, pin::pin, process::ExitCode};
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
    #[arg(long, value_name = "NAME", default_value = "node-1")]
    node_name: String,
    #[command(flatten)]
    workloads: WorkloadOptions,
}

impl Dev {
    /// Runs until a signal asks it to stop.
    pub(crate) async fn run(self) -> Result<ExitCode> {
        let mut signals = Signals::listen()?;
        let data_dir = absolute(&self.data_dir)?;
        let (server_stop, agent_stop) = (CancellationToken::new(), CancellationToken::new());
        let config = ServerConfig {
            data_dir: data_dir.clone(),
            listen: self.listen,
            name: "server-1".to_owned(),
            nodes: vec![self.node_name.clone()],
        };
        let server = coracle_server::start(config, server_stop.clone()).await?;
        let reachable = coracle_server::reachable(server.address);
        let credentials = Credentials::read(&coracle_server::node_directory(&data_dir, &self.node_name))?;
        let config = coracle_node::config(
            credentials,
            data_dir.join("node"),
            format!("https://{reachable}"),
            reachable.ip().to_string(),
            self.listen.ip(),
        )?;
        let config = self.workloads.apply(config)?;
        let mut agent = pin!(tokio::spawn(coracle_agent::run(config, agent_stop.clone())));
        let mut server = pin!(server.stopped());
        banner::print(&banner::dev(reachable, &data_dir, &self.node_name));
        tokio::select! {
            outcome = agent.as_mut() => {
                server_stop.cancel();
                signals.or_exit(server).await?;
                outcome.context("the node agent failed")??;
                bail!("the node agent has ended by itself");
            }
            outcome = server.as_mut() => {
                agent_stop.cancel();
                signals.or_exit(agent).await.context("the node agent failed")??;
                outcome?;
                bail!("the server has ended by itself");
            }
            () = signals.next() => {}
        }
        // The agent first: it still has to say how its pods ended.
        agent_stop.cancel();
        let agent = signals.or_exit(agent).await;
        server_stop.cancel();
        signals.or_exit(server).await?;
        agent.context("the node agent failed")??;
        Ok(ExitCode::SUCCESS)
    }
}
