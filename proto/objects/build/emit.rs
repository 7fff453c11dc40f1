//! Writes the field table as Rust source.

use crate::lists::{ATOMIC_MAPS, ATOMIC_TYPES, LISTS, Rule};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, error::Error, fmt::Write};

type Outcome<T> = Result<T, Box<dyn Error>>;

const PREFIX: &str = "io.k8s.";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
/// Written without fields in the schema, but any JSON is right.
const ANYTHING: [&str; 2] =
    ["io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "io.k8s.apimachinery.pkg.runtime.RawExtension"];

/// Source of `static TYPES: [Type; N]`, sorted by name.
pub(crate) fn table(definitions: &Map<String, Value>) -> Outcome<String> {
    check_rules(definitions)?;
    let sorted: BTreeMap<&str, &Value> = definitions.iter().map(|(name, schema)| (name.as_str(), schema)).collect();
    let places: BTreeMap<&str, usize> = sorted.keys().enumerate().map(|(place, name)| (*name, place)).collect();
    let mut source = format!("static TYPES: [Type; {}] = [\n", sorted.len());
    for (name, schema) in &sorted {
        let shape = definition(name, schema, &places).map_err(|error| format!("{name}: {error}"))?;
        writeln!(
            source,
            "    Type {{ name: {name:?}, description: {:?}, atomic: {}, shape: {shape} }},",
            text(schema, "description"),
            ATOMIC_TYPES.contains(&short(name)),
        )?;
    }
    source.push_str("];\n");
    Ok(source)
}

/// A row about a type or field that does not exist is a mistake in the hand-written tables.
fn check_rules(definitions: &Map<String, Value>) -> Outcome<()> {
    let property = |type_name: &str, field: &str| {
        definitions
            .get(&format!("{PREFIX}{type_name}"))
            .and_then(|schema| schema["properties"].get(field))
            .ok_or_else(|| format!("lists.rs names {type_name}.{field}, which does not exist"))
    };
    for (type_name, fields) in LISTS {
        for (field, _) in *fields {
            if text(property(type_name, field)?, "type") != "array" {
                return Err(format!("lists.rs names {type_name}.{field}, which is no list").into());
            }
        }
    }
    for (type_name, field) in ATOMIC_MAPS {
        property(type_name, field)?;
    }
    match ATOMIC_TYPES.iter().find(|name| !definitions.contains_key(&format!("{PREFIX}{name}"))) {
        Some(name) => Err(format!("lists.rs names {name}, which does not exist").into()),
        None => Ok(()),
    }
}

fn definition(name: &str, schema: &Value, places: &BTreeMap<&str, usize>) -> Outcome<String> {
    if name == INT_OR_STRING {
        return Ok("Shape::IntOrString".to_owned());
    }
    if name == QUANTITY {
        return Ok("Shape::Quantity".to_owned());
    }
    if ANYTHING.contains(&name) {
        return Ok("Shape::Any".to_owned());
    }
    let Some(properties) = schema["properties"].as_object() else {
        return if name.ends_with(".MicroTime") {
            Ok("Shape::MicroTime".to_owned())
        } else if text(schema, "format") == "date-time" {
            Ok("Shape::Time".to_owned())
        } else if text(schema, "type") == "object" && schema.get("additionalProperties").is_none() {
            Ok("Shape::Object(&[])".to_owned())
        } else {
            shape(schema, places)
        };
    };
    // The Rust types always have metadata; in Kubernetes' own schemas no type requires it.
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let required: Vec<&str> = required.filter(|field| *field != "metadata").collect();
    let sorted: BTreeMap<&String, &Value> = properties.iter().collect();
    let mut source = String::from("Shape::Object(&[\n");
    for (field, property) in sorted {
        writeln!(
            source,
            "        Field {{ name: {field:?}, description: {:?}, required: {}, atomic: {}, shape: {}, list: {} }},",
            text(property, "description"),
            required.contains(&field.as_str()),
            ATOMIC_MAPS.contains(&(short(name), field.as_str())),
            shape(property, places).map_err(|error| format!("{field}: {error}"))?,
            list_rules(rule(short(name), field)),
        )?;
    }
    source.push_str("    ])");
    Ok(source)
}

fn shape(schema: &Value, places: &BTreeMap<&str, usize>) -> Outcome<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        let place = places.get(name).ok_or_else(|| format!("refers to {name}, which is not defined"))?;
        return Ok(format!("Shape::Reference({place})"));
    }
    let format = text(schema, "format");
    Ok(match (text(schema, "type"), format) {
        ("array", _) => format!("Shape::List(&{})", shape(&schema["items"], places)?),
        ("object", _) => format!("Shape::Map(&{})", shape(&schema["additionalProperties"], places)?),
        ("string", "byte") => "Shape::Bytes".to_owned(),
        ("string", "") => "Shape::String".to_owned(),
        ("boolean", "") => "Shape::Boolean".to_owned(),
        ("integer", "int32") => "Shape::Int32".to_owned(),
        ("integer", "int64" | "") => "Shape::Int64".to_owned(),
        ("number", _) => "Shape::Number".to_owned(),
        (other, format) => return Err(format!("no shape for type {other:?}, format {format:?}").into()),
    })
}

fn rule(type_name: &str, field: &str) -> Option<&'static Rule> {
    let (_, fields) = LISTS.iter().find(|(name, _)| *name == type_name)?;
    fields.iter().find(|(name, _)| *name == field).map(|(_, rule)| rule)
}

fn list_rules(rule: Option<&Rule>) -> String {
    let Some(rule) = rule else {
        return "ListRules::UNSPECIFIED".to_owned();
    };
    let keys: Vec<&str> = rule.map_keys.split(',').filter(|key| !key.is_empty()).collect();
    let patch = match rule.patch {
        "MergeByKey" => format!("PatchStrategy::MergeByKey({:?})", rule.merge_key),
        other => format!("PatchStrategy::{other}"),
    };
    format!(
        "ListRules {{ list_type: ListType::{}, map_keys: &{keys:?}, patch: {patch}, retain_keys: {} }}",
        rule.list_type, rule.retain_keys
    )
}

fn short(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema[key].as_str().unwrap_or_default()
}
