//! A door over a store in memory, for this crate's tests.

use crate::{
    TolerationDefaults,
    auth::Authenticator,
    door::{Body, Door, DoorConfig, Target, WriteOptions},
    identity::Identity,
};
use coracle_objects::{ApiError, catalogue};
use coracle_store::{Proposer, Store, testing::LocalProposer};
use serde_json::{Value, json};
use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

/// Token of the administrator at [`authenticator`].
pub(crate) const TOKEN: &str = "secret";

/// A door, the proposer behind it, and a namespace `default`.
pub(crate) async fn door() -> (Arc<Door>, Arc<LocalProposer>) {
    door_with_rest(std::time::Duration::ZERO).await
}

/// The same, where ranges of deleted nodes rest so long.
pub(crate) async fn door_with_rest(range_rest: std::time::Duration) -> (Arc<Door>, Arc<LocalProposer>) {
    let proposer = Arc::new(LocalProposer::new().unwrap());
    (door_of(Arc::clone(&proposer) as _, proposer.store().clone(), range_rest).await, proposer)
}

/// The same, before any proposer and its store.
pub(crate) async fn door_of(proposer: Arc<dyn Proposer>, store: Store, range_rest: std::time::Duration) -> Arc<Door> {
    let door = Door::new(DoorConfig {
        store,
        proposer,
        service_range: (Ipv4Addr::new(10, 96, 0, 0), 16),
        range_rest,
        blob_dir: PathBuf::from("/nonexistent"),
        tolerations: TolerationDefaults::default(),
    });
    create(&door, &Target::collection(catalogue::namespaces(), ""), json!({"metadata": {"name": "default"}}))
        .await
        .unwrap();
    door
}

pub(crate) fn authenticator() -> Arc<Authenticator> {
    Arc::new(Authenticator::new().with_token(TOKEN, Identity::admin()))
}

/// Creates an object as the administrator.
pub(crate) async fn create(door: &Door, target: &Target, mut object: Value) -> Result<Value, ApiError> {
    object["apiVersion"] = Value::from(target.kind.api_version());
    object["kind"] = Value::from(target.kind.kind);
    let written = door.create(&Identity::admin(), target, Body::Value(object), WriteOptions::default()).await?;
    Ok(serde_json::from_slice(&written.bytes).unwrap())
}

/// A pod that is valid.
pub(crate) fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": "app:1"}]},
    })
}

/// A pod called `name` on `node` ("" for none), Running unless `status` has another `phase`; `status` is also that of
/// its one container, `main`.
pub(crate) async fn running_pod(door: &Door, name: &str, node: &str, status: &Value) -> Value {
    let collection = Target::collection(catalogue::pods(), "default");
    let mut object = pod(name);
    if !node.is_empty() {
        object["spec"]["nodeName"] = Value::from(node);
    }
    let mut pod = create(door, &collection, object).await.unwrap();
    let phase = status["phase"].as_str().unwrap_or("Running");
    let container = json!({
        "name": "main", "image": "app:1", "imageID": "", "ready": false, "restartCount": 0, "state": status["state"],
    });
    pod["status"] = json!({"phase": phase, "containerStatuses": [container]});
    let target = Target::object(catalogue::pods(), "default", name).with_subresource("status").unwrap();
    let body = Body::Value(pod);
    let written = door.update(&Identity::admin(), &target, body, WriteOptions::default()).await.unwrap();
    serde_json::from_slice(&written.bytes).unwrap()
}

/// A config map.
pub(crate) fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

/// A service with one port.
pub(crate) fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "selector": {"app": "x"}}})
}
