//! A container's session on one side, a client on the other, whatever protocol the client speaks.

use super::{Gone, Idle};
use crate::nodelink::{FRAME_BYTES, Said, Session, SessionReader, SessionWriter};
use bytes::{Bytes, BytesMut};
use coracle_objects::{ApiError, Reason};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Channels of exec and attach, in kubectl's protocols and on the node's link.
pub(super) const STDIN: u32 = 0;
pub(super) const STDOUT: u32 = 1;
pub(super) const STDERR: u32 = 2;
/// Only towards the client: how it ended.
pub(super) const ERROR: u32 = 3;
pub(super) const RESIZE: u32 = 4;

/// Input that a client may send before the node takes it.
const WAITING_BYTES_MAX: usize = 64 * 1024;
/// How often a client that hears nothing else gets a sign of life.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a client may take to read what was left for it when the session ended.
const READ_OUT: Duration = Duration::from_mins(10);
/// How long a client that has read everything may take to hang up.
const HANG_UP: Duration = Duration::from_secs(30);

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Bytes for standard input.
    Stdin(Bytes),
    /// No more of them.
    StdinEnd,
    /// The terminal's size, as JSON.
    Resize(Bytes),
}

/// Where a client's words come from.
pub(super) trait FromClient: Send {
    /// What it says next; `None` when it has gone. Safe to drop half-way.
    fn next(&mut self) -> impl Future<Output = Option<Input>> + Send;
}

/// Where a client is told things.
pub(super) trait ToClient: Send {
    /// Bytes of standard output or standard error. Waits while the client does not read.
    fn output(&mut self, channel: u32, bytes: Bytes) -> impl Future<Output = Result<(), Gone>> + Send;
    /// Something that means nothing.
    fn heartbeat(&mut self) -> impl Future<Output = Result<(), Gone>> + Send;
    /// How it ended, as a `Status`, and that nothing follows.
    fn end(&mut self, status: &Value) -> impl Future<Output = Result<(), Gone>> + Send;
}

/// Carries everything both ways until one side is done. A client that goes away ends the node's session.
pub(super) async fn run(
    session: Session,
    mut from: impl FromClient,
    mut to: impl ToClient,
    closing: &CancellationToken,
) {
    let (mut reader, writer) = session.split();
    let idle = Idle::new();
    let ended = {
        let upward = upward(&mut from, &writer, &idle);
        let downward = downward(&mut reader, &mut to, &idle);
        tokio::select! {
            Gone = upward => None,
            ended = downward => ended.ok(),
            () = idle.expired() => Some(failure(&ApiError::new(Reason::Timeout, "the session was idle for too long"))),
            () = closing.cancelled() => {
                Some(failure(&ApiError::new(Reason::ServiceUnavailable, "the server is stopping")))
            }
        }
    };
    // Whatever still runs there is for nobody.
    drop((reader, writer));
    let Some(status) = ended else { return };
    let told = tokio::select! {
        told = tokio::time::timeout(READ_OUT, to.end(&status)) => matches!(told, Ok(Ok(()))),
        () = closing.cancelled() => false,
    };
    if told {
        let hung_up = async { while from.next().await.is_some() {} };
        tokio::time::timeout(HANG_UP, hung_up).await.ok();
    }
}

async fn upward(from: &mut impl FromClient, writer: &SessionWriter, idle: &Idle) -> Gone {
    let mut waiting = Waiting::default();
    let mut takes = true;
    loop {
        tokio::select! {
            biased;
            sent = waiting.send_first(writer), if takes && !waiting.is_empty() => if sent.is_ok() {
                waiting.was_sent();
            } else {
                // What became of the session is said the other way; until then only a client that leaves counts.
                takes = false;
                waiting = Waiting::default();
            },
            input = from.next(), if waiting.has_room() => match input {
                Some(input) if takes => {
                    idle.touch();
                    waiting.add(input);
                }
                Some(_) => idle.touch(),
                None => return Gone,
            },
        }
    }
}

/// What a client said and the node was not sent yet, since it does not read: keys typed one by one become one piece, and of
/// sizes the last counts.
#[derive(Default)]
struct Waiting {
    stdin: BytesMut,
    stdin_ends: bool,
    size: Option<Bytes>,
    /// What is being sent, of standard input.
    piece: Bytes,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.stdin.is_empty() && self.piece.is_empty() && !self.stdin_ends && self.size.is_none()
    }

    fn has_room(&self) -> bool {
        self.stdin.len() < WAITING_BYTES_MAX
    }

    fn add(&mut self, input: Input) {
        match input {
            Input::Stdin(bytes) => self.stdin.extend_from_slice(&bytes),
            Input::StdinEnd => self.stdin_ends = true,
            Input::Resize(size) => self.size = Some(size),
        }
    }

    /// Sends what comes first. Safe to drop half-way: then nothing was sent.
    async fn send_first(&mut self, writer: &SessionWriter) -> Result<(), ApiError> {
        if let Some(size) = &self.size {
            return writer.send(RESIZE, size.clone()).await;
        }
        if self.piece.is_empty() {
            self.piece = self.stdin.split_to(self.stdin.len().min(FRAME_BYTES)).freeze();
        }
        if self.piece.is_empty() { writer.close(STDIN).await } else { writer.send(STDIN, self.piece.clone()).await }
    }

    /// What came first has been sent.
    fn was_sent(&mut self) {
        if self.size.take().is_some() {
            return;
        }
        if self.piece.is_empty() {
            self.stdin_ends = false;
        }
        self.piece = Bytes::new();
    }
}

/// How the session ended, as a `Status`.
async fn downward(reader: &mut SessionReader, to: &mut impl ToClient, idle: &Idle) -> Result<Value, Gone> {
    loop {
        let Ok(said) = tokio::time::timeout(HEARTBEAT, reader.next()).await else {
            to.heartbeat().await?;
            continue;
        };
        match said {
            Ok(Said::Channel(frame)) if matches!(frame.channel, STDOUT | STDERR) => {
                idle.touch();
                if !frame.data.is_empty() {
                    to.output(frame.channel, frame.data).await?;
                }
            }
            Ok(Said::Channel(_)) => {}
            Ok(Said::End(status)) => return Ok(end_status(&status)),
            Ok(Said::Data(_)) => return Ok(failure(&ApiError::internal("the node sent something else than output"))),
            Err(error) => return Ok(failure(&error)),
        }
    }
}

/// The `Status` that a node's session ended with.
pub(super) fn end_status(status: &[u8]) -> Value {
    if status.is_empty() {
        return json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    }
    let status = serde_json::from_slice::<Value>(status).ok().filter(Value::is_object);
    status.unwrap_or_else(|| failure(&ApiError::internal("the node ended the session and did not say how")))
}

fn failure(error: &ApiError) -> Value {
    error.to_status()
}
