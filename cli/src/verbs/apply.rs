//! `coracle apply`.

use super::{
    ScopeArgs,
    print::{qualified, refusal},
};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use coracle_objects::{catalogue, meta};
use coracle_sdk::{Connection, connection::Applied, manifest};
use serde_json::Value;
use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Create or change objects so that they are as a manifest says.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    scope: ScopeArgs,
    /// Manifest, directory of manifests, or - for standard input
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Apply {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let objects = read_all(&self.files)?;
        let (connection, namespace) = self.scope.connect()?;
        let mut failed = false;
        for object in &objects {
            match apply(&connection, &namespace, object).await {
                Ok(line) => writeln!(io::stdout(), "{line}")?,
                Err(error) => {
                    // One bad object does not keep the others from being applied, as with kubectl.
                    failed = true;
                    writeln!(io::stderr(), "{error:#}")?;
                }
            }
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// All objects of all files, in order; no file is passed over silently.
pub(super) fn read_all(files: &[PathBuf]) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for file in files {
        objects.extend(if file == Path::new("-") { manifest::read_stdin()? } else { manifest::read(file)? });
    }
    if objects.is_empty() {
        bail!("no objects passed to apply: the manifests are empty");
    }
    Ok(objects)
}

async fn apply(connection: &Connection, namespace: &str, object: &Value) -> Result<String> {
    let (api_version, kind_name) =
        (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default());
    let kind = catalogue::by_kind(api_version, kind_name)
        .with_context(|| format!("no matches for kind \"{kind_name}\" in version \"{api_version}\""))?;
    let own = meta::namespace(object);
    let namespace = match (kind.namespaced, own.is_empty()) {
        (false, _) => "",
        (true, true) => namespace,
        (true, false) => own,
    };
    let (applied, stored) = connection.apply(kind, namespace, object).await.map_err(refusal)?;
    let what = match applied {
        Applied::Created => "created",
        Applied::Configured => "configured",
        Applied::Unchanged => "unchanged",
    };
    Ok(format!("{} {what}", qualified(kind, meta::name(&stored))))
}
