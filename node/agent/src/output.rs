//! Where what a run writes goes: into its container's log, or to whoever started it and waits for it. Those who are
//! attached to a container see the same as its log, as it comes; a container's terminal lies before both.
//!
//! Nothing here waits: one slow reader must not hold up what other runs of its namespace say. A log is on disk; a
//! command's output is bounded by the credit that its runner keeps to; who is attached and too slow misses some.

use crate::{
    clock,
    logs::RunLog,
    terminal::{Terminal, Typed},
};
use bytes::Bytes;
use coracle_runner::protocol::{LogStream, OUTPUT_OVERDRAFT_BYTES, OUTPUT_WINDOW_BYTES, StartGuest};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
};
use time::OffsetDateTime;
use tokio::sync::mpsc;

/// What a command's runner may have sent before it was read here.
const UNREAD_BYTES_MAX: usize = (OUTPUT_WINDOW_BYTES + OUTPUT_OVERDRAFT_BYTES) as usize;
/// What waits for one who is attached.
const ATTACHED_BYTES_MAX: usize = 1 << 20;
/// Who may be attached to one run at a time.
const ATTACHED_MAX: usize = 16;

/// Some of what a run wrote.
pub(crate) type Chunk = (LogStream, Bytes);

/// See the module.
pub(crate) enum Output {
    /// A container's own run.
    Log(Arc<RunLog>),
    /// A command's.
    Reader(Feed),
}

/// The runner sent more than it had credit for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overrun;

impl Output {
    /// Takes what the guest wrote.
    ///
    /// # Errors
    /// [`Overrun`] when a runner does not keep to its credit.
    pub(crate) fn append(&self, stream: LogStream, bytes: Vec<u8>, at: OffsetDateTime) -> Result<(), Overrun> {
        match self {
            Self::Log(log) => {
                log.append(stream, &bytes, at);
                Ok(())
            }
            Self::Reader(feed) => feed.pass(stream, bytes.into()),
        }
    }

    /// The run has ended.
    pub(crate) fn end(&self, at: OffsetDateTime) {
        match self {
            Self::Log(log) => log.end(at),
            Self::Reader(_) => {}
        }
    }
}

/// Everything that shows what one run writes.
#[derive(Clone)]
pub(crate) struct Screen {
    pub(crate) output: Arc<Output>,
    /// Where somebody is attached.
    pub(crate) audience: Option<Arc<Audience>>,
    /// Where it is a container's terminal.
    pub(crate) terminal: Option<Arc<Terminal>>,
}

impl Screen {
    /// The terminal of a run, if it is to have one of its own: a command's is its session's.
    pub(crate) fn terminal(guest: &StartGuest, output: &Output) -> Option<Arc<Terminal>> {
        (guest.terminal && matches!(output, Output::Log(_))).then(Arc::default)
    }

    /// Shows what the guest wrote.
    ///
    /// # Errors
    /// As [`Output::append`].
    pub(crate) fn show(&self, stream: LogStream, bytes: Vec<u8>) -> Result<(), Overrun> {
        match &self.terminal {
            None => self.pass(stream, bytes),
            Some(terminal) => self.pass(LogStream::Stdout, terminal.shown(&bytes).into()),
        }
    }

    /// Somebody who is attached typed something; the echo is shown to all. `None` where there is no terminal.
    pub(crate) fn typed(&self, keys: &[u8]) -> Option<Typed> {
        let mut typed = self.terminal.as_ref()?.typed(keys);
        let echo = std::mem::take(&mut typed.screen);
        if !echo.is_empty() {
            // Only a command's output has a bound, and it has no terminal.
            let _ = self.pass(LogStream::Stdout, echo);
        }
        Some(typed)
    }

    fn pass(&self, stream: LogStream, bytes: Vec<u8>) -> Result<(), Overrun> {
        if let Some(audience) = &self.audience {
            audience.show(stream, &bytes);
        }
        self.output.append(stream, bytes, clock::now())
    }
}

/// A queue of bounded bytes.
pub(crate) struct Feed {
    queue: mpsc::UnboundedSender<Chunk>,
    unread_bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// The reading end of a [`Feed`].
pub(crate) struct Reader {
    queue: mpsc::UnboundedReceiver<Chunk>,
    unread_bytes: Arc<AtomicUsize>,
}

impl Feed {
    /// For a command's output.
    pub(crate) fn new() -> (Self, Reader) {
        Self::of(UNREAD_BYTES_MAX)
    }

    fn of(bytes_max: usize) -> (Self, Reader) {
        let (sender, queue) = mpsc::unbounded_channel();
        let unread_bytes = Arc::<AtomicUsize>::default();
        (Self { queue: sender, unread_bytes: unread_bytes.clone(), bytes_max }, Reader { queue, unread_bytes })
    }

    fn pass(&self, stream: LogStream, bytes: Bytes) -> Result<(), Overrun> {
        let count = bytes.len();
        if self.unread_bytes.fetch_add(count, SeqCst) + count > self.bytes_max {
            self.unread_bytes.fetch_sub(count, SeqCst);
            return Err(Overrun);
        }
        // Nobody reads any more: the command is about to be ended.
        let _ = self.queue.send((stream, bytes));
        Ok(())
    }
}

impl Reader {
    /// What comes next; `None` behind the end.
    pub(crate) async fn next(&mut self) -> Option<Chunk> {
        let chunk = self.queue.recv().await?;
        self.unread_bytes.fetch_sub(chunk.1.len(), SeqCst);
        Some(chunk)
    }

    /// What is here already.
    pub(crate) fn try_next(&mut self) -> Option<Chunk> {
        let chunk = self.queue.try_recv().ok()?;
        self.unread_bytes.fetch_sub(chunk.1.len(), SeqCst);
        Some(chunk)
    }
}

/// Who is attached to a run.
#[derive(Default)]
pub(crate) struct Audience(Mutex<Vec<Listener>>);

struct Listener {
    feed: Feed,
    missed_bytes: Arc<AtomicU64>,
}

/// What one who is attached sees: nothing of what was before, and then everything, unless they are too slow.
pub(crate) struct Attached {
    pub(crate) reader: Reader,
    missed_bytes: Arc<AtomicU64>,
}

impl Attached {
    /// How much was lost since this was asked last.
    pub(crate) fn missed(&self) -> u64 {
        self.missed_bytes.swap(0, SeqCst)
    }
}

impl Audience {
    /// One more; `None` when there are too many.
    pub(crate) fn join(&self) -> Option<Attached> {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| !listener.feed.queue.is_closed());
        if listeners.len() >= ATTACHED_MAX {
            return None;
        }
        let (feed, reader) = Feed::of(ATTACHED_BYTES_MAX);
        let missed_bytes = Arc::<AtomicU64>::default();
        listeners.push(Listener { feed, missed_bytes: missed_bytes.clone() });
        Some(Attached { reader, missed_bytes })
    }

    /// Shows all of them what the run wrote.
    pub(crate) fn show(&self, stream: LogStream, bytes: &[u8]) {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if listeners.is_empty() {
            return;
        }
        listeners.retain(|listener| !listener.feed.queue.is_closed());
        if listeners.is_empty() {
            *listeners = Vec::new();
            return;
        }
        let shared = Bytes::copy_from_slice(bytes);
        for listener in listeners.iter() {
            if listener.feed.pass(stream, shared.clone()).is_err() {
                listener.missed_bytes.fetch_add(shared.len() as u64, SeqCst);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_commands_output_is_bounded_by_what_is_read() {
        let (feed, mut reader) = Feed::new();
        let output = Output::Reader(feed);
        let append = |count: usize| output.append(LogStream::Stdout, vec![b'x'; count], clock::now());
        assert_eq!(append(UNREAD_BYTES_MAX), Ok(()));
        assert_eq!(append(1), Err(Overrun));
        assert_eq!(reader.next().await.map(|chunk| chunk.1.len()), Some(UNREAD_BYTES_MAX));
        assert_eq!(append(1), Ok(()));
        assert_eq!(reader.try_next().map(|chunk| chunk.1.len()), Some(1));
        drop(output);
        assert!(reader.next().await.is_none());
    }

    #[tokio::test]
    async fn who_is_attached_and_slow_misses_some_and_learns_it() {
        let audience = Audience::default();
        audience.show(LogStream::Stdout, b"before");
        let (mut slow, mut quick) = (audience.join().unwrap(), audience.join().unwrap());
        let piece = vec![b'x'; ATTACHED_BYTES_MAX / 2];
        for _ in 0..3 {
            audience.show(LogStream::Stderr, &piece);
            assert_eq!(quick.reader.next().await.unwrap().1, piece);
        }
        assert_eq!((slow.missed(), slow.missed(), quick.missed()), (piece.len() as u64, 0, 0));
        slow.reader.next().await.unwrap();
        audience.show(LogStream::Stdout, b"after");
        slow.reader.next().await.unwrap();
        assert_eq!(slow.reader.next().await.unwrap().1, "after");
    }

    #[test]
    fn there_is_a_bound_to_who_is_attached() {
        let audience = Audience::default();
        let mut all: Vec<Attached> = (0..ATTACHED_MAX).map(|_| audience.join().unwrap()).collect();
        assert!(audience.join().is_none());
        all.pop();
        assert!(audience.join().is_some());
    }
}
