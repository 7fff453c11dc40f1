//! `coracle inspect`.

use super::{ClusterArgs, registry::RegistryArgs};
use anyhow::{Context as _, Result};
use clap::Args;
use coracle_sdk::package::{
    inspect::{Form, inspect},
    pull::pull,
};
use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

/// Say what a wasm file or an image is, what it needs and what it offers.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    /// The wasm file, or, where there is no such file, the image: [HOST/]NAME[:TAG][@DIGEST]
    #[arg(value_name = "FILE|NAME")]
    what: String,
}

impl Inspect {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let file = Path::new(&self.what);
        // What ends as a file does is a file, so that a slip of the pen is not looked for in a registry.
        let is_file = file.exists() || file.extension().is_some_and(|extension| extension == "wasm");
        if is_file {
            tell(file, &mut io::stdout().lock())?;
            return Ok(ExitCode::SUCCESS);
        }
        let (credentials, options) = self.registry.open(&self.cluster, &self.what)?;
        let directory = tempfile::tempdir().context("no temporary directory")?;
        let pulled = pull(credentials.as_ref(), &options, &self.what, directory.path()).await?;
        let mut out = io::stdout().lock();
        writeln!(out, "Image:     {}\nDigest:    {}", pulled.reference, pulled.digest)?;
        for module in &pulled.modules {
            let name = module.path.file_name().unwrap_or_default().to_string_lossy();
            writeln!(out, "\nFile:      {name}\nDigest:    {}", module.digest)?;
            tell(&module.path, &mut out)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn tell(file: &Path, out: &mut impl Write) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let found = inspect(&bytes).with_context(|| file.display().to_string())?;
    let form = match found.form {
        Form::Module => "module (WASI preview 1)",
        Form::Component => "component (WASI 0.2)",
    };
    writeln!(out, "Form:      {form}")?;
    writeln!(out, "Size:      {} bytes", bytes.len())?;
    writeln!(out, "Runnable:  {}", if found.runnable { "yes" } else { "no" })?;
    for (title, names) in [("Imports", &found.imports), ("Exports", &found.exports)] {
        writeln!(out, "{title}:{}", if names.is_empty() { "   <none>" } else { "" })?;
        for name in names {
            writeln!(out, "  {name}")?;
        }
    }
    Ok(())
}
