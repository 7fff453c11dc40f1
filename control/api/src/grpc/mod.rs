//! The door's gRPC services: the generic object service, containers' logs, and sessions with pods.

pub mod logs;
pub mod objects;
mod refusal;
pub mod sessions;

#[cfg(test)]
mod tests;

use crate::{auth::Authenticator, door::Door, identity::Identity};
use coracle_objects::ApiError;
use futures::FutureExt;
use std::{panic::AssertUnwindSafe, sync::Arc};
use tonic::{Request, Response, Status};

/// What every service of the door needs.
#[derive(Clone)]
struct Shared {
    door: Arc<Door>,
    authenticator: Arc<Authenticator>,
}

impl Shared {
    fn identity<T>(&self, request: &Request<T>) -> Result<Identity, ApiError> {
        self.authenticator.authenticate_with(request.metadata().as_ref(), request.extensions())
    }
}

/// Turns refusals into gRPC's; a handler that panics costs its call and nothing else.
async fn answered<T>(call: impl Future<Output = Result<T, ApiError>> + Send) -> Result<Response<T>, Status> {
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(Ok(answer)) => Ok(Response::new(answer)),
        Ok(Err(error)) => Err(refusal::status(&error)),
        Err(_) => {
            tracing::error!("a gRPC call's handler panicked");
            Err(refusal::status(&ApiError::internal("the server failed while it handled the call")))
        }
    }
}
