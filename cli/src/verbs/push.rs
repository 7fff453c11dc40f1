//! `coracle push`.

use super::{ClusterArgs, registry::RegistryArgs};
use anyhow::Result;
use clap::Args;
use coracle_sdk::package::{inspect::Form, push::push};
use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

/// Push wasm files to a registry as one workload image.
#[derive(Debug, Args)]
pub(crate) struct Push {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    /// The wasm files: components (WASI 0.2) or modules (WASI preview 1)
    #[arg(required = true, num_args = 1.., value_name = "FILE")]
    files: Vec<PathBuf>,
    /// NAME[:TAG] in the cluster's own registry, or HOST/NAME[:TAG] in another one
    #[arg(required = true)]
    name: String,
}

impl Push {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let (credentials, options) = self.registry.open(&self.cluster, &self.name)?;
        let pushed = push(credentials.as_ref(), &options, &self.files, &self.name).await?;
        let form = |form| match form {
            Form::Module => "module",
            Form::Component => "component",
        };
        let mut out = io::stdout().lock();
        if let [file] = pushed.files.as_slice() {
            let form = form(file.inspection.form);
            writeln!(out, "{} pushed: {form}, {} bytes\n{}", pushed.reference, file.size_bytes, pushed.digest)?;
            return Ok(ExitCode::SUCCESS);
        }
        writeln!(out, "{} pushed: {} files", pushed.reference, pushed.files.len())?;
        for file in &pushed.files {
            writeln!(out, "  {}: {}, {} bytes", file.title, form(file.inspection.form), file.size_bytes)?;
        }
        writeln!(out, "{}", pushed.digest)?;
        Ok(ExitCode::SUCCESS)
    }
}
