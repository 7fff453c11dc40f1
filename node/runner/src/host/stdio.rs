//! A guest's standard output and standard error.
//!
//! Output becomes `Log` frames. A stream holds at most one frame that found its lane full; until that has moved on, the
//! guest gets no permit to write more, so what is buffered per stream is bounded by [`MAX_CHUNK_BYTES`], and counts as the
//! container's memory. (What is in the lane belongs to nobody: that is of one size for all.) Where somebody waits for the output, all streams of the run together also keep within the [`Credit`] that the agent gives.

use crate::{
    memory::{MemoryAccount, Reservation},
    protocol::{FromRunner, LogStream, OUTPUT_OVERDRAFT_BYTES, OUTPUT_WINDOW_BYTES, RunId},
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::AsyncWrite,
    sync::{
        Notify,
        mpsc::{self, error::TrySendError},
    },
};
use tokio_util::sync::PollSender;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

/// Most bytes that a guest writes at once, and thus in one frame.
pub(crate) const MAX_CHUNK_BYTES: usize = 16 << 10;

/// How much a run may write before somebody has read it.
#[derive(Debug)]
pub(crate) struct Credit {
    /// Below zero when what was permitted on several streams came to more than was left.
    left_bytes: Mutex<i64>,
    given: Notify,
}

impl Credit {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { left_bytes: Mutex::new(OUTPUT_WINDOW_BYTES.into()), given: Notify::new() })
    }

    /// So much was read.
    pub(crate) fn give(&self, bytes: u32) {
        let mut left_bytes = self.left_bytes.lock();
        *left_bytes = (*left_bytes + i64::from(bytes)).min(OUTPUT_WINDOW_BYTES.into());
        drop(left_bytes);
        self.given.notify_waiters();
    }

    fn is_left(&self) -> bool {
        *self.left_bytes.lock() > 0
    }

    /// Whether so much may be written.
    fn take(&self, bytes: usize) -> bool {
        let mut left_bytes = self.left_bytes.lock();
        let rest = *left_bytes - i64::try_from(bytes).unwrap_or(i64::MAX);
        if rest < -i64::from(OUTPUT_OVERDRAFT_BYTES) {
            return false;
        }
        *left_bytes = rest;
        true
    }

    async fn available(&self) {
        loop {
            let mut given = pin!(self.given.notified());
            given.as_mut().enable();
            if self.is_left() {
                return;
            }
            given.await;
        }
    }
}

/// Standard output or standard error of one run, shared by all handles that the guest has on it.
#[derive(Debug, Clone)]
pub(crate) struct Output(Arc<Pipe>);

#[derive(Debug)]
struct Pipe {
    run: RunId,
    stream: LogStream,
    lane: mpsc::Sender<FromRunner>,
    credit: Option<Arc<Credit>>,
    /// What the guest takes it for.
    terminal: bool,
    memory: Arc<MemoryAccount>,
    /// The frame that found the lane full.
    waiting: Mutex<Option<(FromRunner, Reservation)>>,
}

impl Output {
    /// `credit` where somebody waits for the output; what waits is `memory`'s.
    pub(crate) fn new(
        run: RunId,
        stream: LogStream,
        lane: mpsc::Sender<FromRunner>,
        credit: Option<Arc<Credit>>,
        terminal: bool,
        memory: &Arc<MemoryAccount>,
    ) -> Self {
        let memory = Arc::clone(memory);
        Self(Arc::new(Pipe { run, stream, lane, credit, terminal, memory, waiting: Mutex::new(None) }))
    }

    /// Returns when all that was written is in the lane.
    pub(crate) async fn drained(&self) {
        if self.0.waiting.lock().is_none() {
            return;
        }
        // The frame stays where it is while this waits, so that a caller who gives up loses nothing.
        if let Ok(permit) = self.0.lane.reserve().await
            && let Some((frame, _held)) = self.0.waiting.lock().take()
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
        if self.0.credit.as_ref().is_some_and(|credit| !credit.take(bytes.len())) {
            return Err(StreamError::trap("wrote more than was permitted"));
        }
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        match self.0.lane.try_send(self.frame(bytes.into())) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(frame)) => {
                let held = self.0.memory.reserve(length).map_err(|out| StreamError::Trap(out.into()))?;
                *waiting = Some((frame, held));
                Ok(())
            }
            Err(TrySendError::Closed(_)) => Err(StreamError::Closed),
        }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let waits = self.0.waiting.lock().is_some() || self.0.credit.as_ref().is_some_and(|credit| !credit.is_left());
        Ok(if waits { 0 } else { MAX_CHUNK_BYTES })
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        self.drained().await;
        if let Some(credit) = &self.0.credit {
            credit.available().await;
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        self.0.terminal
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        let lane = PollSender::new(self.0.lane.clone());
        Box::new(AsyncOutput { output: self.clone(), lane, waiting: None })
    }
}

/// The same stream for hosts that want tokio's traits.
struct AsyncOutput {
    output: Output,
    lane: PollSender<FromRunner>,
    /// For credit.
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl AsyncWrite for AsyncOutput {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let chunk = &bytes[..bytes.len().min(MAX_CHUNK_BYTES)];
        if let Some(credit) = self.output.0.credit.clone() {
            while !credit.is_left() {
                let credit = Arc::clone(&credit);
                let waiting = self.waiting.get_or_insert_with(|| Box::pin(async move { credit.available().await }));
                ready!(waiting.as_mut().poll(context));
                self.waiting = None;
            }
        }
        ready!(self.lane.poll_reserve(context)).map_err(io::Error::other)?;
        if self.output.0.credit.as_ref().is_some_and(|credit| !credit.take(chunk.len())) {
            return Poll::Ready(Err(io::ErrorKind::WouldBlock.into()));
        }
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

    fn account() -> Arc<MemoryAccount> {
        MemoryAccount::new(Some(1 << 20), &Arc::default())
    }

    fn text(frame: Option<FromRunner>) -> String {
        match frame {
            Some(FromRunner::Log { bytes, .. }) => String::from_utf8(bytes).unwrap(),
            other => panic!("not a log: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_full_lane_makes_the_writer_wait_and_keeps_the_order() {
        let (lane, mut receiver) = mpsc::channel(1);
        let mut output = Output::new(RunId("r".into()), LogStream::Stdout, lane, None, false, &account());
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

    #[tokio::test]
    async fn what_waits_for_the_lane_counts() {
        let account = MemoryAccount::new(Some(10), &Arc::default());
        let (lane, mut receiver) = mpsc::channel(1);
        let mut output = Output::new(RunId("r".into()), LogStream::Stdout, lane, None, false, &account);
        output.write("0123456789ab".into()).unwrap();
        assert_eq!(account.used_bytes(), 0, "the lane is nobody's");
        output.write("0123456789".into()).unwrap();
        assert_eq!(account.used_bytes(), 10);
        receiver.recv().await.unwrap();
        output.drained().await;
        assert_eq!(account.used_bytes(), 0);
        assert!(matches!(output.write("0123456789ab".into()), Err(StreamError::Trap(_))));
        assert!(account.excess().is_some());
    }

    #[test]
    fn a_write_beyond_the_permit_is_a_trap() {
        let (lane, _receiver) = mpsc::channel(1);
        let mut output = Output::new(RunId("r".into()), LogStream::Stderr, lane, None, false, &account());
        assert!(matches!(output.write(vec![0; MAX_CHUNK_BYTES + 1].into()), Err(StreamError::Trap(_))));
    }

    #[tokio::test]
    async fn the_other_traits_say_the_same() {
        let (lane, mut receiver) = mpsc::channel(1);
        let output = Output::new(RunId("r".into()), LogStream::Stdout, lane, None, false, &account());
        Pin::from(output.async_stream()).write_all(b"hello").await.unwrap();
        assert_eq!(text(receiver.recv().await), "hello");
    }

    #[tokio::test]
    async fn without_credit_the_writer_waits() {
        let (lane, mut receiver) = mpsc::channel(100);
        let credit = Credit::new();
        let output =
            |stream| Output::new(RunId("r".into()), stream, lane.clone(), Some(Arc::clone(&credit)), false, &account());
        let (mut out, mut err) = (output(LogStream::Stdout), output(LogStream::Stderr));
        let mut written = 0;
        while out.check_write().unwrap() > 0 {
            out.write(vec![b'x'; MAX_CHUNK_BYTES].into()).unwrap();
            written += MAX_CHUNK_BYTES;
        }
        assert_eq!(written, OUTPUT_WINDOW_BYTES as usize);
        assert_eq!(err.check_write().unwrap(), 0, "all streams share it");
        assert!(poll!(err.ready()).is_pending());
        let mut stream = Pin::from(out.async_stream());
        assert!(poll!(pin!(stream.write_all(b"more"))).is_pending());
        credit.give(1);
        err.ready().await;
        // What both were permitted may be more than was left, but not much.
        for _ in 0..OUTPUT_OVERDRAFT_BYTES as usize / MAX_CHUNK_BYTES {
            err.write(vec![b'x'; MAX_CHUNK_BYTES].into()).unwrap();
        }
        assert!(matches!(err.write("xx".into()), Err(StreamError::Trap(_))));
        credit.give(u32::MAX);
        stream.write_all(b"more").await.unwrap();
        while let Ok(frame) = receiver.try_recv() {
            written = text(Some(frame)).len();
        }
        assert_eq!(written, 4);
    }
}
