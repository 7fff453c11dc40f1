//! The version 2 document as `openapi.v2.Document`, the protobuf message that `kubectl` asks for.
//!
//! Translates the JSON form, so that the two cannot differ.

mod messages;

use messages::{
    AdditionalPropertiesItem, AdditionalPropertiesOneof, Any, BodyParameter, Definitions, Document, Info, ItemsItem,
    NamedAny, NamedPathItem, NamedResponseValue, NamedSchema, NonBodyParameter, NonBodyParameterOneof, Operation,
    Parameter, ParameterOneof, ParametersItem, ParametersItemOneof, PathItem, PathParameterSubSchema, Paths,
    Properties, QueryParameterSubSchema, Response, ResponseValue, ResponseValueOneof, Responses, Schema, SchemaItem,
    SchemaItemOneof, TypeItem,
};
use prost::Message;
use serde_json::Value;

/// Encodes a version 2 document that is given as JSON.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let message = Document {
        swagger: text(document, "swagger"),
        info: Some(Info { title: text(&document["info"], "title"), version: text(&document["info"], "version") }),
        paths: Some(Paths {
            path: named(&document["paths"], |name, item| NamedPathItem { name, value: Some(path_item(item)) }),
        }),
        definitions: Some(Definitions { additional_properties: named_schemas(&document["definitions"]) }),
    };
    message.encode_to_vec()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The entries of an object as a list of named messages.
fn named<T>(value: &Value, build: impl Fn(String, &Value) -> T) -> Vec<T> {
    value.as_object().into_iter().flatten().map(|(name, inner)| build(name.clone(), inner)).collect()
}

fn named_schemas(value: &Value) -> Vec<NamedSchema> {
    named(value, |name, inner| NamedSchema { name, value: Some(schema(inner)) })
}

/// Everything that begins with `x-`; readers take the text as YAML, of which JSON is a part.
fn extensions(value: &Value) -> Vec<NamedAny> {
    let fields = value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-"));
    fields
        .map(|(name, inner)| NamedAny { name: name.clone(), value: Some(Any { yaml: format!("{inner}\n") }) })
        .collect()
}

fn schema(value: &Value) -> Schema {
    Schema {
        reference: text(value, "$ref"),
        format: text(value, "format"),
        description: text(value, "description"),
        required: texts(&value["required"]),
        additional_properties: value.get("additionalProperties").map(|inner| {
            let inner = AdditionalPropertiesOneof::Schema(schema(inner));
            Box::new(AdditionalPropertiesItem { oneof: Some(inner) })
        }),
        value_type: value["type"].as_str().map(|name| TypeItem { value: vec![name.to_owned()] }),
        items: value.get("items").map(|inner| ItemsItem { schema: vec![schema(inner)] }),
        properties: value.get("properties").map(|inner| Properties { additional_properties: named_schemas(inner) }),
        vendor_extension: extensions(value),
    }
}

fn path_item(value: &Value) -> PathItem {
    let operation = |method: &str| value.get(method).map(operation);
    PathItem {
        get: operation("get"),
        put: operation("put"),
        post: operation("post"),
        delete: operation("delete"),
        patch: operation("patch"),
        parameters: parameters(value),
    }
}

fn operation(value: &Value) -> Operation {
    Operation {
        id: text(value, "operationId"),
        produces: texts(&value["produces"]),
        consumes: texts(&value["consumes"]),
        parameters: parameters(value),
        responses: Some(Responses { response_code: named(&value["responses"], response) }),
        vendor_extension: extensions(value),
    }
}

fn response(name: String, value: &Value) -> NamedResponseValue {
    let body = value.get("schema").map(|inner| SchemaItem { oneof: Some(SchemaItemOneof::Schema(schema(inner))) });
    let response = Response { description: text(value, "description"), schema: body };
    NamedResponseValue { name, value: Some(ResponseValue { oneof: Some(ResponseValueOneof::Response(response)) }) }
}

fn parameters(value: &Value) -> Vec<ParametersItem> {
    let list = value["parameters"].as_array().into_iter().flatten();
    list.map(|inner| {
        let parameter = Parameter { oneof: Some(parameter(inner)) };
        ParametersItem { oneof: Some(ParametersItemOneof::Parameter(parameter)) }
    })
    .collect()
}

fn parameter(value: &Value) -> ParameterOneof {
    let required = value["required"].as_bool().unwrap_or_default();
    let (place, description, name) = (text(value, "in"), text(value, "description"), text(value, "name"));
    let value_type = text(value, "type");
    let inner = match place.as_str() {
        "body" => {
            let schema = value.get("schema").map(schema);
            return ParameterOneof::BodyParameter(BodyParameter { name, place, required, schema });
        }
        "path" => NonBodyParameterOneof::PathParameterSubSchema(PathParameterSubSchema {
            required,
            place,
            description,
            name,
            value_type,
        }),
        _ => NonBodyParameterOneof::QueryParameterSubSchema(QueryParameterSubSchema {
            required,
            place,
            description,
            name,
            value_type,
        }),
    };
    ParameterOneof::NonBodyParameter(NonBodyParameter { oneof: Some(inner) })
}
