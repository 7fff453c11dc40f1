//! Certificate signing requests say who made them, and Nodes since when their credentials count: neither is anybody's to
//! choose.

use super::Claims;
use crate::{
    auth::revocation,
    door::{Door, Target, read_error, stamp},
    identity::Identity,
};
use coracle_objects::{ApiError, catalogue, nodes};
use serde_json::Value;

/// Writes into a new request who makes it.
pub(crate) fn sign_with(identity: &Identity, target: &Target, object: &mut Value) {
    if target.kind != catalogue::certificate_signing_requests() {
        return;
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("username".to_owned(), identity.user.as_str().into());
        spec.insert("groups".to_owned(), identity.groups.clone().into());
        spec.shift_remove("uid");
        spec.shift_remove("extra");
    }
}

/// Writes into a new Node since when credentials of its name count, with the check that it is so; one that is there keeps
/// what it says.
pub(super) fn stamp_since(
    door: &Door,
    target: &Target,
    node: &mut Value,
    old: Option<&Value>,
    claims: &mut Claims,
) -> Result<(), ApiError> {
    let said = if let Some(old) = old {
        old["metadata"]["annotations"].get(nodes::CREDENTIALS_SINCE_ANNOTATION).cloned()
    } else {
        let (since, check) =
            revocation::since_and_check(door.store(), &target.name).map_err(|error| read_error(&error))?;
        claims.checks.push(check);
        (since > 0).then(|| since.to_string().into())
    };
    let metadata = stamp::metadata(node);
    match said {
        Some(said) => {
            let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(serde_json::Map::new()));
            if let Some(annotations) = annotations.as_object_mut() {
                annotations.insert(nodes::CREDENTIALS_SINCE_ANNOTATION.to_owned(), said);
            }
        }
        None => {
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.shift_remove(nodes::CREDENTIALS_SINCE_ANNOTATION);
            }
        }
    }
    Ok(())
}

/// What the end of an object ends with it: a node's credentials.
pub(crate) fn revoke(door: &Door, target: &Target) -> Result<Option<coracle_store::Op>, ApiError> {
    if target.kind != catalogue::nodes() {
        return Ok(None);
    }
    revocation::revoke(door.store(), &target.name, stamp::now_seconds()).map(Some).map_err(|error| read_error(&error))
}
