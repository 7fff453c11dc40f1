//! `/apis/authorization.k8s.io/v1` and `/apis/authentication.k8s.io/v1`: what the asker may do, and who that is. Each
//! question is answered by the function that decides for real.

use super::{answer, body, path::Route};
use crate::{
    auth,
    door::{Door, Target, encode, target::method_not_allowed},
    identity::{Attributes, GROUP_MASTERS, Identity},
};
use axum::{body::Body, response::Response};
use coracle_objects::{ApiError, Cause, Kind, catalogue, decode, reviews};
use http::{Method, StatusCode, request::Parts};
use serde_json::{Value, json};

/// What every user may look at beside objects.
const OPEN_PATHS: [&str; 9] =
    ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi/*", "/readyz", "/version"];

/// Answers a question.
///
/// # Errors
/// 400 and 422 for what is no question, 405.
pub(super) async fn answer(
    door: &Door,
    identity: &Identity,
    kind: &'static Kind,
    parts: &Parts,
    request_body: Body,
) -> Result<Response, ApiError> {
    if parts.method != Method::POST {
        return Err(method_not_allowed());
    }
    let bytes = body::to_json(&parts.headers, body::read(&parts.headers, request_body).await?)?;
    let (mut review, _) = decode::json(&bytes)?;
    if !review.is_object() {
        return Err(ApiError::bad_request(format!("the body is no {}", kind.kind)));
    }
    review["apiVersion"] = kind.api_version().into();
    review["kind"] = kind.kind.into();
    review["status"] = if kind == reviews::of_self() {
        json!({"userInfo": {"username": identity.user, "groups": identity.groups}})
    } else if kind == reviews::access() {
        access(door, identity, kind, &review["spec"])?
    } else {
        rules(identity, &review["spec"])?
    };
    Ok(answer::json(StatusCode::CREATED, &review))
}

fn access(door: &Door, identity: &Identity, kind: &Kind, spec: &Value) -> Result<Value, ApiError> {
    let allowed = match (&spec["resourceAttributes"], &spec["nonResourceAttributes"]) {
        (asked @ Value::Object(_), Value::Null) => may(door, identity, asked)?,
        (Value::Null, asked @ Value::Object(_)) => may_look(identity, text(asked, "verb"), text(asked, "path")),
        _ => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            return Err(kind.invalid("", vec![Cause::invalid("spec.resourceAttributes", &Value::Null, detail)]));
        }
    };
    Ok(json!({"allowed": allowed}))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn may(door: &Door, identity: &Identity, asked: &Value) -> Result<bool, ApiError> {
    let field = |name| text(asked, name);
    // Nodes may touch what is theirs, which only the object tells.
    let named = catalogue::all().iter().find(|kind| kind.group == field("group") && kind.plural == field("resource"));
    let object = match named.filter(|_| !field("name").is_empty()) {
        Some(kind) => {
            let namespace = if kind.namespaced { field("namespace") } else { "" };
            let key = Target::object(kind, namespace, field("name")).key();
            let found = door.store().get(&key).map_err(|error| crate::door::read_error(&error))?;
            found.map(|entry| encode::decode(&entry.value)).transpose()?
        }
        None => None,
    };
    let attributes = Attributes {
        verb: field("verb"),
        group: field("group"),
        resource: field("resource"),
        subresource: field("subresource"),
        namespace: field("namespace"),
        name: field("name"),
        object: object.as_ref(),
        field_selector: "",
    };
    Ok(auth::authorize(identity, &attributes).is_ok())
}

/// Everybody who is known may read what this server says of itself.
fn may_look(identity: &Identity, verb: &str, path: &str) -> bool {
    let is_open =
        || !matches!(Route::parse(path), None | Some(Route::Objects(_) | Route::Metrics(_) | Route::Review(_)));
    identity.is_in(GROUP_MASTERS) || matches!(verb, "get" | "head") && is_open()
}

fn rules(identity: &Identity, spec: &Value) -> Result<Value, ApiError> {
    if text(spec, "namespace").is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let (resources, is_all) = auth::rules(identity);
    let (verbs, paths) = if identity.is_in(GROUP_MASTERS) { ("*", vec!["*"]) } else { ("get", OPEN_PATHS.to_vec()) };
    Ok(json!({
        "resourceRules": resources,
        "nonResourceRules": [{"verbs": [verbs], "nonResourceURLs": paths}],
        "incomplete": !is_all,
    }))
}
