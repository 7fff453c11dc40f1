//! Who answers a request: gRPC services by content type, everything else by path.

use crate::{
    auth::{Authenticator, PeerCertificates, revocation::NodeConnections},
    http::READ_TIME_MAX,
    nodelink::{Counted, NodeBounds},
};
use axum::{BoxError, Router, body::Body};
use coracle_objects::{ApiError, bootstrap};
use futures::{StreamExt as _, stream};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};
use tonic::{Status, service::Routes};
use tower::Service as _;

/// Everything behind the port. Cheap to clone.
#[derive(Clone)]
pub struct App {
    http: Router,
    grpc: Router,
    authenticator: Arc<Authenticator>,
    bounds: Option<Arc<NodeBounds>>,
}

impl App {
    /// `http` authenticates for itself, since health and version need no credentials and each protocol refuses in its
    /// own words; every gRPC call is authenticated here, reflection included.
    #[must_use]
    pub fn new(http: Router, grpc: Routes, authenticator: Arc<Authenticator>) -> Self {
        Self { http: http.with_state(()), grpc: grpc.prepare().into_axum_router(), authenticator, bounds: None }
    }

    /// Lets nodes ask no more than `bounds` allow.
    #[must_use]
    pub fn with_bounds(mut self, bounds: Arc<NodeBounds>) -> Self {
        self.bounds = Some(bounds);
        self
    }

    /// Counts a connection of a node, until what is answered is dropped; `None` where nobody counts.
    ///
    /// # Errors
    /// 429 when it has too many.
    pub(super) fn count_connection(&self, node: &str) -> Result<Option<Counted>, ApiError> {
        self.bounds.as_ref().map(|bounds| bounds.connection(node)).transpose()
    }

    /// Whether a request comes from a node, or from a machine that wants to be one, that asks too much.
    fn refused_for_flooding(&self, request: &Request<Incoming>) -> Option<ApiError> {
        let bounds = self.bounds.as_ref()?;
        let asker = || self.authenticator.authenticate_with(request.headers(), request.extensions()).ok();
        if let Some(peer) = request.extensions().get::<PeerCertificates>() {
            let node = peer.identity().node_name()?;
            // Whose certificate does not count any more is refused for that, at nobody else's expense.
            asker()?;
            return bounds.request(node).err();
        }
        let identity = asker()?;
        identity.is_in(bootstrap::GROUP).then(|| bounds.join_request(&identity.user).err()).flatten()
    }

    /// The open connections of nodes, where they are kept account of.
    pub(super) fn node_connections(&self) -> Option<&Arc<NodeConnections>> {
        self.authenticator.node_connections()
    }

    /// Answers one request.
    pub(super) fn call(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<> {
        let is_grpc = is_grpc(request.headers().get(header::CONTENT_TYPE));
        let flooding = self.refused_for_flooding(&request);
        let refusal = if is_grpc {
            self.authenticator.authenticate_with(request.headers(), request.extensions()).err()
        } else {
            None
        };
        let mut router = if is_grpc { self.grpc.clone() } else { self.http.clone() };
        async move {
            if let Some(error) = flooding {
                return Ok(too_many(error, is_grpc));
            }
            match refusal {
                Some(error) if error.code() == 403 => Ok(Status::permission_denied(error.message).into_http()),
                Some(error) if error.code() == 503 => Ok(Status::unavailable(error.message).into_http()),
                Some(error) => Ok(Status::unauthenticated(error.message).into_http()),
                None if is_grpc && is_one_message(request.uri().path()) => {
                    router.call(request.map(|body| hurried(Body::new(body), READ_TIME_MAX))).await
                }
                None => router.call(request.map(Body::new)).await,
            }
        }
    }
}

/// Whether a call of gRPC sends one message; what is answered may be a stream.
fn is_one_message(path: &str) -> bool {
    ["/coracle.v1.Objects/", "/coracle.v1.PodLogs/", "/coracle.v1.NodeLink/Follow"]
        .iter()
        .any(|call| path.starts_with(call))
}

/// A body that fails when it is not complete in time.
fn hurried(body: Body, limit: Duration) -> Body {
    let data = body.into_data_stream();
    let deadline = Instant::now() + limit;
    Body::from_stream(stream::unfold(Some(data), move |data| async move {
        let mut data = data?;
        match timeout_at(deadline, data.next()).await {
            Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(data))),
            Ok(Some(Err(error))) => Some((Err(BoxError::from(error)), None)),
            Ok(None) => None,
            Err(_) => Some((Err("the request was not complete in time".into()), None)),
        }
    }))
}

fn too_many(error: ApiError, is_grpc: bool) -> Response<Body> {
    if is_grpc {
        return Status::resource_exhausted(error.message).into_http();
    }
    let mut response = Response::new(Body::from(error.to_status().to_string()));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// `application/grpc`, `application/grpc+proto` and the like, but not `application/grpc-web`.
fn is_grpc(content_type: Option<&HeaderValue>) -> bool {
    let rest = content_type.and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || matches!(rest.first(), Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_message_that_never_ends_is_given_up() {
        const LIMIT: Duration = Duration::from_millis(200);
        let trickle = stream::unfold((), |()| async {
            tokio::time::sleep(LIMIT / 4).await;
            Some((Ok::<_, BoxError>(bytes::Bytes::from_static(b"x")), ()))
        });
        let begun = Instant::now();
        let read: Vec<_> = hurried(Body::from_stream(trickle), LIMIT).into_data_stream().collect().await;
        assert!(read.last().unwrap().is_err() && begun.elapsed() >= LIMIT, "{read:?}");
        let whole: Vec<_> =
            hurried(Body::from("abc"), READ_TIME_MAX).into_data_stream().map(Result::unwrap).collect().await;
        assert_eq!(whole.concat(), b"abc");
        assert!(is_one_message("/coracle.v1.Objects/Watch") && !is_one_message("/coracle.v1.NodeLink/Control"));
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let cases = [
            (Some("application/grpc"), true),
            (Some("application/grpc+proto"), true),
            (Some("application/grpc; x=y"), true),
            (Some("application/grpc-web"), false),
            (Some("application/json"), false),
            (None, false),
        ];
        for (value, expected) in cases {
            let header = value.map(|value| HeaderValue::from_str(value).unwrap());
            assert_eq!(is_grpc(header.as_ref()), expected, "{value:?}");
        }
    }
}
