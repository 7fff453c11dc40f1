//! Certificate signing requests say who made them, and Nodes since when their credentials count: neither is anybody's to
//! choose.

use super::Claims;
use crate::{
    auth::revocation,
    door::{Door, Target, read_error, stamp},
    identity::{GROUP_MASTERS, Identity},
};
use coracle_objects::{ApiError, Reason, bootstrap, catalogue, nodes};
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;

/// Signing requests that there may be before machines and nodes may make no more; they go by themselves when they are old.
const REQUESTS_MAX: usize = if cfg!(test) { 20 } else { 5_000 };
/// Of those, requests of one node, …
const OF_NODE_MAX: usize = 16;
/// … and of one bootstrap token, by which many machines may join at once.
const OF_TOKEN_MAX: usize = 1_000;
/// Largest request of a machine or node, in bytes of JSON; one for a certificate of a node has about one thousand.
const REQUEST_BYTES_MAX: usize = 16 * 1_024;

/// Writes into a new request who makes it. What machines and nodes ask for is held to what they need, so that none of them
/// keeps the others from joining.
///
/// # Errors
/// 403 for machines and nodes that ask for something else than a node's certificate, or with finalizers or owners; 413
/// when that is too large; 429 when there are too many.
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
        hold_to_need(target, object)?;
        let page = door.store().list(&target.prefix(None), None, REQUESTS_MAX, None);
        let entries = page.map_err(|error| read_error(&error))?.entries;
        check_count(identity, entries.iter().map(|entry| requester(&entry.value)))?;
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("username".to_owned(), identity.user.as_str().into());
        spec.insert("groups".to_owned(), identity.groups.clone().into());
        spec.shift_remove("uid");
        spec.shift_remove("extra");
    }
    Ok(())
}

/// Refuses, or takes out, what the request of a machine or node has no need of.
fn hold_to_need(target: &Target, object: &mut Value) -> Result<(), ApiError> {
    let refuse = |detail: &str| Err(ApiError::forbidden("", target.kind.plural, &target.name, detail));
    if object["spec"]["signerName"] != bootstrap::NODE_SIGNER {
        let signer = bootstrap::NODE_SIGNER;
        return refuse(&format!("machines and nodes may ask only for a node's certificate (spec.signerName {signer})"));
    }
    let metadata = stamp::metadata(object);
    for field in ["finalizers", "ownerReferences"] {
        if metadata.get(field).and_then(Value::as_array).is_some_and(|list| !list.is_empty()) {
            return refuse(&format!("machines and nodes may not set metadata.{field} of a request"));
        }
    }
    metadata.retain(|field, _| matches!(field.as_str(), "name" | "generateName"));
    let bytes = object.to_string().len();
    if bytes > REQUEST_BYTES_MAX {
        let message = format!("the request has {bytes} bytes; one of a machine or node may have {REQUEST_BYTES_MAX}");
        return Err(ApiError::new(Reason::RequestEntityTooLarge, message));
    }
    Ok(())
}

/// Refuses one request more, when these users have made those that there are.
fn check_count<'a>(identity: &Identity, users: impl Iterator<Item = Cow<'a, str>>) -> Result<(), ApiError> {
    let own_max = if identity.node_name().is_some() { OF_NODE_MAX } else { OF_TOKEN_MAX };
    let (mut own, mut all) = (0, 0);
    for user in users {
        all += 1;
        own += usize::from(user == identity.user.as_str());
    }
    let message = if own >= own_max {
        format!("there are {own} certificate signing requests of {}", identity.user)
    } else if all >= REQUESTS_MAX {
        format!("there are {all} certificate signing requests")
    } else {
        return Ok(());
    };
    let message = format!("{message}; old ones are removed after a while");
    Err(ApiError::new(Reason::TooManyRequests, message))
}

/// Who made the stored request.
fn requester(stored: &[u8]) -> Cow<'_, str> {
    #[derive(Deserialize)]
    struct Request<'a> {
        #[serde(borrow)]
        spec: Spec<'a>,
    }
    #[derive(Deserialize)]
    struct Spec<'a> {
        #[serde(borrow, default)]
        username: Cow<'a, str>,
    }
    serde_json::from_slice::<Request<'_>>(stored).map(|request| request.spec.username).unwrap_or_default()
}

/// Writes into a Node since when credentials of its name count, with the check that it is so: into a new one, and into one
/// that is there when another machine has been let in as it. Otherwise a Node keeps what it says.
pub(super) fn stamp_since(
    door: &Door,
    target: &Target,
    node: &mut Value,
    old: Option<&Value>,
    claims: &mut Claims,
) -> Result<(), ApiError> {
    let news = revocation::news_for(door.store(), &target.name, old).map_err(|error| read_error(&error))?;
    let said = match (news, old) {
        (Some((since, check)), _) => {
            claims.checks.push(check);
            (since > 0).then(|| since.to_string().into())
        }
        (None, old) => {
            old.and_then(|old| old["metadata"]["annotations"].get(nodes::CREDENTIALS_SINCE_ANNOTATION).cloned())
        }
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
        for number in 0..OF_NODE_MAX {
            make(&Identity::node("one"), &format!("one-{number}")).await.unwrap();
        }
        let refused = make(&Identity::node("one"), "more").await.unwrap_err();
        assert_eq!(refused.reason, Reason::TooManyRequests);
        assert!(refused.message.contains("16 certificate signing requests of system:node:one"), "{refused}");
        for name in ["b", "c"] {
            make(&machine, name).await.unwrap();
        }
        make(&Identity::node("two"), "two").await.unwrap();
        for identity in [&machine, &Identity::node("three")] {
            assert_eq!(make(identity, "d").await.unwrap_err().reason, Reason::TooManyRequests);
        }
        make(&Identity::admin(), "d").await.unwrap();
        assert_eq!(make(&Identity::new("jane", &[]), "e").await.unwrap_err().reason, Reason::Forbidden);
    }

    #[tokio::test]
    async fn a_machine_asks_for_a_nodes_certificate_and_leaves_nothing_else_behind() {
        let (door, _) = testing::door().await;
        let target = Target::collection(catalogue::certificate_signing_requests(), "");
        let machine = Identity::new("system:bootstrap:abcdef", &[bootstrap::GROUP]);
        let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}]);
        let cases: [(&str, Value, Reason); 4] = [
            ("/spec/signerName", json!("example.com/other"), Reason::Forbidden),
            ("/metadata/finalizers", json!(["example.com/stay"]), Reason::Forbidden),
            ("/metadata/ownerReferences", owner, Reason::Forbidden),
            ("/spec/usages", json!(["client auth".repeat(2_000)]), Reason::RequestEntityTooLarge),
        ];
        for (number, (at, value, reason)) in cases.into_iter().enumerate() {
            let mut asked = request(&format!("a{number}"));
            let (parent, field) = at.rsplit_once('/').unwrap();
            asked.pointer_mut(parent).unwrap()[field] = value;
            for identity in [&machine, &Identity::node("one")] {
                let made = door.create(identity, &target, Body::Value(asked.clone()), WriteOptions::default()).await;
                assert_eq!(made.unwrap_err().reason, reason, "{at}");
            }
            if reason == Reason::Forbidden {
                door.create(&Identity::admin(), &target, Body::Value(asked), WriteOptions::default()).await.unwrap();
            }
        }
        let mut asked = request("b");
        asked["metadata"]["annotations"] = json!({"a": "b"});
        asked["metadata"]["labels"] = json!({"a": "b"});
        let made = door.create(&machine, &target, Body::Value(asked), WriteOptions::default()).await.unwrap();
        let made: Value = serde_json::from_slice(&made.bytes).unwrap();
        assert!(made["metadata"].get("annotations").is_none() && made["metadata"].get("labels").is_none(), "{made}");
    }

    #[test]
    fn many_machines_join_by_one_token_at_once() {
        let count = |identity: &Identity, own: usize| {
            check_count(identity, std::iter::repeat_n(Cow::Borrowed(identity.user.as_str()), own)).is_ok()
        };
        assert!(count(&Identity::node("one"), OF_NODE_MAX - 1) && !count(&Identity::node("one"), OF_NODE_MAX));
        let machine = Identity::new("system:bootstrap:abcdef", &[bootstrap::GROUP]);
        let said = check_count(&machine, std::iter::repeat_n(Cow::Borrowed("x"), REQUESTS_MAX)).unwrap_err();
        assert!(said.message.starts_with("there are 20 certificate signing requests;"), "{said}");
        assert!(!count(&machine, OF_TOKEN_MAX) && OF_TOKEN_MAX >= 500);
        assert_eq!(requester(br#"{"kind":"x","spec":{"a":[1],"username":"j\"d"},"status":{}}"#), "j\"d");
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
        let later = revocation::begin_anew(&door, "one").await.unwrap();
        let stored = door.store().get(&target.key()).unwrap().unwrap();
        assert_eq!(said(&serde_json::from_slice(&stored.value).unwrap()), json!(later.to_string()), "another machine");
        assert!(later > since);
    }
}
