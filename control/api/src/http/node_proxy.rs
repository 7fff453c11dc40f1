//! `nodes/NAME/proxy/…`: the statistics that a kubelet serves under these paths, read over the node's link.

use super::{answer, nothing_there};
use crate::{
    door::{Door, Target, gate::Asked, read_error, target::method_not_allowed},
    identity::Identity,
};
use axum::{body::Body, response::Response};
use coracle_objects::ApiError;
use coracle_wire::v1::{SummaryRequest, open_session::Purpose, summary_request::Format};
use futures::{StreamExt as _, TryStreamExt as _};
use http::Method;

/// Streams what the node says. `target` is the node with subresource `proxy`, `path` what follows it.
///
/// # Errors
/// 403, 404 for a node or a path that is not there, 405, 429, 503 when the node cannot be reached.
pub(super) async fn answer(
    door: &Door,
    identity: &Identity,
    target: &Target,
    path: &str,
    method: &Method,
) -> Result<Response, ApiError> {
    let verb = match *method {
        Method::GET | Method::HEAD => "get",
        _ => return Err(method_not_allowed()),
    };
    door.authorize(identity, verb, target, Asked::default())?;
    let (format, content_type) = match path {
        "stats/summary" => (Format::Json, "application/json"),
        "metrics/resource" => (Format::Prometheus, "text/plain; version=0.0.4; charset=utf-8"),
        _ => return Err(nothing_there()),
    };
    if door.store().get(&target.key()).map_err(|error| read_error(&error))?.is_none() {
        return Err(target.kind.not_found(&target.name));
    }
    let purpose = Purpose::Summary(SummaryRequest { format: format.into() });
    let said = door.node_links()?.open_data(&target.name, purpose).await?;
    let closing = door.closing().clone().cancelled_owned();
    let said = said.inspect_err(|error| tracing::debug!(%error, "a node's statistics ended early"));
    Ok(answer::typed(content_type, Body::from_stream(said.take_until(closing))))
}
