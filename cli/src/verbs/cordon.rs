//! `coracle cordon` and `coracle uncordon`: whether new pods go to a node.

use super::{ClusterArgs, print::refusal};
use anyhow::{Result, bail};
use clap::Args;
use coracle_objects::{ObjectKey, catalogue, meta};
use coracle_sdk::{Connection, connection::ListOptions};
use serde_json::{Value, json};
use std::{
    io::{self, Write as _},
    process::ExitCode,
};

/// Which nodes are meant.
#[derive(Debug, Clone, Args)]
pub(super) struct NodeArgs {
    /// Names of nodes
    pub(super) names: Vec<String>,
    /// Label selector of nodes, instead of names
    #[arg(short = 'l', long)]
    pub(super) selector: Option<String>,
}

impl NodeArgs {
    /// The nodes themselves.
    pub(super) async fn find(&self, connection: &Connection) -> Result<Vec<Value>> {
        match (&self.selector, self.names.is_empty()) {
            (None, true) => bail!("name the nodes, or use -l"),
            (Some(_), false) => bail!("nodes are named, or selected by -l, not both"),
            (Some(selector), true) => selected(connection, selector).await,
            (None, false) => {
                let mut nodes = Vec::new();
                for name in &self.names {
                    let name = name.strip_prefix("node/").unwrap_or(name);
                    nodes.push(connection.get(catalogue::nodes(), &ObjectKey::cluster(name)).await.map_err(refusal)?);
                }
                Ok(nodes)
            }
        }
    }
}

/// The nodes that a label selector selects; empty: all.
pub(super) async fn selected(connection: &Connection, selector: &str) -> Result<Vec<Value>> {
    let options = ListOptions { label_selector: selector.to_owned(), ..ListOptions::default() };
    Ok(connection.list(catalogue::nodes(), &options).await.map_err(refusal)?.0)
}

/// Let no new pods go to nodes.
#[derive(Debug, Args)]
pub(crate) struct Cordon {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    nodes: NodeArgs,
}

impl Cordon {
    pub(super) async fn run(self) -> Result<ExitCode> {
        run(&self.cluster, &self.nodes, true).await
    }
}

/// Let new pods go to nodes again.
#[derive(Debug, Args)]
pub(crate) struct Uncordon {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    nodes: NodeArgs,
}

impl Uncordon {
    pub(super) async fn run(self) -> Result<ExitCode> {
        run(&self.cluster, &self.nodes, false).await
    }
}

async fn run(cluster: &ClusterArgs, nodes: &NodeArgs, cordoned: bool) -> Result<ExitCode> {
    let (connection, _) = cluster.connect()?;
    for node in nodes.find(&connection).await? {
        set(&connection, &node, cordoned).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Cordons or uncordons one node and says so.
pub(super) async fn set(connection: &Connection, node: &Value, cordoned: bool) -> Result<()> {
    let (name, done) = (meta::name(node), if cordoned { "cordoned" } else { "uncordoned" });
    if node["spec"]["unschedulable"].as_bool().unwrap_or(false) == cordoned {
        writeln!(io::stdout(), "node/{name} already {done}")?;
        return Ok(());
    }
    let value = if cordoned { Value::Bool(true) } else { Value::Null };
    let patch = json!({"spec": {"unschedulable": value}});
    connection.merge(catalogue::nodes(), &ObjectKey::cluster(name), &patch).await.map_err(refusal)?;
    writeln!(io::stdout(), "node/{name} {done}")?;
    Ok(())
}
