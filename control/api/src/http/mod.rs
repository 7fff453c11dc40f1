//! Kubernetes' REST paths over the door.
//!
//! Every answer to a refused request is a `Status` in JSON; a handler that panics costs its request and nothing else.

mod accept;
mod answer;
mod body;
mod connect;
mod delete_options;
mod discovery;
mod health;
pub(crate) mod logs;
mod metrics;
mod node_proxy;
mod objects;
mod path;
mod protobuf;
mod query;
mod reviews;
#[cfg(test)]
mod tests;
mod views;
mod watch;

use crate::{auth::Authenticator, door::Door};
use accept::Accept;
use axum::{
    Router,
    extract::{Request, State},
    response::Response,
};
pub(crate) use body::READ_TIME_MAX;
use coracle_objects::{ApiError, Reason};
use futures::FutureExt;
use http::Method;
use path::Route;
use query::Query;
use std::{panic::AssertUnwindSafe, sync::Arc};

#[derive(Clone)]
struct Shared {
    door: Arc<Door>,
    authenticator: Arc<Authenticator>,
}

/// Everything that Kubernetes' API serves, as the fallback of a router that others may add routes to.
pub fn routes(door: Arc<Door>, authenticator: Arc<Authenticator>) -> Router {
    Router::new().fallback(handle).with_state(Shared { door, authenticator })
}

async fn handle(State(shared): State<Shared>, request: Request) -> Response {
    let place = format!("{} {}", request.method(), request.uri().path());
    match AssertUnwindSafe(respond(&shared, request)).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            if error.code() >= 500 {
                tracing::warn!(request = place, %error, "a request failed");
            }
            answer::refusal(&error)
        }
        Err(_) => {
            tracing::error!(request = place, "a request's handler panicked");
            answer::refusal(&ApiError::internal("the server failed while it handled the request"))
        }
    }
}

async fn respond(shared: &Shared, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let route = Route::parse(parts.uri.path());
    if let Some(Route::Health(check)) = route {
        require_get(&parts.method)?;
        return Ok(health::answer(&shared.door, check));
    }
    if matches!(route, Some(Route::Version)) {
        require_get(&parts.method)?;
        return Ok(answer::json(http::StatusCode::OK, &discovery::version()));
    }
    let identity = shared.authenticator.authenticate(&parts)?;
    let route = route.ok_or_else(|| path_not_found(parts.uri.path()))?;
    let accept = Accept::parse(&parts.headers)?;
    let path = match route {
        Route::Objects(path) => path,
        Route::Review(kind) => return reviews::answer(&shared.door, &identity, kind, &parts, body).await,
        Route::Metrics(path) => {
            let query = Query::parse(&parts.uri)?;
            return metrics::answer(&shared.door, &identity, path, &query, accept, &parts.method).await;
        }
        route => {
            require_get(&parts.method)?;
            return discovery::answer(&route, &parts.headers, accept);
        }
    };
    let query = Query::parse(&parts.uri)?;
    let call = objects::Call { door: &shared.door, identity: &identity, path, query, accept, parts: &parts };
    call.answer(body).await
}

fn require_get(method: &Method) -> Result<(), ApiError> {
    if matches!(*method, Method::GET | Method::HEAD) { Ok(()) } else { Err(crate::door::target::method_not_allowed()) }
}

/// Subresources of pods that Kubernetes has and this server has not.
const UNSERVED: [&str; 3] = ["ephemeralcontainers", "proxy", "resize"];

/// 404 for a path that is nothing.
fn path_not_found(path: &str) -> ApiError {
    let mut error = nothing_there();
    if let Some((rest, last)) = path.rsplit_once('/')
        && UNSERVED.contains(&last)
        && rest.rsplit('/').nth(1) == Some("pods")
    {
        error.message = format!("{}: pods/{last} is not supported here", error.message);
    }
    error
}

/// 404 as kube-apiserver words it.
fn nothing_there() -> ApiError {
    let error = ApiError::new(Reason::NotFound, "the server could not find the requested resource");
    // Some kubectls look into the details without asking whether there are any.
    ApiError { details: Some(Box::default()), ..error }
}
