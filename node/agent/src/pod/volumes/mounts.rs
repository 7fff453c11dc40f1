//! How a container sees its pod's volumes: where they are mounted, which part of each, and what lies around them.

use super::{
    beneath::{absolute, below, make_directory, open_beneath, relative},
    content::is_made_of_objects,
    in_memory,
    layer::{self, Layer, has_own_message_path, message_path},
    payload,
};
use crate::{
    pod::{env::expand, spec},
    sandbox::Owner,
};
use coracle_objects::{meta, quantity::Quantity};
use coracle_runner::protocol::{GuestKind, Mount, Quota};
use nix::{errno::Errno, fcntl::OFlag};
use serde_json::Value;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where what a container sees of config maps and the like by `subPath` is: as it was when the container started.
const PARTS: &str = ".parts";
/// What guests know as the directory that they begin in.
const HERE: &str = ".";

/// A container that is about to start.
#[derive(Clone, Copy)]
pub(crate) struct Starting<'a> {
    pub(crate) pod: &'a Value,
    pub(crate) container: &'a Value,
    pub(crate) env: &'a [(String, String)],
    pub(crate) kind: GuestKind,
    /// The pod's volumes on disk.
    pub(crate) directory: &'a Path,
    pub(crate) owner: Owner,
}

/// What a container sees.
#[derive(Debug, Default)]
pub(crate) struct Laid {
    pub(crate) mounts: Vec<Mount>,
    /// Where it begins, if it says so.
    pub(crate) working_dir: Option<String>,
}

/// One of `volumeMounts`.
#[derive(Debug, PartialEq, Eq)]
struct Planned<'a> {
    volume: &'a Value,
    name: &'a str,
    /// The part of the volume; empty: all of it.
    part: PathBuf,
    /// Absolute and clean.
    target: String,
    read_only: bool,
}

/// `volumeMounts` of a container, without a look at the disk.
fn plan<'a>(pod: &'a Value, container: &'a Value, env: &[(String, String)]) -> Result<Vec<Planned<'a>>, String> {
    let mut planned = Vec::new();
    for mount in spec::items(container, "volumeMounts") {
        let name = spec::text(mount, "name");
        let Some(volume) = spec::items(&pod["spec"], "volumes").iter().find(|volume| volume["name"] == name) else {
            return Err(format!("volume \"{name}\" is not one of the pod's"));
        };
        let part = match spec::text(mount, "subPathExpr") {
            "" => spec::text(mount, "subPath").to_owned(),
            expression => {
                let expanded =
                    expand(expression, |wanted| env.iter().find(|(name, _)| name == wanted).map(|(_, value)| value));
                if expanded.contains("$(") {
                    return Err(format!(
                        "subPathExpr {expression} of volume \"{name}\" names a variable that is not set"
                    ));
                }
                expanded
            }
        };
        let part = relative(&part).map_err(|error| format!("subPath of volume \"{name}\": {error}"))?;
        planned.push(Planned {
            volume,
            name,
            part,
            target: absolute(spec::text(mount, "mountPath")),
            read_only: is_made_of_objects(volume) || mount["readOnly"] == true,
        });
    }
    Ok(planned)
}

/// The longest mount that holds a path of a container's, and what is left of the path below it.
fn holder<'a, 'p>(planned: &'a [Planned<'p>], path: &'a str) -> Option<(&'a Planned<'p>, &'a str)> {
    let holding = planned.iter().filter_map(|mount| Some((mount, below(&mount.target, path)?)));
    holding.max_by_key(|(mount, _)| mount.target.len())
}

/// `limits.ephemeral-storage` in bytes.
fn storage_limit(container: &Value) -> Option<u64> {
    let limit = container["resources"]["limits"]["ephemeral-storage"].as_str()?.parse::<Quantity>().ok()?;
    u64::try_from(limit.ceil()).ok()
}

/// What a pod may keep on disk: the sum of its containers' limits, or the largest of an init container. Without any
/// limit there is none.
fn pod_storage_limit(pod: &Value) -> Option<u64> {
    let sum = spec::app_containers(pod).iter().filter_map(storage_limit).reduce(u64::saturating_add);
    sum.max(spec::init_containers(pod).iter().filter_map(storage_limit).max())
}

/// `volumeMounts` of a container, by what they are on disk.
struct Located<'a> {
    directories: Vec<Planned<'a>>,
    /// Files of volumes that guests only read, and where they are.
    files: Vec<(Planned<'a>, PathBuf)>,
}

/// Puts on disk what a container needs beside its volumes, and says what it mounts. Not for async threads.
///
/// # Errors
/// A message for `CreateContainerConfigError`.
pub(crate) fn lay_out(starting: Starting<'_>) -> Result<Laid, String> {
    let mut laid = Laid::default();
    let mut located = Located { directories: Vec::new(), files: Vec::new() };
    let parts = starting.directory.join(PARTS).join(spec::text(starting.container, "name"));
    super::remove(&parts).map_err(|error| format!("cannot clear {PARTS}: {error}"))?;
    for mount in plan(starting.pod, starting.container, starting.env)? {
        match locate(starting, &mount, &parts)? {
            Found::Directory(source) => {
                laid.mounts.push(Mount {
                    source,
                    target: mount.target.clone(),
                    read_only: mount.read_only,
                    quota: (!is_made_of_objects(mount.volume)).then(|| quota(starting, &mount)),
                });
                located.directories.push(mount);
            }
            Found::File(path) => located.files.push((mount, path)),
        }
    }
    let working_dir = Some(absolute(spec::text(starting.container, "workingDir"))).filter(|path| path != "/");
    let own = lay_around(starting, &located, working_dir.as_deref())?;
    laid.mounts.splice(0..0, own);
    if let Some(path) = working_dir {
        laid.mounts.push(match holder(&located.directories, &path) {
            Some((mount, rest)) => begin_in_volume(starting, mount, rest)?,
            None => layer_mount(starting, path.trim_start_matches('/'), HERE),
        });
        laid.working_dir = Some(path);
    }
    Ok(laid)
}

/// Makes the container's own directory around its volumes, where it is to have one.
fn lay_around(starting: Starting<'_>, located: &Located<'_>, working_dir: Option<&str>) -> Result<Vec<Mount>, String> {
    let Starting { pod, container, .. } = starting;
    let Located { directories, files } = located;
    for (file, _) in files {
        if let Some((mount, _)) = holder(directories, &file.target) {
            return Err(format!(
                "volume \"{}\" is mounted as the file {}, which lies below the mount {}: a file can only be mounted where \
                 no volume is",
                file.name, file.target, mount.target
            ));
        }
    }
    // A module finds its listeners behind its directories: one that has ports gets no directory that it did not ask for.
    let has_listeners = starting.kind == GuestKind::Module && !spec::network(pod, container).listen.is_empty();
    let outside = working_dir.filter(|path| holder(directories, path).is_none());
    let wanted = !has_listeners || !files.is_empty() || outside.is_some() || has_own_message_path(container);
    if !wanted || directories.iter().any(|mount| mount.target == "/") {
        return Ok(Vec::new());
    }
    let made = || -> io::Result<Vec<Mount>> {
        let layer = Layer::begin(starting.directory, spec::text(container, "name"), starting.owner)?;
        layer.etc(pod)?;
        for mount in directories {
            layer.directory(&mount.target)?;
        }
        for (mount, path) in files {
            layer.file(&mount.target, &fs::read(path)?)?;
        }
        let message = message_path(container);
        if holder(directories, &message).is_none() {
            layer.file(&message, b"")?;
        }
        if let Some(path) = outside {
            layer.directory(path)?;
        }
        layer.finish()?;
        own_mounts(starting, &layer, working_dir.is_some())
    };
    let mut own = made().map_err(|error| format!("cannot make the container's own directory: {error}"))?;
    own.retain(|own| directories.iter().all(|mount| mount.target != own.target));
    Ok(own)
}

/// What a `volumeMounts` entry comes to on disk.
enum Found {
    /// Relative to the runner's root.
    Directory(PathBuf),
    /// A file of a volume that guests only read.
    File(PathBuf),
}

fn of_pod(pod: &Value) -> PathBuf {
    PathBuf::from("volumes").join(meta::uid(pod))
}

/// Without a slash behind it where nothing follows.
fn joined(above: &Path, part: &Path) -> PathBuf {
    if part.as_os_str().is_empty() { above.to_owned() } else { above.join(part) }
}

fn locate(starting: Starting<'_>, mount: &Planned<'_>, parts: &Path) -> Result<Found, String> {
    let source = of_pod(starting.pod).join(mount.name);
    if mount.part.as_os_str().is_empty() {
        return Ok(Found::Directory(source));
    }
    let volume = starting.directory.join(mount.name);
    let failed = |error: &dyn std::fmt::Display| {
        format!("failed to prepare subPath {} of volume \"{}\": {error}", mount.part.display(), mount.name)
    };
    if !is_made_of_objects(mount.volume) {
        match make_directory(&volume, &mount.part, starting.owner) {
            Ok(()) => return Ok(Found::Directory(source.join(&mount.part))),
            Err(error) => {
                return Err(match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::ENOTDIR) => {
                        failed(&"it is a file: only files of volumes that are read-only can be mounted")
                    }
                    Some(Errno::ELOOP) => failed(&"it is, or passes, a symbolic link"),
                    _ => failed(&error),
                });
            }
        }
    }
    let current = payload::current(&volume).map_err(|error| failed(&error))?;
    let from = current.join(&mount.part);
    if from.is_file() {
        return Ok(Found::File(from));
    }
    // It stays what it is while the container runs, whatever becomes of the volume.
    let copy = parts.join(mount.name).join(&mount.part);
    copy_tree(&from, &copy).map_err(|error| failed(&error))?;
    let name = spec::text(starting.container, "name");
    Ok(Found::Directory(of_pod(starting.pod).join(PARTS).join(name).join(mount.name).join(&mount.part)))
}

/// Copies a directory of the agent's own making. What is not there is an empty directory, as kubelet has it.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

fn quota(starting: Starting<'_>, mount: &Planned<'_>) -> Quota {
    let empty_dir = &mount.volume["emptyDir"];
    let limit = empty_dir["sizeLimit"].as_str().and_then(|limit| limit.parse::<Quantity>().ok());
    let bytes_max = limit.and_then(|limit| u64::try_from(limit.ceil()).ok()).filter(|bytes| *bytes > 0);
    let in_memory = in_memory::is_wanted(mount.volume);
    let bytes_max = if in_memory { in_memory::limit_bytes(starting.pod, mount.volume) } else { bytes_max };
    Quota {
        volume: of_pod(starting.pod).join(mount.name),
        bytes_max,
        entries_max: None,
        pod_bytes_max: pod_storage_limit(starting.pod).filter(|_| !in_memory),
        counts_from_now: false,
    }
}

/// A directory of the container's own.
fn layer_mount(starting: Starting<'_>, path: &str, target: &str) -> Mount {
    let layer = of_pod(starting.pod).join(layer::DIRECTORY).join(spec::text(starting.container, "name"));
    let quota = Quota {
        volume: layer.clone(),
        bytes_max: storage_limit(starting.container),
        entries_max: None,
        pod_bytes_max: pod_storage_limit(starting.pod),
        counts_from_now: true,
    };
    let read_only = starting.container["securityContext"]["readOnlyRootFilesystem"] == true;
    let source = if path.is_empty() { layer } else { layer.join(path) };
    Mount { source, target: target.to_owned(), read_only, quota: Some(quota) }
}

/// The mounts of the container's own directory. C libraries take `/` and `.` for the same: a container that begins
/// elsewhere sees what is in `/` one by one.
fn own_mounts(starting: Starting<'_>, layer: &Layer, begins_elsewhere: bool) -> io::Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    if begins_elsewhere {
        for name in layer.top()? {
            mounts.push(layer_mount(starting, &name, &format!("/{name}")));
        }
    } else {
        mounts.push(layer_mount(starting, "", "/"));
    }
    // The message can be written also where nothing else can.
    let message = message_path(starting.container);
    if mounts.first().is_some_and(|mount| mount.read_only)
        && let Some((above, _)) = message.rsplit_once('/').filter(|(above, _)| !above.is_empty())
    {
        let writable = layer_mount(starting, above.trim_start_matches('/'), above);
        mounts.retain(|mount| mount.target != above);
        mounts.push(Mount { read_only: false, ..writable });
    }
    Ok(mounts)
}

/// A container that begins in a volume.
fn begin_in_volume(starting: Starting<'_>, mount: &Planned<'_>, rest: &str) -> Result<Mount, String> {
    let failed = |error: io::Error| format!("workingDir below {}: {error}", mount.target);
    let rest = relative(rest)?;
    let volume = starting.directory.join(mount.name);
    let part = joined(&mount.part, &rest);
    let source = if is_made_of_objects(mount.volume) {
        let current = payload::current(&volume).map_err(failed)?;
        let set = current.file_name().map(PathBuf::from).unwrap_or_default();
        match (rest.as_os_str().is_empty(), current.join(&part).is_dir()) {
            (true, _) if mount.part.as_os_str().is_empty() => of_pod(starting.pod).join(mount.name),
            (_, true) => of_pod(starting.pod).join(mount.name).join(set).join(&part),
            (_, false) => return Err(failed(io::Error::from(Errno::ENOENT))),
        }
    } else {
        make_directory(&volume, &part, starting.owner).map_err(failed)?;
        joined(&of_pod(starting.pod).join(mount.name), &part)
    };
    let quota = (!is_made_of_objects(mount.volume)).then(|| quota(starting, mount));
    Ok(Mount { source, target: HERE.to_owned(), read_only: mount.read_only, quota })
}

/// A file of a container's, found without following links: in the volume that is mounted there, or in the container's
/// own directory.
///
/// # Errors
/// When it is not there, or is not to be reached without following a link.
pub(crate) fn open_file(pod: &Value, container: &Value, directory: &Path, path: &str) -> io::Result<fs::File> {
    // An expression that cannot be known here names no place where a message could be found.
    let planned = plan(pod, container, &[]).unwrap_or_default();
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let opened = match holder(&planned, path) {
        Some((mount, rest)) if !is_made_of_objects(mount.volume) => {
            open_beneath(&directory.join(mount.name), &joined(&mount.part, Path::new(rest)), flags)?
        }
        Some(_) => return Err(io::Error::from(Errno::ENOENT)),
        None => {
            let layer = directory.join(layer::DIRECTORY).join(spec::text(container, "name"));
            open_beneath(&layer, Path::new(path.trim_start_matches('/')), flags)?
        }
    };
    Ok(opened.into())
}

#[cfg(test)]
#[path = "mounts_tests.rs"]
mod tests;
