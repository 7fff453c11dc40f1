//! An open session as its user holds it: two halves, of which dropping either ends the node's call.

use super::links::lost;
use bytes::Bytes;
use coracle_objects::ApiError;
use coracle_wire::v1::{ChannelFrame, SessionFrame, session_frame::Frame};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// Most bytes in one frame to a node: with the queue it bounds what one session holds here.
pub(crate) const FRAME_BYTES: usize = 32 * 1024;

/// What a node's Session call brings.
pub(super) struct Opened {
    pub(super) from_node: Streaming<SessionFrame>,
    pub(super) to_node: mpsc::Sender<Result<SessionFrame, Status>>,
}

/// An open session.
pub struct Session {
    reader: SessionReader,
    writer: SessionWriter,
}

/// What both halves share.
struct Line {
    node: String,
    /// The node's control stream has ended.
    ended: CancellationToken,
    /// One of the halves was dropped.
    gone: CancellationToken,
    to_node: Mutex<Option<mpsc::Sender<Result<SessionFrame, Status>>>>,
    _permit: OwnedSemaphorePermit,
}

impl Line {
    /// Ends the answer to the node, by which it knows that nobody wants the session any more.
    fn close(&self) {
        self.gone.cancel();
        self.to_node.lock().take();
    }
}

/// What comes from the node. Not reading it holds the node back.
pub struct SessionReader {
    line: Arc<Line>,
    from_node: Streaming<SessionFrame>,
}

/// What goes to the node. Waits while the node does not read.
pub struct SessionWriter {
    line: Arc<Line>,
}

impl Drop for SessionReader {
    fn drop(&mut self) {
        self.line.close();
    }
}

impl Drop for SessionWriter {
    fn drop(&mut self) {
        self.line.close();
    }
}

/// What a node says in a session, behind the frame that names it.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// Bytes of a log or a summary.
    Data(Bytes),
    /// Bytes of one channel, or its end.
    Channel(ChannelFrame),
    /// The session's end: empty, or a Kubernetes `Status` as JSON. Nothing follows.
    End(Bytes),
}

impl Session {
    pub(super) fn new(node: &str, opened: Opened, ended: CancellationToken, permit: OwnedSemaphorePermit) -> Self {
        let line = Arc::new(Line {
            node: node.to_owned(),
            ended,
            gone: CancellationToken::new(),
            to_node: Mutex::new(Some(opened.to_node)),
            _permit: permit,
        });
        Self {
            reader: SessionReader { line: Arc::clone(&line), from_node: opened.from_node },
            writer: SessionWriter { line },
        }
    }

    /// Both directions, for tasks of their own. The session ends when either is dropped: the end of input is a frame
    /// with `close` set, and the writer is kept.
    #[must_use]
    pub fn split(self) -> (SessionReader, SessionWriter) {
        (self.reader, self.writer)
    }

    /// See [`SessionReader::next`].
    ///
    /// # Errors
    /// As there.
    pub async fn next(&mut self) -> Result<Said, ApiError> {
        self.reader.next().await
    }
}

impl SessionReader {
    /// What the node says next. Safe to drop half-way: nothing is taken from the session before it is returned.
    ///
    /// # Errors
    /// 503 when the connection to the node is gone, 500 when the node sends what makes no sense.
    pub async fn next(&mut self) -> Result<Said, ApiError> {
        let message = tokio::select! {
            biased;
            message = self.from_node.message() => message,
            () = self.line.ended.cancelled() => return Err(lost(&self.line.node)),
        };
        match message {
            Ok(Some(SessionFrame { frame: Some(Frame::Data(bytes)) })) => Ok(Said::Data(bytes)),
            Ok(Some(SessionFrame { frame: Some(Frame::End(end)) })) => Ok(Said::End(end.status)),
            Ok(Some(frame)) => frame.into_channel().map(Said::Channel).ok_or_else(|| {
                ApiError::internal(format!("node \"{}\" sent a frame that makes no sense", self.line.node))
            }),
            Ok(None) | Err(_) => Err(lost(&self.line.node)),
        }
    }
}

impl SessionWriter {
    /// Sends bytes of a channel, in frames of bounded size.
    ///
    /// # Errors
    /// 503 when the connection to the node is gone or the session has ended.
    pub async fn send(&self, channel: u32, mut data: Bytes) -> Result<(), ApiError> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(FRAME_BYTES));
            self.frame(ChannelFrame { channel, data: piece, close: false }).await?;
        }
        Ok(())
    }

    /// Says that nothing more is sent on a channel.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn close(&self, channel: u32) -> Result<(), ApiError> {
        self.frame(ChannelFrame { channel, data: Bytes::new(), close: true }).await
    }

    async fn frame(&self, frame: ChannelFrame) -> Result<(), ApiError> {
        let frame = SessionFrame::of_channel(frame);
        let line = &self.line;
        let to_node = line.to_node.lock().clone().ok_or_else(|| lost(&line.node))?;
        tokio::select! {
            // A session that is over takes nothing, also when there is room.
            biased;
            () = line.ended.cancelled() => Err(lost(&line.node)),
            () = line.gone.cancelled() => Err(lost(&line.node)),
            sent = to_node.send(Ok(frame)) => sent.map_err(|_| lost(&line.node)),
        }
    }
}
