//! What the process tells its operator, on standard error.

use std::io::{self, IsTerminal as _};
use tracing_subscriber::EnvFilter;

/// Warnings and worse, unless `RUST_LOG` says otherwise.
pub(crate) fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    // Fails only when somebody has set a subscriber already, and then that one serves.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init()
        .ok();
}
