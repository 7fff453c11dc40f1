//! `coracle.v1.Objects`: the generic object service.

use super::{Shared, answered};
use crate::{
    auth::Authenticator,
    door::{
        Body, DeleteOptions, Door, Target, WriteOptions,
        change::{Applied, decode_patch},
        encode,
        read::{At, ListOptions, Selection},
        stamp,
        watch::{EventType, WatchOptions},
    },
};
use bytes::Bytes;
use coracle_objects::{
    ApiError, Reason, catalogue, decode,
    fields::FieldValidation,
    kind::Verb,
    meta,
    patch::PatchType,
    table::{self, IncludeObject},
};
use coracle_wire::v1::{
    ApplyRequest, ApplyResponse, CreateRequest, DeleteRequest, GetRequest, ListRequest, ListResponse, Object,
    PatchRequest, Resource, UpdateRequest, WatchEvent, WatchRequest,
    apply_response::Change,
    objects_server::{Objects, ObjectsServer},
    watch_event::Type,
};
use futures::{StreamExt, stream::BoxStream};
use serde_json::json;
use std::sync::Arc;
use tonic::{Request, Response, Status, async_trait};

/// What a message holds besides the object itself.
const MESSAGE_OVERHEAD_BYTES: usize = 64 * 1024;

/// The service, to be added to a router.
pub fn service(door: Arc<Door>, authenticator: Arc<Authenticator>) -> ObjectsServer<ObjectService> {
    ObjectsServer::new(ObjectService::new(door, authenticator))
        .max_decoding_message_size(decode::MAX_BODY_BYTES + MESSAGE_OVERHEAD_BYTES)
}

/// Objects through the door.
#[derive(Clone)]
pub struct ObjectService {
    shared: Shared,
}

impl ObjectService {
    /// Serves `door` to those whom `authenticator` knows.
    #[must_use]
    pub fn new(door: Arc<Door>, authenticator: Arc<Authenticator>) -> Self {
        Self { shared: Shared { door, authenticator } }
    }
}

/// The target that a request names.
fn target(resource: Option<Resource>, namespace: String, name: String, subresource: &str) -> Result<Target, ApiError> {
    let resource = resource.ok_or_else(|| ApiError::bad_request("the request names no resource"))?;
    let Resource { group, version, plural } = resource;
    let kind = catalogue::by_resource(&group, &version, &plural)
        .ok_or_else(|| ApiError::new(Reason::NotFound, "the server could not find the requested resource"))?;
    if namespace.contains('/') || name.contains('/') {
        return Err(ApiError::bad_request("names and namespaces contain no '/'"));
    }
    if !kind.namespaced && !namespace.is_empty() {
        return Err(ApiError::bad_request(format!("{} are not in namespaces", kind.plural)));
    }
    Target { kind, namespace, name, subresource: "" }.with_subresource(subresource)
}

/// One object; what is in a namespace needs one.
fn one(target: Target) -> Result<Target, ApiError> {
    if target.name.is_empty() {
        return Err(ApiError::bad_request("the request names no object"));
    }
    if target.kind.namespaced && target.namespace.is_empty() {
        return Err(ApiError::bad_request("the request names no namespace"));
    }
    Ok(target)
}

/// Where an object is to be created: the namespace of the request, or else its own.
fn placed(mut target: Target, json: &[u8]) -> Result<Target, ApiError> {
    if target.kind.namespaced && target.namespace.is_empty() {
        meta::namespace(&decode::json(json)?.0).clone_into(&mut target.namespace);
    }
    Ok(target)
}

fn options(validation: &str, dry_run: bool) -> Result<WriteOptions, ApiError> {
    let validation = match validation {
        "" | "Warn" => FieldValidation::Warn,
        "Ignore" => FieldValidation::Ignore,
        "Strict" => FieldValidation::Strict,
        other => return Err(ApiError::bad_request(format!("field_validation: unknown value \"{other}\""))),
    };
    Ok(WriteOptions { dry_run, validation })
}

fn object(json: Bytes) -> Object {
    Object { json }
}

fn asked(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[async_trait]
impl Objects for ObjectService {
    type WatchStream = BoxStream<'static, Result<WatchEvent, Status>>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Object>, Status> {
        answered(async {
            let identity = self.shared.identity(&request)?;
            let GetRequest { resource, namespace, name } = request.into_inner();
            let target = one(target(resource, namespace, name, "")?)?;
            target.require(Verb::Get)?;
            Ok(object(self.shared.door.get(&identity, &target, At::Latest).await?.value))
        })
        .await
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        answered(async {
            let identity = self.shared.identity(&request)?;
            let request = request.into_inner();
            let target = target(request.resource, request.namespace, String::new(), "")?;
            target.require(Verb::List)?;
            let options = ListOptions {
                selection: Selection::parse(&target, &request.label_selector, &request.field_selector)?,
                limit: usize::try_from(request.limit)
                    .map_err(|_| ApiError::bad_request("limit: must not be negative"))?,
                continue_token: request.continue_token,
                at: At::Latest,
            };
            let listed = self.shared.door.list(&identity, &target, &options).await?;
            let resource_version = listed.revision.0.to_string();
            let mut response = ListResponse {
                resource_version: resource_version.clone(),
                continue_token: listed.continue_token.clone(),
                ..ListResponse::default()
            };
            let entries = listed.entries.into_iter().map(|entry| entry.value);
            if request.table {
                let objects = entries.map(|bytes| encode::decode(&bytes)).collect::<Result<Vec<_>, _>>()?;
                let list_meta = json!({"resourceVersion": resource_version, "continue": listed.continue_token});
                let now = stamp::now_seconds();
                let table = table::table(target.kind, &objects, &list_meta, IncludeObject::Metadata, now);
                response.table = Bytes::from(table.to_string());
            } else {
                response.items = entries.collect();
            }
            Ok(response)
        })
        .await
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        answered(async {
            let identity = self.shared.identity(&request)?;
            let request = request.into_inner();
            let target = target(request.resource, request.namespace, String::new(), "")?;
            target.require(Verb::Watch)?;
            let options = WatchOptions {
                selection: Selection::parse(&target, &request.label_selector, &request.field_selector)?,
                resource_version: request.resource_version,
                bookmarks: request.bookmarks,
                initial_events: false,
                timeout: None,
            };
            let events = self.shared.door.watch(&identity, &target, options).await?;
            Ok(events.map(|event| Ok(event.map_or_else(|error| failure(&error), told))).boxed())
        })
        .await
    }

    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<Object>, Status> {
        answered(async {
            let identity = self.shared.identity(&request)?;
            let request = request.into_inner();
            let mut target = target(request.resource, request.namespace, request.name, &request.subresource)?;
            if target.subresource.is_empty() {
                target = placed(target, &request.json)?;
                target.name.clear();
            } else {
                target = one(target)?;
            }
            let options = options(&request.field_validation, request.dry_run)?;
            let body = Body::Json(request.json);
            Ok(object(self.shared.door.create(&identity, &target, body, options).await?.bytes))
        })
        .await
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Result<Response<Object>, Status> {
        answered(async {
            let identity = self.shared.identity(&request)?;
            let request = request.into_inner();
            let target = one(target(request.resource, request.namespace, request.name, &request.subresource)?)?;
            let options = options(&request.field_validation, request.dry_run)?;
            let body = Body::Json(request.json);
            Ok(object(self.shared.door.update(&identity, &target, body, options).await?.bytes))
        })
        .await
    }

    async fn patch(&self, request: Request<PatchRequest>) -> Result<Response<Object>, Status> {
        answered(async {
            let identity = self.shared.identity(&request)?;
            let request = request.into_inner();
            let target = one(target(request.resource, request.namespace, request.name, &request.subresource)?)?;
            let options = options(&request.field_validation, request.dry_run)?;
            let patch_type = PatchType::from_content_type(&request.content_type).ok_or_else(|| {
                let message = format!("\"{}\" is no patch type that is known here", request.content_type);
                ApiError::new(Reason::UnsupportedMediaType, message)
            })?;
            let patch = decode_patch(&request.patch)?;
            Ok(object(self.shared.door.patch(&identity, &target, &patch, patch_type, options).await?.bytes))
        })
        .await
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        answered(async {
            let identity = self.shared.identity(&request)?;
            let request = request.into_inner();
            let target = placed(target(request.resource, request.namespace, String::new(), "")?, &request.json)?;
            let options = options(&request.field_validation, request.dry_run)?;
            let body = Body::Json(request.json);
            let (applied, written) = self.shared.door.apply(&identity, &target, body, options).await?;
            let change = match applied {
                Applied::Created => Change::Created,
                Applied::Configured => Change::Configured,
                Applied::Unchanged => Change::Unchanged,
            };
            Ok(ApplyResponse { change: change.into(), json: written.bytes })
        })
        .await
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<Object>, Status> {
        answered(async {
            let identity = self.shared.identity(&request)?;
            let request = request.into_inner();
            let target = one(target(request.resource, request.namespace, request.name, "")?)?;
            let options = DeleteOptions {
                grace_period_seconds: (request.grace_period_seconds >= 0).then_some(request.grace_period_seconds),
                uid: asked(request.uid),
                resource_version: asked(request.resource_version),
                dry_run: request.dry_run,
                orphans: false,
            };
            Ok(object(self.shared.door.delete(&identity, &target, &options).await?.bytes))
        })
        .await
    }
}

fn told(event: crate::door::watch::WatchEvent) -> WatchEvent {
    let event_type = match event.event_type {
        EventType::Added => Type::Added,
        EventType::Modified => Type::Modified,
        EventType::Deleted => Type::Deleted,
        EventType::Bookmark => Type::Bookmark,
    };
    WatchEvent { r#type: event_type.into(), object: event.object }
}

fn failure(error: &ApiError) -> WatchEvent {
    WatchEvent { r#type: Type::Error.into(), object: Bytes::from(error.to_status().to_string()) }
}
