//! What a manifest says: which layers are wasm modules, or why it is no workload image. Pure.

use crate::reference::parse_digest;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Largest module that is taken.
pub(crate) const MODULE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Largest sum of an image's modules.
pub(crate) const IMAGE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Most modules in one image.
const MODULES_MAX: usize = 64;
/// Layer types that hold one module or component each.
const WASM_LAYER_TYPES: [&str; 2] = ["application/wasm", "application/vnd.wasm.content.layer.v1+wasm"];
/// Annotation that names a layer's file.
const TITLE: &str = "org.opencontainers.image.title";

/// Media types that are asked for.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: i64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

/// A module as a manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    /// Name within the image.
    pub(crate) name: String,
    /// `sha256:…`.
    pub(crate) digest: String,
    /// Exact length.
    pub(crate) size_bytes: u64,
}

/// What a document under `/manifests/` is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Manifest {
    /// One image: its modules, never empty.
    Image(Vec<Layer>),
    /// An index whose wasm entry has this digest.
    Index(String),
}

/// Reads a manifest; `base_name` names a module that has no title.
///
/// # Errors
/// What is wrong, for people; it reads well behind the image's name.
pub(crate) fn parse(bytes: &[u8], base_name: &str) -> Result<Manifest, String> {
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| format!("has a manifest that cannot be read: {error}"))?;
    if document.schema_version != 2 {
        return Err(format!("has a manifest of schema version {}, not 2", document.schema_version));
    }
    match (document.layers, document.manifests) {
        (Some(layers), _) => modules(&layers, base_name).map(Manifest::Image),
        (None, Some(entries)) => choose(&entries).map(Manifest::Index),
        (None, None) => Err("has a manifest with neither layers nor manifests".to_owned()),
    }
}

fn modules(layers: &[Descriptor], base_name: &str) -> Result<Vec<Layer>, String> {
    let wasm: Vec<&Descriptor> =
        layers.iter().filter(|layer| WASM_LAYER_TYPES.contains(&layer.media_type.as_str())).collect();
    if wasm.is_empty() {
        let types: BTreeSet<&str> = layers.iter().map(|layer| layer.media_type.as_str()).collect();
        let types = if types.is_empty() { "none".to_owned() } else { Vec::from_iter(types).join(", ") };
        return Err(format!("is not a wasm workload image: its layers are {types}"));
    }
    if wasm.len() > MODULES_MAX {
        return Err(format!("has {} modules; at most {MODULES_MAX} are taken", wasm.len()));
    }
    let mut names = BTreeSet::new();
    let mut total = 0_u64;
    let mut found = Vec::with_capacity(wasm.len());
    for layer in wasm {
        let digest = parse_digest(&layer.digest).map_err(|what| format!("names a layer wrongly: {what}"))?;
        let size_bytes = u64::try_from(layer.size).map_err(|_| "has a layer of negative size".to_owned())?;
        if size_bytes > MODULE_BYTES_MAX {
            return Err(format!("has a module of {size_bytes} bytes; at most {MODULE_BYTES_MAX} are taken"));
        }
        total = total.saturating_add(size_bytes);
        let name = module_name(layer, base_name);
        if !names.insert(name.clone()) {
            return Err(format!("has two modules called {name:?}"));
        }
        found.push(Layer { name, digest, size_bytes });
    }
    if total > IMAGE_BYTES_MAX {
        return Err(format!("holds {total} bytes; at most {IMAGE_BYTES_MAX} are taken"));
    }
    Ok(found)
}

fn module_name(layer: &Descriptor, base_name: &str) -> String {
    let title = layer.annotations.as_ref().and_then(|annotations| annotations.get(TITLE));
    let file = title.and_then(|title| title.rsplit('/').next()).unwrap_or_default();
    let name = file.strip_suffix(".wasm").unwrap_or(file);
    if name.is_empty() || name.contains('\0') { base_name.to_owned() } else { name.to_owned() }
}

fn choose(entries: &[Descriptor]) -> Result<String, String> {
    let is_wasm = |entry: &&Descriptor| {
        entry
            .platform
            .as_ref()
            .is_some_and(|platform| platform.architecture == "wasm" || platform.os.starts_with("wasi"))
    };
    let alone = || entries.first().filter(|entry| entries.len() == 1 && entry.platform.is_none());
    let Some(entry) = entries.iter().find(is_wasm).or_else(alone) else {
        let platforms: BTreeSet<String> = entries
            .iter()
            .map(|entry| {
                entry.platform.as_ref().map_or_else(
                    || "unknown".to_owned(),
                    |platform| format!("{}/{}", platform.os, platform.architecture),
                )
            })
            .collect();
        let platforms = Vec::from_iter(platforms).join(", ");
        return Err(format!("is not a wasm workload image: its platforms are {platforms}"));
    };
    parse_digest(&entry.digest).map_err(|what| format!("names a manifest wrongly: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn digest(fill: char) -> String {
        format!("sha256:{}", String::from_iter([fill; 64]))
    }

    fn layer(media_type: &str, size: i64, title: Option<&str>) -> Value {
        let mut value = json!({"mediaType": media_type, "digest": digest('a'), "size": size});
        if let Some(title) = title {
            value["annotations"] = json!({TITLE: title});
        }
        value
    }

    fn read(layers: &[Value]) -> Result<Manifest, String> {
        let document = json!({"schemaVersion": 2, "config": {"mediaType": "x"}, "layers": layers});
        parse(document.to_string().as_bytes(), "base")
    }

    #[test]
    fn modules_are_named_by_title_or_image() {
        let Manifest::Image(layers) = read(&[
            layer("application/wasm", 3, Some("dir/tool.wasm")),
            layer("text/plain", 9, None),
            layer("application/vnd.wasm.content.layer.v1+wasm", 4, None),
        ])
        .unwrap() else {
            panic!("not an image")
        };
        let names: Vec<(&str, u64)> = layers.iter().map(|layer| (layer.name.as_str(), layer.size_bytes)).collect();
        assert_eq!(names, [("tool", 3), ("base", 4)]);
    }

    #[test]
    fn what_is_no_workload_image_says_what_it_is() {
        let tar = "application/vnd.oci.image.layer.v1.tar+gzip";
        let error = read(&[layer(tar, 1, None), layer(tar, 2, None)]).unwrap_err();
        assert_eq!(error, format!("is not a wasm workload image: its layers are {tar}"));
        assert_eq!(read(&[]).unwrap_err(), "is not a wasm workload image: its layers are none");
        let twice = [layer("application/wasm", 1, None), layer("application/wasm", 1, None)];
        assert_eq!(read(&twice).unwrap_err(), "has two modules called \"base\"");
        let too_big = i64::try_from(MODULE_BYTES_MAX).unwrap() + 1;
        assert!(read(&[layer("application/wasm", too_big, None)]).unwrap_err().contains("at most"));
        assert!(read(&[layer("application/wasm", -1, None)]).unwrap_err().contains("negative"));
        for bytes in [&b"{"[..], b"[]", b"{\"schemaVersion\":2}", b"{\"schemaVersion\":1,\"layers\":[]}", b"\xff"] {
            assert!(parse(bytes, "base").is_err());
        }
        let mut bad = layer("application/wasm", 1, None);
        bad["digest"] = json!("sha256:../../etc/passwd");
        assert!(read(&[bad]).unwrap_err().contains("digest"));
    }

    #[test]
    fn an_index_yields_its_wasm_entry() {
        let entry = |os: &str, architecture: &str, fill| json!({"digest": digest(fill), "size": 1, "platform": {"os": os, "architecture": architecture}});
        let index =
            json!({"schemaVersion": 2, "manifests": [entry("linux", "amd64", 'b'), entry("wasip1", "wasm", 'c')]});
        assert_eq!(parse(index.to_string().as_bytes(), "x").unwrap(), Manifest::Index(digest('c')));
        let index = json!({"schemaVersion": 2, "manifests": [entry("linux", "arm64", 'b')]});
        let error = parse(index.to_string().as_bytes(), "x").unwrap_err();
        assert_eq!(error, "is not a wasm workload image: its platforms are linux/arm64");
    }
}
