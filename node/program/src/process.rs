//! What every process of ours does first and last: be a child if it was started as one, set up logging, threads and the
//! TLS provider, and tell a person what went wrong.

use crate::logging;
use anyhow::{Context as _, Result, bail};
use nix::{
    sys::{prctl, signal::Signal},
    unistd::getppid,
};
use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Ends this process's work here if an agent has started it as a runner or as a compiler.
///
/// Has to come before anything else: a runner confines itself before any thread exists, and its environment is empty.
#[must_use]
pub fn child() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    let child: fn(&[String]) -> ExitCode = match arguments.next()?.as_str() {
        "runner" => coracle_runner::child::main,
        "compile" => coracle_runner::compile::main,
        _ => return None,
    };
    Some(child(&arguments.collect::<Vec<_>>()))
}

/// Runs `main` on as many threads as there are processors, and prints its error.
pub fn run(main: impl Future<Output = Result<ExitCode>>) -> ExitCode {
    logging::init();
    // HTTP clients of several crates look for the process's default; ours name it, but theirs cannot.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads");
    match runtime.and_then(|runtime| runtime.block_on(main)) {
        Ok(code) => code,
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// From now on the kernel kills this process when the thread of `parent` ends that has started it.
///
/// # Errors
/// When the kernel refuses, or `parent` has ended already.
pub(crate) fn end_with(parent: i32) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)
        .context("cannot be made to end with the process that has started this one")?;
    if getppid().as_raw() != parent {
        bail!("process {parent}, which this one was to end with, has not started it or has ended");
    }
    Ok(())
}

/// The path as it means the same from any directory, since it is printed for others to use.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot use {}", path.display()))
}

#[expect(clippy::print_stderr, reason = "the one place that tells a person what went wrong")]
fn print_error(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
