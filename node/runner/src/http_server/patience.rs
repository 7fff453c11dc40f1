//! A connection whose other end must do its part: say something soon after it came, and take what is sent to it.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// How long a client has for its first byte.
const FIRST_BYTE: Duration = Duration::from_secs(30);
/// How long a client may take nothing of what is sent to it.
const STALLED_WRITE: Duration = Duration::from_mins(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    /// Runs until the first byte, and then whenever a write waits.
    timer: Pin<Box<Sleep>>,
    heard: bool,
    writing: bool,
    stalled_write: Duration,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S) -> Self {
        Self::with(stream, FIRST_BYTE, STALLED_WRITE)
    }

    fn with(stream: S, first_byte: Duration, stalled_write: Duration) -> Self {
        Self { stream, timer: Box::pin(sleep(first_byte)), heard: false, writing: false, stalled_write }
    }

    /// What a write has come to, which may be that it lasts too long.
    fn written<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.writing = false;
            return result;
        }
        if !self.writing {
            self.writing = true;
            let deadline = Instant::now() + self.stalled_write;
            self.timer.as_mut().reset(deadline);
        }
        match self.timer.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if result.is_ready() {
            self.heard = true;
        } else if !self.heard && self.timer.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.written(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.written(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.written(context, result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const SOON: Duration = Duration::from_millis(20);
    const NEVER: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn a_client_that_says_nothing_is_given_up() {
        let (_client, server) = duplex(64);
        let error = Patient::with(server, SOON, NEVER).read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn one_that_has_spoken_may_be_silent() {
        let (mut client, server) = duplex(64);
        let mut server = Patient::with(server, SOON, NEVER);
        client.write_u8(1).await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), 1);
        let quiet = tokio::time::timeout(5 * SOON, server.read_u8()).await;
        assert!(quiet.is_err());
    }

    #[tokio::test]
    async fn one_that_takes_nothing_is_given_up() {
        let (mut client, server) = duplex(4);
        let mut server = Patient::with(server, NEVER, SOON);
        server.write_all(b"1234").await.unwrap();
        let error = server.write_all(b"5").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // And one that takes a little now and then is not.
        client.read_u8().await.unwrap();
        server.write_all(b"5").await.unwrap();
    }
}
