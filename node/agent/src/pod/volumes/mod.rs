//! Volumes of pods on disk: what is in them ([`content`], pure), files that change all at once ([`payload`]) and go on
//! changing while the pod runs ([`live`]), what is kept in memory ([`in_memory`]), and how containers see them ([`mounts`],
//! [`layer`]).
//!
//! ```text
//!   DIR/ns/NAMESPACE/volumes/POD/NAME               a volume
//!                               /.layers/CONTAINER  what a container has of its own: its root
//!                               /.parts/CONTAINER   parts of config maps and the like, as they were when it started
//! ```
//!
//! What must never happen here: a link that a guest made is followed ([`beneath`]).

mod beneath;
mod content;
pub(crate) mod in_memory;
mod layer;
pub(crate) mod live;
pub(crate) mod mounts;
mod payload;

pub(crate) use layer::message_path;

use crate::{
    context::{Caches, not_told},
    ledger::is_file_name,
    pod::{
        env::{NodeFacts, Sources},
        spec,
    },
    sandbox::Owner,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use content::{Content, content, needed};
use coracle_objects::{ApiError, ObjectKey, Reason, meta};
use coracle_runner::tree::{self, Usage};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
};
use tokio_util::task::TaskTracker;

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

/// Decodes a ConfigMap's `data` and `binaryData`, or a Secret's `data`.
fn data_of(object: &Value, is_secret: bool) -> BTreeMap<String, Vec<u8>> {
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

/// The named config maps and secrets; those that do not exist are left out.
///
/// # Errors
/// When the node has not been told of any yet.
pub(crate) fn fetch<'a>(
    caches: &Caches,
    namespace: &str,
    config_maps: impl IntoIterator<Item = &'a str>,
    secrets: impl IntoIterator<Item = &'a str>,
) -> Result<Sources, ApiError> {
    let mut sources = Sources::default();
    let wanted: BTreeSet<(&str, bool)> =
        config_maps.into_iter().map(|name| (name, false)).chain(secrets.into_iter().map(|name| (name, true))).collect();
    for (name, is_secret) in wanted {
        if let Some(data) = known(caches, namespace, name, is_secret)? {
            let into = if is_secret { &mut sources.secrets } else { &mut sources.config_maps };
            into.insert(name.to_owned(), data);
        }
    }
    Ok(sources)
}

/// The data of a config map or secret, if it exists.
fn known(
    caches: &Caches,
    namespace: &str,
    name: &str,
    is_secret: bool,
) -> Result<Option<BTreeMap<String, Vec<u8>>>, ApiError> {
    let cache = if is_secret { &caches.secrets } else { &caches.config_maps };
    match cache.get(&ObjectKey::namespaced(namespace, name)) {
        Some(object) => Ok(Some(data_of(&object, is_secret))),
        None if cache.is_known() => Ok(None),
        None => Err(not_told(if is_secret { "secrets" } else { "config maps" })),
    }
}

/// Puts all volumes of a pod below `directory`; an emptyDir that is there keeps what is in it, and is `owner`'s. What is
/// written when this is dropped goes on in `disk`.
///
/// # Errors
/// The first volume that cannot be set up.
pub(crate) async fn set_up(
    caches: &Caches,
    pod: &Value,
    node: NodeFacts<'_>,
    (directory, owner): (&Path, Owner),
    disk: &TaskTracker,
) -> Result<(), MountFailure> {
    for volume in spec::items(&pod["spec"], "volumes") {
        let name = spec::text(volume, "name").to_owned();
        let failure = |detail: String| MountFailure { volume: name.clone(), detail };
        if !is_file_name(&name) {
            return Err(failure("its name is not usable as a directory".to_owned()));
        }
        let (config_maps, secrets) = needed(volume);
        let sources = match fetch(caches, meta::namespace(pod), config_maps, secrets) {
            Ok(sources) => sources,
            // A node that restarts while the control plane is away goes on with what it had.
            Err(error) if is_absence(&error) && payload::current(&directory.join(&name)).is_ok() => continue,
            Err(error) => return Err(failure(error.to_string())),
        };
        let content = content(volume, pod, node, &sources).map_err(failure)?;
        let target = directory.join(&name);
        let memory = in_memory::is_wanted(volume).then(|| in_memory::Request {
            limit_bytes: in_memory::limit_bytes(pod, volume),
            node_bytes: node.offer.memory_bytes,
        });
        let written = disk.spawn_blocking(move || write(&target, &content, owner, memory)).await;
        written.map_err(|_| failure("interrupted".to_owned()))?.map_err(|error| failure(error.to_string()))?;
    }
    Ok(())
}

fn is_absence(error: &ApiError) -> bool {
    matches!(error.reason, Reason::ServiceUnavailable | Reason::Timeout)
}

/// `memory` is what a volume asks for that is to be kept there.
fn write(target: &Path, content: &Content, owner: Owner, memory: Option<in_memory::Request>) -> io::Result<()> {
    match content {
        Content::Empty => {
            fs::create_dir_all(target)?;
            if let Some(request) = memory {
                in_memory::provide(target, request, owner)?;
            }
            fs::set_permissions(target, Permissions::from_mode(EMPTY_DIR_MODE))?;
            owner.give(target)
        }
        Content::Files(files) => payload::put(target, files, owner).map(|_| ()),
    }
}

/// Removes a directory tree, or a file or link, if it is there; links are not followed, and a guest that made it very
/// deep makes it slow and nothing more.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    tree::remove(path)
}

/// What a pod keeps on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PodUsage {
    /// Bytes and names of each volume, by its name.
    pub(crate) volumes: BTreeMap<String, Usage>,
    /// Those of them that are in memory.
    pub(crate) in_memory: BTreeSet<String>,
    /// Of what each container wrote outside its volumes, by its name.
    pub(crate) layers: BTreeMap<String, Usage>,
}

/// Measures the volumes of a pod below `directory`, [`crate::context::Context::volumes`]; what is not there yet takes up
/// nothing. Reads every directory in them: not for async threads.
pub(crate) fn usage(pod: &Value, directory: &Path) -> PodUsage {
    let measured = |directory: &Path, items: &mut dyn Iterator<Item = &Value>, measure: fn(&Path) -> Usage| {
        let names = items.map(|item| spec::text(item, "name")).filter(|name| is_file_name(name));
        names.map(|name| (name.to_owned(), measure(&directory.join(name)))).collect()
    };
    let volume = |directory: &Path| tree::measure(directory).unwrap_or_default();
    let in_memory = spec::items(&pod["spec"], "volumes").iter().filter(|volume| in_memory::is_wanted(volume));
    let in_memory = in_memory
        .map(|volume| spec::text(volume, "name"))
        .filter(|name| is_file_name(name) && in_memory::is_mounted(&directory.join(name)));
    PodUsage {
        in_memory: in_memory.map(str::to_owned).collect(),
        volumes: measured(directory, &mut spec::items(&pod["spec"], "volumes").iter(), volume),
        layers: measured(&directory.join(layer::DIRECTORY), &mut spec::containers(pod), layer::usage),
    }
}

#[cfg(test)]
mod tests;
