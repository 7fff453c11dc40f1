//! `meta.k8s.io/v1` `Table`s, what `kubectl get` prints.

use crate::Kind;
use serde_json::{Value, json};

/// What goes into `rows[].object`: `includeObject` of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// From the query parameter; empty means the default.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "None" => Some(Self::None),
            "" | "Metadata" => Some(Self::Metadata),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// A table of `objects`; `list_meta` becomes its `metadata`, `now_seconds` is Unix time for ages.
#[must_use]
pub fn table(kind: &Kind, objects: &[Value], list_meta: &Value, include: IncludeObject, now_seconds: i64) -> Value {
    let rows: Vec<Value> = objects.iter().map(|object| row(kind, object, include, now_seconds)).collect();
    let metadata = if list_meta.is_object() { list_meta.clone() } else { json!({}) };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": column_definitions(kind),
        "rows": rows,
    })
}

fn column_definitions(kind: &Kind) -> Vec<Value> {
    let definition = |column: &crate::kind::Column| {
        json!({
            "name": column.name,
            "type": column.value_type,
            "format": column.format,
            "description": description(column.name),
            "priority": column.priority,
        })
    };
    kind.columns.iter().map(definition).collect()
}

/// Tools that show tables may show these beside the headings.
fn description(column: &str) -> String {
    match column {
        "Name" => "Name of the object, unique among its kind in its namespace.".to_owned(),
        "Age" => "Time since the object was created.".to_owned(),
        other => format!("{other} of the object."),
    }
}

fn row(kind: &Kind, object: &Value, include: IncludeObject, now_seconds: i64) -> Value {
    let mut row = json!({ "cells": (kind.cells)(object, now_seconds) });
    if let Some(conditions) = completed(kind, object) {
        row["conditions"] = conditions;
    }
    match include {
        IncludeObject::None => {}
        IncludeObject::Object => row["object"] = whole(kind, object),
        IncludeObject::Metadata => {
            row["object"] = json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": object["metadata"],
            });
        }
    }
    row
}

/// The object with its kind, which items of a stored list may lack.
fn whole(kind: &Kind, object: &Value) -> Value {
    let mut whole = json!({ "kind": kind.kind, "apiVersion": kind.api_version() });
    if let (Some(target), Some(fields)) = (whole.as_object_mut(), object.as_object()) {
        for (field, value) in fields.iter().filter(|(field, _)| !matches!(field.as_str(), "kind" | "apiVersion")) {
            target.insert(field.clone(), value.clone());
        }
    }
    whole
}

/// A pod that has ended says so in its row, so that a client may hide it.
fn completed(kind: &Kind, object: &Value) -> Option<Value> {
    if !(kind.group.is_empty() && kind.kind == "Pod") {
        return None;
    }
    let (reason, message) = match object["status"]["phase"].as_str()? {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{ "type": "Completed", "status": "True", "reason": reason, "message": message }]))
}

#[cfg(test)]
mod tests {
    use super::{IncludeObject, table};
    use crate::catalogue;
    use serde_json::{Value, json};

    fn pod() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "namespace": "b", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "c"}]},
            "status": {"phase": "Succeeded"},
        })
    }

    #[test]
    fn a_table_has_columns_and_rows() {
        let table = table(catalogue::pods(), &[pod()], &json!({"resourceVersion": "7"}), IncludeObject::Metadata, 60);
        assert_eq!(table["kind"], "Table");
        assert_eq!(table["apiVersion"], "meta.k8s.io/v1");
        assert_eq!(table["metadata"], json!({"resourceVersion": "7"}));
        let names: Vec<&str> =
            table["columnDefinitions"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
        let expected =
            ["Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates"];
        assert_eq!(names, expected);
        assert_eq!(table["columnDefinitions"][0]["format"], "name");
        assert_eq!(
            (&table["columnDefinitions"][4]["priority"], &table["columnDefinitions"][5]["priority"]),
            (&json!(0), &json!(1))
        );
        let row = &table["rows"][0];
        assert_eq!(row["cells"], json!(["a", "0/1", "Succeeded", "0", "60s", "<none>", "<none>", "<none>", "<none>"]));
        assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(row["object"]["metadata"]["name"], "a");
        assert_eq!(row["object"].get("spec"), None);
        assert_eq!(row["conditions"][0]["reason"], "Succeeded");
    }

    #[test]
    fn rows_include_what_was_asked_for() {
        let mut bare = pod();
        bare.as_object_mut().unwrap().retain(|field, _| field != "kind" && field != "apiVersion");
        let one = |include| table(catalogue::pods(), &[bare.clone()], &Value::Null, include, 0)["rows"][0].clone();
        assert_eq!(one(IncludeObject::None).get("object"), None);
        assert_eq!(one(IncludeObject::Object)["object"], pod());
        assert_eq!(IncludeObject::parse("Object"), Some(IncludeObject::Object));
        assert_eq!(IncludeObject::parse(""), Some(IncludeObject::Metadata));
        assert_eq!(IncludeObject::parse("All"), None);
    }
}
