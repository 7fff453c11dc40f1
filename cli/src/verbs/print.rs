//! Printing: tables, objects, and refusals as people know them from kubectl.

use super::jsonpath::Template;
use anyhow::{Result, anyhow, bail};
use coracle_objects::{Kind, meta};
use coracle_sdk::connection::CallError;
use serde_json::{Value, json};
use std::{
    io::{self, Write},
    str::FromStr,
};

/// `-o`.
#[derive(Debug, Clone)]
pub(super) enum Output {
    /// The server's table, with all columns if wide.
    Table {
        /// `-o wide`.
        wide: bool,
    },
    /// Indented JSON.
    Json,
    /// YAML.
    Yaml,
    /// `pod/web`.
    Name,
    /// A kubectl JSONPath template.
    JsonPath(Template),
}

impl FromStr for Output {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "wide" => Self::Table { wide: true },
            "json" => Self::Json,
            "yaml" => Self::Yaml,
            "name" => Self::Name,
            _ => match text.strip_prefix("jsonpath=") {
                Some(template) => Self::JsonPath(template.parse()?),
                None => bail!("\"{text}\" is no output format: it must be json, yaml, name, wide or jsonpath=TEMPLATE"),
            },
        })
    }
}

/// Writes one object, or several as a `List`.
pub(super) fn objects(
    out: &mut impl Write,
    output: &Output,
    kinds: &[&Kind],
    items: Vec<Value>,
    single: bool,
) -> Result<()> {
    if let Output::Name = output {
        for (kind, item) in kinds.iter().zip(&items) {
            writeln!(out, "{}", qualified(kind, meta::name(item)))?;
        }
        return Ok(());
    }
    let mut items = items;
    let document = if single && items.len() == 1 {
        items.remove(0)
    } else {
        json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "" }, "items": items })
    };
    match output {
        Output::Yaml => write!(out, "{}", serde_saphyr::to_string(&document)?)?,
        Output::JsonPath(template) => write!(out, "{}", template.render(&document)?)?,
        _ => writeln!(out, "{}", serde_json::to_string_pretty(&document)?)?,
    }
    Ok(())
}

/// `pod/web`, `endpointslice.discovery.k8s.io/web-x`.
pub(super) fn qualified(kind: &Kind, name: &str) -> String {
    if kind.group.is_empty() {
        format!("{}/{name}", kind.singular)
    } else {
        format!("{}.{}/{name}", kind.singular, kind.group)
    }
}

/// How a table is printed.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(super) struct TableStyle<'a> {
    /// Columns of priority 1 too.
    pub wide: bool,
    /// A first column with the namespace.
    pub with_namespace: bool,
    /// No headings.
    pub without_headings: bool,
    /// Labels with columns of their own.
    pub label_columns: &'a [String],
    /// A last column with all labels.
    pub all_labels: bool,
}

/// The rows of a `Table` as text cells, headings first.
pub(super) fn table_rows(table: &Value, style: TableStyle<'_>) -> Vec<Vec<String>> {
    let columns = table["columnDefinitions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let shown: Vec<usize> = (0..columns.len())
        .filter(|index| style.wide || columns[*index]["priority"].as_i64().unwrap_or(0) == 0)
        .collect();
    let mut rows = Vec::new();
    if !style.without_headings {
        let mut heading = Vec::new();
        if style.with_namespace {
            heading.push("NAMESPACE".to_owned());
        }
        heading.extend(shown.iter().map(|index| columns[*index]["name"].as_str().unwrap_or_default().to_uppercase()));
        heading.extend(style.label_columns.iter().map(|key| key.rsplit('/').next().unwrap_or_default().to_uppercase()));
        heading.extend(style.all_labels.then(|| "LABELS".to_owned()));
        rows.push(heading);
    }
    for row in table["rows"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let mut cells = Vec::new();
        if style.with_namespace {
            cells.push(meta::namespace(&row["object"]).to_owned());
        }
        cells.extend(shown.iter().map(|index| cell(&row["cells"][*index])));
        let labels = &row["object"]["metadata"]["labels"];
        cells.extend(style.label_columns.iter().map(|key| one_line(labels[key].as_str().unwrap_or_default())));
        cells.extend(style.all_labels.then(|| all_labels(labels)));
        rows.push(cells);
    }
    rows
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) => one_line(text),
        other => other.to_string(),
    }
}

/// The text without what moves a terminal's cursor, or does worse to it.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// `a=b,c=d`, by their names.
fn all_labels(labels: &Value) -> String {
    let mut pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| one_line(&format!("{key}={}", value.as_str().unwrap_or_default())))
        .collect();
    pairs.sort_unstable();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// Writes rows in columns, three spaces apart; `widths` are kept and grown, so that later rows line up.
pub(super) fn columns(out: &mut impl Write, rows: &[Vec<String>], widths: &mut Vec<usize>) -> io::Result<()> {
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (index, cell) in row.iter().enumerate() {
            widths[index] = widths[index].max(cell.chars().count());
        }
    }
    for row in rows {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if index + 1 < row.len() {
                line.extend(std::iter::repeat_n(' ', widths[index] + 3 - cell.chars().count()));
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A refusal in kubectl's words.
pub(super) fn refusal(error: CallError) -> anyhow::Error {
    match error {
        CallError::Refused(refusal) if refusal.reason == coracle_objects::Reason::Invalid => anyhow!("The {refusal}"),
        CallError::Refused(refusal) => anyhow!("Error from server ({}): {refusal}", refusal.reason.as_str()),
        other => anyhow::Error::new(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let table = json!({
            "columnDefinitions": [{"name": "Name"}, {"name": "Ready"}, {"name": "Node", "priority": 1}],
            "rows": [
                {"cells": ["a", "1/1", "n"], "object": {"metadata": {"namespace": "default"}}},
                {"cells": ["longer", 3, null], "object": {"metadata": {"namespace": "kube-system"}}},
            ],
        });
        let text = |style| {
            let mut out = Vec::new();
            columns(&mut out, &table_rows(&table, style), &mut Vec::new()).unwrap();
            String::from_utf8(out).unwrap()
        };
        insta::assert_snapshot!(text(TableStyle::default()), @r"
        NAME     READY
        a        1/1
        longer   3
        ");
        insta::assert_snapshot!(text(TableStyle { wide: true, with_namespace: true, ..TableStyle::default() }), @r"
        NAMESPACE     NAME     READY   NODE
        default       a        1/1     n
        kube-system   longer   3       <none>
        ");
    }

    #[test]
    fn labels_are_columns() {
        let table = json!({
            "columnDefinitions": [{"name": "Name"}],
            "rows": [
                {"cells": ["a"], "object": {"metadata": {"labels": {"example.com/disk": "ssd", "b": "1"}}}},
                {"cells": ["b\u{1b}[2J\nx"], "object": {"metadata": {}}},
            ],
        });
        let (mut out, keys) = (Vec::new(), ["example.com/disk".to_owned()]);
        let style = TableStyle { label_columns: &keys, all_labels: true, ..TableStyle::default() };
        columns(&mut out, &table_rows(&table, style), &mut Vec::new()).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        NAME      DISK   LABELS
        a         ssd    b=1,example.com/disk=ssd
        b [2J x          <none>
        ");
    }

    #[test]
    fn an_unknown_format_is_named() {
        assert!("xml".parse::<Output>().unwrap_err().to_string().contains("\"xml\" is no output format"));
    }
}
