//! What a volume holds, from its spec and the objects that it names. Pure.

use super::{beneath, payload::VolumeFile};
use crate::pod::{
    env::{self, NodeFacts, Sources},
    spec,
};
use serde_json::Value;
use std::path::PathBuf;

/// Mode of files whose volume names none.
const MODE_DEFAULT: u32 = 0o644;

/// What a volume is made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A directory that guests fill.
    Empty,
    Files(Vec<VolumeFile>),
}

/// Whether guests only read a volume, because it is made of objects of the control plane.
pub(super) fn is_made_of_objects(volume: &Value) -> bool {
    ["configMap", "secret", "downwardAPI", "projected"].iter().any(|kind| volume[*kind].is_object())
}

/// Config maps and secrets that a volume needs.
pub(super) fn needed(volume: &Value) -> (Vec<&str>, Vec<&str>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    config_maps.extend(volume["configMap"]["name"].as_str());
    secrets.extend(volume["secret"]["secretName"].as_str());
    for source in spec::items(&volume["projected"], "sources") {
        config_maps.extend(source["configMap"]["name"].as_str());
        secrets.extend(source["secret"]["name"].as_str());
    }
    (config_maps, secrets)
}

/// What files are made from.
#[derive(Clone, Copy)]
struct Origin<'a> {
    pod: &'a Value,
    node: NodeFacts<'a>,
    sources: &'a Sources,
}

/// What a volume of a pod holds now.
///
/// # Errors
/// kubelet's detail for `FailedMount`.
pub(super) fn content(volume: &Value, pod: &Value, node: NodeFacts<'_>, sources: &Sources) -> Result<Content, String> {
    let origin = Origin { pod, node, sources };
    let kind = volume.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).find(|key| *key != "name");
    let source = &volume[kind.unwrap_or("emptyDir")];
    let mode = mode_of(source, "defaultMode", MODE_DEFAULT);
    let mut files = Vec::new();
    match kind {
        None | Some("emptyDir") => return Ok(Content::Empty),
        Some(kind @ ("configMap" | "secret" | "downwardAPI")) => part(&mut files, kind, source, mode, origin)?,
        Some("projected") => {
            for entry in spec::items(source, "sources") {
                for (kind, source) in entry.as_object().into_iter().flatten() {
                    part(&mut files, kind, source, mode, origin)?;
                }
            }
        }
        Some("hostPath") => {
            return Err("this node shares no directories of its own with pods (hostPath)".to_owned());
        }
        Some(other) => return Err(format!("this node does not support volumes of type {other}")),
    }
    Ok(Content::Files(files))
}

/// Adds the files of one source of a volume.
fn part(files: &mut Vec<VolumeFile>, kind: &str, source: &Value, mode: u32, origin: Origin<'_>) -> Result<(), String> {
    let (what, name, objects) = match kind {
        "configMap" => ("configmap", spec::text(source, "name"), &origin.sources.config_maps),
        "secret" => {
            let name = source["secretName"].as_str().or(source["name"].as_str()).unwrap_or_default();
            ("secret", name, &origin.sources.secrets)
        }
        "downwardAPI" => return downward(files, source, mode, origin),
        "serviceAccountToken" => {
            return Err("this cluster issues no tokens of service accounts (serviceAccountToken)".to_owned());
        }
        other => return Err(format!("this node does not support volume sources of type {other}")),
    };
    let optional = source["optional"] == true;
    let Some(data) = objects.get(name) else {
        return if optional { Ok(()) } else { Err(format!("{what} \"{name}\" not found")) };
    };
    let items = spec::items(source, "items");
    if items.is_empty() {
        for (key, bytes) in data {
            files.push(VolumeFile { path: relative(key)?, bytes: bytes.clone(), mode });
        }
    }
    for item in items {
        let key = spec::text(item, "key");
        match data.get(key) {
            Some(bytes) => files.push(VolumeFile {
                path: relative(spec::text(item, "path"))?,
                bytes: bytes.clone(),
                mode: mode_of(item, "mode", mode),
            }),
            None if optional => {}
            None => return Err(format!("{what} references non-existent config key: {key}")),
        }
    }
    Ok(())
}

fn downward(files: &mut Vec<VolumeFile>, source: &Value, mode: u32, origin: Origin<'_>) -> Result<(), String> {
    for item in spec::items(source, "items") {
        let path = relative(spec::text(item, "path"))?;
        let reference = &item["resourceFieldRef"];
        let text = match item["fieldRef"]["fieldPath"].as_str() {
            Some(field) => env::field(origin.pod, origin.node.host_ip, field)?,
            None if reference.is_object() => {
                let name = spec::text(reference, "containerName");
                let container = spec::containers(origin.pod).find(|container| container["name"] == name);
                let container = container.ok_or_else(|| format!("the pod has no container {name}"))?;
                env::resource_field(container, reference, origin.node)?
            }
            None => return Err(format!("{} names neither a field nor a resource", path.display())),
        };
        files.push(VolumeFile { path, bytes: text.into_bytes(), mode: mode_of(item, "mode", mode) });
    }
    Ok(())
}

fn mode_of(value: &Value, field: &str, default: u32) -> u32 {
    value[field].as_u64().and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default)
}

/// A path that names something below the volume's directory, and nothing of the volume's own.
fn relative(path: &str) -> Result<PathBuf, String> {
    let clean = beneath::relative(path)?;
    let first = clean.components().next().map(|first| first.as_os_str().as_encoded_bytes().to_vec());
    match first {
        Some(first) if !first.starts_with(b"..") => Ok(clean),
        _ => Err(format!("{path} is not a path within the volume")),
    }
}
