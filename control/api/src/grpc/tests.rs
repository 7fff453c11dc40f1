//! The object service, called as tonic calls it.

use super::*;
use crate::testing::{self, TOKEN};
use coracle_wire::{
    STATUS_TRAILER,
    v1::{
        ApplyRequest, CreateRequest, DeleteRequest, GetRequest, ListRequest, PatchRequest, Resource, UpdateRequest,
        WatchRequest, apply_response::Change, objects_server::Objects, watch_event::Type,
    },
};
use futures::StreamExt;
use serde_json::{Value, json};
use tonic::Code;

async fn server() -> objects::ObjectService {
    let (door, _) = testing::door().await;
    objects::ObjectService::new(door, testing::authenticator())
}

fn signed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    request
}

#[expect(clippy::unnecessary_wraps, reason = "messages hold it so")]
fn resource(plural: &str) -> Option<Resource> {
    Some(Resource { group: String::new(), version: "v1".to_owned(), plural: plural.to_owned() })
}

fn bytes(value: &Value) -> bytes::Bytes {
    bytes::Bytes::from(value.to_string())
}

fn value(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap()
}

fn create(plural: &str, object: &Value) -> CreateRequest {
    CreateRequest {
        resource: resource(plural),
        namespace: "default".to_owned(),
        json: bytes(object),
        ..CreateRequest::default()
    }
}

fn get(plural: &str, name: &str) -> GetRequest {
    GetRequest { resource: resource(plural), namespace: "default".to_owned(), name: name.to_owned() }
}

#[tokio::test]
async fn every_call_reaches_the_object() {
    let server = server().await;
    let created = server.create(signed(create("configmaps", &testing::config_map("x")))).await.unwrap().into_inner();
    let read = server.get(signed(get("configmaps", "x"))).await.unwrap().into_inner();
    assert_eq!(read.json, created.json);
    let mut changed = value(&read.json);
    changed["data"]["a"] = Value::from("2");
    let update = UpdateRequest {
        resource: resource("configmaps"),
        namespace: "default".to_owned(),
        name: "x".to_owned(),
        json: bytes(&changed),
        ..UpdateRequest::default()
    };
    assert_eq!(value(&server.update(signed(update.clone())).await.unwrap().into_inner().json)["data"]["a"], "2");
    let stale = server.update(signed(update)).await.unwrap_err();
    assert_eq!(stale.code(), Code::Aborted);
    let trailer = stale.metadata().get_bin(STATUS_TRAILER).unwrap().to_bytes().unwrap();
    assert_eq!(value(&trailer)["reason"], "Conflict");
    let patch = PatchRequest {
        resource: resource("configmaps"),
        namespace: "default".to_owned(),
        name: "x".to_owned(),
        content_type: "application/merge-patch+json".to_owned(),
        patch: bytes(&json!({"data": {"b": "3"}})),
        ..PatchRequest::default()
    };
    assert_eq!(
        value(&server.patch(signed(patch)).await.unwrap().into_inner().json)["data"],
        json!({"a": "2", "b": "3"})
    );
    let list = ListRequest { resource: resource("configmaps"), ..ListRequest::default() };
    let listed = server.list(signed(list.clone())).await.unwrap().into_inner();
    assert_eq!(listed.items.len(), 1);
    let table = server.list(signed(ListRequest { table: true, ..list })).await.unwrap().into_inner();
    assert_eq!(value(&table.table)["kind"], "Table");
    let delete = DeleteRequest {
        resource: resource("configmaps"),
        namespace: "default".to_owned(),
        name: "x".to_owned(),
        grace_period_seconds: -1,
        ..DeleteRequest::default()
    };
    server.delete(signed(delete)).await.unwrap();
    assert_eq!(server.get(signed(get("configmaps", "x"))).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn applying_says_what_changed() {
    let server = server().await;
    let apply = |object: &Value| {
        signed(ApplyRequest {
            resource: resource("configmaps"),
            namespace: "default".to_owned(),
            json: bytes(object),
            ..ApplyRequest::default()
        })
    };
    let mut wanted = testing::config_map("x");
    for (data, expected) in [
        (json!({"a": "1", "b": "2"}), Change::Created),
        (json!({"a": "1", "b": "2"}), Change::Unchanged),
        (json!({"a": "3"}), Change::Configured),
    ] {
        wanted["data"] = data.clone();
        let answer = server.apply(apply(&wanted)).await.unwrap().into_inner();
        assert_eq!(answer.change(), expected, "{data}");
        assert_eq!(value(&answer.json)["data"], data);
    }
}

#[tokio::test]
async fn a_pod_is_bound_and_watched_by_its_node() {
    let server = server().await;
    let watch = WatchRequest {
        resource: resource("pods"),
        field_selector: "spec.nodeName=one".to_owned(),
        ..WatchRequest::default()
    };
    let mut watch = server.watch(signed(watch)).await.unwrap().into_inner();
    server.create(signed(create("pods", &testing::pod("p")))).await.unwrap();
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "one"}});
    let bind = CreateRequest { subresource: "binding".to_owned(), name: "p".to_owned(), ..create("pods", &binding) };
    server.create(signed(bind)).await.unwrap();
    let event = watch.next().await.unwrap().unwrap();
    assert_eq!(event.r#type(), Type::Added, "a pod enters the node's set when it is bound");
    assert_eq!(value(&event.object)["spec"]["nodeName"], "one");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let server = server().await;
    let unsigned = server.get(Request::new(get("pods", "x"))).await.unwrap_err();
    assert_eq!(unsigned.code(), Code::Unauthenticated);
    assert_eq!(server.get(signed(get("nothing", "x"))).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(server.get(signed(get("pods", "a/b"))).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(server.get(signed(get("pods", ""))).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(server.get(signed(GetRequest::default())).await.unwrap_err().code(), Code::InvalidArgument);
    let missing = CreateRequest { namespace: "missing".to_owned(), ..create("configmaps", &testing::config_map("x")) };
    assert_eq!(server.create(signed(missing)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_panic_costs_one_call() {
    let answer = answered(async { if true { panic!("of all things") } else { Ok(()) } }).await;
    assert_eq!(answer.unwrap_err().code(), Code::Internal);
}
