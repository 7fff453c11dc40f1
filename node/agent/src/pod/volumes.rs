//! Volumes: what their files are (pure), and putting them on disk. A volume appears whole or not at all: it is
//! written beside and renamed.

use crate::{
    ledger::is_file_name,
    link::{CONFIG_MAPS, Link, Resource, SECRETS},
    pod::{
        env::{self, Sources},
        spec,
    },
    sandbox::Owner,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use coracle_objects::{ApiError, ObjectKey, Reason, meta};
use coracle_runner::protocol::Mount;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

/// Mode of files whose volume names none.
const MODE_DEFAULT: u32 = 0o644;
/// For a runner that is not the files' owner.
const MODE_READABLE: u32 = 0o444;
/// An emptyDir belongs to whoever is in the pod.
const EMPTY_DIR_MODE: u32 = 0o777;

/// Why a volume cannot be set up: kubelet's `FailedMount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountFailure {
    pub(crate) volume: String,
    pub(crate) detail: String,
}

impl MountFailure {
    /// The event's message.
    pub(crate) fn message(&self) -> String {
        format!("MountVolume.SetUp failed for volume \"{}\" : {}", self.volume, self.detail)
    }
}

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
struct VolumeFile {
    path: PathBuf,
    bytes: Vec<u8>,
    mode: u32,
}

/// What a volume is made of.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    Empty,
    Files(Vec<VolumeFile>),
}

/// Decodes a ConfigMap's `data` and `binaryData`, or a Secret's `data`.
pub(crate) fn data_of(object: &Value) -> BTreeMap<String, Vec<u8>> {
    let is_secret = object["kind"] == "Secret";
    let mut data = BTreeMap::new();
    for (field, is_encoded) in [("data", is_secret), ("binaryData", true)] {
        for (key, value) in object[field].as_object().into_iter().flatten() {
            let text = value.as_str().unwrap_or_default();
            let bytes = if is_encoded { STANDARD.decode(text).unwrap_or_default() } else { text.as_bytes().to_vec() };
            data.insert(key.clone(), bytes);
        }
    }
    data
}

/// Reads the named config maps and secrets; those that do not exist are left out.
///
/// # Errors
/// When the server cannot be asked.
pub(crate) async fn fetch<'a>(
    link: &dyn Link,
    namespace: &str,
    config_maps: impl IntoIterator<Item = &'a str>,
    secrets: impl IntoIterator<Item = &'a str>,
) -> Result<Sources, ApiError> {
    let mut sources = Sources::default();
    let wanted: BTreeSet<(&str, bool)> =
        config_maps.into_iter().map(|name| (name, false)).chain(secrets.into_iter().map(|name| (name, true))).collect();
    for (name, is_secret) in wanted {
        let resource: Resource = if is_secret { SECRETS } else { CONFIG_MAPS };
        match link.get(resource, &ObjectKey::namespaced(namespace, name)).await {
            Ok(mut object) => {
                object["kind"] = if is_secret { "Secret" } else { "ConfigMap" }.into();
                let into = if is_secret { &mut sources.secrets } else { &mut sources.config_maps };
                into.insert(name.to_owned(), data_of(&object));
            }
            Err(error) if error.reason == Reason::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sources)
}

/// Config maps and secrets that a volume needs.
fn needed(volume: &Value) -> (Vec<&str>, Vec<&str>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    config_maps.extend(volume["configMap"]["name"].as_str());
    secrets.extend(volume["secret"]["secretName"].as_str());
    for source in spec::items(&volume["projected"], "sources") {
        config_maps.extend(source["configMap"]["name"].as_str());
        secrets.extend(source["secret"]["name"].as_str());
    }
    (config_maps, secrets)
}

fn content(volume: &Value, pod: &Value, host_ip: &str, sources: &Sources) -> Result<Content, String> {
    let kind = volume.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).find(|key| *key != "name");
    let source = &volume[kind.unwrap_or("emptyDir")];
    let mode = u32::try_from(source["defaultMode"].as_u64().unwrap_or(MODE_DEFAULT.into())).unwrap_or(MODE_DEFAULT);
    let mut files = Vec::new();
    match kind {
        None | Some("emptyDir") => return Ok(Content::Empty),
        Some("configMap" | "secret" | "downwardAPI") => {
            let kind = kind.unwrap_or_default();
            part(&mut files, kind, source, mode, (pod, host_ip, sources))?;
        }
        Some("projected") => {
            for entry in spec::items(source, "sources") {
                for (kind, source) in entry.as_object().into_iter().flatten() {
                    part(&mut files, kind, source, mode, (pod, host_ip, sources))?;
                }
            }
        }
        Some(other) => return Err(format!("this node does not support volumes of type {other}")),
    }
    Ok(Content::Files(files))
}

/// Adds the files of one source of a volume.
fn part(
    files: &mut Vec<VolumeFile>,
    kind: &str,
    source: &Value,
    mode: u32,
    (pod, host_ip, sources): (&Value, &str, &Sources),
) -> Result<(), String> {
    let (what, name, objects) = match kind {
        "configMap" => ("configmap", spec::text(source, "name"), &sources.config_maps),
        "secret" => {
            let name = source["secretName"].as_str().or(source["name"].as_str()).unwrap_or_default();
            ("secret", name, &sources.secrets)
        }
        "downwardAPI" => return downward(files, source, mode, pod, host_ip),
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
                mode: item_mode(item, mode),
            }),
            None if optional => {}
            None => return Err(format!("{what} references non-existent config key: {key}")),
        }
    }
    Ok(())
}

fn downward(files: &mut Vec<VolumeFile>, source: &Value, mode: u32, pod: &Value, host_ip: &str) -> Result<(), String> {
    for item in spec::items(source, "items") {
        let path = relative(spec::text(item, "path"))?;
        let Some(field) = item["fieldRef"]["fieldPath"].as_str() else {
            return Err(format!("{} names no fieldRef", path.display()));
        };
        let bytes = env::field(pod, host_ip, field)?.into_bytes();
        files.push(VolumeFile { path, bytes, mode: item_mode(item, mode) });
    }
    Ok(())
}

fn item_mode(item: &Value, default: u32) -> u32 {
    item["mode"].as_u64().and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default)
}

/// A path that stays below the volume's directory.
fn relative(path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    let stays = path.components().all(|part| matches!(part, Component::Normal(_)));
    if stays && path.components().next().is_some() && !path.as_os_str().as_encoded_bytes().contains(&0) {
        Ok(path)
    } else {
        Err(format!("{} is not a path within the volume", path.display()))
    }
}

/// Puts all volumes of a pod below `directory`; an emptyDir that is there keeps what is in it, and is `owner`'s.
///
/// # Errors
/// The first volume that cannot be set up.
pub(crate) async fn set_up(
    link: &dyn Link,
    pod: &Value,
    host_ip: &str,
    directory: &Path,
    owner: Owner,
) -> Result<(), MountFailure> {
    for volume in spec::items(&pod["spec"], "volumes") {
        let name = spec::text(volume, "name").to_owned();
        let failure = |detail: String| MountFailure { volume: name.clone(), detail };
        if !is_file_name(&name) {
            return Err(failure("its name is not usable as a directory".to_owned()));
        }
        let (config_maps, secrets) = needed(volume);
        let sources = match fetch(link, meta::namespace(pod), config_maps, secrets).await {
            Ok(sources) => sources,
            // A node that restarts while the control plane is away goes on with what it had.
            Err(error) if is_absence(&error) && directory.join(&name).is_dir() => continue,
            Err(error) => return Err(failure(error.to_string())),
        };
        let content = content(volume, pod, host_ip, &sources).map_err(failure)?;
        let (directory, target) = (directory.to_owned(), name.clone());
        let written = tokio::task::spawn_blocking(move || write(&directory, &target, &content, owner)).await;
        written.map_err(|_| failure("interrupted".to_owned()))?.map_err(|error| failure(error.to_string()))?;
    }
    Ok(())
}

fn is_absence(error: &ApiError) -> bool {
    matches!(error.reason, Reason::ServiceUnavailable | Reason::Timeout)
}

fn write(directory: &Path, name: &str, content: &Content, owner: Owner) -> io::Result<()> {
    let target = directory.join(name);
    let files = match content {
        Content::Empty => {
            fs::create_dir_all(&target)?;
            fs::set_permissions(&target, Permissions::from_mode(EMPTY_DIR_MODE))?;
            return owner.give(&target);
        }
        Content::Files(files) => files,
    };
    let beside = directory.join(format!(".new-{name}"));
    remove(&beside)?;
    fs::create_dir_all(&beside)?;
    for file in files {
        let path = beside.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        // Nobody else reads a secret before it has its own mode.
        let mut opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        opened.write_all(&file.bytes)?;
        // The runner is another user than the agent, and nobody else gets as far as this directory. Guests see no modes.
        let readable = if owner.id().is_some() { MODE_READABLE } else { 0 };
        opened.set_permissions(Permissions::from_mode(file.mode & 0o777 | readable))?;
    }
    remove(&target)?;
    fs::rename(&beside, &target)
}

/// Removes a directory tree if it is there; links in it are not followed.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What a container mounts, relative to its runner's root.
///
/// # Errors
/// A message for `CreateContainerConfigError`.
pub(crate) fn mounts(container: &Value, pod: &Value) -> Result<Vec<Mount>, String> {
    let mut mounts = Vec::new();
    for mount in spec::items(container, "volumeMounts") {
        let name = spec::text(mount, "name");
        let Some(volume) = spec::items(&pod["spec"], "volumes").iter().find(|volume| volume["name"] == name) else {
            return Err(format!("volume \"{name}\" is not one of the pod's"));
        };
        for field in ["subPath", "subPathExpr"] {
            if !spec::text(mount, field).is_empty() {
                return Err(format!("this node does not support {field} (volume \"{name}\")"));
            }
        }
        let projected =
            ["configMap", "secret", "downwardAPI", "projected"].iter().any(|kind| volume[*kind].is_object());
        mounts.push(Mount {
            source: PathBuf::from("volumes").join(meta::uid(pod)).join(name),
            target: spec::text(mount, "mountPath").to_owned(),
            read_only: projected || mount["readOnly"] == true,
        });
    }
    Ok(mounts)
}

#[cfg(test)]
#[path = "volumes_tests.rs"]
mod tests;
