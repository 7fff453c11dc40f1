//! The node link: a control stream for as long as the agent lives, and one more stream per session, so that a flood of
//! logs never delays a heartbeat. Always dialled from here.

use crate::{
    clock,
    grpc::refusal,
    logs::{
        Logs,
        read::{Wanted, read},
        runs,
    },
    pod::{manager::Registry, spec},
    retry::Reconnect,
    sessions::{Line, Sessions},
    stats::Stats,
};
use bytes::Bytes;
use coracle_objects::{ApiError, Reason, meta};
use coracle_wire::v1::{
    self, node_link_client::NodeLinkClient, node_signal, open_session, server_signal, session_frame,
};
use serde_json::Value;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, MissedTickBehavior},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{debug, warn};

/// Logs, commands and the like at one time; the server is told no beyond it.
const SESSIONS_MAX: usize = 256;
/// Connections to pods at one time, beside those.
const FORWARDS_MAX: usize = 256;
/// Frames that wait to be sent in one session.
const FRAMES_MAX: usize = 4;
/// Bytes of a summary in one frame.
const PIECE_BYTES: usize = 64 * 1024;
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A server that answers no ping for so long is left.
const SILENCE_MAX: Duration = Duration::from_secs(35);

/// What a session needs.
pub(crate) struct NodeLink {
    pub(crate) channel: Channel,
    pub(crate) node: String,
    pub(crate) logs: Arc<Logs>,
    pub(crate) pods: Registry,
    pub(crate) sessions: Sessions,
    pub(crate) stats: Arc<Stats>,
}

/// How many sessions there may be.
struct Slots {
    sessions: Arc<Semaphore>,
    forwards: Arc<Semaphore>,
}

impl NodeLink {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let this = Arc::new(self);
        let slots = Slots {
            sessions: Arc::new(Semaphore::new(SESSIONS_MAX)),
            forwards: Arc::new(Semaphore::new(FORWARDS_MAX)),
        };
        let mut reconnect = Reconnect::new();
        let keep = async {
            loop {
                let since = Instant::now();
                match this.control(&slots, &stop).await {
                    Ok(()) => debug!("the control stream ended"),
                    Err(error) if reconnect.is_first() => warn!(%error, "lost the control stream"),
                    Err(error) => debug!(%error, "still no control stream"),
                }
                if since.elapsed() > PING_INTERVAL {
                    reconnect.reset();
                }
                tokio::time::sleep(reconnect.delay()).await;
            }
        };
        tokio::select! {
            () = keep => {}
            () = stop.cancelled() => {}
        }
    }

    async fn control(self: &Arc<Self>, slots: &Slots, stop: &CancellationToken) -> Result<(), ApiError> {
        let (sender, receiver) = mpsc::channel(FRAMES_MAX);
        let signal = |signal| v1::NodeSignal { signal: Some(signal) };
        let hello = node_signal::Signal::Hello(v1::NodeHello { node_name: self.node.clone() });
        let gone = |_| ApiError::new(Reason::ServiceUnavailable, "the stream is closed");
        sender.send(signal(hello)).await.map_err(gone)?;
        let mut client = NodeLinkClient::new(self.channel.clone());
        let response = client.control(ReceiverStream::new(receiver)).await.map_err(|status| refusal(&status))?;
        let mut incoming = response.into_inner();
        let mut heard = Instant::now();
        let mut ping = tokio::time::interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = incoming.next() => {
                    heard = Instant::now();
                    let Some(message) = message else { return Ok(()) };
                    if let Some(server_signal::Signal::OpenSession(open)) = message.map_err(|status| refusal(&status))?.signal {
                        self.open(open, slots, stop);
                    }
                }
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return Err(ApiError::new(Reason::Timeout, "the server is silent"));
                    }
                    sender.send(signal(node_signal::Signal::Ping(v1::NodePing {}))).await.map_err(gone)?;
                }
            }
        }
    }

    fn open(self: &Arc<Self>, open: v1::OpenSession, slots: &Slots, stop: &CancellationToken) {
        let forwards = matches!(open.purpose, Some(open_session::Purpose::PortForward(_)));
        let slots = if forwards { &slots.forwards } else { &slots.sessions };
        let (this, slot, stop) = (self.clone(), slots.clone().try_acquire_owned(), stop.clone());
        tokio::spawn(async move {
            let refused = slot.is_err();
            tokio::select! {
                result = this.session(open, refused) => if let Err(error) = result { debug!(%error, "a session broke") },
                () = stop.cancelled() => {}
            }
            drop(slot);
        });
    }

    async fn session(&self, open: v1::OpenSession, refused: bool) -> Result<(), ApiError> {
        let (sender, receiver) = mpsc::channel(FRAMES_MAX);
        let frame = |frame| v1::SessionFrame { frame: Some(frame) };
        let gone = |_| ApiError::new(Reason::ServiceUnavailable, "the stream is closed");
        sender.send(frame(session_frame::Frame::SessionId(open.session_id))).await.map_err(gone)?;
        let mut client = NodeLinkClient::new(self.channel.clone());
        let response = client.session(ReceiverStream::new(receiver)).await.map_err(|status| refusal(&status))?;
        let mut incoming = response.into_inner();

        let (bytes_sender, mut bytes) = mpsc::channel::<Bytes>(FRAMES_MAX);
        let (input_sender, input) = mpsc::channel(FRAMES_MAX);
        let (output, mut outgoing) = mpsc::channel(FRAMES_MAX);
        let work = async {
            let result = match open.purpose {
                _ if refused => Err(ApiError::new(Reason::TooManyRequests, "the node serves too many sessions")),
                Some(open_session::Purpose::Logs(request)) => {
                    self.logs(&request, &bytes_sender).await.map(|()| Bytes::new())
                }
                Some(open_session::Purpose::Summary(request)) => {
                    self.summary(request, &bytes_sender).await.map(|()| Bytes::new())
                }
                Some(purpose) if Sessions::takes(&purpose) => {
                    self.sessions.serve(purpose, Line { input, output }).await
                }
                Some(_) | None => Err(ApiError::bad_request("the node does not know this kind of session")),
            };
            drop(bytes_sender);
            result
        };
        let forward = async {
            loop {
                let next = tokio::select! {
                    Some(data) = bytes.recv() => session_frame::Frame::Data(data),
                    Some(channel) = outgoing.recv() => session_frame::Frame::Channel(channel),
                    else => return Ok::<(), ApiError>(()),
                };
                sender.send(frame(next)).await.map_err(gone)?;
            }
        };
        // The server ends the stream when its user is gone.
        let watch = async {
            while let Some(Ok(message)) = incoming.next().await {
                if let Some(session_frame::Frame::Channel(channel)) = message.frame {
                    // Where nobody takes input, it is dropped.
                    let _ = input_sender.send(channel).await;
                }
            }
        };
        let result = tokio::select! {
            (result, forwarded) = async { tokio::join!(work, forward) } => {
                forwarded?;
                result
            }
            () = watch => return Ok(()),
            // While it waits for its guest to read, the one above does not see the end.
            () = sender.closed() => return Ok(()),
        };
        let status = result.unwrap_or_else(|error| error.to_status().to_string().into());
        let end = session_frame::Frame::End(v1::SessionEnd { status });
        sender.send(frame(end)).await.map_err(gone)?;
        drop(sender);
        // Closing at once could overtake the end; the server closes when it has it.
        let _ = tokio::time::timeout(PING_INTERVAL, async { while let Some(Ok(_)) = incoming.next().await {} }).await;
        Ok(())
    }

    async fn summary(&self, request: v1::SummaryRequest, out: &mpsc::Sender<Bytes>) -> Result<(), ApiError> {
        let mut answer = self.stats.answer(request.format).await?;
        while !answer.is_empty() {
            let piece = answer.split_to(answer.len().min(PIECE_BYTES));
            if out.send(piece).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn logs(&self, request: &v1::LogRequest, out: &mpsc::Sender<Bytes>) -> Result<(), ApiError> {
        let pod = self
            .pods
            .find(&request.pod_uid, &request.namespace, &request.pod)
            .ok_or_else(|| ApiError::not_found("", "pods", &request.pod))?;
        let (directory, run, mut wanted) = choose(&self.logs, &pod, request)?;
        if !request.follow {
            wanted.follow = None;
        }
        let read = read(&directory, run, wanted, out).await;
        read.map_err(|error| ApiError::internal(format!("cannot read the log: {error}")))
    }
}

/// Which run is meant, and what of it.
fn choose(logs: &Logs, pod: &Value, request: &v1::LogRequest) -> Result<(PathBuf, u32, Wanted), ApiError> {
    let name = container_name(pod, &request.container)?;
    let pod_name = meta::name(pod);
    let unusable = || ApiError::bad_request("the container's name is not usable");
    let directory = logs.container_directory(pod, name).ok_or_else(unusable)?;
    let runs = runs(&directory).map_err(|error| ApiError::internal(format!("cannot read the logs: {error}")))?;
    let newest = runs.last_key_value().map(|(run, _)| *run);
    let run = match (newest, request.previous) {
        (Some(newest), false) => newest,
        (Some(newest), true) if newest > 0 && runs.contains_key(&(newest - 1)) => newest - 1,
        (_, true) => {
            let text = format!("previous terminated container \"{name}\" in pod \"{pod_name}\" not found");
            return Err(ApiError::bad_request(text));
        }
        (None, false) => {
            let statuses = ["initContainerStatuses", "containerStatuses"].into_iter();
            let mut statuses = statuses.flat_map(|list| spec::items(&pod["status"], list));
            let status = statuses.find(|status| status["name"] == name);
            let reason = status.and_then(|status| status["state"]["waiting"]["reason"].as_str());
            let reason = reason.unwrap_or("ContainerCreating");
            let text = format!("container \"{name}\" in pod \"{pod_name}\" is waiting to start: {reason}");
            return Err(ApiError::bad_request(text));
        }
    };
    let live = logs.live(meta::uid(pod), name).filter(|live| live.run() == run);
    let since = match (request.since_seconds, clock::parse(&request.since_time)) {
        (Some(seconds), _) => Some(clock::now() - Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
        (None, since) => since,
    };
    let unsigned = |number: Option<i64>| number.map(|number| u64::try_from(number).unwrap_or(0));
    let wanted = Wanted {
        follow: live.map(|live| live.progress()),
        timestamps: request.timestamps,
        tail_lines: unsigned(request.tail_lines),
        since,
        limit_bytes: unsigned(request.limit_bytes),
    };
    Ok((directory, run, wanted))
}

/// The container that is asked for: the named one, or the default, or the only one.
fn container_name<'a>(pod: &'a Value, asked: &str) -> Result<&'a str, ApiError> {
    let asked = if asked.is_empty() {
        meta::annotation(pod, "kubectl.kubernetes.io/default-container").unwrap_or_default()
    } else {
        asked
    };
    let names = || spec::containers(pod).map(|container| spec::text(container, "name"));
    if asked.is_empty() {
        let apps = spec::app_containers(pod);
        if let ([only], []) = (apps, spec::init_containers(pod)) {
            return Ok(spec::text(only, "name"));
        }
        let all: Vec<&str> = names().collect();
        return Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            meta::name(pod),
            all.join(" "),
        )));
    }
    names()
        .find(|name| *name == asked)
        .ok_or_else(|| ApiError::bad_request(format!("container {asked} is not valid for pod {}", meta::name(pod))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_right_run_is_chosen() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::open(directory.path().to_owned()).unwrap();
        let pod = json!({
            "metadata": {"namespace": "default", "name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]},
            "status": {"containerStatuses": [{"name": "a", "state": {"waiting": {"reason": "PodInitializing"}}}]},
        });
        let ask = |container: &str, previous| {
            let container = container.to_owned();
            let request = v1::LogRequest { container, previous, follow: true, ..v1::LogRequest::default() };
            choose(&logs, &pod, &request).map(|(_, run, wanted)| (run, wanted.follow.is_some()))
        };
        let message = |result: Result<(u32, bool), ApiError>| result.unwrap_err().message;
        assert_eq!(message(ask("", false)), "a container name must be specified for pod p, choose one of: [i a]");
        assert_eq!(message(ask("x", false)), "container x is not valid for pod p");
        assert_eq!(message(ask("a", false)), "container \"a\" in pod \"p\" is waiting to start: PodInitializing");
        assert_eq!(message(ask("a", true)), "previous terminated container \"a\" in pod \"p\" not found");
        logs.begin(&pod, "a", 0).unwrap();
        assert_eq!(ask("a", false), Ok((0, true)));
        assert!(ask("a", true).is_err());
        logs.begin(&pod, "a", 1).unwrap();
        assert_eq!(ask("a", false), Ok((1, true)));
        assert_eq!(ask("a", true), Ok((0, false)), "an old run is not followed");
    }
}
