//! Hands what the raft library logs to `tracing`, one level lower: its "info" tells of every election step.

use slog::{Drain, KV, Key, Level, OwnedKVList, Record, Serializer};
use std::fmt::{self, Write as _};

/// The logger for one node.
pub(crate) fn logger() -> slog::Logger {
    slog::Logger::root(Bridge, slog::o!())
}

struct Bridge;

impl Drain for Bridge {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), slog::Never> {
        if !self.is_enabled(record.level()) {
            return Ok(());
        }
        let mut line = Line(record.msg().to_string());
        // Writing to a string does not fail.
        let _ = record.kv().serialize(record, &mut line);
        let _ = values.serialize(record, &mut line);
        let Line(line) = line;
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "coracle_raft::library", "{line}"),
            Level::Warning => tracing::warn!(target: "coracle_raft::library", "{line}"),
            Level::Info => tracing::debug!(target: "coracle_raft::library", "{line}"),
            Level::Debug | Level::Trace => tracing::trace!(target: "coracle_raft::library", "{line}"),
        }
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        match level {
            Level::Critical | Level::Error => true,
            Level::Warning => tracing::enabled!(target: "coracle_raft::library", tracing::Level::WARN),
            Level::Info => tracing::enabled!(target: "coracle_raft::library", tracing::Level::DEBUG),
            Level::Debug | Level::Trace => {
                tracing::enabled!(target: "coracle_raft::library", tracing::Level::TRACE)
            }
        }
    }
}

struct Line(String);

impl Serializer for Line {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}").map_err(slog::Error::from)
    }
}
