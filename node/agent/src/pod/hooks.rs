//! Life-cycle hooks of containers: what is to be done right after a run has started, and before it is asked to end.
//!
//! It must never outlast its limit, and never decide what a failed hook means: that is the owner task's.

use crate::{
    context::Context,
    pod::{
        http_get,
        probes::command::{self, End},
        spec,
        subject::Subject,
    },
};
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use thiserror::Error;

/// How hooks name themselves to servers.
const USER_AGENT: &str = "kube-lifecycle/1.33";

/// Which hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    PostStart,
    PreStop,
}

impl Hook {
    fn field(self) -> &'static str {
        match self {
            Self::PostStart => "postStart",
            Self::PreStop => "preStop",
        }
    }

    /// What the container has of it, if anything.
    fn of(self, container: &Value) -> Option<&Value> {
        container.get("lifecycle")?.get(self.field()).filter(|handler| handler.is_object())
    }
}

/// Why a hook did not do what it should have done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub(crate) struct HookFailure {
    /// For people.
    pub(crate) message: String,
}

/// Does what the hook says, for at most `limit`. At once where the container has no such hook. A request is done when it
/// is answered, whatever the answer is.
///
/// # Errors
/// When it could not be done, failed, or took too long.
pub(crate) async fn run(
    context: &Arc<Context>,
    subject: &Subject,
    hook: Hook,
    limit: Duration,
) -> Result<(), HookFailure> {
    let Some(handler) = hook.of(subject.container()) else { return Ok(()) };
    let done = if let Some(command) = command::words(&handler["exec"]) {
        by_command(context, subject, command, limit).await
    } else if handler["httpGet"].is_object() {
        match http_get::Request::of(subject, &handler["httpGet"], USER_AGENT) {
            Ok(request) => http_get::get(context, subject, &request, limit).await.map(drop),
            Err(error) => Err(error),
        }
    } else if handler["sleep"].is_object() {
        let seconds = Duration::from_secs(handler["sleep"]["seconds"].as_u64().unwrap_or_default());
        context.pace.sleep(seconds.min(limit)).await;
        if seconds > limit { Err(format!("it was to sleep for {seconds:?} and had {limit:?}")) } else { Ok(()) }
    } else {
        // A TCP socket was allowed once and never did anything.
        Ok(())
    };
    done.map_err(|error| {
        let message = format!(
            "{} hook of container {} in pod {} failed: {error}",
            hook.field(),
            subject.name(),
            spec::describe(&subject.pod)
        );
        HookFailure { message }
    })
}

async fn by_command(
    context: &Arc<Context>,
    subject: &Subject,
    command: Vec<String>,
    limit: Duration,
) -> Result<(), String> {
    let words = command.join(" ");
    match command::run(context, subject, command, limit).await {
        End::Exited { code: 0, .. } => Ok(()),
        End::Exited { code, output } => Err(format!("command {words:?} exited with {code}: {output}")),
        End::TimedOut => Err(format!("command {words:?} timed out after {limit:?}")),
        End::NotRun(error) => Err(format!("command {words:?} did not run: {error}")),
    }
}

#[cfg(test)]
#[path = "hooks_tests.rs"]
mod tests;
