//! Manifests: one or more objects in a YAML or JSON text.

use serde_json::Value;
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Largest manifest that is read: a few objects of the largest size that the API takes.
const MAX_MANIFEST_BYTES: u64 = 16 * 1024 * 1024;

/// Why a manifest is none.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// It cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// It is too large.
    #[error("{0} is larger than {MAX_MANIFEST_BYTES} bytes")]
    TooLarge(PathBuf),
    /// A directory without any manifest in it.
    #[error("{0} holds no .yaml, .yml or .json file")]
    EmptyDirectory(PathBuf),
    /// Not YAML or JSON.
    #[error("{origin}: not a manifest: {detail}")]
    Syntax {
        /// File, or `standard input`.
        origin: String,
        /// What the parser says, with line and column.
        detail: String,
    },
    /// A document that is no object with `apiVersion` and `kind`.
    #[error("{origin}: document {document}: {detail}")]
    NotAnObject {
        /// File, or `standard input`.
        origin: String,
        /// Which document, from 1.
        document: usize,
        /// What is wrong.
        detail: &'static str,
    },
}

/// Reads a file, or every manifest directly in a directory in order of name.
pub fn read(path: &Path) -> Result<Vec<Value>, ManifestError> {
    if !path.is_dir() {
        return read_file(path);
    }
    let fail = |error| ManifestError::Read(path.to_owned(), error);
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(fail)? {
        let file = entry.map_err(fail)?.path();
        let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if file.is_file() && ["yaml", "yml", "json"].contains(&extension) {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(ManifestError::EmptyDirectory(path.to_owned()));
    }
    files.sort();
    files.iter().map(|file| read_file(file)).collect::<Result<Vec<_>, _>>().map(|lists| lists.concat())
}

fn read_file(path: &Path) -> Result<Vec<Value>, ManifestError> {
    let fail = |error| ManifestError::Read(path.to_owned(), error);
    if fs::metadata(path).map_err(fail)?.len() > MAX_MANIFEST_BYTES {
        return Err(ManifestError::TooLarge(path.to_owned()));
    }
    parse(&path.display().to_string(), &fs::read(path).map_err(fail)?)
}

/// Reads standard input.
pub fn read_stdin() -> Result<Vec<Value>, ManifestError> {
    let mut bytes = Vec::new();
    let mut bounded = io::Read::take(io::stdin().lock(), MAX_MANIFEST_BYTES + 1);
    let origin = PathBuf::from("standard input");
    io::Read::read_to_end(&mut bounded, &mut bytes).map_err(|error| ManifestError::Read(origin.clone(), error))?;
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(ManifestError::TooLarge(origin));
    }
    parse("standard input", &bytes)
}

/// Splits a text into objects; a `List` is taken apart, empty documents are passed over.
pub fn parse(origin: &str, bytes: &[u8]) -> Result<Vec<Value>, ManifestError> {
    let syntax = |detail: String| ManifestError::Syntax { origin: origin.to_owned(), detail };
    let text =
        std::str::from_utf8(bytes).map_err(|error| syntax(format!("invalid UTF-8 at byte {}", error.valid_up_to())))?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| syntax(error.to_string()))?;
    let mut objects = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        let fail = |detail| ManifestError::NotAnObject { origin: origin.to_owned(), document: index + 1, detail };
        match document {
            Value::Null => {}
            Value::Object(mut map) if map.get("kind").is_some_and(|kind| kind == "List") => {
                match map.get_mut("items").map(Value::take) {
                    Some(Value::Array(items)) => objects.extend(items),
                    _ => return Err(fail("a List must have an array of items")),
                }
            }
            Value::Object(map) if !map.contains_key("apiVersion") => return Err(fail("apiVersion is missing")),
            Value::Object(map) if !map.contains_key("kind") => return Err(fail("kind is missing")),
            Value::Object(map) => objects.push(Value::Object(map)),
            _ => return Err(fail("must be an object with apiVersion and kind")),
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_documents_and_lists_apart() {
        let text = "---\napiVersion: v1\nkind: A\n---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: B, n: \"010\", y: yes}\n";
        let objects = parse("f", text.as_bytes()).unwrap();
        let kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["A", "B"]);
        assert_eq!(objects[1]["n"], "010");
        assert_eq!(parse("f", br#"{"apiVersion":"v1","kind":"C"}"#).unwrap().len(), 1);
    }

    #[test]
    fn refuses_what_is_none() {
        for (bytes, part) in [
            (&b"kind: A"[..], "f: document 1: apiVersion is missing"),
            (b"apiVersion: v1", "kind is missing"),
            (b"- 1", "must be an object"),
            (b"a: [", "f: not a manifest"),
            (b"a: \xff\xfe", "invalid UTF-8 at byte 3"),
            (b"apiVersion: v1\nkind: List\nitems: 3", "must have an array of items"),
        ] {
            let error = parse("f", bytes).unwrap_err().to_string();
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    }

    #[test]
    fn a_billion_laughs_are_refused() {
        let first = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]".to_owned();
        let levels = (1..12).map(|level| {
            let references = vec![format!("*a{}", level - 1); 10].join(",");
            format!("a{level}: &a{level} [{references}]")
        });
        let text = std::iter::once(first).chain(levels).collect::<Vec<_>>().join("\n");
        assert!(parse("f", text.as_bytes()).is_err());
    }
}
