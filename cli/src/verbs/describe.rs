//! `coracle describe`: the object as a tree for people, or a node in sections of its own, then its events.

mod node;
mod signing_request;

use super::{
    ScopeArgs,
    print::{columns, one_line, refusal},
    target,
};
use anyhow::Result;
use clap::Args;
use coracle_objects::{Kind, catalogue, meta, rules::age};
use coracle_sdk::{Connection, connection::ListOptions};
use serde_json::Value;
use std::{
    io::{self, Write},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
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
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
                let now = i64::try_from(now).unwrap_or(i64::MAX);
                let mut out = io::stdout().lock();
                if !first {
                    writeln!(out, "\n")?;
                }
                first = false;
                describe(&mut out, target.kind, &item, surroundings.as_ref(), &events, now)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn events(connection: &Connection, kind: &Kind, object: &Value) -> Result<Vec<Value>> {
    let options = ListOptions {
        namespace: meta::namespace(object).to_owned(),
        field_selector: format!("involvedObject.kind={},involvedObject.name={}", kind.kind, meta::name(object)),
        ..ListOptions::default()
    };
    let (mut events, _) = connection.list(catalogue::events(), &options).await.map_err(refusal)?;
    events.retain(|event| is_about(event, object));
    events.sort_by(|a, b| a["lastTimestamp"].as_str().cmp(&b["lastTimestamp"].as_str()));
    Ok(events)
}

/// Whether an event is about this object, and not about an earlier one of its name. What nodes say of themselves has the
/// node's name in place of its uid.
fn is_about(event: &Value, object: &Value) -> bool {
    let uid = event["involvedObject"]["uid"].as_str().unwrap_or_default();
    uid == meta::uid(object) || event["involvedObject"]["kind"] == "Node" && uid == meta::name(object)
}

/// A moment and how long ago it was.
fn ago(moment: &Value, now: i64) -> String {
    match moment.as_str().filter(|text| !text.is_empty()) {
        Some(text) => format!("{text} ({} ago)", age::since(text, now)),
        None => scalar(&Value::Null),
    }
}

fn describe(
    out: &mut impl Write,
    kind: &Kind,
    object: &Value,
    surroundings: Option<&node::Surroundings>,
    events: &[Value],
    now: i64,
) -> Result<()> {
    let metadata = &object["metadata"];
    let mut rows = vec![vec!["Name:".to_owned(), meta::name(object).to_owned()]];
    if kind.namespaced {
        rows.push(vec!["Namespace:".to_owned(), meta::namespace(object).to_owned()]);
    }
    if *kind == *catalogue::nodes() {
        let roles = coracle_objects::rules::node::roles(object);
        rows.push(vec!["Roles:".to_owned(), if roles.is_empty() { "<none>".to_owned() } else { roles }]);
    }
    rows.push(vec!["Created:".to_owned(), ago(&metadata["creationTimestamp"], now)]);
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
        return describe_events(out, events, now);
    }
    if *kind == *catalogue::certificate_signing_requests() {
        signing_request::describe(out, object)?;
        return describe_events(out, events, now);
    }
    let body = object.as_object().into_iter().flatten();
    for (key, value) in body.filter(|(key, _)| !["apiVersion", "kind", "metadata"].contains(&key.as_str())) {
        let masked = kind.kind == "Secret" && key == "data";
        tree(out, 0, key, if masked { &Value::Null } else { value })?;
        if masked {
            sizes(out, value)?;
        }
    }
    describe_events(out, events, now)
}

fn describe_events(out: &mut impl Write, events: &[Value], now: i64) -> Result<()> {
    if events.is_empty() {
        writeln!(out, "Events: <none>")?;
        return Ok(());
    }
    writeln!(out, "Events:")?;
    let heading = ["  Type", "Reason", "Count", "Age", "From", "Message"].map(str::to_owned).to_vec();
    let mut rows = vec![heading];
    for event in events {
        let from = &event["source"]["component"];
        rows.push(vec![
            format!("  {}", scalar(&event["type"])),
            scalar(&event["reason"]),
            scalar(&event["count"]),
            age::since(event["lastTimestamp"].as_str().unwrap_or_default(), now),
            scalar(from),
            one_line(&scalar(&event["message"])),
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
        describe(&mut out, catalogue::secrets(), &secret, None, &[event], 1_767_225_690).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains("aHVudGVyMg"), "{text}");
        insta::assert_snapshot!(text, @r"
        Name:          s
        Namespace:     default
        Created:       2026-01-01T00:00:00Z (90s ago)
        Labels:        <none>
        Annotations:   <none>
        Type: Opaque
        Data:
          password: 7 bytes
        Events:
          Type     Reason   Count   Age   From   Message
          Normal   Made     2       90s   test   it is there
        ");
    }

    #[test]
    fn what_nodes_say_of_themselves_is_about_them_and_what_was_said_of_others_of_the_name_is_not() {
        let event = |kind: &str, uid: &str| json!({"involvedObject": {"kind": kind, "name": "n", "uid": uid}});
        let object = json!({"metadata": {"name": "n", "uid": "u"}});
        for (kind, uid, expected) in [
            ("Node", "n", true),
            ("Node", "u", true),
            ("Node", "before", false),
            ("Pod", "u", true),
            ("Pod", "n", false),
        ] {
            assert_eq!(is_about(&event(kind, uid), &object), expected, "{kind} {uid}");
        }
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
