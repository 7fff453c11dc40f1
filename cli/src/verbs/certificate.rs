//! `coracle certificate`: a person decides on signing requests.

use super::{ClusterArgs, print::refusal};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use coracle_objects::{ObjectKey, catalogue};
use coracle_sdk::Connection;
use serde_json::{Value, json};
use std::{
    io::{self, Write as _},
    process::ExitCode,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Approve or deny certificate signing requests.
#[derive(Debug, Args)]
pub(crate) struct Certificate {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Approve signing requests: they are signed then
    Approve(Names),
    /// Deny signing requests
    Deny(Names),
}

#[derive(Debug, Args)]
struct Names {
    /// Names of the requests, as `coracle get csr` shows them
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Certificate {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let (connection, _) = self.cluster.connect()?;
        let (names, kind, other, done) = match self.what {
            What::Approve(names) => (names, "Approved", "Denied", "approved"),
            What::Deny(names) => (names, "Denied", "Approved", "denied"),
        };
        for name in names.names {
            decide(&connection, &name, kind, other).await?;
            writeln!(io::stdout(), "certificatesigningrequest.certificates.k8s.io/{name} {done}")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn decide(connection: &Connection, name: &str, kind: &str, other: &str) -> Result<()> {
    let requests = catalogue::certificate_signing_requests();
    let mut object = connection.get(requests, &ObjectKey::cluster(name)).await.map_err(refusal)?;
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let has = |kind: &str| conditions.iter().any(|condition| condition["type"] == kind);
    if has(other) {
        bail!("{name} is {} already", other.to_lowercase());
    }
    if has(kind) {
        return Ok(());
    }
    object["status"]["conditions"] = conditions.into_iter().chain([condition(kind)?]).collect();
    connection.update(requests, "approval", &object).await.map(drop).map_err(refusal)
}

fn condition(kind: &str) -> Result<Value> {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?;
    let verb = if kind == "Approved" { "approve" } else { "deny" };
    Ok(json!({"type": kind, "status": "True", "reason": "Coracle",
        "message": format!("by coracle certificate {verb}"), "lastUpdateTime": now}))
}
