//! What a manifest says: which layers are wasm modules, or why it is no workload image. Pure.

use crate::reference::parse_digest;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Largest module, and largest layer, that is taken.
pub(crate) const MODULE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Largest sum of an image's modules.
pub(crate) const IMAGE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Most modules in one image.
pub(crate) const MODULES_MAX: usize = 64;
/// Layer types that hold one module or component each: the CNCF working group's, and those that were used before it.
const WASM_LAYER_TYPES: [&str; 4] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];
/// Layer types of file systems, as tar archives that are not compressed.
const TAR_LAYER_TYPES: [&str; 2] =
    ["application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"];
/// Config types that say in an index that an artifact is a workload.
const WASM_CONFIG_TYPES: [&str; 2] = ["application/vnd.wasm.config.v0+json", "application/vnd.wasm.config.v1+json"];
/// Annotation that names a layer's file.
const TITLE: &str = "org.opencontainers.image.title";
/// Annotation of a layer that is a packed directory whatever its title says.
const UNPACK: &str = "io.deis.oras.content.unpack";
const WASM_SUFFIX: &str = ".wasm";

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
    #[serde(default)]
    artifact_type: String,
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

/// What a layer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One module.
    Module,
    /// A tar archive, with modules among its files.
    Tar,
}

/// A layer that is of use, as a manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    /// What it holds.
    pub(crate) form: Form,
    /// Name of the module within the image; of no meaning for an archive.
    pub(crate) name: String,
    /// `sha256:…`.
    pub(crate) digest: String,
    /// Exact length.
    pub(crate) size_bytes: u64,
}

/// What a document under `/manifests/` is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Manifest {
    /// One image: its modules or its archives, never empty.
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
    let mut useful: Vec<(Form, &Descriptor)> =
        layers.iter().filter(|layer| is_module(layer)).map(|layer| (Form::Module, layer)).collect();
    if useful.is_empty() {
        let is_tar = |layer: &&Descriptor| TAR_LAYER_TYPES.contains(&layer.media_type.as_str());
        useful = layers.iter().filter(is_tar).map(|layer| (Form::Tar, layer)).collect();
    }
    if useful.is_empty() {
        return Err(no_workload(layers));
    }
    if useful.len() > MODULES_MAX {
        return Err(format!("has {} modules; at most {MODULES_MAX} are taken", useful.len()));
    }
    let mut names = BTreeSet::new();
    let mut total = 0_u64;
    let mut found = Vec::with_capacity(useful.len());
    for (form, layer) in useful {
        let digest = parse_digest(&layer.digest).map_err(|what| format!("names a layer wrongly: {what}"))?;
        let size_bytes = u64::try_from(layer.size).map_err(|_| "has a layer of negative size".to_owned())?;
        if size_bytes > MODULE_BYTES_MAX {
            return Err(format!("has a module of {size_bytes} bytes; at most {MODULE_BYTES_MAX} are taken"));
        }
        total = total.saturating_add(size_bytes);
        let name = module_name(title(layer), base_name);
        if form == Form::Module && !names.insert(name.clone()) {
            return Err(two_modules(&name));
        }
        found.push(Layer { form, name, digest, size_bytes });
    }
    if total > IMAGE_BYTES_MAX {
        return Err(format!("holds {total} bytes; at most {IMAGE_BYTES_MAX} are taken"));
    }
    Ok(found)
}

/// What is said of an image in which a name means two things.
pub(crate) fn two_modules(name: &str) -> String {
    format!("has two modules called {name:?}")
}

fn title(layer: &Descriptor) -> &str {
    layer.annotations.as_ref().and_then(|annotations| annotations.get(TITLE)).map_or("", String::as_str)
}

/// By its type, or, as plain pushes of files give any type, by its file's name.
fn is_module(layer: &Descriptor) -> bool {
    let is_packed = layer.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(UNPACK));
    WASM_LAYER_TYPES.contains(&layer.media_type.as_str()) || title(layer).ends_with(WASM_SUFFIX) && !is_packed
}

fn no_workload(layers: &[Descriptor]) -> String {
    let types: BTreeSet<&str> = layers.iter().map(|layer| layer.media_type.as_str()).collect();
    let compressed = types.iter().any(|kind| ["gzip", "zstd"].iter().any(|packing| kind.ends_with(packing)));
    let advice = if compressed {
        "; compressed layers are not read: push the .wasm file itself, or the layer uncompressed"
    } else {
        ""
    };
    let types = if types.is_empty() { "none".to_owned() } else { Vec::from_iter(types).join(", ") };
    format!("is not a wasm workload image: its layers are {types}{advice}")
}

/// The name of a module in a file; that of the image where the file has none.
pub(crate) fn module_name(file: &str, base_name: &str) -> String {
    let file = file.rsplit('/').next().unwrap_or_default();
    let name = file.strip_suffix(WASM_SUFFIX).unwrap_or(file);
    if name.is_empty() || name.contains(char::is_control) { base_name.to_owned() } else { name.to_owned() }
}

/// The entry for WASI on wasm; else whatever is for either; else one that says that it is an artifact with a module;
/// else the only one, if it has no platform.
fn choose(entries: &[Descriptor]) -> Result<String, String> {
    let platform = |entry: &Descriptor, is: fn(&Platform) -> bool| entry.platform.as_ref().is_some_and(is);
    let by_platform = |is: fn(&Platform) -> bool| entries.iter().find(|entry| platform(entry, is));
    let found = by_platform(|platform| platform.architecture == "wasm" && platform.os.starts_with("wasi"))
        .or_else(|| by_platform(|platform| platform.architecture == "wasm" || platform.os.starts_with("wasi")))
        .or_else(|| entries.iter().find(|entry| WASM_CONFIG_TYPES.contains(&entry.artifact_type.as_str())))
        .or_else(|| entries.first().filter(|entry| entries.len() == 1 && entry.platform.is_none()));
    let Some(entry) = found else {
        let name = |platform: &Platform| format!("{}/{}", platform.os, platform.architecture);
        let platforms: BTreeSet<String> =
            entries.iter().map(|entry| entry.platform.as_ref().map_or_else(|| "unknown".to_owned(), name)).collect();
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
        assert!(error.starts_with(&format!("is not a wasm workload image: its layers are {tar}; comp")), "{error}");
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
    fn files_that_were_pushed_plainly_are_known_by_their_title() {
        let tar = "application/vnd.oci.image.layer.v1.tar";
        let forms = |layers: &[Value]| -> Vec<(Form, String)> {
            let Manifest::Image(layers) = read(layers).unwrap() else { panic!("not an image") };
            layers.into_iter().map(|layer| (layer.form, layer.name)).collect()
        };
        let pushed = forms(&[layer(tar, 1, Some("a.wasm")), layer("application/json", 1, Some("b.json"))]);
        assert_eq!(pushed, [(Form::Module, "a".to_owned())]);
        let mut packed = layer(tar, 1, Some("dir.wasm"));
        packed["annotations"][UNPACK] = json!("true");
        assert_eq!(forms(&[packed])[0].0, Form::Tar);
        assert_eq!(forms(&[layer(tar, 1, None), layer(tar, 2, None)]).len(), 2);
        let old = "application/vnd.wasm.content.layer.v1+wasm";
        assert_eq!(forms(&[layer(old, 1, None), layer(tar, 1, None)]), [(Form::Module, "base".to_owned())]);
    }

    #[test]
    fn an_index_yields_its_wasm_entry() {
        let entry = |os: &str, architecture: &str, fill| json!({"digest": digest(fill), "size": 1, "platform": {"os": os, "architecture": architecture}});
        let index =
            json!({"schemaVersion": 2, "manifests": [entry("linux", "amd64", 'b'), entry("wasip1", "wasm", 'c')]});
        assert_eq!(parse(index.to_string().as_bytes(), "x").unwrap(), Manifest::Index(digest('c')));
        let index = json!({"schemaVersion": 2, "manifests": [entry("linux", "wasm", 'b'), entry("wasi", "wasm", 'c')]});
        assert_eq!(parse(index.to_string().as_bytes(), "x").unwrap(), Manifest::Index(digest('c')));
        let artifact = json!({"digest": digest('d'), "size": 1, "artifactType": WASM_CONFIG_TYPES[0]});
        let index = json!({"schemaVersion": 2, "manifests": [entry("linux", "arm64", 'b'), artifact]});
        assert_eq!(parse(index.to_string().as_bytes(), "x").unwrap(), Manifest::Index(digest('d')));
        let index = json!({"schemaVersion": 2, "manifests": [entry("linux", "arm64", 'b')]});
        let error = parse(index.to_string().as_bytes(), "x").unwrap_err();
        assert_eq!(error, "is not a wasm workload image: its platforms are linux/arm64");
    }
}
