//! The life cycle of namespaces: nothing is created in one that is missing or ending, and some never end.

use crate::door::{Door, Target, encode, read_error};
use coracle_objects::{ApiError, Cause, catalogue, meta};
use coracle_store::{Expect, Op};
use serde_json::Value;

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Whether the target is a namespace itself.
pub(crate) fn is_namespace(target: &Target) -> bool {
    target.kind == catalogue::namespaces()
}

/// Whether the namespace's content still has to be removed.
pub(crate) fn has_finalizers(namespace: &Value) -> bool {
    namespace["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
}

/// Refuses to create something of that name ("" when it is still to be made up) in a namespace that is missing or
/// ending. Answers the check that the creation must carry: that the namespace is still as it was found, lest something
/// is born in one that is being emptied.
pub(crate) async fn admit_create(door: &Door, target: &Target, name: &str) -> Result<Option<Op>, ApiError> {
    if !target.kind.namespaced {
        return Ok(None);
    }
    let namespace = &target.namespace;
    if namespace.is_empty() {
        return Err(ApiError::bad_request("an empty namespace may not be set during creation"));
    }
    let key = Target::object(catalogue::namespaces(), "", namespace).key();
    let read = || door.store().get(&key).map_err(|error| read_error(&error));
    let mut entry = read()?;
    if entry.is_none() {
        door.barrier().await?;
        entry = read()?;
    }
    let entry = entry.ok_or_else(|| catalogue::namespaces().not_found(namespace))?;
    let object = encode::decode(&entry.value)?;
    if meta::is_terminating(&object) || object["status"]["phase"] == "Terminating" {
        return Err(terminating(target, name));
    }
    Ok(Some(Op::Check { key, expect: Expect::Revision(entry.revision) }))
}

fn terminating(target: &Target, name: &str) -> ApiError {
    let namespace = &target.namespace;
    let detail = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut error = ApiError::forbidden(target.kind.group, target.kind.plural, name, &detail);
    if let Some(details) = error.details.as_mut() {
        details.causes.push(Cause {
            reason: "NamespaceTerminating",
            field: "metadata.namespace".to_owned(),
            message: format!("namespace {namespace} is being terminated"),
        });
    }
    error
}

/// Refuses to delete a namespace that the cluster cannot do without.
pub(crate) fn admit_delete(target: &Target) -> Result<(), ApiError> {
    if is_namespace(target) && IMMORTAL.contains(&target.name.as_str()) {
        let detail = "this namespace may not be deleted";
        return Err(ApiError::forbidden("", target.kind.plural, &target.name, detail));
    }
    Ok(())
}
