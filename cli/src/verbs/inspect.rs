//! `coracle inspect`.

use anyhow::{Context as _, Result};
use clap::Args;
use coracle_sdk::package::inspect::{Form, inspect};
use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

/// Say what a wasm file is, what it needs and what it offers.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The wasm file
    file: PathBuf,
}

impl Inspect {
    pub(super) fn run(self) -> Result<ExitCode> {
        let bytes = fs::read(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        let found = inspect(&bytes).with_context(|| self.file.display().to_string())?;
        let mut out = io::stdout().lock();
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
        Ok(ExitCode::SUCCESS)
    }
}
