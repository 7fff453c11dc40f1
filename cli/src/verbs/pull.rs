//! `coracle pull`.

use super::{ClusterArgs, registry::RegistryArgs};
use anyhow::{Context as _, Result};
use clap::Args;
use coracle_sdk::package::pull::pull;
use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

/// Fetch the wasm files of a workload image.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Directory for the files; made when it is not there
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// [HOST/]NAME[:TAG][@DIGEST]
    name: String,
}

impl Pull {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let (credentials, options) = self.registry.open(&self.cluster, &self.name)?;
        let unusable = || format!("cannot make {}", self.output.display());
        fs::create_dir_all(&self.output).with_context(unusable)?;
        let pulled = pull(credentials.as_ref(), &options, &self.name, &self.output).await?;
        let mut out = io::stdout().lock();
        writeln!(out, "{} pulled\n{}", pulled.reference, pulled.digest)?;
        for module in &pulled.modules {
            writeln!(out, "{}: {} bytes", module.path.display(), module.size_bytes)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
