//! Compiling guests, in a short-lived process with limits.

use crate::protocol::GuestKind;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};
use thiserror::Error;

/// Why a workload cannot be compiled. The text names what is wrong, e.g. the import that nobody provides.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CompileError {
    /// Not WebAssembly, truncated, invalid, or with an unknown import.
    #[error("{0}")]
    Rejected(String),
    /// The compiler process failed or hit a limit.
    #[error("the compiler process failed: {0}")]
    Failed(String),
}

/// What this build of the engine can load: part of a compiled file's cache key.
#[must_use]
pub fn engine_fingerprint() -> String {
    unimplemented!("owner: runner")
}

/// Compiles `wasm` to `output` (written atomically) in a child process started by `command`
/// (e.g. `[current_exe, "compile"]`), and says what kind of guest it is.
///
/// # Errors
/// See [`CompileError`].
pub async fn compile(_command: &[OsString], _wasm: &Path, _output: &PathBuf) -> Result<GuestKind, CompileError> {
    unimplemented!("owner: runner")
}

/// Entry point of the compiler process: `compile WASM OUTPUT`.
#[must_use]
pub fn main(_arguments: &[String]) -> ExitCode {
    unimplemented!("owner: runner")
}
