//! `pods/eviction`: somebody who empties a node asks a pod to go. It goes as if it were deleted, and says that it was evicted.

use crate::door::{Body, DeleteOptions, Target, WriteOptions, stamp};
use coracle_objects::{
    ApiError, Cause, decode,
    fields::{self, Document, FieldValidation},
    meta,
};
use serde_json::{Value, json};

/// Group of the body, in any version.
const GROUP: &str = "policy/";

/// How the pod is to go, from the body; `target` is the pod.
pub(crate) fn options(target: &Target, body: Body, options: WriteOptions) -> Result<DeleteOptions, ApiError> {
    let (document, validation) = (&Document::EVICTION, FieldValidation::Warn);
    let object = match body {
        Body::Json(bytes) => decode::document(document, &bytes, validation)?.object,
        Body::Value(value) => fields::check_document(document, value, validation, &[])?.object,
    };
    let version = object["apiVersion"].as_str().unwrap_or_default();
    if !version.is_empty() && !version.starts_with(GROUP) {
        let message =
            format!("the API version in the data ({version}) does not match the expected API version (policy/v1)");
        return Err(ApiError::bad_request(message));
    }
    let name = meta::name(&object);
    if !name.is_empty() && name != target.name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let wanted = &object["deleteOptions"];
    let runs = wanted["dryRun"].as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(other) = runs.iter().find(|run| *run != "All") {
        let cause = Cause::not_supported("deleteOptions.dryRun", other, &["All"]);
        return Err(ApiError::invalid("policy", "Eviction", &target.name, vec![cause]));
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(DeleteOptions {
        grace_period_seconds: wanted["gracePeriodSeconds"].as_i64(),
        uid: text(&wanted["preconditions"]["uid"]),
        resource_version: text(&wanted["preconditions"]["resourceVersion"]),
        dry_run: options.dry_run || !runs.is_empty(),
        orphans: false,
    })
}

/// Says of a pod that is going why it does.
pub(crate) fn mark(pod: &mut Value, now_seconds: i64) {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": stamp::timestamp(now_seconds),
    });
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    if let Some(conditions) = pod["status"]["conditions"].as_array_mut() {
        conditions.retain(|one| one["type"] != "DisruptionTarget");
        conditions.push(condition);
    } else {
        pod["status"]["conditions"] = json!([condition]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_objects::catalogue;

    fn read(body: &Value) -> Result<DeleteOptions, ApiError> {
        let target = Target::object(catalogue::pods(), "a", "x").with_subresource("eviction").unwrap();
        options(&target, Body::Value(body.clone()), WriteOptions::default())
    }

    #[test]
    fn old_and_new_clients_say_how_a_pod_is_to_go() {
        let usual = DeleteOptions::default();
        let five = DeleteOptions { grace_period_seconds: Some(5), uid: Some("u".to_owned()), ..usual.clone() };
        let table = [
            (json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "x"}}), Ok(usual.clone())),
            (
                json!({"apiVersion": "policy/v1beta1", "kind": "Eviction",
                    "deleteOptions": {"gracePeriodSeconds": 5, "preconditions": {"uid": "u"}}}),
                Ok(five),
            ),
            (
                json!({"kind": "Eviction", "deleteOptions": {"dryRun": ["All"]}}),
                Ok(DeleteOptions { dry_run: true, ..usual }),
            ),
            (json!({"kind": "Eviction", "deleteOptions": {"dryRun": ["Some"]}}), Err(422)),
            (json!({"apiVersion": "v1", "kind": "Eviction"}), Err(400)),
            (json!({"apiVersion": "policy/v1", "kind": "Binding"}), Err(400)),
            (json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "y"}}), Err(400)),
        ];
        for (body, expected) in table {
            assert_eq!(read(&body).map_err(|error| error.code()), expected, "{body}");
        }
    }

    #[test]
    fn a_pod_says_once_that_it_was_evicted() {
        let mut pod = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        mark(&mut pod, 0);
        mark(&mut pod, 1);
        let conditions = pod["status"]["conditions"].as_array().unwrap();
        assert_eq!((conditions.len(), &conditions[1]["reason"]), (2, &json!("EvictionByEvictionAPI")));
    }
}
