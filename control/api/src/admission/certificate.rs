//! Certificate signing requests say who made them, and Nodes since when their credentials count: neither is anybody's to
//! choose.

use super::Claims;
use crate::{
    auth::revocation,
    door::{Door, Target, read_error, stamp},
    identity::{GROUP_MASTERS, Identity},
};
use coracle_objects::{ApiError, Reason, catalogue, nodes};
use serde_json::Value;

/// Signing requests that there may be before machines and nodes may make no more; they go by themselves when they are old.
const REQUESTS_MAX: usize = if cfg!(test) { 3 } else { 5_000 };

/// Writes into a new request who makes it.
///
/// # Errors
/// 429 when there are too many.
pub(crate) fn admit_create(
    door: &Door,
    identity: &Identity,
    target: &Target,
    object: &mut Value,
) -> Result<(), ApiError> {
    if target.kind != catalogue::certificate_signing_requests() {
        return Ok(());
    }
    if !identity.is_in(GROUP_MASTERS) {
        let page = door.store().list(&target.prefix(None), None, REQUESTS_MAX, None);
        if page.map_err(|error| read_error(&error))?.entries.len() >= REQUESTS_MAX {
            let message =
                format!("there are {REQUESTS_MAX} certificate signing requests; old ones are removed after a while");
            return Err(ApiError::new(Reason::TooManyRequests, message));
        }
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("username".to_owned(), identity.user.as_str().into());
        spec.insert("groups".to_owned(), identity.groups.clone().into());
        spec.shift_remove("uid");
        spec.shift_remove("extra");
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        door::{Body, DeleteOptions, WriteOptions},
        testing,
    };
    use coracle_objects::{bootstrap, patch::PatchType};
    use serde_json::json;

    fn request(name: &str) -> Value {
        // The request itself is nobody's concern here but that it looks like one.
        let pem = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0=";
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
            "spec": {"request": pem, "signerName": bootstrap::NODE_SIGNER, "usages": ["client auth"],
                "username": "admin", "groups": ["system:masters"], "uid": "u", "extra": {"a": ["b"]}}})
    }

    #[tokio::test]
    async fn a_request_says_who_made_it_and_there_are_only_so_many() {
        let (door, _) = testing::door().await;
        let target = Target::collection(catalogue::certificate_signing_requests(), "");
        let machine = Identity::new("system:bootstrap:abcdef", &[bootstrap::GROUP]);
        let make = async |identity: &Identity, name: &str| {
            let written = door.create(identity, &target, Body::Value(request(name)), WriteOptions::default()).await?;
            Ok::<Value, ApiError>(serde_json::from_slice(&written.bytes).unwrap())
        };
        let first = make(&machine, "a").await.unwrap();
        assert_eq!(first["spec"]["username"], machine.user);
        assert_eq!(first["spec"]["groups"], json!(machine.groups));
        assert!(first["spec"].get("uid").is_none() && first["spec"].get("extra").is_none());
        for name in ["b", "c"] {
            make(&machine, name).await.unwrap();
        }
        for identity in [&machine, &Identity::node("one")] {
            assert_eq!(make(identity, "d").await.unwrap_err().reason, Reason::TooManyRequests);
        }
        make(&Identity::admin(), "d").await.unwrap();
        assert_eq!(make(&Identity::new("jane", &[]), "e").await.unwrap_err().reason, Reason::Forbidden);
    }

    #[tokio::test]
    async fn a_node_says_since_when_its_credentials_count_and_nobody_else_does() {
        let (door, _) = testing::door().await;
        let nodes_target = Target::collection(catalogue::nodes(), "");
        let target = Target::object(catalogue::nodes(), "", "one");
        let said = |node: &Value| node["metadata"]["annotations"][nodes::CREDENTIALS_SINCE_ANNOTATION].clone();
        let lie = json!({"metadata": {"name": "one", "annotations": {nodes::CREDENTIALS_SINCE_ANNOTATION: "1"}}});
        let first = testing::create(&door, &nodes_target, lie.clone()).await.unwrap();
        assert_eq!(said(&first), Value::Null, "nothing was ever deleted");
        door.delete(&Identity::admin(), &target, &DeleteOptions::default()).await.unwrap();
        let since = revocation::since(door.store(), "one").unwrap();
        let again = testing::create(&door, &nodes_target, lie.clone()).await.unwrap();
        assert_eq!(said(&again), json!(since.to_string()));
        for annotation in [json!("1"), Value::Null] {
            let patch = json!({"metadata": {"annotations": {nodes::CREDENTIALS_SINCE_ANNOTATION: annotation}}});
            let options = WriteOptions::default();
            let written = door.patch(&Identity::admin(), &target, &patch, PatchType::Merge, options).await.unwrap();
            assert_eq!(said(&serde_json::from_slice(&written.bytes).unwrap()), json!(since.to_string()));
        }
    }
}
