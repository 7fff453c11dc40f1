//! Port-forward over SPDY: a pair of streams (`data` and `error`, with one `requestid`) for each connection, which gets
//! a session of its own on the node's link.

use super::{
    Gone, IDLE_MAX, Idle,
    bridge::end_status,
    spdy::{Connection, Stream, StreamReader, StreamWriter},
};
use crate::nodelink::{NodeLinks, Said, Session, SessionReader, SessionWriter};
use bytes::Bytes;
use coracle_objects::ApiError;
use coracle_wire::v1::{PortForwardRequest, open_session::Purpose};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// Connections forwarded at a time through one connection of a client.
const FORWARDS_MAX: usize = 100;
/// How long the second stream of a pair may take.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to be told that a stream is refused, or that all is over, before it is left.
const FAREWELL: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(30) };
/// A connection that the pod has closed for its part is over when its client has sent nothing for so long.
const QUIET: Duration = Duration::from_millis(200);
/// Half pairs that wait at a time.
const HALF_PAIRS_MAX: usize = 2 * FORWARDS_MAX;
/// The one channel of a forwarded connection.
const CHANNEL: u32 = 0;

/// Opens connections to one pod.
#[derive(Clone)]
pub(crate) struct Opener {
    pub(crate) links: Arc<NodeLinks>,
    pub(crate) node: String,
    /// For every connection, but for its port.
    pub(crate) request: PortForwardRequest,
}

impl Opener {
    /// A session with `port` of the pod.
    pub(super) async fn open(&self, port: u16) -> Result<Session, ApiError> {
        let request = PortForwardRequest { port: u32::from(port), ..self.request.clone() };
        self.links.open_session(&self.node, Purpose::PortForward(request)).await
    }

    /// What kubelet says when it cannot. A node says it like that by itself.
    pub(super) fn failure(&self, port: u16, error: &str) -> String {
        if error.starts_with("error forwarding port") {
            return error.to_owned();
        }
        let PortForwardRequest { pod, pod_uid, .. } = &self.request;
        format!("error forwarding port {port} to pod {pod}, uid {pod_uid}: {error}")
    }
}

/// A pair of streams, as far as it has come.
struct HalfPair {
    since: Instant,
    stream: Stream,
    is_error: bool,
}

/// Serves a client until it goes away, or is idle for too long.
pub(super) async fn serve(mut connection: Connection, opener: Opener, closing: &CancellationToken) {
    let mut halves: HashMap<String, HalfPair> = HashMap::new();
    let mut running = JoinSet::new();
    let idle = Arc::new(Idle::new());
    let mut check = tokio::time::interval(PAIR_TIMEOUT / 3);
    loop {
        let stream = tokio::select! {
            stream = connection.accept() => stream,
            Some(_) = running.join_next() => continue,
            _ = check.tick() => {
                // Dropping streams is all that can be done for a client that opened only one of two.
                halves.retain(|_, half| half.since.elapsed() < PAIR_TIMEOUT);
                continue;
            }
            () = idle.expired() => {
                tracing::info!(idle = ?IDLE_MAX, "a port-forward was idle for too long");
                None
            }
            () = closing.cancelled() => None,
        };
        let Some(stream) = stream else { break };
        idle.touch();
        let is_error = match stream.headers.get("streamtype") {
            "error" => true,
            "data" => false,
            _ if refused(&stream).await => continue,
            _ => break,
        };
        let id = stream.headers.get("requestid").to_owned();
        let (data, error) = match halves.remove(&id) {
            Some(other) if other.is_error != is_error => {
                if is_error {
                    (other.stream, stream)
                } else {
                    (stream, other.stream)
                }
            }
            other => {
                if other.is_none() && halves.len() < HALF_PAIRS_MAX {
                    halves.insert(id, HalfPair { since: Instant::now(), stream, is_error });
                } else if !refused(&stream).await {
                    break;
                }
                continue;
            }
        };
        let (opener, idle) = (opener.clone(), Arc::clone(&idle));
        let is_over = running.len() >= FORWARDS_MAX;
        running.spawn(async move { pair(data, error, &opener, &idle, is_over).await });
    }
    running.shutdown().await;
    let farewell = async {
        connection.finisher().finish().await;
        connection.closed().cancelled().await;
    };
    // Who reads nothing does not hear it either; the connection is broken off.
    timeout(FAREWELL, farewell).await.ok();
}

/// Gives a stream up; false when the client takes no answer.
async fn refused(stream: &Stream) -> bool {
    timeout(FAREWELL, stream.writer.refuse()).await.is_ok()
}

/// One forwarded connection, from its opening to its end.
async fn pair(data: Stream, error: Stream, opener: &Opener, idle: &Idle, is_over: bool) {
    let Ok(port) = data.headers.get("port").parse::<u16>() else {
        error.writer.send(Bytes::from_static(b"the header \"port\" is no port")).await.ok();
        return finish(&data.writer, &error.writer).await;
    };
    let forwarded = tokio::select! {
        forwarded = async {
            if is_over {
                let message = format!("{FORWARDS_MAX} connections are forwarded already; end one and try again");
                return Err(ApiError::bad_request(message));
            }
            join(opener.open(port).await?, data.reader, &data.writer, idle).await
        } => forwarded,
        // The client has done with it: newer kubectls say so as soon as the pod has closed its part, and then wait for
        // the end of the errors.
        () = data.writer.is_reset() => Ok(()),
    };
    if let Err(failure) = forwarded {
        let text = opener.failure(port, &failure.message);
        error.writer.send(text.into()).await.ok();
    }
    finish(&data.writer, &error.writer).await;
}

async fn finish(data: &StreamWriter, error: &StreamWriter) {
    data.finish().await.ok();
    error.finish().await.ok();
}

/// Carries bytes both ways until the node ends the session, the client has gone, or nothing can be expected any more.
async fn join(session: Session, mut from: StreamReader, to: &StreamWriter, idle: &Idle) -> Result<(), ApiError> {
    let (mut reader, writer) = session.split();
    let input = Input::new();
    let upward = async {
        while let Some(bytes) = from.next().await {
            idle.touch();
            input.touch();
            if writer.send(CHANNEL, bytes).await.is_err() {
                break;
            }
        }
        writer.close(CHANNEL).await.ok();
        // The other direction ends the session.
        std::future::pending().await
    };
    tokio::select! {
        ended = downward(&mut reader, to, idle, &input) => ended,
        never = upward => never,
    }
}

/// When the client has sent something last.
struct Input(Mutex<Instant>);

impl Input {
    fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn touch(&self) {
        *self.0.lock() = Instant::now();
    }

    /// Waits until the client has sent nothing for a while.
    async fn quiet(&self) {
        loop {
            let until = *self.0.lock() + QUIET;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

async fn downward(reader: &mut SessionReader, to: &StreamWriter, idle: &Idle, input: &Input) -> Result<(), ApiError> {
    let mut is_closed = false;
    loop {
        let said = tokio::select! {
            biased;
            said = said(reader) => said?,
            // kubectl hangs up only when it is told that the connection is over, and it is not told who closed what.
            () = input.quiet(), if is_closed => return Ok(()),
        };
        let Some((bytes, close)) = said else { return Ok(()) };
        idle.touch();
        if to.send(bytes).await == Err(Gone) || (close && to.finish().await == Err(Gone)) {
            return Ok(());
        }
        if close {
            is_closed = true;
            input.touch();
        }
    }
}

/// What the pod says next on a forwarded connection, and whether it says no more; `None` at the end.
pub(super) async fn said(reader: &mut SessionReader) -> Result<Option<(Bytes, bool)>, ApiError> {
    match reader.next().await? {
        Said::Channel(frame) => Ok(Some((frame.data, frame.close))),
        Said::End(status) => {
            let status = end_status(&status);
            if status["status"] == "Success" { Ok(None) } else { Err(ApiError::from_status(&status)) }
        }
        Said::Data(_) => Err(ApiError::internal("the node sent something else than a connection's bytes")),
    }
}

/// As [`SessionWriter::send`] on the one channel.
pub(super) async fn send(writer: &SessionWriter, bytes: Bytes) -> Result<(), ApiError> {
    writer.send(CHANNEL, bytes).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::spdy::client::Client;
    use tokio::io::{AsyncWriteExt as _, duplex, split};

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_left() {
        let links = NodeLinks::new(CancellationToken::new());
        let opener = Opener { links, node: "n".to_owned(), request: PortForwardRequest::default() };
        for streams in [0, 40] {
            let (near, mut far) = duplex(64);
            let (reader, writer) = split(near);
            let (opener, closing) = (opener.clone(), CancellationToken::new());
            let stop = closing.clone();
            let serving = tokio::spawn(async move { serve(Connection::start(reader, writer), opener, &closing).await });
            let mut frames = Client::new();
            // Each is answered by a refusal, until there is no room for more.
            for number in 0..streams {
                let frame = frames.open(2 * number + 1, [("streamtype", "odd")], false);
                if timeout(FAREWELL, far.write_all(&frame)).await.is_err() {
                    break;
                }
            }
            stop.cancel();
            timeout(Duration::from_mins(1), serving).await.expect("it ends").unwrap();
        }
    }
}
