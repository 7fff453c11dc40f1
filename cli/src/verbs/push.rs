//! `coracle push`.

use super::ClusterArgs;
use anyhow::Result;
use clap::Args;
use coracle_sdk::package::{inspect::Form, push::push};
use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

/// Push a wasm file to the cluster's registry as a workload image.
#[derive(Debug, Args)]
pub(crate) struct Push {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The wasm file: a component (WASI 0.2) or a module (WASI preview 1)
    file: PathBuf,
    /// NAME[:TAG] in the cluster's own registry
    name: String,
}

impl Push {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let credentials = self.cluster.credentials()?;
        let pushed = push(&credentials, &self.file, &self.name).await?;
        let form = match pushed.inspection.form {
            Form::Module => "module",
            Form::Component => "component",
        };
        writeln!(io::stdout(), "{} pushed: {form}, {} bytes\n{}", pushed.reference, pushed.size_bytes, pushed.digest)?;
        Ok(ExitCode::SUCCESS)
    }
}
