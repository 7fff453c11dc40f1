//! `coracle delete`.

use super::{
    ScopeArgs, apply,
    print::{qualified, refusal},
    target::{self, Target},
};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use coracle_objects::{ObjectKey, Reason, catalogue, meta};
use coracle_sdk::{
    Connection,
    connection::{CallError, ListOptions},
};
use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};
use tokio_stream::StreamExt as _;

/// Delete objects.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    scope: ScopeArgs,
    /// KIND NAME…, or KIND/NAME…
    targets: Vec<String>,
    /// Manifest, directory of manifests, or - for standard input, whose objects are deleted
    #[arg(short, long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Delete what this label selector selects
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Delete every object of the kind in the namespace
    #[arg(long)]
    all: bool,
    /// Seconds to end gracefully; negative: the object's own
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    grace_period: i64,
    /// Do not wait until the objects are gone
    #[arg(long)]
    no_wait: bool,
    /// No error for objects that are not there
    #[arg(long)]
    ignore_not_found: bool,
    /// Longest time to wait, in seconds; 0: for ever
    #[arg(long, default_value_t = 0)]
    timeout: u64,
}

impl Delete {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let (connection, namespace) = self.scope.connect()?;
        let doomed = self.doomed(&connection, &namespace).await?;
        let grace = (self.grace_period >= 0).then_some(self.grace_period);
        let mut failed = false;
        let mut asked = Vec::new();
        for (target, key) in doomed {
            match connection.delete(target.kind, &key, grace).await {
                Ok(answer) => {
                    writeln!(io::stdout(), "{} deleted", with_quotes(&qualified(target.kind, &key.name)))?;
                    let uid =
                        if answer["kind"] == "Status" { &answer["details"]["uid"] } else { &answer["metadata"]["uid"] };
                    asked.push((target, key, uid.as_str().unwrap_or_default().to_owned()));
                }
                Err(CallError::Refused(error)) if self.ignore_not_found && error.reason == Reason::NotFound => {}
                Err(error) => {
                    failed = true;
                    writeln!(io::stderr(), "{:#}", refusal(error))?;
                }
            }
        }
        if !self.no_wait {
            let all_gone = async {
                for (target, key, uid) in &asked {
                    gone(&connection, target, key, uid).await?;
                }
                Ok::<_, anyhow::Error>(())
            };
            match self.timeout {
                0 => all_gone.await?,
                seconds => tokio::time::timeout(Duration::from_secs(seconds), all_gone)
                    .await
                    .with_context(|| format!("the objects are still there after {seconds} s"))??,
            }
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    async fn doomed(&self, connection: &Connection, namespace: &str) -> Result<Vec<(Target, ObjectKey)>> {
        if !self.files.is_empty() {
            let mut doomed = Vec::new();
            // Last made, first deleted.
            for object in apply::read_all(&self.files)?.iter().rev() {
                let (api, name) = (object["apiVersion"].as_str(), object["kind"].as_str());
                let kind =
                    catalogue::by_kind(api.unwrap_or_default(), name.unwrap_or_default()).with_context(|| {
                        format!("no matches for kind {} in version {}", object["kind"], object["apiVersion"])
                    })?;
                let target = Target { kind, name: Some(meta::name(object).to_owned()) };
                let own = meta::namespace(object);
                let key = target.key(meta::name(object), if own.is_empty() { namespace } else { own });
                doomed.push((target, key));
            }
            return Ok(doomed);
        }
        let mut doomed = Vec::new();
        for target in target::parse(&self.targets)? {
            if let Some(name) = target.name.clone() {
                let key = target.key(&name, namespace);
                doomed.push((target, key));
                continue;
            }
            if self.selector.is_none() && !self.all {
                bail!("resource(s) were provided, but no name was specified: name them, or use -l or --all");
            }
            let options = ListOptions {
                namespace: if target.kind.namespaced { namespace.to_owned() } else { String::new() },
                label_selector: self.selector.clone().unwrap_or_default(),
                ..ListOptions::default()
            };
            let (items, _) = connection.list(target.kind, &options).await.map_err(refusal)?;
            doomed.extend(items.iter().map(|item| (target.clone(), meta::key(item))));
        }
        Ok(doomed)
    }
}

/// Waits until the object is gone or another one has its name.
async fn gone(connection: &Connection, target: &Target, key: &ObjectKey, uid: &str) -> Result<()> {
    loop {
        let current = match connection.get(target.kind, key).await {
            Err(CallError::Refused(error)) if error.reason == Reason::NotFound => return Ok(()),
            other => other.map_err(refusal)?,
        };
        if !uid.is_empty() && meta::uid(&current) != uid {
            return Ok(());
        }
        let options = ListOptions {
            namespace: key.namespace.clone(),
            field_selector: format!("metadata.name={}", key.name),
            ..ListOptions::default()
        };
        let mut events =
            connection.watch(target.kind, &options, meta::resource_version(&current)).await.map_err(refusal)?;
        while let Some(event) = events.next().await {
            let (change, _) = event.map_err(refusal)?;
            if change == coracle_sdk::connection::Change::Deleted {
                return Ok(());
            }
        }
    }
}

fn with_quotes(qualified: &str) -> String {
    match qualified.split_once('/') {
        Some((kind, name)) => format!("{kind} \"{name}\""),
        None => qualified.to_owned(),
    }
}
