//! `join`: a machine becomes a node with a token, and runs as one.

use crate::node::Run;
use anyhow::{Context as _, Result, bail};
use clap::Args;
use coracle_agent::{
    credentials::{self, Credentials},
    join::{self, Invitation},
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
    /// Joins, unless that has been done before, and runs until a signal asks to stop.
    pub(crate) async fn run(self) -> Result<ExitCode> {
        let Self { server, token, ca_hashes, run } = self;
        let directory = run.data_dir()?.join(credentials::DIRECTORY);
        let there = if Credentials::are_in(&directory) { already(&directory, &server, run.name())? } else { None };
        let credentials = if let Some(credentials) = there {
            credentials
        } else {
            let node_name = match run.name() {
                Some(name) => name.to_owned(),
                None => host_name()?,
            };
            let invitation = Invitation { server: server.clone(), token, ca_hashes, node_name };
            let mut signals = crate::Signals::listen()?;
            tokio::select! {
                joined = join::join(&invitation, &directory, &say) => joined?,
                () = signals.next() => return Ok(ExitCode::SUCCESS),
            }
        };
        run.run(server, credentials).await
    }
}

/// The credentials that are there, which must be for what is asked for; none if they have expired.
fn already(directory: &Path, server: &str, name: Option<&str>) -> Result<Option<Credentials>> {
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
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let is_over = u64::try_from(credentials.validity().1).unwrap_or(0) <= now;
    Ok((!is_over).then_some(credentials))
}

/// This machine's name as a node's.
fn host_name() -> Result<String> {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").context("this machine has no name; give it a --name")?;
    Ok(name.trim().to_ascii_lowercase().replace('_', "-"))
}

#[expect(clippy::print_stderr, reason = "a person waits for the machine to join")]
fn say(text: &str) {
    eprintln!("{text}");
}
