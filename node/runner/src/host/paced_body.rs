//! A body that must keep coming while somebody reads it.

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep};
use wasmtime_wasi_http::Error;

/// See the module.
#[derive(Debug)]
pub(crate) struct PacedBody {
    incoming: Incoming,
    patience: Duration,
    /// Runs while a reader waits for more.
    timer: Option<Pin<Box<Sleep>>>,
}

impl PacedBody {
    /// A reader that waits longer than `patience` for the next frame gets an error.
    pub(crate) fn new(incoming: Incoming, patience: Duration) -> Self {
        Self { incoming, patience, timer: None }
    }
}

impl Body for PacedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(context) {
            self.timer = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        let patience = self.patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(timer.as_mut().poll(context));
        timer.as_mut().reset(Instant::now() + patience);
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
