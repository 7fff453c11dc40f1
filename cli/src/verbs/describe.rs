//! `coracle describe`: the object as a tree for people, or a node in sections of its own, then its events.

mod node;

use super::{
    ScopeArgs,
    print::{columns, refusal},
    target,
};
use anyhow::Result;
use clap::Args;
use coracle_objects::{Kind, catalogue, meta};
use coracle_sdk::{Connection, connection::ListOptions};
use serde_json::Value;
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Fields that only machines read.
const HIDDEN: [&str; 5] = ["managedFields", "resourceVersion", "uid", "generation", "selfLink"];
/// Annotation whose value repeats the whole object.
const LAST_APPLIED: &str = coracle_objects::apply::LAST_APPLIED;

/// Explain objects in detail, with their events.
#[derive(Debug, Args)]
pub(crate) struct Describe {
    #[command(flatten)]
    scope: ScopeArgs,
    /// KIND, KIND NAME… or KIND/NAME…
    #[arg(required = true)]
    targets: Vec<String>,
}

impl Describe {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let (connection, namespace) = self.scope.connect()?;
        let mut first = true;
        for target in target::parse(&self.targets)? {
            let items = if let Some(name) = &target.name {
                vec![connection.get(target.kind, &target.key(name, &namespace)).await.map_err(refusal)?]
            } else {
                let namespace = if target.kind.namespaced { namespace.clone() } else { String::new() };
                let options = ListOptions { namespace, ..ListOptions::default() };
                connection.list(target.kind, &options).await.map_err(refusal)?.0
            };
            for item in items {
                let events = events(&connection, target.kind, &item).await?;
                let is_node = target.kind == catalogue::nodes();
                let surroundings =
                    if is_node { Some(node::Surroundings::find(&connection, &item).await?) } else { None };
                let mut out = io::stdout().lock();
                if !first {
                    writeln!(out, "\n")?;
                }
                first = false;
                describe(&mut out, target.kind, &item, surroundings.as_ref(), &events)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn events(connection: &Connection, kind: &Kind, object: &Value) -> Result<Vec<Value>> {
    let options = ListOptions {
        namespace: meta::namespace(object).to_owned(),
        field_selector: format!(
            "involvedObject.kind={},involvedObject.name={},involvedObject.uid={}",
            kind.kind,
            meta::name(object),
            meta::uid(object)
        ),
        ..ListOptions::default()
    };
    let (mut events, _) = connection.list(catalogue::events(), &options).await.map_err(refusal)?;
    events.sort_by(|a, b| a["lastTimestamp"].as_str().cmp(&b["lastTimestamp"].as_str()));
    Ok(events)
}

fn describe(
    out: &mut impl Write,
    kind: &Kind,
    object: &Value,
    surroundings: Option<&node::Surroundings>,
    events: &[Value],
) -> Result<()> {
    let metadata = &object["metadata"];
    let mut rows = vec![vec!["Name:".to_owned(), meta::name(object).to_owned()]];
    if kind.namespaced {
        rows.push(vec!["Namespace:".to_owned(), meta::namespace(object).to_owned()]);
    }
    rows.push(vec!["Created:".to_owned(), metadata["creationTimestamp"].as_str().unwrap_or_default().to_owned()]);
    for (title, field) in [("Labels:", "labels"), ("Annotations:", "annotations")] {
        let empty = serde_json::Map::new();
        let map = metadata[field].as_object().unwrap_or(&empty);
        let shown = map.iter().filter(|(key, _)| *key != LAST_APPLIED);
        let lines: Vec<String> = shown.map(|(key, value)| format!("{key}={}", scalar(value))).collect();
        let lines = if lines.is_empty() { vec!["<none>".to_owned()] } else { lines };
        for (index, line) in lines.into_iter().enumerate() {
            rows.push(vec![if index == 0 { title.to_owned() } else { String::new() }, line]);
        }
    }
    columns(out, &rows, &mut Vec::new())?;
    if let Some(surroundings) = surroundings {
        node::describe(out, object, surroundings)?;
        return describe_events(out, events);
    }
    let body = object.as_object().into_iter().flatten();
    for (key, value) in body.filter(|(key, _)| !["apiVersion", "kind", "metadata"].contains(&key.as_str())) {
        let masked = kind.kind == "Secret" && key == "data";
        tree(out, 0, key, if masked { &Value::Null } else { value })?;
        if masked {
            sizes(out, value)?;
        }
    }
    describe_events(out, events)
}

fn describe_events(out: &mut impl Write, events: &[Value]) -> Result<()> {
    if events.is_empty() {
        writeln!(out, "Events: <none>")?;
        return Ok(());
    }
    writeln!(out, "Events:")?;
    let heading = ["  Type", "Reason", "Count", "Last", "From", "Message"].map(str::to_owned).to_vec();
    let mut rows = vec![heading];
    for event in events {
        let from = &event["source"]["component"];
        rows.push(vec![
            format!("  {}", scalar(&event["type"])),
            scalar(&event["reason"]),
            scalar(&event["count"]),
            scalar(&event["lastTimestamp"]),
            scalar(from),
            scalar(&event["message"]).replace('\n', " "),
        ]);
    }
    columns(out, &rows, &mut Vec::new())?;
    Ok(())
}

/// Secrets show how much they hold, never what.
fn sizes(out: &mut impl Write, data: &Value) -> Result<()> {
    for (key, value) in data.as_object().into_iter().flatten() {
        let encoded = value.as_str().unwrap_or_default();
        let bytes = encoded.trim_end_matches('=').len() * 3 / 4;
        writeln!(out, "  {key}: {bytes} bytes")?;
    }
    Ok(())
}

fn tree(out: &mut impl Write, depth: usize, key: &str, value: &Value) -> io::Result<()> {
    let indent = "  ".repeat(depth);
    let title = title(key);
    match value {
        Value::Object(map) if !map.is_empty() => {
            writeln!(out, "{indent}{title}:")?;
            for (key, value) in map.iter().filter(|(key, _)| !HIDDEN.contains(&key.as_str())) {
                tree(out, depth + 1, key, value)?;
            }
            Ok(())
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            writeln!(out, "{indent}{title}:")?;
            for item in items {
                let name = item["name"].as_str().or_else(|| item["type"].as_str()).unwrap_or("-");
                writeln!(out, "{indent}  {name}")?;
                for (key, value) in item.as_object().into_iter().flatten() {
                    if !(["name", "type"].contains(&key.as_str()) && value == name) {
                        tree(out, depth + 2, key, value)?;
                    }
                }
            }
            Ok(())
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(scalar).collect();
            writeln!(out, "{indent}{title}: {}", items.join(", "))
        }
        Value::Null => writeln!(out, "{indent}{title}:"),
        Value::Object(_) => writeln!(out, "{indent}{title}: <none>"),
        other => writeln!(out, "{indent}{title}: {}", scalar(other)),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}

/// `containerStatuses` → `Container Statuses`; keys of maps of the user's own (`a.b/c`) stay as they are.
fn title(key: &str) -> String {
    if !key.chars().all(|letter| letter.is_ascii_alphanumeric()) {
        return key.to_owned();
    }
    let mut out = String::new();
    let mut after_upper = true;
    for (index, letter) in key.char_indices() {
        if index == 0 {
            out.extend(letter.to_uppercase());
            continue;
        }
        if letter.is_ascii_uppercase() && !after_upper {
            out.push(' ');
        }
        after_upper = letter.is_ascii_uppercase();
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_secret_shows_sizes_only() {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {"password": "aHVudGVyMg=="},
            "metadata": {"name": "s", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z", "uid": "u",
                "annotations": {LAST_APPLIED: "aHVudGVyMg=="}},
        });
        let event = json!({"type": "Normal", "reason": "Made", "count": 2, "lastTimestamp": "2026-01-01T00:00:00Z",
            "source": {"component": "test"}, "message": "it is\nthere"});
        let mut out = Vec::new();
        describe(&mut out, catalogue::secrets(), &secret, None, &[event]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains("aHVudGVyMg"), "{text}");
        insta::assert_snapshot!(text, @r"
        Name:          s
        Namespace:     default
        Created:       2026-01-01T00:00:00Z
        Labels:        <none>
        Annotations:   <none>
        Type: Opaque
        Data:
          password: 7 bytes
        Events:
          Type     Reason   Count   Last                   From   Message
          Normal   Made     2       2026-01-01T00:00:00Z   test   it is there
        ");
    }

    #[test]
    fn trees_name_their_branches() {
        let mut out = Vec::new();
        let spec = json!({"restartPolicy": "Always", "containers": [{"name": "a", "args": ["x", "y"], "env": []}], "podIP": null});
        tree(&mut out, 0, "spec", &spec).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        Spec:
          Restart Policy: Always
          Containers:
            a
              Args: x, y
              Env: 
          Pod IP:
        ");
    }
}
