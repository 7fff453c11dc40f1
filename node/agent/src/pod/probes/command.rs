//! A command that a probe or a hook runs beside the container's own guest, to its end.

use super::OUTPUT_BYTES_MAX;
use crate::{
    context::Context,
    exec::{self, ExecFailure, ExecRequest},
    pod::subject::Subject,
};
use serde_json::Value;
use std::{sync::Arc, time::Duration};

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself; with what it printed, the beginning of it.
    Exited { code: i32, output: String },
    /// It took too long and was ended.
    TimedOut,
    /// It never ran.
    NotRun(String),
}

/// The words of an `exec` handler; `None` where there is none.
pub(crate) fn words(exec: &Value) -> Option<Vec<String>> {
    let words = exec.get("command")?.as_array()?;
    Some(words.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// Runs it in the subject's container.
pub(crate) async fn run(context: &Arc<Context>, subject: &Subject, command: Vec<String>, limit: Duration) -> End {
    let request = ExecRequest {
        pod: subject.pod.clone(),
        namespace_uid: subject.namespace_uid.clone(),
        container: subject.name().to_owned(),
        run: subject.run.clone(),
        command,
    };
    match exec::run_to_end(context, request, OUTPUT_BYTES_MAX, limit).await {
        Ok((code, output)) => End::Exited { code, output: String::from_utf8_lossy(&output).into_owned() },
        Err(ExecFailure::TimedOut(_)) => End::TimedOut,
        Err(ExecFailure::NotStarted(why)) => End::NotRun(why),
    }
}
