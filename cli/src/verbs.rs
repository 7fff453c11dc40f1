//! What a user does with a cluster: one module per verb, all over gRPC.

mod apply;
mod attach;
mod certificate;
mod cordon;
mod delete;
mod describe;
mod drain;
mod duration;
mod exec;
mod get;
mod inspect;
mod jsonpath;
mod label;
mod logs;
mod pods;
mod port_forward;
mod print;
mod pull;
mod push;
mod registry;
mod streams;
mod taint;
mod target;
mod terminal;
mod token;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use coracle_sdk::{Connection, Credentials};
use std::{path::PathBuf, process::ExitCode};

/// The verbs, as the command line offers them; what each says of itself is with its arguments.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Apply(apply::Apply),
    Get(get::Get),
    Describe(describe::Describe),
    Logs(logs::Logs),
    Exec(exec::Exec),
    Attach(attach::Attach),
    PortForward(port_forward::PortForward),
    Delete(delete::Delete),
    Cordon(cordon::Cordon),
    Uncordon(cordon::Uncordon),
    Drain(drain::Drain),
    Taint(taint::Taint),
    Label(label::Label),
    Push(push::Push),
    Pull(pull::Pull),
    Inspect(inspect::Inspect),
    Token(token::Token),
    Certificate(certificate::Certificate),
}

/// Runs a verb; an error is printed by the caller and means exit code 1.
pub(crate) async fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Apply(command) => command.run().await,
        Verb::Get(command) => command.run().await,
        Verb::Describe(command) => command.run().await,
        Verb::Logs(command) => command.run().await,
        Verb::Exec(command) => command.run().await,
        Verb::Attach(command) => command.run().await,
        Verb::PortForward(command) => command.run().await,
        Verb::Delete(command) => command.run().await,
        Verb::Cordon(command) => command.run().await,
        Verb::Uncordon(command) => command.run().await,
        Verb::Drain(command) => command.run().await,
        Verb::Taint(command) => command.run().await,
        Verb::Label(command) => command.run().await,
        Verb::Push(command) => command.run().await,
        Verb::Pull(command) => command.run().await,
        Verb::Inspect(command) => command.run().await,
        Verb::Token(command) => command.run().await,
        Verb::Certificate(command) => command.run().await,
    }
}

/// Which cluster, and as whom.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterArgs {
    /// File with the cluster's address and credentials [default: $KUBECONFIG, then ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use instead of its current one
    #[arg(long)]
    context: Option<String>,
}

impl ClusterArgs {
    fn credentials(&self) -> Result<Credentials> {
        Ok(Credentials::load(self.kubeconfig.as_deref(), self.context.as_deref())?)
    }

    fn connect(&self) -> Result<(Connection, Credentials)> {
        let credentials = self.credentials()?;
        let connection = Connection::new(&credentials).context("cannot use the kubeconfig")?;
        Ok((connection, credentials))
    }
}

/// Which cluster and which namespace.
#[derive(Debug, Clone, Args)]
pub(crate) struct ScopeArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Namespace [default: the context's]
    #[arg(short, long)]
    namespace: Option<String>,
}

impl ScopeArgs {
    /// The connection, and the namespace that is meant.
    fn connect(&self) -> Result<(Connection, String)> {
        let (connection, credentials) = self.connect_as()?;
        Ok((connection, credentials.namespace))
    }

    /// The same with the credentials, whose namespace is the one that is meant.
    fn connect_as(&self) -> Result<(Connection, Credentials)> {
        let (connection, mut credentials) = self.cluster.connect()?;
        if let Some(namespace) = &self.namespace {
            credentials.namespace.clone_from(namespace);
        }
        Ok((connection, credentials))
    }
}
