//! One connection: a task reads frames and hands bytes to streams, another writes what streams say.
//!
//! Every queue is bounded, and a stream that is not read stops the reading task. What only answers the client (pings,
//! windows, refusals) is never waited for, so that a client which floods and does not read stops nobody but itself.

use super::{
    frame::{Decoder, Encoder, Frame, FrameError, GoAwayStatus, Reply, ResetStatus},
    headers::Headers,
};
use crate::sessions::Gone;
use bytes::{Bytes, BytesMut};
use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

/// Streams open at a time on one connection: two for each forwarded connection.
const STREAMS_MAX: usize = 512;
/// Streams that wait to be looked at.
const ACCEPT_QUEUE: usize = 64;
/// Pieces of a stream's bytes that wait to be read.
const STREAM_QUEUE: usize = 4;
/// Frames that wait to be written.
const REPLY_QUEUE: usize = 8;
/// Answers that wait to be written; more are dropped.
const URGENT_QUEUE: usize = 64;
/// What is read from the socket at a time.
const READ_BYTES: usize = 32 * 1024;
/// Most payload of a frame that is written.
const DATA_BYTES: usize = 32 * 1024;
/// Frames are written together up to about this size.
const WRITE_BYTES: usize = 64 * 1024;
/// Windows are given back in steps of this size: half of what a client begins with.
const WINDOW_STEP_BYTES: u32 = 32 * 1024;
/// How often the client is pinged: keeps whatever is between awake, and finds out when nobody is there any more.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// A connection that serves a client. Dropping it breaks it off.
pub(in super::super) struct Connection {
    accepted: mpsc::Receiver<Stream>,
    replies: mpsc::Sender<Queued>,
    closed: CancellationToken,
    _tasks: JoinSet<()>,
}

/// A stream that the client has opened.
pub(in super::super) struct Stream {
    pub(in super::super) headers: Headers,
    pub(in super::super) reader: StreamReader,
    pub(in super::super) writer: StreamWriter,
}

/// What the client says on a stream.
pub(in super::super) struct StreamReader {
    bytes: mpsc::Receiver<Bytes>,
    /// As long as somebody holds it, the stream is known.
    _line: Arc<Line>,
}

/// What the client is told on a stream.
pub(in super::super) struct StreamWriter {
    stream: u32,
    replies: mpsc::Sender<Queued>,
    line: Arc<Line>,
}

/// A stream as both its owner and the reading task see it.
struct Line {
    /// The client has given the stream up.
    reset: CancellationToken,
}

enum Queued {
    Reply(Reply),
    /// The last: the connection is over.
    Finish(GoAwayStatus),
}

#[derive(Debug, Error)]
enum ReadError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the connection broke")]
    Io(#[from] io::Error),
}

impl Connection {
    /// Begins to serve. Nothing that the client does makes it fail; a client that breaks the rules is a client that
    /// has gone.
    pub(in super::super) fn start<R, W>(reader: R, writer: W) -> Self
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (accept, accepted) = mpsc::channel(ACCEPT_QUEUE);
        let (replies, queued) = mpsc::channel(REPLY_QUEUE);
        let (urgent, urgently) = mpsc::channel(URGENT_QUEUE);
        let closed = CancellationToken::new();
        let last = Arc::new(AtomicU32::new(0));
        let mut reading = Reading {
            accept,
            replies: replies.clone(),
            urgent,
            last: Arc::clone(&last),
            streams: HashMap::new(),
            window: 0,
            gone_away: false,
        };
        let mut tasks = JoinSet::new();
        let ended = closed.clone();
        let refusals = replies.clone();
        tasks.spawn(async move {
            if let Err(error) = reading.run(reader).await {
                tracing::debug!(%error, "a SPDY connection ended");
                refusals.try_send(Queued::Finish(GoAwayStatus::ProtocolError)).ok();
            }
            // Before the streams are dropped: whoever waits on one must not take this for its orderly end.
            ended.cancel();
            drop(reading);
        });
        let ended = closed.clone();
        tasks.spawn(async move {
            if let Err(error) = write(writer, urgently, queued, &last).await {
                tracing::debug!(%error, "a SPDY connection cannot be written to");
                ended.cancel();
            }
        });
        Self { accepted, replies, closed, _tasks: tasks }
    }

    /// The next stream that the client opens; `None` when it opens no more. Safe to drop half-way.
    pub(in super::super) async fn accept(&mut self) -> Option<Stream> {
        let place = self.replies.reserve().await.ok()?;
        let stream = self.accepted.recv().await?;
        place.send(Queued::Reply(Reply::Accept { stream: stream.writer.stream }));
        Some(stream)
    }

    /// Cancelled when the client has gone.
    pub(in super::super) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// For who ends the connection and does not hold it.
    pub(in super::super) fn finisher(&self) -> Finisher {
        Finisher { replies: self.replies.clone(), closed: self.closed.clone() }
    }
}

/// Ends a connection in good order.
pub(in super::super) struct Finisher {
    replies: mpsc::Sender<Queued>,
    closed: CancellationToken,
}

impl Finisher {
    /// Says that this is the end, behind everything that was said before. The client is expected to hang up then.
    pub(in super::super) async fn finish(&self) {
        tokio::select! {
            sent = self.replies.send(Queued::Finish(GoAwayStatus::Ok)) => drop(sent),
            () = self.closed.cancelled() => {}
        }
    }
}

impl StreamReader {
    /// What the client says next; `None` at the end, and when the stream or the connection is gone. Safe to drop
    /// half-way.
    pub(in super::super) async fn next(&mut self) -> Option<Bytes> {
        self.bytes.recv().await
    }
}

impl StreamWriter {
    /// Sends bytes; waits while the client does not read.
    pub(in super::super) async fn send(&self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(DATA_BYTES));
            self.reply(Reply::Data { stream: self.stream, bytes: piece, fin: false }).await?;
        }
        Ok(())
    }

    /// Says that nothing more is sent.
    pub(in super::super) async fn finish(&self) -> Result<(), Gone> {
        self.reply(Reply::Data { stream: self.stream, bytes: Bytes::new(), fin: true }).await
    }

    /// Ends the stream in both directions.
    pub(in super::super) async fn refuse(&self) -> Result<(), Gone> {
        self.reply(Reply::Reset { stream: self.stream, status: ResetStatus::Refused }).await
    }

    /// Waits until the client gives the stream up.
    pub(in super::super) async fn is_reset(&self) {
        self.line.reset.cancelled().await;
    }

    async fn reply(&self, reply: Reply) -> Result<(), Gone> {
        tokio::select! {
            biased;
            () = self.line.reset.cancelled() => Err(Gone),
            sent = self.replies.send(Queued::Reply(reply)) => sent.map_err(|_| Gone),
        }
    }
}

/// A stream as the reading task holds it.
struct Entry {
    /// `None` when the client has said everything.
    bytes: Option<mpsc::Sender<Bytes>>,
    line: Arc<Line>,
    /// What was read since the window was last given back.
    window: u32,
}

struct Reading {
    accept: mpsc::Sender<Stream>,
    replies: mpsc::Sender<Queued>,
    urgent: mpsc::Sender<Reply>,
    /// The highest stream that was looked at.
    last: Arc<AtomicU32>,
    streams: HashMap<u32, Entry>,
    /// As [`Entry::window`], of all streams together.
    window: u32,
    gone_away: bool,
}

impl Reading {
    async fn run(&mut self, mut reader: impl AsyncRead + Unpin) -> Result<(), ReadError> {
        let (mut decoder, mut buffer) = (Decoder::new(), BytesMut::new());
        loop {
            while let Some(frame) = decoder.decode(&mut buffer)? {
                self.handle(frame).await;
            }
            buffer.reserve(READ_BYTES);
            if reader.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn handle(&mut self, frame: Frame) {
        match frame {
            Frame::SynStream { stream, headers, fin } => self.open(stream, headers, fin),
            Frame::Data { stream, bytes, fin } => self.data(stream, bytes, fin).await,
            Frame::Headers { stream, fin: true } => self.end(stream),
            Frame::Reset { stream } => {
                if let Some(entry) = self.streams.remove(&stream) {
                    entry.line.reset.cancel();
                }
            }
            // Even numbers are answers to ours.
            Frame::Ping(id) if !id.is_multiple_of(2) => self.answer(Reply::Ping(id)),
            Frame::GoAway => self.gone_away = true,
            Frame::Headers { .. } | Frame::Ping(_) | Frame::Other => {}
        }
    }

    fn answer(&self, reply: Reply) {
        // A full queue means that the client floods and does not read.
        self.urgent.try_send(reply).ok();
    }

    fn open(&mut self, stream: u32, headers: Headers, fin: bool) {
        if stream.is_multiple_of(2) || stream <= self.last.load(Ordering::Relaxed) || self.gone_away {
            return self.answer(Reply::Reset { stream, status: ResetStatus::ProtocolError });
        }
        self.last.store(stream, Ordering::Relaxed);
        // Streams that only this task still knows are over.
        self.streams.retain(|_, entry| Arc::strong_count(&entry.line) > 1);
        if self.streams.len() >= STREAMS_MAX {
            return self.answer(Reply::Reset { stream, status: ResetStatus::Refused });
        }
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
        let line = Arc::new(Line { reset: CancellationToken::new() });
        let writer = StreamWriter { stream, replies: self.replies.clone(), line: Arc::clone(&line) };
        let reader = StreamReader { bytes: receiver, _line: Arc::clone(&line) };
        let opened = Stream { headers, reader, writer };
        if self.accept.try_send(opened).is_err() {
            return self.answer(Reply::Reset { stream, status: ResetStatus::Refused });
        }
        self.streams.insert(stream, Entry { bytes: (!fin).then_some(sender), line, window: 0 });
    }

    async fn data(&mut self, stream: u32, bytes: Bytes, fin: bool) {
        let taken = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let Some(entry) = self.streams.get_mut(&stream) else {
            if stream > self.last.load(Ordering::Relaxed) {
                self.answer(Reply::Reset { stream, status: ResetStatus::InvalidStream });
            }
            return self.give_back(0, taken);
        };
        if let Some(sender) = entry.bytes.as_ref().filter(|_| !bytes.is_empty()) {
            // Whoever does not want the bytes has dropped the receiver.
            sender.send(bytes).await.ok();
        }
        if fin {
            entry.bytes = None;
        } else {
            self.give_back(stream, taken);
        }
        self.give_back(0, taken);
    }

    /// Clients with flow control stop sending when nobody gives their windows back.
    fn give_back(&mut self, stream: u32, taken: u32) {
        let window = match self.streams.get_mut(&stream) {
            Some(entry) => &mut entry.window,
            None if stream == 0 => &mut self.window,
            None => return,
        };
        *window = window.saturating_add(taken);
        if *window >= WINDOW_STEP_BYTES {
            let reply = Reply::Window { stream, bytes: *window };
            if self.urgent.try_send(reply).is_ok() {
                *window = 0;
            }
        }
    }

    fn end(&mut self, stream: u32) {
        if let Some(entry) = self.streams.get_mut(&stream) {
            entry.bytes = None;
        }
    }
}

#[derive(Debug, Error)]
enum WriteError {
    #[error("headers cannot be compressed")]
    Compress(#[from] flate2::CompressError),
    #[error("the connection broke")]
    Io(#[from] io::Error),
}

async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut urgent: mpsc::Receiver<Reply>,
    mut queued: mpsc::Receiver<Queued>,
    last: &AtomicU32,
) -> Result<(), WriteError> {
    let (mut encoder, mut buffer) = (Encoder::new()?, BytesMut::new());
    let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ping = 0_u32;
    let mut end = None;
    while end.is_none() {
        let mut next = tokio::select! {
            biased;
            Some(reply) = urgent.recv() => Some(Queued::Reply(reply)),
            next = queued.recv() => Some(next.unwrap_or(Queued::Finish(GoAwayStatus::Ok))),
            _ = pings.tick() => {
                ping = ping.wrapping_add(2);
                Some(Queued::Reply(Reply::Ping(ping)))
            }
        };
        while let Some(queued_next) = next.take() {
            match queued_next {
                Queued::Reply(reply) => encoder.encode(&reply, &mut buffer)?,
                Queued::Finish(status) => {
                    let goaway = Reply::GoAway { last: last.load(Ordering::Relaxed), status };
                    encoder.encode(&goaway, &mut buffer)?;
                    end = Some(status);
                    break;
                }
            }
            if buffer.len() < WRITE_BYTES {
                next = queued.try_recv().ok();
            }
        }
        writer.write_all(&buffer).await?;
        writer.flush().await?;
        buffer.clear();
    }
    writer.shutdown().await?;
    Ok(())
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
