//! Types as schemas.

use super::Dialect;
use crate::{
    Kind,
    fields::table::{self, Field, ListRules, ListType, PatchStrategy, Shape, Type},
};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Name of the type of a kind.
pub(super) fn name_of(kind: &Kind) -> String {
    table::type_name(kind.group, kind.version, kind.kind)
}

/// Name of the type of lists of a kind.
pub(super) fn list_name_of(kind: &Kind) -> String {
    format!("{}List", name_of(kind))
}

/// Name of a type that all groups share, e.g. `Status`.
pub(super) fn shared_name(short: &str) -> String {
    format!("{META}.{short}")
}

/// A reference to the type called `name`.
pub(super) fn reference(name: &str, dialect: Dialect) -> Value {
    match dialect {
        Dialect::V2 => json!({"$ref": format!("#/definitions/{name}")}),
        Dialect::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
    }
}

/// `x-kubernetes-group-version-kind` of one operation.
pub(super) fn group_version_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// Schemas by name: of `kinds`, their lists, the bodies of their subresources, and all that these refer to.
pub(super) fn definitions(kinds: impl Iterator<Item = &'static Kind>, dialect: Dialect) -> Map<String, Value> {
    let mut definitions = Map::new();
    let mut waiting: Vec<&'static Type> = Vec::new();
    let mut own: Vec<(String, Value)> = Vec::new();
    for short in ["DeleteOptions", "ListMeta", "Status", "WatchEvent"] {
        waiting.extend(table::type_named(&shared_name(short)));
    }
    own.push((shared_name("Status"), group_version_kind("", "v1", "Status")));
    for kind in kinds {
        own.push((shared_name("DeleteOptions"), group_version_kind(kind.group, kind.version, "DeleteOptions")));
        own.push((shared_name("WatchEvent"), group_version_kind(kind.group, kind.version, "WatchEvent")));
        definitions.insert(list_name_of(kind), list(kind, dialect));
        let bodies = kind.subresources.iter().filter(|sub| !sub.connects()).map(|sub| sub.body(kind));
        for (group, version, body) in bodies.chain([(kind.group, kind.version, kind.kind)]) {
            let name = table::type_name(group, version, body);
            waiting.extend(table::type_named(&name));
            own.push((name, group_version_kind(group, version, body)));
        }
    }
    let mut seen = BTreeSet::new();
    while let Some(row) = waiting.pop() {
        if seen.insert(row.name) {
            refers_to(&row.shape, &mut waiting);
            definitions.insert(row.name.to_owned(), definition(row, dialect));
        }
    }
    for (name, identity) in own {
        if let Some(Value::Object(schema)) = definitions.get_mut(&name) {
            let list = schema.entry("x-kubernetes-group-version-kind").or_insert_with(|| json!([]));
            if let Value::Array(list) = list
                && !list.contains(&identity)
            {
                list.push(identity);
            }
        }
    }
    definitions.sort_keys();
    definitions
}

fn refers_to(shape: &'static Shape, found: &mut Vec<&'static Type>) {
    match shape {
        Shape::Reference(place) => found.extend(table::types().get(*place)),
        Shape::List(inner) | Shape::Map(inner) => refers_to(inner, found),
        Shape::Object(fields) => fields.iter().for_each(|field| refers_to(&field.shape, found)),
        _ => {}
    }
}

/// Kubernetes has a type for the lists of every kind; `k8s-openapi` has one generic one.
fn list(kind: &'static Kind, dialect: Dialect) -> Value {
    let shape = table::type_named(&name_of(kind)).map_or(&Shape::Any, |row| &row.shape);
    let mut properties = Map::new();
    for name in ["apiVersion", "kind"] {
        if let Some(field) = shape.field(name) {
            properties.insert(name.to_owned(), property(field, dialect));
        }
    }
    let items = json!({"description": format!("List of {}.", kind.plural), "type": "array",
                       "items": reference(&name_of(kind), dialect)});
    properties.insert("items".to_owned(), items);
    let metadata = described("Standard list metadata.", reference(&shared_name("ListMeta"), dialect), dialect);
    properties.insert("metadata".to_owned(), metadata);
    properties.sort_keys();
    let list_kind = format!("{}List", kind.kind);
    json!({
        "description": format!("{list_kind} is a list of {}.", kind.plural),
        "type": "object",
        "required": ["items"],
        "properties": properties,
        "x-kubernetes-group-version-kind": [group_version_kind(kind.group, kind.version, &list_kind)],
    })
}

fn definition(row: &'static Type, dialect: Dialect) -> Value {
    let mut schema = Map::new();
    if !row.description.is_empty() {
        schema.insert("description".to_owned(), Value::from(row.description));
    }
    match &row.shape {
        Shape::Object(fields) => {
            schema.insert("type".to_owned(), Value::from("object"));
            let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
            if !required.is_empty() {
                schema.insert("required".to_owned(), json!(required));
            }
            let properties: Map<String, Value> =
                fields.iter().map(|field| (field.name.to_owned(), property(field, dialect))).collect();
            if !properties.is_empty() {
                schema.insert("properties".to_owned(), Value::Object(properties));
            }
        }
        plain => schema.extend(inline(plain, dialect)),
    }
    if row.atomic {
        schema.insert("x-kubernetes-map-type".to_owned(), Value::from("atomic"));
    }
    Value::Object(schema)
}

fn property(field: &'static Field, dialect: Dialect) -> Value {
    let mut schema = described(field.description, Value::Object(inline(&field.shape, dialect)), dialect);
    if let Value::Object(schema) = &mut schema {
        add_list_rules(schema, field.list);
        if field.atomic {
            schema.insert("x-kubernetes-map-type".to_owned(), Value::from("atomic"));
        }
    }
    schema
}

/// Version 3 lets nothing stand beside a reference, so the reference moves into `allOf` there.
fn described(description: &str, schema: Value, dialect: Dialect) -> Value {
    let mut result = Map::new();
    if !description.is_empty() {
        result.insert("description".to_owned(), Value::from(description));
    }
    match schema {
        schema if dialect == Dialect::V3 && schema.get("$ref").is_some() => {
            result.insert("allOf".to_owned(), Value::Array(vec![schema]));
        }
        Value::Object(rest) => result.extend(rest),
        _ => {}
    }
    Value::Object(result)
}

fn add_list_rules(schema: &mut Map<String, Value>, rules: ListRules) {
    let list_type = match rules.list_type {
        ListType::Unspecified => return,
        ListType::Atomic => "atomic",
        ListType::Set => "set",
        ListType::Map => "map",
    };
    let mut put = |name: &str, value: Value| schema.insert(format!("x-kubernetes-{name}"), value);
    put("list-type", Value::from(list_type));
    if !rules.map_keys.is_empty() {
        put("list-map-keys", json!(rules.map_keys));
    }
    if let PatchStrategy::MergeByKey(key) = rules.patch {
        put("patch-merge-key", Value::from(key));
    }
    if rules.patch != PatchStrategy::Replace {
        put("patch-strategy", Value::from(if rules.retain_keys { "merge,retainKeys" } else { "merge" }));
    }
}

fn inline(shape: &'static Shape, dialect: Dialect) -> Map<String, Value> {
    let plain = |name: &str, format: &str| {
        let mut schema = Map::new();
        schema.insert("type".to_owned(), Value::from(name));
        if !format.is_empty() {
            schema.insert("format".to_owned(), Value::from(format));
        }
        schema
    };
    let one_of = |format: Option<&str>, types: [&str; 2]| {
        let mut schema: Map<String, Value> =
            format.map(|format| ("format".to_owned(), Value::from(format))).into_iter().collect();
        schema.insert("oneOf".to_owned(), types.iter().map(|name| json!({"type": name})).collect());
        schema
    };
    match shape {
        Shape::Boolean => plain("boolean", ""),
        Shape::Int32 => plain("integer", "int32"),
        Shape::Int64 => plain("integer", "int64"),
        Shape::Number => plain("number", "double"),
        Shape::Bytes => plain("string", "byte"),
        Shape::Time | Shape::MicroTime => plain("string", "date-time"),
        Shape::Quantity if dialect == Dialect::V3 => one_of(None, ["string", "number"]),
        Shape::Quantity | Shape::String => plain("string", ""),
        Shape::IntOrString if dialect == Dialect::V3 => one_of(Some("int-or-string"), ["integer", "string"]),
        Shape::IntOrString => plain("string", "int-or-string"),
        Shape::Any | Shape::Object(_) => plain("object", ""),
        Shape::List(element) => {
            let mut schema = plain("array", "");
            schema.insert("items".to_owned(), Value::Object(inline(element, dialect)));
            schema
        }
        Shape::Map(value) => {
            let mut schema = plain("object", "");
            schema.insert("additionalProperties".to_owned(), Value::Object(inline(value, dialect)));
            schema
        }
        Shape::Reference(place) => match table::types().get(*place).map(|row| reference(row.name, dialect)) {
            Some(Value::Object(schema)) => schema,
            _ => Map::new(),
        },
    }
}
