//! kubectl's JSONPath templates: text with `{.path[0].to['a b']}`, `{.items[*].x}`, `{range …}…{end}`, `{"\n"}`
//! and filters `[?(@.type=="Ready")]`.
//!
//! RFC 9535 crates know no templates, and kubectl's dialect is not quite theirs.

use anyhow::{Result, anyhow, bail};
use serde_json::Value;
use std::str::FromStr;

/// Deepest nesting of ranges.
const MAX_NESTING: usize = 16;

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Self>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(i64),
    Every,
    Filter { path: Vec<Self>, equal: bool, value: Value },
}

impl FromStr for Template {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut rest = text;
        let parts = parts(&mut rest, 0)?;
        if !rest.is_empty() {
            bail!("jsonpath: {{end}} without {{range}}");
        }
        Ok(Self(parts))
    }
}

impl Template {
    /// The text for `document`.
    pub(super) fn render(&self, document: &Value) -> Result<String> {
        let mut out = String::new();
        render(&self.0, document, &mut out)?;
        Ok(out)
    }
}

fn render(parts: &[Part], at: &Value, out: &mut String) -> Result<()> {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Path(path) => {
                let found = select(path, at)?;
                let texts: Vec<String> = found.into_iter().map(plain).collect();
                out.push_str(&texts.join(" "));
            }
            Part::Range(path, inner) => {
                for item in select(path, at)? {
                    render(inner, item, out)?;
                }
            }
        }
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn select<'v>(path: &[Step], from: &'v Value) -> Result<Vec<&'v Value>> {
    let mut found = vec![from];
    for step in path {
        let mut next = Vec::new();
        for value in found {
            match step {
                Step::Key(key) => next.extend(value.get(key)),
                Step::Index(index) => {
                    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
                    let wanted = if *index < 0 { length + index } else { *index };
                    let item = usize::try_from(wanted).ok().and_then(|wanted| items.get(wanted));
                    next.push(item.ok_or_else(|| {
                        anyhow!("jsonpath: array index out of bounds: index {index}, length {length}")
                    })?);
                }
                Step::Every => match value {
                    Value::Array(items) => next.extend(items),
                    Value::Object(map) => next.extend(map.values()),
                    _ => {}
                },
                Step::Filter { path, equal, value: wanted } => {
                    for item in value.as_array().map(Vec::as_slice).unwrap_or_default() {
                        if select(path, item)?.contains(&wanted) == *equal {
                            next.push(item);
                        }
                    }
                }
            }
        }
        found = next;
    }
    Ok(found)
}

/// Reads up to the end of the text or an `{end}`, which is consumed only inside a range.
fn parts(rest: &mut &str, depth: usize) -> Result<Vec<Part>> {
    if depth > MAX_NESTING {
        bail!("jsonpath: ranges are nested more than {MAX_NESTING} deep");
    }
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let Some(open) = rest.find('{') else {
            parts.push(Part::Text((*rest).to_owned()));
            *rest = "";
            break;
        };
        if open > 0 {
            parts.push(Part::Text(rest[..open].to_owned()));
        }
        let close = closing(&rest[open..]).ok_or_else(|| anyhow!("jsonpath: unclosed action in {rest:?}"))?;
        let action = rest[open + 1..open + close].trim();
        let behind = &rest[open + close + 1..];
        if action == "end" {
            if depth > 0 {
                *rest = behind;
            }
            return Ok(parts);
        }
        *rest = behind;
        if let Some(path) = action.strip_prefix("range ") {
            let path = self::path(path.trim())?;
            parts.push(Part::Range(path, self::parts(rest, depth + 1)?));
        } else if action.starts_with('"') {
            let text = serde_json::from_str(action).map_err(|error| anyhow!("jsonpath: {action}: {error}"))?;
            parts.push(Part::Text(text));
        } else {
            parts.push(Part::Path(path(action)?));
        }
    }
    Ok(parts)
}

/// Offset of the brace that closes the one at 0; braces inside quotes do not count.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (offset, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, '}') => return Some(offset),
            _ => {}
        }
    }
    None
}

fn path(text: &str) -> Result<Vec<Step>> {
    let mut rest = text.strip_prefix(['$', '@']).unwrap_or(text);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let end = bracket_end(inner).ok_or_else(|| anyhow!("jsonpath: unterminated [ in {text:?}"))?;
            steps.push(bracket(&inner[..end])?);
            rest = &inner[end + 1..];
        } else {
            let key = rest.strip_prefix('.').unwrap_or(rest);
            // A backslash keeps a dot in a key, as kubectl has it: `.metadata.labels.app\.kubernetes\.io/name`.
            let mut name = String::new();
            let mut end = key.len();
            let mut letters = key.char_indices();
            while let Some((offset, letter)) = letters.next() {
                match letter {
                    '\\' => name.extend(letters.next().map(|(_, escaped)| escaped)),
                    '.' | '[' => {
                        end = offset;
                        break;
                    }
                    other => name.push(other),
                }
            }
            match name.as_str() {
                "" if key.is_empty() => {}
                "" => bail!("jsonpath: {text:?} has an empty step; recursive descent is not supported"),
                "*" => steps.push(Step::Every),
                _ => steps.push(Step::Key(name)),
            }
            rest = &key[end..];
        }
    }
    Ok(steps)
}

fn bracket_end(text: &str) -> Option<usize> {
    let (mut quote, mut depth) = (None, 0_usize);
    for (offset, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(offset),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Result<Step> {
    let text = text.trim();
    if text == "*" {
        return Ok(Step::Every);
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|inner| inner.strip_suffix(')')) {
        let (at, equal) = match (filter.find("=="), filter.find("!=")) {
            (Some(at), _) => (at, true),
            (None, Some(at)) => (at, false),
            (None, None) => bail!("jsonpath: the filter {filter:?} must compare with == or !="),
        };
        return Ok(Step::Filter { path: path(filter[..at].trim())?, equal, value: literal(filter[at + 2..].trim())? });
    }
    if text.starts_with(['\'', '"']) {
        return match literal(text)? {
            Value::String(key) => Ok(Step::Key(key)),
            _ => bail!("jsonpath: {text} is no key"),
        };
    }
    text.parse().map(Step::Index).map_err(|_| anyhow!("jsonpath: [{text}] must be an index, * or a quoted key"))
}

fn literal(text: &str) -> Result<Value> {
    if let Some(inner) = text.strip_prefix('\'').and_then(|inner| inner.strip_suffix('\'')) {
        return Ok(Value::from(inner));
    }
    serde_json::from_str(text)
        .map_err(|_| anyhow!("jsonpath: {text:?} must be a quoted string, a number, true or false"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn renders_what_kubectl_renders() {
        let document = json!({
            "items": [{"metadata": {"name": "a", "labels": {"x.y/z": "l"}}}, {"metadata": {"name": "b"}}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}],
        });
        for (template, expected) in [
            ("{.items[*].metadata.name}", "a b"),
            ("{.items[-1].metadata.name}", "b"),
            ("{range .items[*]}{.metadata.name}{\"\\n\"}{end}", "a\nb\n"),
            ("{.conditions[?(@.type==\"Ready\")].status}", "True"),
            ("{.conditions[?(@.type!='Ready')].status}", "False"),
            ("x{.items[0].metadata.labels.x\\.y/z}y", "xly"),
            ("{.items[0].metadata.labels['x.y/z']}", "l"),
            ("{.missing.path}", ""),
            ("{.conditions[1]}", r#"{"type":"Other","status":"False"}"#),
        ] {
            let template: Template = template.parse().unwrap();
            assert_eq!(template.render(&document).unwrap(), expected, "{template:?}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (template, part) in [
            ("{.a", "unclosed action"),
            ("{.a[}", "unterminated ["),
            ("{.a[x]}", "[x] must be an index"),
            ("{..a}", "recursive descent"),
            ("{.a[?(@.b)]}", "must compare"),
            ("{end}", "{end} without {range}"),
        ] {
            let error = template.parse::<Template>().unwrap_err().to_string();
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
        let template: Template = "{.items[3]}".parse().unwrap();
        assert!(template.render(&json!({"items": []})).unwrap_err().to_string().contains("out of bounds"));
    }
}
