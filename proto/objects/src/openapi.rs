//! `OpenAPI` documents, derived from the field table and the catalogue.
//!
//! `kubectl` needs them: `explain` reads descriptions, `apply` reads merge keys and whether `fieldValidation` and
//! `dryRun` are there, and versions before 1.27 hold manifests against the types of the version 2 document.
//! Each document is built when it is first asked for and kept as the bytes that are sent.

mod paths;
mod protobuf;
mod schema;

use crate::{KUBERNETES_VERSION, catalogue};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, sync::OnceLock};

/// `Content-Type` of [`v2_protobuf`]. Clients ask for `…spec.v2@v1.0+protobuf`, but `@` may not stand in a content type
/// and `kubectl` 1.20 fails to read an answer that has it.
pub const V2_PROTOBUF_CONTENT_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Which version of the specification a document follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// Swagger 2.0.
    V2,
    /// `OpenAPI` 3.0.
    V3,
}

/// `GET /openapi/v3`: the index of group versions. A URL changes with what it leads to, so clients may keep that.
#[must_use]
pub fn v3_index() -> Value {
    let mut paths = Map::new();
    for (path, document) in v3_documents() {
        let hash = fingerprint(document);
        paths.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash:016X}")}));
    }
    json!({"paths": paths})
}

/// `GET /openapi/v3/PATH` with PATH `api/v1` or `apis/GROUP/VERSION`, as JSON.
#[must_use]
pub fn v3_json(path: &str) -> Option<&'static [u8]> {
    v3_documents().get(path).map(Vec::as_slice)
}

/// `GET /openapi/v2` as JSON.
#[must_use]
pub fn v2_json() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| v2().to_string().into_bytes())
}

/// `GET /openapi/v2` for those who ask for `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`; to be sent as
/// [`V2_PROTOBUF_CONTENT_TYPE`].
#[must_use]
pub fn v2_protobuf() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| protobuf::encode(&v2()))
}

fn v3_documents() -> &'static BTreeMap<String, Vec<u8>> {
    static DOCUMENTS: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        catalogue::group_versions()
            .into_iter()
            .map(|(group, version)| {
                let path = paths::root(group, version).trim_start_matches('/').to_owned();
                (path, v3(group, version).to_string().into_bytes())
            })
            .collect()
    })
}

fn v3(group: &str, version: &str) -> Value {
    json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths::of_group(group, version, Dialect::V3),
        "components": {"schemas": schema::definitions(catalogue::in_group(group, version), Dialect::V3)},
    })
}

fn v2() -> Value {
    let mut all_paths = Map::new();
    for (group, version) in catalogue::group_versions() {
        all_paths.extend(paths::of_group(group, version, Dialect::V2));
    }
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": all_paths,
        "definitions": schema::definitions(catalogue::all().iter().copied(), Dialect::V2),
    })
}

fn info() -> Value {
    let (major, minor) = KUBERNETES_VERSION;
    json!({"title": "Kubernetes", "version": format!("v{major}.{minor}.0")})
}

/// FNV-1a: tells one version of a document from the next, nothing more.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests;
