//! Who answers a request: gRPC services by content type, everything else by path.

use crate::auth::{Authenticator, revocation::NodeConnections};
use axum::{Router, body::Body};
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use std::{convert::Infallible, sync::Arc};
use tonic::{Status, service::Routes};
use tower::Service as _;

/// Everything behind the port. Cheap to clone.
#[derive(Clone)]
pub struct App {
    http: Router,
    grpc: Router,
    authenticator: Arc<Authenticator>,
}

impl App {
    /// `http` authenticates for itself, since health and version need no credentials and each protocol refuses in its
    /// own words; every gRPC call is authenticated here, reflection included.
    #[must_use]
    pub fn new(http: Router, grpc: Routes, authenticator: Arc<Authenticator>) -> Self {
        Self { http: http.with_state(()), grpc: grpc.prepare().into_axum_router(), authenticator }
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
        let refusal = if is_grpc {
            self.authenticator.authenticate_with(request.headers(), request.extensions()).err()
        } else {
            None
        };
        let mut router = if is_grpc { self.grpc.clone() } else { self.http.clone() };
        async move {
            match refusal {
                Some(error) if error.code() == 403 => Ok(Status::permission_denied(error.message).into_http()),
                Some(error) => Ok(Status::unauthenticated(error.message).into_http()),
                None => router.call(request.map(Body::new)).await,
            }
        }
    }
}

/// `application/grpc`, `application/grpc+proto` and the like, but not `application/grpc-web`.
fn is_grpc(content_type: Option<&HeaderValue>) -> bool {
    let rest = content_type.and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || matches!(rest.first(), Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use super::*;

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
