//! Bootstrap tokens that are for one node are used up by it; those that have expired go.

use coracle_api::auth::bootstrap::expires;
use coracle_client::{Client, DeleteOptions, Part, Query, Write};
use coracle_objects::{ApiError, Reason, bootstrap, catalogue, meta};
use serde_json::Value;

/// Writes into the token's secret, if it is for one node, that the request with this uid, for `node`, is the one; says why
/// not when it is not. What was used stays used, also for a node of the same name: that one may have been deleted since.
pub(super) async fn use_up(client: &dyn Client, id: &str, node: &str, uid: &str) -> Result<Option<String>, ApiError> {
    let secret = match client.get(catalogue::secrets(), &bootstrap::secret_key(id)).await {
        Ok(secret) => secret,
        Err(error) if error.reason == Reason::NotFound => return Ok(Some("the token is gone".to_owned())),
        Err(error) => return Err(error),
    };
    if meta::annotation(&secret, bootstrap::SINGLE_USE_ANNOTATION) != Some("true") {
        return Ok(None);
    }
    match meta::annotation(&secret, bootstrap::USED_BY_ANNOTATION) {
        // It is the same request once more, if writing the decision failed.
        Some(_) if meta::annotation(&secret, bootstrap::USED_FOR_ANNOTATION) == Some(uid) => Ok(None),
        Some(used_by) => Ok(Some(format!("the token is for one node, and was used for {used_by}"))),
        None => {
            let mut secret = Value::clone(&secret);
            secret["metadata"]["annotations"][bootstrap::USED_BY_ANNOTATION] = node.into();
            secret["metadata"]["annotations"][bootstrap::USED_FOR_ANNOTATION] = uid.into();
            // The resource version in it makes sure that nobody else was faster.
            client.write(Write::Update(catalogue::secrets(), Part::Object, secret)).await?;
            Ok(None)
        }
    }
}

/// Removes the tokens that have expired at `now_seconds`.
pub(super) async fn clear(client: &dyn Client, now_seconds: i64) -> Result<(), ApiError> {
    let query = Query {
        namespace: Some(bootstrap::NAMESPACE.to_owned()),
        field_selector: format!("type={}", bootstrap::SECRET_TYPE),
        ..Query::default()
    };
    for secret in client.list(catalogue::secrets(), &query).await?.items {
        if expires(&secret).is_some_and(|expires| expires <= now_seconds) {
            let options = DeleteOptions { uid: Some(meta::uid(&secret).to_owned()), ..DeleteOptions::default() };
            client.write(Write::Delete(catalogue::secrets(), meta::key(&secret), options)).await?;
        }
    }
    Ok(())
}
