//! Sessions with a container or a pod that carry bytes both ways: commands, attaching, forwarded connections. Each is one
//! future; dropping it ends what it began.
//!
//! ```text
//!  server ──frames──▶ input (a few frames) ──▶ guest's standard input, or the pod's connection
//!  server ◀──frames── output (a few frames) ◀── guest's output, or the pod's connection
//! ```
//!
//! Every queue is short and waited for, so whoever does not read holds the other side back and fills nothing.

mod attach;
mod exec;
mod forward;
mod keyboard;
mod link;
mod pings;

pub(crate) use link::NodeLink;

use crate::{
    context::Context,
    pod::{manager::Registry, spec},
};
use bytes::Bytes;
use coracle_objects::{ApiError, Reason, meta};
use coracle_runner::protocol::{LogStream, RunId};
use coracle_wire::v1::{self, ChannelFrame, open_session::Purpose};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Standard input, and both directions of a forwarded connection.
const INPUT: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
/// The terminal's size, as JSON.
const RESIZE: u32 = 4;
/// What a container's id begins with; its run's id follows.
const RUN_SCHEME: &str = "coracle://";

/// Both directions of a session.
pub(crate) struct Line {
    /// What the user sends. Ends only with the session.
    pub(crate) input: mpsc::Receiver<ChannelFrame>,
    /// What goes to the user.
    pub(crate) output: mpsc::Sender<ChannelFrame>,
}

/// What sessions are held with.
pub(crate) struct Sessions {
    pub(crate) context: Arc<Context>,
    pub(crate) pods: Registry,
}

impl Sessions {
    /// Whether this is for [`Self::serve`].
    pub(crate) fn takes(purpose: &Purpose) -> bool {
        matches!(purpose, Purpose::Exec(_) | Purpose::Attach(_) | Purpose::PortForward(_))
    }

    /// Holds one session to its end: a `Status` as JSON, or nothing for plain success.
    ///
    /// # Errors
    /// What the user is told instead.
    pub(crate) async fn serve(&self, purpose: Purpose, line: Line) -> Result<Bytes, ApiError> {
        match purpose {
            Purpose::Exec(request) => {
                let pod = self.find(&request.pod_uid, &request.namespace, &request.pod)?;
                exec::serve(&self.context, &pod, request, line).await
            }
            Purpose::Attach(request) => {
                let pod = self.find(&request.pod_uid, &request.namespace, &request.pod)?;
                attach::serve(&self.context, &pod, request, line).await
            }
            Purpose::PortForward(v1::PortForwardRequest { namespace, pod, pod_uid, port }) => {
                let pod = self.find(&pod_uid, &namespace, &pod)?;
                forward::serve(&self.context, &pod, port, line).await
            }
            _ => Err(ApiError::bad_request("the node does not know this kind of session")),
        }
    }

    fn find(&self, uid: &str, namespace: &str, name: &str) -> Result<Arc<Value>, ApiError> {
        self.pods.find(uid, namespace, name).ok_or_else(|| ApiError::not_found("", "pods", name))
    }
}

/// The run that a container is at.
///
/// # Errors
/// In kubelet's and its runtimes' words, when it is at none.
fn running(pod: &Value, container: &str) -> Result<RunId, ApiError> {
    let lists = ["containerStatuses", "initContainerStatuses"].into_iter();
    let status = lists.flat_map(|list| spec::items(&pod["status"], list)).find(|status| status["name"] == container);
    let state = status.map_or(&Value::Null, |status| &status["state"]);
    let run = status.and_then(|status| spec::text(status, "containerID").strip_prefix(RUN_SCHEME));
    match run {
        Some(run) if state["running"].is_object() => Ok(RunId(run.to_owned())),
        _ if state["terminated"].is_object() => {
            let text = format!("container \"{container}\" of pod {} is in a stopped state", meta::name(pod));
            Err(ApiError::new(Reason::BadRequest, text))
        }
        _ => Err(ApiError::new(Reason::NotFound, format!("container not found (\"{container}\")"))),
    }
}

/// The container's part of the spec.
fn container<'a>(pod: &'a Value, name: &str) -> Result<&'a Value, ApiError> {
    let found = spec::containers(pod).find(|one| spec::text(one, "name") == name);
    found.ok_or_else(|| ApiError::new(Reason::NotFound, format!("container not found (\"{name}\")")))
}

/// Which streams the user wants to see, and how.
#[derive(Debug, Clone, Copy)]
struct Shown {
    stdout: bool,
    stderr: bool,
    /// As one, on a terminal.
    tty: bool,
}

impl Shown {
    /// Where output of a stream goes, if anywhere.
    fn channel(self, stream: LogStream) -> Option<u32> {
        match stream {
            LogStream::Stdout => self.stdout.then_some(STDOUT),
            LogStream::Stderr if self.tty => self.stdout.then_some(STDOUT),
            LogStream::Stderr => self.stderr.then_some(STDERR),
        }
    }

    /// Sends output to the user, if they want to see it and there is room.
    fn try_send(self, output: &mpsc::Sender<ChannelFrame>, stream: LogStream, data: Bytes) {
        if let Some(channel) = self.channel(stream) {
            let _ = output.try_send(ChannelFrame { channel, data, close: false });
        }
    }

    /// Sends output to the user, if they want to see it. False when they have gone.
    async fn send(self, output: &mpsc::Sender<ChannelFrame>, stream: LogStream, data: Bytes) -> bool {
        let Some(channel) = self.channel(stream) else { return true };
        output.send(ChannelFrame { channel, data, close: false }).await.is_ok()
    }
}

/// The user has gone; nobody hears this.
fn abandoned() -> ApiError {
    ApiError::new(Reason::ServiceUnavailable, "nobody reads the session any more")
}

#[cfg(test)]
mod terminal_tests;
#[cfg(test)]
mod tests;
