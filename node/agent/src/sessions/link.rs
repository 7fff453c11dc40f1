//! The node link: a control stream for as long as the agent lives, and one more stream per session, so that a flood of
//! logs never delays a heartbeat. Always dialled from here.

use super::{Line, Sessions, pings::Pings};
use crate::{
    clock,
    contact::Contact,
    grpc::{Connection, refusal, timed},
    heartbeat::RENEWALS_IN_A_LEASE,
    logs::{Logs, choose::choose, read::read},
    pod::manager::Registry,
    retry::Reconnect,
    stats::Stats,
};
use bytes::Bytes;
use coracle_objects::{ApiError, Reason};
use coracle_wire::v1::{
    self, node_link_client::NodeLinkClient, node_signal, open_session, server_signal, session_frame,
};
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::{Instant, MissedTickBehavior},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Logs, commands and the like at one time; the server is told no beyond it.
const SESSIONS_MAX: usize = 256;
/// Connections to pods at one time, beside those.
const FORWARDS_MAX: usize = 256;
/// Frames that wait to be sent in one session.
const FRAMES_MAX: usize = 4;
/// Bytes of a summary in one frame.
const PIECE_BYTES: usize = 64 * 1024;
/// A server that answers none of so many pings is left.
const PINGS_UNANSWERED_MAX: u32 = 3;
/// But not sooner: sessions end with the stream, and a busy server is no lost one.
const SILENCE_MIN: Duration = Duration::from_secs(5);
/// How long a session's end may take to be read.
const END_MAX: Duration = Duration::from_secs(10);

/// What a session needs.
pub(crate) struct NodeLink {
    pub(crate) connection: Connection,
    pub(crate) node: String,
    pub(crate) logs: Arc<Logs>,
    pub(crate) pods: Registry,
    pub(crate) sessions: Sessions,
    pub(crate) stats: Arc<Stats>,
    /// Between two pings.
    pub(crate) interval: Duration,
    /// Hears of every lease that the server took, and of those that it did not.
    pub(crate) contact: Arc<Contact>,
    /// Told when pings are answered again after so long that the lease may have run out.
    pub(crate) resumed: Arc<Notify>,
}

/// The server's answers to pings.
struct Answers {
    /// When the last one came, by the wall clock: it goes on while the machine sleeps.
    last_at: OffsetDateTime,
    /// How long to wait after a failure; an answer is a success.
    reconnect: Reconnect,
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
        let mut answers = Answers { last_at: clock::now(), reconnect: Reconnect::new() };
        let keep = async {
            loop {
                match this.control(&slots, &stop, &mut answers).await {
                    Ok(()) => debug!("the control stream ended"),
                    Err(error) => {
                        if error.reason == Reason::Unauthorized {
                            this.contact.disowned();
                        }
                        if answers.reconnect.is_news(&error) {
                            warn!(%error, "lost the control stream");
                        } else {
                            debug!(%error, "still no control stream");
                        }
                    }
                }
                this.contact.missed();
                tokio::time::sleep(answers.reconnect.delay()).await;
            }
        };
        tokio::select! {
            () = keep => {}
            () = stop.cancelled() => {}
        }
    }

    async fn control(
        self: &Arc<Self>,
        slots: &Slots,
        stop: &CancellationToken,
        answers: &mut Answers,
    ) -> Result<(), ApiError> {
        let (sender, receiver) = mpsc::channel(FRAMES_MAX);
        let signal = |signal| v1::NodeSignal { signal: Some(signal) };
        let lease_seconds = u32::try_from((self.interval * RENEWALS_IN_A_LEASE).as_secs().max(1)).unwrap_or(u32::MAX);
        let hello = v1::NodeHello { node_name: self.node.clone(), lease_seconds };
        let hello = node_signal::Signal::Hello(hello);
        let gone = |_| ApiError::new(Reason::ServiceUnavailable, "the stream is closed");
        sender.send(signal(hello)).await.map_err(gone)?;
        let mut client = NodeLinkClient::new(self.connection.clone());
        let mut incoming = timed(client.control(ReceiverStream::new(receiver))).await?;
        let mut heard = Instant::now();
        let mut pings = Pings::new();
        let silence_max = (self.interval * PINGS_UNANSWERED_MAX + self.interval / 2).max(SILENCE_MIN);
        let mut turns = tokio::time::interval(self.interval);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = incoming.next() => {
                    heard = Instant::now();
                    let Some(message) = message else { return Ok(()) };
                    match message.map_err(|status| refusal(&status))?.signal {
                        Some(server_signal::Signal::OpenSession(open)) => self.open(open, slots, stop),
                        Some(server_signal::Signal::Pong(pong)) => {
                            pings.hear(&pong, &self.contact);
                            let now = clock::now();
                            if now - answers.last_at > self.interval * PINGS_UNANSWERED_MAX {
                                info!("the server answers again");
                                self.resumed.notify_one();
                            }
                            answers.last_at = now;
                            answers.reconnect.reset();
                        }
                        None => {}
                    }
                }
                _ = turns.tick() => {
                    if heard.elapsed() > silence_max {
                        return Err(ApiError::new(Reason::Timeout, "the server is silent"));
                    }
                    pings.send(self.contact.now());
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
        let mut client = NodeLinkClient::new(self.connection.clone());
        let mut incoming = timed(client.session(ReceiverStream::new(receiver))).await?;

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
                    Some(data) = bytes.recv() => frame(session_frame::Frame::Data(data)),
                    Some(channel) = outgoing.recv() => v1::SessionFrame::of_channel(channel),
                    else => return Ok::<(), ApiError>(()),
                };
                sender.send(next).await.map_err(gone)?;
            }
        };
        // The server ends the stream when its user is gone.
        let watch = async {
            while let Some(Ok(message)) = incoming.next().await {
                if let Some(channel) = message.into_channel() {
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
        let _ = tokio::time::timeout(END_MAX, async { while let Some(Ok(_)) = incoming.next().await {} }).await;
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
