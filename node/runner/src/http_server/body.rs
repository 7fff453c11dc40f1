//! A response's body, which is whole or visibly cut, and who waits for it.

use crate::memory::Reservation;
use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    body::{Body, Frame, SizeHint},
    header::CONTENT_LENGTH,
};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
};
use tokio_util::sync::CancellationToken;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// How the guest that answers a request fares, as far as its client is concerned.
#[derive(Debug, Clone, Default)]
pub(super) struct Fate(Arc<AtomicU8>);

impl Fate {
    const FAILED: u8 = 1;
    const NO_ROOM: u8 = 2;

    /// It trapped or was ended: what it has sent is not a whole response. Must be said before its store is dropped.
    pub(super) fn fail(&self) {
        self.0.store(Self::FAILED, SeqCst);
    }

    /// There was no instance for it.
    pub(super) fn no_room(&self) {
        self.0.store(Self::NO_ROOM, SeqCst);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.0.load(SeqCst) != 0
    }

    pub(super) fn found_no_room(&self) -> bool {
        self.0.load(SeqCst) == Self::NO_ROOM
    }
}

/// Says, when it is dropped, that nobody waits for an answer any more, unless that was given in full.
#[derive(Debug)]
pub(super) struct Client {
    gone: Option<CancellationToken>,
    /// What the answer to it takes.
    _held: Option<Reservation>,
}

impl Client {
    pub(super) fn new(gone: CancellationToken, held: Option<Reservation>) -> Self {
        Self { gone: Some(gone), _held: held }
    }

    fn is_served(&mut self) {
        self.gone = None;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(gone) = &self.gone {
            gone.cancel();
        }
    }
}

/// A response's body. A guest that fails has its body cut off instead of ended, so that no client takes it for whole.
#[derive(Debug)]
pub(super) enum ResponseBody {
    /// Of the guest. `missing` is what remains of the length that it gave, if it gave one.
    Guest { body: HyperOutgoingBody, missing: Option<u64>, fate: Fate, client: Client },
    /// Of the runner.
    Text(Option<Bytes>),
}

impl ResponseBody {
    pub(super) fn of_guest(response: Response<HyperOutgoingBody>, fate: Fate, mut client: Client) -> Response<Self> {
        let length = response.headers().get(CONTENT_LENGTH);
        let missing = length.and_then(|length| length.to_str().ok()?.parse().ok());
        response.map(|body| {
            if body.is_end_stream() {
                client.is_served();
            }
            Self::Guest { body, missing, fate, client }
        })
    }

    pub(super) fn text(status: StatusCode, text: &'static str) -> Response<Self> {
        let mut response = Response::new(Self::Text(Some(Bytes::from_static(text.as_bytes()))));
        *response.status_mut() = status;
        response
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Guest { body, missing, fate, client } => match ready!(Pin::new(body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                    *missing = missing.map(|missing| missing.saturating_sub(length));
                    // Nobody asks for more when all that was announced is there.
                    if *missing == Some(0) {
                        client.is_served();
                    }
                    Poll::Ready(Some(Ok(frame)))
                }
                Some(Err(error)) => Poll::Ready(Some(Err(io::Error::other(error)))),
                None if fate.has_failed() => Poll::Ready(Some(Err(io::Error::other("the guest failed")))),
                None => {
                    client.is_served();
                    Poll::Ready(None)
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Guest { body, .. } => body.is_end_stream(),
            Self::Text(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Guest { body, .. } => body.size_hint(),
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use http_body_util::{BodyExt, StreamBody};
    use tokio::sync::mpsc;
    use wasmtime_wasi_http::Error;

    /// A response whose body is what is sent, and what its end does.
    fn response(
        length: Option<&str>,
    ) -> (mpsc::UnboundedSender<&'static str>, Response<ResponseBody>, Fate, CancellationToken) {
        let (chunks, receiver) = mpsc::unbounded_channel();
        let frames = futures::stream::unfold(receiver, |mut receiver: mpsc::UnboundedReceiver<&str>| async move {
            let chunk = receiver.recv().await?;
            Some((Ok::<_, Error>(Frame::data(Bytes::from_static(chunk.as_bytes()))), receiver))
        });
        let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(frames.boxed())));
        if let Some(length) = length {
            response.headers_mut().insert(CONTENT_LENGTH, length.parse().unwrap());
        }
        let (fate, gone) = (Fate::default(), CancellationToken::new());
        let response = ResponseBody::of_guest(response, fate.clone(), Client::new(gone.clone(), None));
        (chunks, response, fate, gone)
    }

    #[tokio::test]
    async fn a_whole_answer_leaves_the_guest_alone() {
        let (chunks, response, _, gone) = response(None);
        chunks.send("all").unwrap();
        drop(chunks);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "all");
        assert!(!gone.is_cancelled());
    }

    #[tokio::test]
    async fn so_does_one_of_the_length_that_was_announced() {
        let (chunks, mut response, _, gone) = response(Some("6"));
        for chunk in ["one", "two"] {
            chunks.send(chunk).unwrap();
            assert_eq!(response.body_mut().frame().await.unwrap().unwrap().data_ref().unwrap(), chunk);
        }
        drop(response);
        assert!(!gone.is_cancelled());
    }

    #[tokio::test]
    async fn a_client_that_leaves_early_is_gone() {
        let (chunks, mut response, _, gone) = response(Some("6"));
        chunks.send("one").unwrap();
        response.body_mut().frame().await.unwrap().unwrap();
        assert!(!gone.is_cancelled());
        drop(response);
        assert!(gone.is_cancelled());
    }

    #[tokio::test]
    async fn what_a_failed_guest_said_is_cut_off() {
        let (chunks, response, fate, _) = response(None);
        chunks.send("half").unwrap();
        fate.fail();
        drop(chunks);
        assert!(response.into_body().collect().await.is_err());
    }
}
