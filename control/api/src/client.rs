//! The door for controllers and the scheduler in this process: no sockets, the same checks.

use crate::{
    door::{
        Body, DeleteOptions, Door, Target, WriteOptions, encode,
        read::{At, ListOptions, Selection},
        watch::{EventType, WatchOptions},
    },
    identity::Identity,
};
use async_trait::async_trait;
use bytes::Bytes;
use coracle_client::{Client, Event, Listing, Part, Query, Write};
use coracle_objects::{ApiError, Kind, ObjectKey, catalogue, meta};
use futures::{StreamExt, future, stream::BoxStream};
use serde_json::{Value, json};
use std::sync::Arc;

/// One identity's way through the door.
pub(crate) struct DoorClient {
    door: Arc<Door>,
    identity: Identity,
}

impl DoorClient {
    pub(crate) fn new(door: Arc<Door>, identity: Identity) -> Self {
        Self { door, identity }
    }

    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Bytes, ApiError> {
        Ok(self.door.delete(&self.identity, target, options).await?.bytes)
    }
}

fn shared(bytes: &Bytes) -> Result<Arc<Value>, ApiError> {
    encode::decode(bytes).map(Arc::new)
}

fn of_object(kind: &'static Kind, object: &Value) -> Target {
    Target::object(kind, meta::namespace(object), meta::name(object))
}

fn of_query(kind: &'static Kind, query: &Query) -> Result<(Target, Selection), ApiError> {
    let target = Target::collection(kind, query.namespace.clone().unwrap_or_default());
    let selection = Selection::parse(&target, &query.label_selector, &query.field_selector)?;
    Ok((target, selection))
}

#[async_trait]
impl Client for DoorClient {
    async fn get(&self, kind: &'static Kind, key: &ObjectKey) -> Result<Arc<Value>, ApiError> {
        let target = Target::object(kind, key.namespace.as_str(), key.name.as_str());
        shared(&self.door.get(&self.identity, &target, At::Latest).await?.value)
    }

    async fn list(&self, kind: &'static Kind, query: &Query) -> Result<Listing, ApiError> {
        let (target, selection) = of_query(kind, query)?;
        let options = ListOptions { selection, ..ListOptions::default() };
        let listed = self.door.list(&self.identity, &target, &options).await?;
        let items = listed.entries.iter().map(|entry| shared(&entry.value)).collect::<Result<_, _>>()?;
        Ok(Listing { items, resource_version: listed.revision.0.to_string() })
    }

    async fn watch(
        &self,
        kind: &'static Kind,
        query: &Query,
        resource_version: &str,
    ) -> Result<BoxStream<'static, Result<Event, ApiError>>, ApiError> {
        let (target, selection) = of_query(kind, query)?;
        let resource_version = resource_version.to_owned();
        let options = WatchOptions { selection, resource_version, bookmarks: true, ..WatchOptions::default() };
        let events = self.door.watch(&self.identity, &target, options).await?;
        let decoded = events.map(|event| {
            let event = event?;
            Ok(match event.event_type {
                EventType::Added | EventType::Modified => Event::Applied(shared(&event.object)?),
                EventType::Deleted => Event::Deleted(shared(&event.object)?),
                EventType::Bookmark => Event::Bookmark(event.revision.0.to_string()),
            })
        });
        Ok(decoded.boxed())
    }

    async fn write(&self, write: Write) -> Result<Arc<Value>, ApiError> {
        let (door, identity, options) = (&self.door, &self.identity, WriteOptions::default());
        let bytes = match write {
            Write::Create(kind, object) => {
                let target = Target::collection(kind, meta::namespace(&object));
                door.create(identity, &target, Body::Value(object), options).await?.bytes
            }
            Write::Update(kind, part, object) => {
                let target = of_object(kind, &object).with_subresource(match part {
                    Part::Object => "",
                    Part::Status => "status",
                    Part::Finalize => "finalize",
                })?;
                door.update(identity, &target, Body::Value(object), options).await?.bytes
            }
            Write::Delete(kind, key, asked) => {
                let target = Target::object(kind, key.namespace, key.name);
                let options = DeleteOptions {
                    grace_period_seconds: asked.grace_period_seconds,
                    uid: asked.uid,
                    resource_version: asked.resource_version,
                    ..DeleteOptions::default()
                };
                self.delete(&target, &options).await?
            }
            Write::Bind { pod, uid, node } => {
                let target = Target::object(catalogue::pods(), pod.namespace, pod.name).with_subresource("binding")?;
                let body = json!({"metadata": {"uid": uid}, "target": {"kind": "Node", "name": node}});
                door.bind(identity, &target, Body::Value(body), options).await?.bytes
            }
        };
        shared(&bytes)
    }

    async fn write_many(&self, writes: Vec<Write>) -> Vec<Result<Arc<Value>, ApiError>> {
        // Proposals that wait together share one log write, so sending them at once is what makes this fast.
        future::join_all(writes.into_iter().map(|write| self.write(write))).await
    }
}
