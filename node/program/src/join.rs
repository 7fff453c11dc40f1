//! `join`: a machine becomes a node with a token, and runs as one.

use crate::{
    Signals,
    node::{Run, say},
};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use coracle_agent::{
    credentials::{self, Credentials},
    join::{self, Invitation},
    naming,
};
use std::{
    path::Path,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

/// Join this machine to a cluster and run it as a node of it; `coracle token create` prints this line
#[derive(Debug, Args)]
pub(crate) struct Join {
    /// Address of the control plane
    #[arg(value_name = "https://HOST:PORT")]
    server: String,
    /// Token that lets a machine join
    #[arg(long, value_name = "TOKEN", env = "CORACLE_TOKEN", hide_env_values = true)]
    token: String,
    /// Hash of the key of the cluster's CA; several while it is replaced
    #[arg(long = "ca-cert-hash", value_name = "sha256:HASH", required = true)]
    ca_hashes: Vec<String>,
    #[command(flatten)]
    run: Run,
}

impl Join {
    /// Joins, unless that has been done before and still counts, and runs until a signal asks to stop.
    pub(crate) async fn run(self) -> Result<ExitCode> {
        let Self { server, token, ca_hashes, run } = self;
        run.check()?;
        let hold = run.hold()?;
        let mut signals = Signals::listen()?;
        let directory = hold.path().join(credentials::DIRECTORY);
        let known =
            if Credentials::are_in(&directory) { Some(already(&directory, &server, run.name())?) } else { None };
        let node_name = match (&known, run.name()) {
            (Some(known), _) => known.node_name().to_owned(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => hold.owner()?.map_or_else(host_name, Ok)?,
        };
        hold.check_owner(&node_name)?;
        let credentials = async {
            if let Some(known) = known {
                match over(&server, &known).await {
                    None => return Ok(known),
                    Some(why) => say(&format!("{why}: this machine joins anew")),
                }
            }
            let invitation = Invitation { server: server.clone(), token, ca_hashes, node_name: node_name.clone() };
            let joined = join::join(&invitation, &hold, &say).await?;
            say(&format!(
                "this machine is node {node_name} of {server}; its credentials are in {}",
                directory.display()
            ));
            anyhow::Ok(joined)
        };
        let credentials = tokio::select! {
            credentials = credentials => credentials?,
            () = signals.next() => return Ok(ExitCode::SUCCESS),
        };
        run.run(hold, &mut signals, server, credentials).await
    }
}

/// The credentials that are there, which must be for what is asked for.
fn already(directory: &Path, server: &str, name: Option<&str>) -> Result<Credentials> {
    let credentials = Credentials::read(directory)?;
    let own = join::server_of(directory)?;
    if own.trim_end_matches('/') != server.trim_end_matches('/') {
        bail!(
            "this directory is that of a node of {own}; choose another --data-dir, or remove {}",
            directory.display()
        );
    }
    if let Some(name) = name.filter(|name| *name != credentials.node_name()) {
        bail!("this directory is that of node {}, not of {name}; choose another --data-dir", credentials.node_name());
    }
    Ok(credentials)
}

/// Why credentials count no more, as far as that can be told: a node whose server is away goes on.
async fn over(server: &str, credentials: &Credentials) -> Option<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if u64::try_from(credentials.validity().1).unwrap_or(0) <= now {
        return Some(format!("the credentials of node {} have expired", credentials.node_name()));
    }
    join::ended(server, credentials).await
}

/// This machine's name as a node's.
fn host_name() -> Result<String> {
    let own =
        std::fs::read_to_string("/proc/sys/kernel/hostname").context("this machine has no name; give it a --name")?;
    node_name_of(own.trim())
}

/// A machine's name as a node's.
fn node_name_of(host: &str) -> Result<String> {
    let name = host.to_ascii_lowercase().replace('_', "-");
    if let Err(rule) = naming::check_node_name(&name) {
        bail!("this machine is called \"{host}\", which is no name for a node; give it a --name: {rule}");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_name_becomes_a_nodes_where_it_can() {
        assert_eq!(node_name_of("Edge_1.example").unwrap(), "edge-1.example");
        for host in ["", "(none)", "-x"] {
            let refused = node_name_of(host).unwrap_err().to_string();
            assert!(refused.contains("give it a --name") && refused.contains(host), "{refused}");
        }
    }
}
