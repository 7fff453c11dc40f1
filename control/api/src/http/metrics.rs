//! `/apis/metrics.k8s.io/v1beta1`: what nodes and pods use, computed when it is asked for.

use super::{path::MetricsPath, query::Query, views::View};
use crate::{
    door::{
        Door, Target, encode,
        gate::Asked,
        read::{At, ListOptions, Selection},
        stamp,
        target::method_not_allowed,
    },
    identity::Identity,
    metrics::{NodeUsage, PodUsage},
};
use axum::response::Response;
use bytes::Bytes;
use coracle_objects::{ApiError, Kind, catalogue, meta, metrics};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Over which time rates are averaged, as a duration.
const WINDOW: &str = "10s";

/// Answers a get or a list.
///
/// # Errors
/// 400 for selectors that cannot be read, 403, 404 for what has no numbers, 405.
pub(super) async fn answer(
    door: &Door,
    identity: &Identity,
    path: MetricsPath,
    query: &Query,
    accept: super::Accept,
    method: &Method,
) -> Result<Response, ApiError> {
    if !matches!(*method, Method::GET | Method::HEAD) || query.flag("watch")? {
        return Err(method_not_allowed());
    }
    let MetricsPath { kind, namespace, name } = path;
    let is_list = name.is_empty();
    let asked = Target::object(kind, namespace.as_str(), name.as_str());
    door.authorize(identity, if is_list { "list" } else { "get" }, &asked, Asked::default())?;
    // The objects whose numbers are wanted: their names and labels, and where they are.
    let stored = if kind.namespaced { catalogue::pods() } else { catalogue::nodes() };
    let target = Target::collection(stored, namespace.as_str());
    let name_selector = format!("metadata.name={name}");
    let fields = if is_list { query.text("fieldSelector") } else { &name_selector };
    let labels = if is_list { query.text("labelSelector") } else { "" };
    let options =
        ListOptions { selection: Selection::parse(&target, labels, fields)?, at: At::Any, ..ListOptions::default() };
    let listed = door.list_unchecked(&target, &options).await?;
    let objects = listed.entries.iter().map(|entry| encode::decode(&entry.value)).collect::<Result<Vec<_>, _>>()?;
    let items = measured(door, kind, &objects).await?;
    let view = View::new(kind, accept, query)?;
    if is_list {
        return view.computed_list(items.iter().map(Value::to_string).map(Bytes::from).collect());
    }
    let item = items.first().ok_or_else(|| missing(kind, &name))?;
    view.object(StatusCode::OK, Bytes::from(item.to_string()))
}

fn missing(kind: &Kind, name: &str) -> ApiError {
    ApiError::not_found(kind.group, &kind.kind.to_ascii_lowercase(), name)
}

/// The numbers of these nodes or pods, as far as there are any.
async fn measured(door: &Door, kind: &Kind, objects: &[Value]) -> Result<Vec<Value>, ApiError> {
    let node_of = |object: &Value| {
        let node = if kind.namespaced { object["spec"]["nodeName"].as_str() } else { Some(meta::name(object)) };
        node.unwrap_or_default().to_owned()
    };
    let nodes: BTreeSet<String> = objects.iter().map(node_of).filter(|node| !node.is_empty()).collect();
    let usages = door.summaries().of(door.node_links()?, nodes.into_iter().collect()).await;
    let of_object = |object: &Value| {
        let usage = usages.get(&node_of(object))?;
        if kind.namespaced { pod(object, usage) } else { node(object, usage) }
    };
    Ok(objects.iter().filter_map(of_object).collect())
}

fn node(object: &Value, usage: &NodeUsage) -> Option<Value> {
    let (time, usage) = usage.node.as_ref()?;
    let mut item = head(metrics::nodes(), object, time);
    item["usage"] = usage.to_json();
    Some(item)
}

fn pod(object: &Value, usage: &NodeUsage) -> Option<Value> {
    let PodUsage { time, containers } = usage.pod(meta::namespace(object), meta::name(object))?;
    let mut item = head(metrics::pods(), object, time);
    let of_container = |(name, usage): &(String, metrics::Usage)| json!({"name": name, "usage": usage.to_json()});
    item["containers"] = containers.iter().map(of_container).collect();
    Some(item)
}

fn head(kind: &Kind, object: &Value, time: &str) -> Value {
    let mut metadata = json!({"name": meta::name(object), "creationTimestamp": stamp::timestamp(stamp::now_seconds())});
    for field in ["namespace", "labels"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    json!({
        "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata, "timestamp": time, "window": WINDOW,
    })
}
