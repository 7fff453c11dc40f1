//! `coracle.v1.PodSessions`: commands in containers, attaching and port-forward for clients that speak gRPC.
//!
//! A call's two directions are pumped by one task, which holds one message of each at a time: whoever does not read
//! holds the other side back, and whoever goes away ends the session.

use super::{Shared, answered, refusal};
use crate::{
    auth::Authenticator,
    door::Door,
    nodelink::{Said, Session, SessionReader, SessionWriter},
    sessions::{self, Wanted},
};
use coracle_objects::{ApiError, Reason};
use coracle_wire::v1::{
    SessionEnd, SessionInput, SessionOutput,
    pod_sessions_server::{PodSessions, PodSessionsServer},
    session_input::Input,
    session_output::Output,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, async_trait};

/// How long a call may take to say what it wants.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest message of a client: its input in pieces, or a command line.
const MESSAGE_BYTES: usize = 256 * 1024;
/// Messages to a client that wait for it to read them.
const OUTPUT_QUEUE: usize = 4;
/// Standard input, and both directions of a forwarded connection.
const INPUT_CHANNEL: u32 = 0;

/// The service, to be added to a router.
pub fn service(door: Arc<Door>, authenticator: Arc<Authenticator>) -> PodSessionsServer<SessionService> {
    let service = SessionService { shared: Shared { door, authenticator } };
    PodSessionsServer::new(service).max_decoding_message_size(MESSAGE_BYTES)
}

/// Opens sessions through the door.
#[derive(Clone)]
pub struct SessionService {
    shared: Shared,
}

type Answers = ReceiverStream<Result<SessionOutput, Status>>;

impl SessionService {
    /// `choose` takes the first message if it is the one that belongs to the call.
    async fn serve(
        &self,
        request: Request<Streaming<SessionInput>>,
        choose: fn(Input) -> Option<Wanted>,
    ) -> Result<Response<Answers>, Status> {
        answered(async {
            let identity = self.shared.identity(&request)?;
            let mut input = request.into_inner();
            let first = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, input.message()).await;
            let first = first.map_err(|_| ApiError::new(Reason::Timeout, "the call does not say what it wants"))?;
            let first = first.map_err(|status| ApiError::bad_request(status.message().to_owned()))?;
            let wanted = first.and_then(|message| message.input).and_then(choose);
            let wanted =
                wanted.ok_or_else(|| ApiError::bad_request("the first message of a call says what is wanted"))?;
            let session = sessions::open(&self.shared.door, &identity, "create", wanted).await?;
            let (sender, answers) = mpsc::channel(OUTPUT_QUEUE);
            tokio::spawn(pump(session, input, sender, self.shared.door.closing().clone()));
            Ok(ReceiverStream::new(answers))
        })
        .await
    }
}

#[async_trait]
impl PodSessions for SessionService {
    type ExecStream = Answers;
    type AttachStream = Answers;
    type PortForwardStream = Answers;

    async fn exec(&self, request: Request<Streaming<SessionInput>>) -> Result<Response<Answers>, Status> {
        self.serve(request, |input| match input {
            Input::Exec(exec) => Some(Wanted::Exec(exec)),
            _ => None,
        })
        .await
    }

    async fn attach(&self, request: Request<Streaming<SessionInput>>) -> Result<Response<Answers>, Status> {
        self.serve(request, |input| match input {
            Input::Attach(attach) => Some(Wanted::Attach(attach)),
            _ => None,
        })
        .await
    }

    async fn port_forward(&self, request: Request<Streaming<SessionInput>>) -> Result<Response<Answers>, Status> {
        self.serve(request, |input| match input {
            Input::PortForward(forward) => Some(Wanted::PortForward(forward)),
            _ => None,
        })
        .await
    }
}

/// Carries a session until it ends, its user goes away, or the server stops.
async fn pump(
    session: Session,
    input: Streaming<SessionInput>,
    answers: mpsc::Sender<Result<SessionOutput, Status>>,
    closing: CancellationToken,
) {
    let (reader, writer) = session.split();
    let outcome = tokio::select! {
        outcome = pump_out(reader, &answers) => outcome,
        error = pump_in(input, &writer) => Err(error),
        () = answers.closed() => return,
        () = closing.cancelled() => Err(ApiError::new(Reason::ServiceUnavailable, "the server is shutting down")),
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a session ended early");
        // Fails when the user has gone, and then there is nobody to tell.
        answers.send(Err(refusal::status(&error))).await.ok();
    }
}

/// Ends with the session, or when nobody reads its output any more.
async fn pump_out(
    mut reader: SessionReader,
    answers: &mpsc::Sender<Result<SessionOutput, Status>>,
) -> Result<(), ApiError> {
    loop {
        let (output, last) = match reader.next().await? {
            Said::Channel(frame) => (Output::Channel(frame), false),
            Said::End(status) => (Output::End(SessionEnd { status }), true),
            Said::Data(_) => return Err(ApiError::internal("the node sent a log where there is none")),
        };
        let sent = answers.send(Ok(SessionOutput { output: Some(output) })).await;
        if last || sent.is_err() {
            return Ok(());
        }
    }
}

/// Never ends well: a user whose input is over waits for the output.
async fn pump_in(mut input: Streaming<SessionInput>, writer: &SessionWriter) -> ApiError {
    loop {
        let sent = match input.message().await {
            Ok(Some(SessionInput { input: Some(Input::Channel(frame)) })) => {
                let sent = writer.send(frame.channel, frame.data).await;
                if frame.close && sent.is_ok() { writer.close(frame.channel).await } else { sent }
            }
            Ok(Some(_)) => return ApiError::bad_request("only channel frames follow the first message"),
            Ok(None) => match writer.close(INPUT_CHANNEL).await {
                Ok(()) => std::future::pending().await,
                failed => failed,
            },
            Err(status) => return ApiError::bad_request(status.message().to_owned()),
        };
        if sent.is_err() {
            // The session's end, which is on its way, says why.
            std::future::pending::<()>().await;
        }
    }
}
