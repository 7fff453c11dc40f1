//! Sessions with pods: commands in containers, attaching, one forwarded connection each.

use crate::connection::{CallError, Connection};
use bytes::Bytes;
use coracle_objects::ApiError;
use coracle_wire::v1::{self, ChannelFrame, SessionInput, SessionOutput, session_input::Input, session_output::Output};
pub use coracle_wire::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

/// Standard input, and both directions of a forwarded connection.
pub const INPUT: u32 = 0;
/// Standard output.
pub const STDOUT: u32 = 1;
/// Standard error.
pub const STDERR: u32 = 2;

/// The terminal's size, as JSON.
pub const RESIZE: u32 = 4;

/// Frames that wait for the server to read them.
const QUEUE: usize = 4;
/// Most bytes in one of them.
const FRAME_BYTES: usize = 32 * 1024;

/// What comes from the other end. Not reading it holds the other end back; dropping it ends the session.
pub struct SessionReader {
    connection: Connection,
    from_server: Streaming<SessionOutput>,
}

/// What goes to the other end; waits while nobody reads it there. Dropping it is the end of input.
#[derive(Clone)]
pub struct SessionWriter {
    to_server: mpsc::Sender<SessionInput>,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Bytes of a channel.
    Data(u32, Bytes),
    /// Nothing more comes on this channel.
    Closed(u32),
    /// The session is over.
    Ended(Outcome),
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// As it should; a command with exit code 0.
    Success,
    /// The command ended with this code.
    Exited(i32),
    /// It did not work.
    Failed(ApiError),
}

type Answer = Result<Response<Streaming<SessionOutput>>, Status>;

impl Connection {
    /// Runs a command in a container.
    ///
    /// # Errors
    /// When it is refused, or the cluster cannot be reached.
    pub async fn exec(&self, request: ExecRequest) -> Result<(SessionReader, SessionWriter), CallError> {
        let (writer, input) = begin(Input::Exec(request));
        let answer = self.sessions().exec(input).await;
        self.begun(answer, writer)
    }

    /// Attaches to a container.
    ///
    /// # Errors
    /// As [`Self::exec`].
    pub async fn attach(&self, request: AttachRequest) -> Result<(SessionReader, SessionWriter), CallError> {
        let (writer, input) = begin(Input::Attach(request));
        let answer = self.sessions().attach(input).await;
        self.begun(answer, writer)
    }

    /// Opens one connection to a port of a pod.
    ///
    /// # Errors
    /// As [`Self::exec`].
    pub async fn port_forward(&self, request: PortForwardRequest) -> Result<(SessionReader, SessionWriter), CallError> {
        let (writer, input) = begin(Input::PortForward(request));
        let answer = self.sessions().port_forward(input).await;
        self.begun(answer, writer)
    }

    fn begun(&self, answer: Answer, writer: SessionWriter) -> Result<(SessionReader, SessionWriter), CallError> {
        let from_server = answer.map_err(|status| self.refused(&status))?.into_inner();
        Ok((SessionReader { connection: self.clone(), from_server }, writer))
    }
}

fn begin(first: Input) -> (SessionWriter, ReceiverStream<SessionInput>) {
    let (to_server, input) = mpsc::channel(QUEUE);
    // There is room: it is the first.
    let _ = to_server.try_send(SessionInput { input: Some(first) });
    (SessionWriter { to_server }, ReceiverStream::new(input))
}

impl SessionReader {
    /// What comes next; an end without `Ended` is an error.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Event, CallError> {
        loop {
            let message = self.from_server.message().await.map_err(|status| self.connection.refused(&status))?;
            return Ok(match message.map(|message| message.output) {
                Some(Some(Output::Channel(ChannelFrame { channel, data, close: _ }))) if !data.is_empty() => {
                    Event::Data(channel, data)
                }
                Some(Some(Output::Channel(ChannelFrame { channel, close: true, .. }))) => Event::Closed(channel),
                Some(Some(Output::Channel(_))) => continue,
                Some(Some(Output::End(end))) => Event::Ended(outcome(&end)),
                Some(None) | None => {
                    return Err(CallError::Refused(ApiError::internal("the session broke off without an end")));
                }
            });
        }
    }
}

impl SessionWriter {
    /// Sends bytes of a channel; false when the session is over.
    pub async fn send(&self, channel: u32, mut data: Bytes) -> bool {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(FRAME_BYTES));
            if !self.frame(ChannelFrame { channel, data: piece, close: false }).await {
                return false;
            }
        }
        true
    }

    /// Says that nothing more comes on a channel.
    pub async fn close(&self, channel: u32) -> bool {
        self.frame(ChannelFrame { channel, data: Bytes::new(), close: true }).await
    }

    async fn frame(&self, frame: ChannelFrame) -> bool {
        self.to_server.send(SessionInput { input: Some(Input::Channel(frame)) }).await.is_ok()
    }
}

fn outcome(end: &v1::SessionEnd) -> Outcome {
    if end.status.is_empty() {
        return Outcome::Success;
    }
    let Ok(status) = serde_json::from_slice::<Value>(&end.status) else {
        return Outcome::Failed(ApiError::internal("the session failed and the server did not say why"));
    };
    if status["status"] == "Success" {
        return Outcome::Success;
    }
    let mut causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code = causes.find(|cause| cause["reason"] == "ExitCode").and_then(|cause| cause["message"].as_str());
    match code.and_then(|code| code.parse().ok()) {
        Some(code) if status["reason"] == "NonZeroExitCode" => Outcome::Exited(code),
        _ => Outcome::Failed(ApiError::from_status(&status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_end_says_how_it_went() {
        let end = |status: Value| outcome(&v1::SessionEnd { status: status.to_string().into() });
        assert_eq!(outcome(&v1::SessionEnd::default()), Outcome::Success);
        assert_eq!(end(json!({"status": "Success"})), Outcome::Success);
        let causes = json!([{"reason": "ExitCode", "message": "3"}]);
        let exited = json!({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}});
        assert_eq!(end(exited), Outcome::Exited(3));
        let failed = ApiError::bad_request("no such thing");
        assert_eq!(end(failed.to_status()), Outcome::Failed(failed));
    }
}
