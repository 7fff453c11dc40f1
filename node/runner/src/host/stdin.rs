//! A guest's standard input.
//!
//! Most containers have none: there is nothing to read, and end-of-file asks them to stop. Where there is some, the
//! agent sends it in frames, never more than [`INPUT_WINDOW_BYTES`] that the guest has not read yet: what it reads is
//! told to the agent as credit for more. A guest that does not read holds its writer back and fills nothing. All of that
//! window counts as the container's memory from the start to the end of the run.

use crate::{
    memory::Reservation,
    protocol::{FromRunner, INPUT_WINDOW_BYTES, RunId, StdinMode},
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Future, pending},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::{Notify, mpsc},
};
use tokio_util::sync::CancellationToken;
use wasmtime_wasi::{
    cli::{IsTerminal, StdinStream},
    p2::{InputStream, Pollable, StreamError, StreamResult},
};

/// Standard input of one run, shared by all handles that the guest has on it.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    /// Ends it, behind what is here already.
    stop: CancellationToken,
    /// What the guest takes it for.
    terminal: bool,
    pipe: Option<Arc<Pipe>>,
}

/// What the agent sends and the guest has not read.
#[derive(Debug)]
struct Pipe {
    state: Mutex<State>,
    /// For the guest: there is something to read, or never will be.
    arrived: Notify,
    /// For the agent: something was read.
    taken: Notify,
    /// What may be in it.
    _window: Reservation,
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    ended: bool,
    /// Read, and not told to the agent yet.
    taken_bytes: u32,
}

/// The agent sent more than it has credit for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overrun;

impl Input {
    /// What is to be counted for it before it is made, in bytes.
    pub(crate) fn window_bytes(mode: StdinMode) -> u64 {
        if mode == StdinMode::Open { INPUT_WINDOW_BYTES.into() } else { 0 }
    }

    /// `stop` asks the guest to end; `window` has counted [`Self::window_bytes`].
    pub(crate) fn new(mode: StdinMode, terminal: bool, stop: &CancellationToken, window: Reservation) -> Self {
        match mode {
            StdinMode::UntilStop => Self { stop: stop.clone(), terminal, pipe: None },
            StdinMode::Empty => {
                let ended = CancellationToken::new();
                ended.cancel();
                Self { stop: ended, terminal, pipe: None }
            }
            StdinMode::Open => {
                let pipe =
                    Pipe { state: Mutex::default(), arrived: Notify::new(), taken: Notify::new(), _window: window };
                Self { stop: stop.clone(), terminal, pipe: Some(Arc::new(pipe)) }
            }
        }
    }

    /// Takes what the agent sends; without a pipe, or behind its end, nobody reads it.
    ///
    /// # Errors
    /// [`Overrun`], and nothing is taken.
    pub(crate) fn push(&self, bytes: &[u8], end: bool) -> Result<(), Overrun> {
        let Some(pipe) = &self.pipe else { return Ok(()) };
        let mut state = pipe.state.lock();
        if !state.ended {
            if state.bytes.len() + bytes.len() > INPUT_WINDOW_BYTES as usize {
                return Err(Overrun);
            }
            state.bytes.extend(bytes);
            state.ended = end;
        }
        drop(state);
        pipe.arrived.notify_waiters();
        Ok(())
    }

    /// Tells the agent what the guest has read, for as long as the run lasts. Never ends.
    pub(crate) async fn tell_taken(&self, run: &RunId, lane: &mpsc::Sender<FromRunner>) -> Infallible {
        let Some(pipe) = &self.pipe else { return pending().await };
        loop {
            pipe.taken.notified().await;
            let bytes = std::mem::take(&mut pipe.state.lock().taken_bytes);
            if bytes > 0 && lane.send(FromRunner::InputTaken { run: run.clone(), bytes }).await.is_err() {
                return pending().await;
            }
        }
    }

    /// Up to `size` bytes; none when there are none yet.
    fn take(&self, size: usize) -> StreamResult<Bytes> {
        if let Some(pipe) = &self.pipe {
            let mut state = pipe.state.lock();
            let count = size.min(state.bytes.len());
            if count > 0 {
                let bytes: Vec<u8> = state.bytes.drain(..count).collect();
                if state.bytes.is_empty() {
                    // A container that waits for input keeps no buffer.
                    state.bytes = VecDeque::new();
                }
                state.taken_bytes = state.taken_bytes.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
                drop(state);
                pipe.taken.notify_one();
                return Ok(bytes.into());
            }
            if state.bytes.is_empty() && state.ended {
                return Err(StreamError::Closed);
            }
            if !state.bytes.is_empty() {
                return Ok(Bytes::new());
            }
        }
        if self.stop.is_cancelled() { Err(StreamError::Closed) } else { Ok(Bytes::new()) }
    }

    /// Returns when reading would not wait.
    async fn readable(self) {
        let Some(pipe) = &self.pipe else { return self.stop.cancelled().await };
        loop {
            let mut arrived = pin!(pipe.arrived.notified());
            arrived.as_mut().enable();
            {
                let state = pipe.state.lock();
                if state.ended || !state.bytes.is_empty() {
                    return;
                }
            }
            tokio::select! {
                () = arrived => {}
                () = self.stop.cancelled() => return,
            }
        }
    }
}

impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.take(size)
    }
}

#[async_trait::async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        self.clone().readable().await;
    }
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdinStream for Input {
    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(AsyncInput { input: self.clone(), waiting: None })
    }
}

type Wait = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// The same stream for hosts that want tokio's traits.
struct AsyncInput {
    input: Input,
    waiting: Option<Wait>,
}

impl AsyncRead for AsyncInput {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.input.take(buffer.remaining()) {
                Ok(bytes) if bytes.is_empty() && buffer.remaining() > 0 => {}
                Ok(bytes) => {
                    buffer.put_slice(&bytes);
                    return Poll::Ready(Ok(()));
                }
                // The end.
                Err(_) => return Poll::Ready(Ok(())),
            }
            let input = self.input.clone();
            let waiting = self.waiting.get_or_insert_with(|| Box::pin(input.readable()));
            ready!(waiting.as_mut().poll(context));
            self.waiting = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryAccount;
    use futures::poll;
    use tokio::io::AsyncReadExt as _;

    fn window() -> Reservation {
        Reservation::none(&MemoryAccount::new(None, &Arc::default()))
    }

    fn open() -> (Input, CancellationToken) {
        let stop = CancellationToken::new();
        (Input::new(StdinMode::Open, false, &stop, window()), stop)
    }

    #[tokio::test]
    async fn without_input_it_ends_when_the_guest_is_asked_to_stop() {
        let stop = CancellationToken::new();
        let mut input = Input::new(StdinMode::UntilStop, false, &stop, window());
        assert!(input.read(10).unwrap().is_empty());
        assert!(poll!(input.ready()).is_pending());
        stop.cancel();
        input.ready().await;
        assert!(matches!(input.read(10), Err(StreamError::Closed)));
        let mut empty = Input::new(StdinMode::Empty, false, &CancellationToken::new(), window());
        empty.ready().await;
        assert!(matches!(empty.read(10), Err(StreamError::Closed)));
    }

    #[tokio::test]
    async fn what_arrives_is_read_and_then_the_end() {
        let (mut input, _stop) = open();
        assert!(poll!(input.ready()).is_pending());
        input.push(b"hello", false).unwrap();
        input.push(b"!", true).unwrap();
        input.push(b"behind the end", false).unwrap();
        input.ready().await;
        assert_eq!(input.read(2).unwrap(), "he");
        assert!(input.read(0).unwrap().is_empty());
        assert_eq!(input.read(100).unwrap(), "llo!");
        input.ready().await;
        assert!(matches!(input.read(1), Err(StreamError::Closed)));
    }

    #[tokio::test]
    async fn a_stop_ends_it_behind_what_is_there() {
        let (mut input, stop) = open();
        input.push(b"last", false).unwrap();
        stop.cancel();
        assert_eq!(input.read(100).unwrap(), "last");
        input.ready().await;
        assert!(matches!(input.read(1), Err(StreamError::Closed)));
    }

    #[tokio::test]
    async fn only_what_was_read_makes_room_for_more() {
        let (mut input, _stop) = open();
        let (lane, mut told) = mpsc::channel(1);
        let run = RunId("r".into());
        let window = vec![b'x'; INPUT_WINDOW_BYTES as usize];
        input.push(&window, false).unwrap();
        assert_eq!(input.push(b"y", false), Err(Overrun));
        let mut telling = pin!(input.clone().told(run.clone(), lane));
        assert!(poll!(telling.as_mut()).is_pending());
        assert!(told.try_recv().is_err(), "nothing was read");
        assert_eq!(input.read(1000).unwrap().len(), 1000);
        assert_eq!(input.read(24).unwrap().len(), 24);
        assert!(poll!(telling.as_mut()).is_pending());
        assert_eq!(told.try_recv().unwrap(), FromRunner::InputTaken { run, bytes: 1024 });
        input.push(&window[..1024], false).unwrap();
        assert_eq!(input.push(b"y", false), Err(Overrun));
    }

    #[tokio::test]
    async fn the_other_traits_say_the_same() {
        let (input, _stop) = open();
        let mut stream = Pin::from(input.async_stream());
        let reading = tokio::spawn(async move {
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        });
        tokio::task::yield_now().await;
        input.push(b"in ", false).unwrap();
        tokio::task::yield_now().await;
        input.push(b"two", true).unwrap();
        assert_eq!(reading.await.unwrap(), "in two");
    }

    impl Input {
        async fn told(self, run: RunId, lane: mpsc::Sender<FromRunner>) -> Infallible {
            self.tell_taken(&run, &lane).await
        }
    }
}
