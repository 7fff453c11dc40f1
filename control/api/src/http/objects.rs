//! Verbs on objects and collections.

use super::{
    accept::Accept, answer, body, connect, delete_options, logs, node_proxy, path::ObjectPath, query::Query,
    views::View, watch,
};
use crate::{
    door::{
        Body, DeleteOptions, Door, Removed, Target, Written,
        change::decode_patch,
        encode,
        read::{At, ListOptions, Selection},
        target::method_not_allowed,
        watch::WatchOptions,
    },
    identity::Identity,
};
use axum::{body::Body as HttpBody, response::Response};
use coracle_objects::{
    ApiError, Reason, decode,
    fields::{Document, FieldValidation},
    kind::Verb,
    patch::PatchType,
};
use http::{Method, StatusCode, request::Parts};
use serde_json::{Value, json};
use std::time::Duration;

/// One request about objects.
pub(super) struct Call<'a> {
    pub(super) door: &'a Door,
    pub(super) identity: &'a Identity,
    pub(super) path: ObjectPath,
    pub(super) query: Query,
    pub(super) accept: Accept,
    pub(super) parts: &'a Parts,
}

impl Call<'_> {
    /// Does what the method and the path say.
    pub(super) async fn answer(self, body: HttpBody) -> Result<Response, ApiError> {
        let path = &self.path;
        let target = Target::object(path.kind, path.namespace.as_str(), path.name.as_str());
        let target = target.with_subresource(&path.subresource)?;
        if matches!(target.subresource, "attach" | "exec" | "portforward") {
            return connect::answer(self.door, self.identity, &target, &self.query, self.parts).await;
        }
        if target.subresource == "proxy" {
            return node_proxy::answer(self.door, self.identity, &target, &path.tail, &self.parts.method).await;
        }
        let view = View::new(path.kind, self.accept, &self.query)?;
        let is_collection = path.name.is_empty();
        match self.parts.method {
            Method::GET | Method::HEAD if target.subresource == "log" => {
                logs::answer(self.door, self.identity, &target, &self.query).await
            }
            Method::GET | Method::HEAD if self.query.flag("watch")? => self.watch(target, view).await,
            Method::GET | Method::HEAD if is_collection => self.list(&target, view).await,
            Method::GET | Method::HEAD => self.get(&target, view).await,
            Method::POST if is_collection || is_order(&target) => self.create(&target, view, body).await,
            Method::PUT if !is_collection => self.update(&target, view, body).await,
            Method::PATCH if !is_collection => self.patch(&target, view, body).await,
            // As in Kubernetes, what is in namespaces is deleted one namespace at a time.
            Method::DELETE if is_collection && path.kind.namespaced == path.namespace.is_empty() => {
                Err(method_not_allowed())
            }
            Method::DELETE if is_collection => self.delete_collection(&target, view, body).await,
            Method::DELETE if target.subresource.is_empty() => self.delete(&target, view, body).await,
            _ => Err(method_not_allowed()),
        }
    }

    async fn get(&self, target: &Target, view: View) -> Result<Response, ApiError> {
        target.require(Verb::Get)?;
        let at = if self.query.text("resourceVersion") == "0" { At::Any } else { At::Latest };
        view.object(StatusCode::OK, self.door.get(self.identity, target, at).await?.value)
    }

    fn selection(&self, target: &Target) -> Result<Selection, ApiError> {
        Selection::parse(target, self.query.text("labelSelector"), self.query.text("fieldSelector"))
    }

    fn list_options(&self, target: &Target) -> Result<ListOptions, ApiError> {
        let limit = self.query.number("limit")?.unwrap_or(0);
        let limit = usize::try_from(limit).map_err(|_| ApiError::bad_request("limit: must not be negative"))?;
        let continue_token = self.query.text("continue").to_owned();
        let version = self.query.text("resourceVersion");
        let at = if continue_token.is_empty() {
            self.query.at(limit > 0)?
        } else if version.is_empty() || version == "0" {
            At::Latest
        } else {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        };
        Ok(ListOptions { selection: self.selection(target)?, limit, continue_token, at })
    }

    async fn list(&self, target: &Target, view: View) -> Result<Response, ApiError> {
        target.require(Verb::List)?;
        let options = self.list_options(target)?;
        view.list(self.door.list(self.identity, target, &options).await?)
    }

    async fn watch(&self, mut target: Target, view: View) -> Result<Response, ApiError> {
        target.require(Verb::Watch)?;
        let selection = if target.name.is_empty() {
            self.selection(&target)?
        } else {
            // A watch of one object is one of a collection that can hold only it.
            let fields = format!("metadata.name={}", std::mem::take(&mut target.name));
            Selection::parse(&target, self.query.text("labelSelector"), &fields)?
        };
        let initial_events = self.query.flag("sendInitialEvents")?;
        check_initial_events(initial_events, &self.query)?;
        let timeout = self.query.number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
        let options = WatchOptions {
            selection,
            resource_version: self.query.text("resourceVersion").to_owned(),
            bookmarks: self.query.flag("allowWatchBookmarks")?,
            initial_events,
            timeout: timeout.filter(|seconds| *seconds > 0).map(Duration::from_secs),
        };
        match self.door.watch(self.identity, &target, options).await {
            Ok(events) => Ok(watch::answer(view, events)),
            Err(error) if error.reason == Reason::Expired => Ok(watch::failed(&error)),
            Err(error) => Err(error),
        }
    }

    async fn object_body(&self, body: HttpBody) -> Result<Body, ApiError> {
        let bytes = body::read(&self.parts.headers, body).await?;
        Ok(Body::Json(body::to_json(&self.parts.headers, bytes)?))
    }

    async fn create(&self, target: &Target, view: View, body: HttpBody) -> Result<Response, ApiError> {
        target.require(Verb::Create)?;
        let options = self.query.write_options()?;
        let body = self.object_body(body).await?;
        let written = self.door.create(self.identity, target, body, options).await?;
        if is_order(target) {
            let status =
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
            return Ok(answer::warn(answer::json(StatusCode::CREATED, &status), &written.warnings));
        }
        shown(view, StatusCode::CREATED, written)
    }

    async fn update(&self, target: &Target, view: View, body: HttpBody) -> Result<Response, ApiError> {
        target.require(Verb::Update)?;
        let options = self.query.write_options()?;
        let body = self.object_body(body).await?;
        shown(view, StatusCode::OK, self.door.update(self.identity, target, body, options).await?)
    }

    async fn patch(&self, target: &Target, view: View, body: HttpBody) -> Result<Response, ApiError> {
        target.require(Verb::Patch)?;
        let options = self.query.write_options()?;
        let patch_type = PatchType::from_content_type(body::media_type(&self.parts.headers)).ok_or_else(|| {
            body::unsupported(&[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
            ])
        })?;
        let bytes = body::read(&self.parts.headers, body).await?;
        let patch = decode_patch(&bytes)?;
        shown(view, StatusCode::OK, self.door.patch(self.identity, target, &patch, patch_type, options).await?)
    }

    async fn delete_options(&self, body: HttpBody) -> Result<DeleteOptions, ApiError> {
        let bytes = body::read(&self.parts.headers, body).await?;
        let object = if bytes.trim_ascii().is_empty() {
            Value::Null
        } else {
            let json = body::to_json(&self.parts.headers, bytes)?;
            decode::document(&Document::DELETE_OPTIONS, &json, FieldValidation::Ignore)?.object
        };
        delete_options::read(&object, &self.query)
    }

    async fn delete(&self, target: &Target, view: View, body: HttpBody) -> Result<Response, ApiError> {
        target.require(Verb::Delete)?;
        let options = self.delete_options(body).await?;
        let removed = self.door.delete(self.identity, target, &options).await?;
        if removed.gone && target.kind != coracle_objects::catalogue::pods() {
            return Ok(answer::json(StatusCode::OK, &gone(target, &removed)?));
        }
        view.object(StatusCode::OK, removed.bytes)
    }

    async fn delete_collection(&self, target: &Target, view: View, body: HttpBody) -> Result<Response, ApiError> {
        target.require(Verb::DeleteCollection)?;
        let list = self.list_options(target)?;
        let options = self.delete_options(body).await?;
        let removed = self.door.delete_collection(self.identity, target, &list, &options).await?;
        let revision = self.door.store().revision().0.to_string();
        Ok(view.plain_list(&json!({"resourceVersion": revision}), removed))
    }
}

/// Whether what is posted there says what is to be done with the object above, and is nothing itself.
fn is_order(target: &Target) -> bool {
    matches!(target.subresource, "binding" | "eviction")
}

fn shown(view: View, status: StatusCode, written: Written) -> Result<Response, ApiError> {
    Ok(answer::warn(view.object(status, written.bytes)?, &written.warnings))
}

/// `Status` of a deletion that left nothing behind.
pub(crate) fn gone(target: &Target, removed: &Removed) -> Result<Value, ApiError> {
    let object = encode::decode(&removed.bytes)?;
    let mut details = json!({"name": target.name, "kind": target.kind.plural, "uid": object["metadata"]["uid"]});
    if !target.kind.group.is_empty() {
        details["group"] = Value::from(target.kind.group);
    }
    Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}))
}

fn check_initial_events(initial_events: bool, query: &Query) -> Result<(), ApiError> {
    let matching = query.text("resourceVersionMatch");
    let detail = match (initial_events, matching) {
        (true, "NotOlderThan") | (false, "") => return Ok(()),
        (true, _) => "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        (false, _) => "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
    };
    Err(ApiError::new(Reason::Invalid, format!("resourceVersionMatch: Forbidden: {detail}")))
}
