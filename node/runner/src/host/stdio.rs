//! A guest's standard output and standard error.
//!
//! Output becomes `Log` frames. A stream holds at most one frame that found its lane full; until that has moved on, the
//! guest gets no permit to write more, so what is buffered per stream is bounded by [`MAX_CHUNK_BYTES`].

use crate::protocol::{FromRunner, LogStream, RunId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::AsyncWrite,
    sync::mpsc::{self, error::TrySendError},
};
use tokio_util::sync::PollSender;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

/// Most bytes that a guest writes at once, and thus in one frame.
pub(crate) const MAX_CHUNK_BYTES: usize = 16 << 10;

/// Standard output or standard error of one run, shared by all handles that the guest has on it.
#[derive(Debug, Clone)]
pub(crate) struct Output(Arc<Pipe>);

#[derive(Debug)]
struct Pipe {
    run: RunId,
    stream: LogStream,
    lane: mpsc::Sender<FromRunner>,
    /// The frame that found the lane full.
    waiting: Mutex<Option<FromRunner>>,
}

impl Output {
    pub(crate) fn new(run: RunId, stream: LogStream, lane: mpsc::Sender<FromRunner>) -> Self {
        Self(Arc::new(Pipe { run, stream, lane, waiting: Mutex::new(None) }))
    }

    /// Returns when all that was written is in the lane.
    pub(crate) async fn drained(&self) {
        if self.0.waiting.lock().is_none() {
            return;
        }
        // The frame stays where it is while this waits, so that a caller who gives up loses nothing.
        if let Ok(permit) = self.0.lane.reserve().await
            && let Some(frame) = self.0.waiting.lock().take()
        {
            permit.send(frame);
        }
    }

    fn frame(&self, bytes: Vec<u8>) -> FromRunner {
        FromRunner::Log { run: self.0.run.clone(), stream: self.0.stream, bytes }
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut waiting = self.0.waiting.lock();
        if waiting.is_some() || bytes.len() > MAX_CHUNK_BYTES {
            return Err(StreamError::trap("wrote more than was permitted"));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        match self.0.lane.try_send(self.frame(bytes.into())) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(frame)) => {
                *waiting = Some(frame);
                Ok(())
            }
            Err(TrySendError::Closed(_)) => Err(StreamError::Closed),
        }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(if self.0.waiting.lock().is_some() { 0 } else { MAX_CHUNK_BYTES })
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        self.drained().await;
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(AsyncOutput { output: self.clone(), lane: PollSender::new(self.0.lane.clone()) })
    }
}

/// The same stream for hosts that want tokio's traits.
struct AsyncOutput {
    output: Output,
    lane: PollSender<FromRunner>,
}

impl AsyncWrite for AsyncOutput {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let chunk = &bytes[..bytes.len().min(MAX_CHUNK_BYTES)];
        ready!(self.lane.poll_reserve(context)).map_err(io::Error::other)?;
        let frame = self.output.frame(chunk.to_vec());
        self.lane.send_item(frame).map_err(io::Error::other)?;
        Poll::Ready(Ok(chunk.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;
    use tokio::io::AsyncWriteExt;

    fn text(frame: Option<FromRunner>) -> String {
        match frame {
            Some(FromRunner::Log { bytes, .. }) => String::from_utf8(bytes).unwrap(),
            other => panic!("not a log: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_full_lane_makes_the_writer_wait_and_keeps_the_order() {
        let (lane, mut receiver) = mpsc::channel(1);
        let mut output = Output::new(RunId("r".into()), LogStream::Stdout, lane);
        output.write("one".into()).unwrap();
        assert_eq!(output.check_write().unwrap(), MAX_CHUNK_BYTES);
        output.write("two".into()).unwrap();
        assert_eq!(output.check_write().unwrap(), 0, "no permit while a frame waits");
        assert!(matches!(output.write("three".into()), Err(StreamError::Trap(_))));
        assert!(poll!(output.ready()).is_pending(), "and giving up this wait loses nothing");

        assert_eq!(text(receiver.recv().await), "one");
        output.ready().await;
        assert_eq!(output.check_write().unwrap(), MAX_CHUNK_BYTES);
        assert_eq!(text(receiver.recv().await), "two");
    }

    #[test]
    fn a_write_beyond_the_permit_is_a_trap() {
        let (lane, _receiver) = mpsc::channel(1);
        let mut output = Output::new(RunId("r".into()), LogStream::Stderr, lane);
        assert!(matches!(output.write(vec![0; MAX_CHUNK_BYTES + 1].into()), Err(StreamError::Trap(_))));
    }

    #[tokio::test]
    async fn the_other_traits_say_the_same() {
        let (lane, mut receiver) = mpsc::channel(1);
        let output = Output::new(RunId("r".into()), LogStream::Stdout, lane);
        Pin::from(output.async_stream()).write_all(b"hello").await.unwrap();
        assert_eq!(text(receiver.recv().await), "hello");
    }
}
