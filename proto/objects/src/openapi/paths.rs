//! Paths and operations.

use super::{
    Dialect,
    schema::{group_version_kind, list_name_of, name_of, reference, shared_name},
};
use crate::{
    Kind, catalogue,
    fields::table,
    kind::{Subresource, Verb},
};
use serde_json::{Map, Value, json};

/// A query parameter: name, type, description.
type Parameter = (&'static str, &'static str, &'static str);

const DRY_RUN: Parameter = ("dryRun", "string", "`All` goes through every step except for storing the result.");
const FIELD_MANAGER: Parameter = ("fieldManager", "string", "Name of whoever makes the change.");
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What happens to unknown and duplicate fields: `Ignore`, `Warn` (the default) or `Strict`.",
);
const FORCE: Parameter = ("force", "boolean", "Only for apply patches.");
const WRITE: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const PATCH: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
const DELETE: &[Parameter] = &[
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "How long the object may take to end; 0 means at once."),
    ("propagationPolicy", "string", "What happens to dependents: `Orphan`, `Background` or `Foreground`."),
];
const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean", "Whether a watch may send events that only carry a resource version."),
    ("continue", "string", "Where the next page starts, from the metadata of the last one."),
    ("fieldSelector", "string", "Restricts the objects by their fields."),
    ("labelSelector", "string", "Restricts the objects by their labels."),
    ("limit", "integer", "Most objects in one page."),
    ("resourceVersion", "string", "Which revision is asked for, or where a watch starts."),
    ("resourceVersionMatch", "string", "How `resourceVersion` is meant: `NotOlderThan` or `Exact`."),
    ("sendInitialEvents", "boolean", "Whether a watch first sends what is there."),
    ("timeoutSeconds", "integer", "How long a watch may last."),
    ("watch", "boolean", "Stream changes instead of listing."),
];
const LOG: &[Parameter] = &[
    ("container", "string", "Which container; needed when there are several."),
    ("follow", "boolean", "Stream what comes."),
    ("limitBytes", "integer", "Most bytes to send."),
    ("previous", "boolean", "The run of the container before this one."),
    ("sinceSeconds", "integer", "Only lines of the last seconds."),
    ("sinceTime", "string", "Only lines since this time (RFC 3339)."),
    ("tailLines", "integer", "Only the last lines."),
    ("timestamps", "boolean", "Begin each line with its time."),
];
const PATCH_TYPES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

/// `/api/v1` or `/apis/GROUP/VERSION`.
pub(super) fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// One thing that can be done.
struct Operation {
    /// `get`, `post`, `put`, `patch`, `delete`.
    method: &'static str,
    /// `x-kubernetes-action`.
    action: &'static str,
    /// How the operation's id begins: `list`, `create`, `read`, `replace`, `patch`, `delete`, `deleteCollection`.
    does: &'static str,
    query: &'static [Parameter],
    /// Type of the request's body.
    body: Body,
    /// Name of the type of the response; `None` for plain text.
    response: Option<String>,
}

enum Body {
    None,
    Patch,
    Type(String),
}

/// All paths of one group and version.
pub(super) fn of_group(group: &str, version: &str, dialect: Dialect) -> Map<String, Value> {
    let mut paths = Map::new();
    let root = root(group, version);
    for kind in catalogue::in_group(group, version) {
        let collection = if kind.namespaced {
            let everywhere = list_operation(kind).map(|operation| vec![operation]).unwrap_or_default();
            let item = path_item(kind, None, everywhere, &[], "ForAllNamespaces", dialect);
            paths.insert(format!("{root}/{}", kind.plural), item);
            format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
        } else {
            format!("{root}/{}", kind.plural)
        };
        let in_path: &[&str] = if kind.namespaced { &["namespace"] } else { &[] };
        let of_object: &[&str] = if kind.namespaced { &["name", "namespace"] } else { &["name"] };
        let object = format!("{collection}/{{name}}");
        paths.insert(collection, path_item(kind, None, collection_operations(kind), in_path, "", dialect));
        paths.insert(object.clone(), path_item(kind, None, object_operations(kind), of_object, "", dialect));
        for sub in kind.subresources.iter().filter(|sub| !sub.connects()) {
            let operations = subresource_operations(kind, sub);
            let item = path_item(kind, Some(sub), operations, of_object, "", dialect);
            paths.insert(format!("{object}/{}", sub.name), item);
        }
    }
    paths.sort_keys();
    paths
}

fn list_operation(kind: &Kind) -> Option<Operation> {
    let response = Some(list_name_of(kind));
    kind.allows(Verb::List).then_some(Operation {
        method: "get",
        action: "list",
        does: "list",
        query: LIST,
        body: Body::None,
        response,
    })
}

fn collection_operations(kind: &Kind) -> Vec<Operation> {
    let name = name_of(kind);
    let mut operations: Vec<Operation> = list_operation(kind).into_iter().collect();
    if kind.allows(Verb::Create) {
        let (body, response) = (Body::Type(name.clone()), Some(name));
        operations.push(Operation { method: "post", action: "post", does: "create", query: WRITE, body, response });
    }
    if kind.allows(Verb::DeleteCollection) {
        let body = Body::Type(shared_name("DeleteOptions"));
        let response = Some(shared_name("Status"));
        let (action, does) = ("deletecollection", "deleteCollection");
        operations.push(Operation { method: "delete", action, does, query: DELETE, body, response });
    }
    operations
}

fn object_operations(kind: &Kind) -> Vec<Operation> {
    let name = name_of(kind);
    let mut operations = reads_and_writes(kind.verbs, &name);
    if kind.allows(Verb::Delete) {
        let body = Body::Type(shared_name("DeleteOptions"));
        let response = Some(shared_name("Status"));
        operations.push(Operation {
            method: "delete",
            action: "delete",
            does: "delete",
            query: DELETE,
            body,
            response,
        });
    }
    operations
}

fn subresource_operations(kind: &Kind, sub: &Subresource) -> Vec<Operation> {
    let (group, version, body) = sub.body(kind);
    let name = table::type_name(group, version, body);
    let mut operations = reads_and_writes(sub.verbs, &name);
    if sub.verbs.contains(&Verb::Create) {
        let (body, response) = (Body::Type(name.clone()), Some(name));
        operations.push(Operation { method: "post", action: "post", does: "create", query: WRITE, body, response });
    }
    if sub.name == "log" {
        for operation in &mut operations {
            (operation.query, operation.response) = (LOG, None);
        }
    }
    operations
}

fn reads_and_writes(verbs: &[Verb], name: &str) -> Vec<Operation> {
    let mut operations = Vec::new();
    let mut add = |verb: Verb, method, does, query, body| {
        if verbs.contains(&verb) {
            operations.push(Operation { method, action: method, does, query, body, response: Some(name.to_owned()) });
        }
    };
    add(Verb::Get, "get", "read", &[], Body::None);
    add(Verb::Update, "put", "replace", WRITE, Body::Type(name.to_owned()));
    add(Verb::Patch, "patch", "patch", PATCH, Body::Patch);
    operations
}

fn path_item(
    kind: &Kind,
    sub: Option<&Subresource>,
    operations: Vec<Operation>,
    in_path: &[&str],
    suffix: &str,
    dialect: Dialect,
) -> Value {
    let (group, version, body_kind) = sub.map_or((kind.group, kind.version, kind.kind), |sub| sub.body(kind));
    let mut item = Map::new();
    for operation in operations {
        let mut rendered = render(&operation, dialect);
        let id = operation_id(&operation, kind, sub, suffix);
        rendered.insert("operationId".to_owned(), Value::from(id));
        rendered.insert("x-kubernetes-action".to_owned(), Value::from(operation.action));
        let identity = group_version_kind(group, version, body_kind);
        rendered.insert("x-kubernetes-group-version-kind".to_owned(), identity);
        item.insert(operation.method.to_owned(), Value::Object(rendered));
    }
    let parameters: Vec<Value> = in_path.iter().map(|name| path_parameter(name, dialect)).collect();
    if !parameters.is_empty() {
        item.insert("parameters".to_owned(), Value::Array(parameters));
    }
    Value::Object(item)
}

/// As upstream builds them, since generated clients take their names from it: `listCoreV1NamespacedPod`.
fn operation_id(operation: &Operation, kind: &Kind, sub: Option<&Subresource>, suffix: &str) -> String {
    let (does, collection) = match operation.does {
        "deleteCollection" => ("delete", "Collection"),
        other => (other, ""),
    };
    let group = capitalized(kind.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core"));
    let version = capitalized(kind.version);
    let scope = if kind.namespaced && suffix.is_empty() { "Namespaced" } else { "" };
    let sub = capitalized(sub.map_or("", |sub| sub.name));
    format!("{does}{group}{version}{collection}{scope}{}{sub}{suffix}", kind.kind)
}

fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(characters).collect()
}

fn render(operation: &Operation, dialect: Dialect) -> Map<String, Value> {
    let mut result = Map::new();
    let mut parameters: Vec<Value> =
        operation.query.iter().map(|parameter| query_parameter(parameter, dialect)).collect();
    let body = match &operation.body {
        Body::None => None,
        Body::Patch => Some(json!({"type": "object"})),
        Body::Type(name) => Some(reference(name, dialect)),
    };
    if let Some(schema) = body {
        let media_types = if matches!(operation.body, Body::Patch) { &PATCH_TYPES[..] } else { &["*/*"] };
        match dialect {
            Dialect::V2 => {
                let required = operation.method != "delete";
                parameters.push(json!({"name": "body", "in": "body", "required": required, "schema": schema}));
                result.insert("consumes".to_owned(), json!(media_types));
            }
            Dialect::V3 => {
                let content: Map<String, Value> =
                    media_types.iter().map(|name| ((*name).to_owned(), json!({"schema": schema}))).collect();
                result.insert("requestBody".to_owned(), json!({"content": content}));
            }
        }
    }
    if !parameters.is_empty() {
        result.insert("parameters".to_owned(), Value::Array(parameters));
    }
    let (media_type, schema) = match &operation.response {
        Some(name) => ("application/json", reference(name, dialect)),
        None => ("text/plain", json!({"type": "string"})),
    };
    let mut response = json!({"description": "OK"});
    match dialect {
        Dialect::V2 => {
            result.insert("produces".to_owned(), json!([media_type]));
            response["schema"] = schema;
        }
        Dialect::V3 => response["content"] = json!({media_type: {"schema": schema}}),
    }
    result.insert("responses".to_owned(), json!({"200": response}));
    result
}

fn query_parameter((name, value_type, description): &Parameter, dialect: Dialect) -> Value {
    match dialect {
        Dialect::V2 => json!({"name": name, "in": "query", "description": description, "type": value_type}),
        Dialect::V3 => {
            json!({"name": name, "in": "query", "description": description, "schema": {"type": value_type}})
        }
    }
}

fn path_parameter(name: &str, dialect: Dialect) -> Value {
    let description = if name == "namespace" { "Namespace of the object." } else { "Name of the object." };
    match dialect {
        Dialect::V2 => {
            json!({"name": name, "in": "path", "required": true, "description": description, "type": "string"})
        }
        Dialect::V3 => json!({
            "name": name, "in": "path", "required": true, "description": description, "schema": {"type": "string"},
        }),
    }
}
