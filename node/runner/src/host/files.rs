//! A guest's mounts: directories below the runner's `volumes/`, opened before the guest starts.

use crate::protocol::Mount;
use nix::{
    fcntl::{OFlag, open, openat},
    sys::stat::Mode,
    unistd::fchdir,
};
use parking_lot::Mutex;
use std::{
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};
use thiserror::Error;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

/// The only part of the root that guests see.
pub(crate) const VOLUMES: &str = "volumes";
/// The part that holds compiled code.
pub(crate) const CODE: &str = "code";
/// What C libraries take relative paths to begin with.
const HERE: &str = ".";
/// Mounts of one container: each is an open descriptor.
const MAX_MOUNTS: usize = 256;

/// Why a path of a `Start` cannot be used.
#[derive(Debug, Error)]
pub(crate) enum PathError {
    #[error("{0} mounts are more than {MAX_MOUNTS}")]
    TooMany(usize),
    #[error("\"{path}\" does not lie below {below}/")]
    Outside { path: PathBuf, below: &'static str },
    #[error("\"{0}\" is not an absolute path without \"..\"")]
    BadTarget(String),
    #[error("cannot open the directory \"{path}\": {error}")]
    Open { path: PathBuf, error: nix::Error },
    #[error("cannot mount \"{path}\" on \"{target}\": {error:#}")]
    Preopen { path: PathBuf, target: String, error: wasmtime::Error },
}

/// Opens all mounts. Where two have the same target the later one wins; a target below another one is opened beside
/// it, and guests take the longer match. Says which of the mounts were opened, in their order.
pub(crate) fn mount(builder: &mut WasiCtxBuilder, root: &Path, mounts: &[Mount]) -> Result<Vec<usize>, PathError> {
    if mounts.len() > MAX_MOUNTS {
        return Err(PathError::TooMany(mounts.len()));
    }
    let targets = mounts.iter().map(|mount| clean_target(&mount.target)).collect::<Result<Vec<_>, _>>()?;
    let mut opened = Vec::new();
    for (index, (mount, target)) in mounts.iter().zip(&targets).enumerate() {
        if targets[index + 1..].contains(target) {
            continue;
        }
        let directory = open_below(root, &mount.source)?;
        let permissions = if mount.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
        preopen(builder, (root, &directory), target, permissions).map_err(|error| PathError::Preopen {
            path: mount.source.clone(),
            target: target.clone(),
            error,
        })?;
        opened.push(index);
    }
    Ok(opened)
}

/// What was checked is what is opened: between a check and a use by name, a guest that shares the volume could put a
/// symbolic link there. wasmtime only takes names, so the name is `.`, and the directory that is the current one
/// meanwhile. Nothing else here uses relative paths.
fn preopen(
    builder: &mut WasiCtxBuilder,
    (root, directory): (&Path, &OwnedFd),
    target: &str,
    permissions: FsPerms,
) -> wasmtime::Result<()> {
    static CURRENT_DIRECTORY: Mutex<()> = Mutex::new(());
    let _mine = CURRENT_DIRECTORY.lock();
    let root = open_root(root)?;
    fchdir(directory)?;
    let opened = builder.preopened_dir(".", target, permissions).map(drop);
    // A volume in which somebody stands could not be unmounted.
    fchdir(root)?;
    opened
}

/// A volume, to be read through.
pub(crate) fn open_volume(root: &Path, source: &Path) -> Result<OwnedFd, PathError> {
    let directory = open_below(root, source)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(&directory, ".", flags, Mode::empty()).map_err(|error| PathError::Open { path: source.to_owned(), error })
}

/// The path of compiled code. Only the agent writes there, so a check of the words is enough.
pub(crate) fn code_path(root: &Path, relative: &Path) -> Result<PathBuf, PathError> {
    words_below(CODE, relative)?;
    Ok(root.join(relative))
}

/// Splits a path that must begin with `below` and name something in it.
fn words_below<'a>(below: &'static str, path: &'a Path) -> Result<Vec<&'a std::ffi::OsStr>, PathError> {
    let outside = || PathError::Outside { path: path.to_owned(), below };
    let words = path
        .components()
        .map(|component| match component {
            Component::Normal(word) => Ok(word),
            _ => Err(outside()),
        })
        .collect::<Result<Vec<_>, _>>()?;
    if words.len() < 2 || words[0] != below {
        return Err(outside());
    }
    Ok(words)
}

/// Opens a directory word by word, following no symbolic link: guests may have made some.
fn open_below(root: &Path, source: &Path) -> Result<OwnedFd, PathError> {
    let failed = |error| PathError::Open { path: source.to_owned(), error };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let words = words_below(VOLUMES, source)?;
    let mut directory = open_root(root).map_err(failed)?;
    for word in words {
        directory = openat(&directory, word, flags, Mode::empty()).map_err(failed)?;
    }
    Ok(directory)
}

fn open_root(root: &Path) -> nix::Result<OwnedFd> {
    open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Absolute, without `.`, `..`, doubled or trailing slashes; or where the guest begins, which is `.`.
fn clean_target(target: &str) -> Result<String, PathError> {
    if target == HERE {
        return Ok(target.to_owned());
    }
    let bad = || PathError::BadTarget(target.to_owned());
    let mut clean = String::new();
    for component in Path::new(target).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(word) => {
                clean.push('/');
                clean.push_str(word.to_str().ok_or_else(bad)?);
            }
            Component::ParentDir | Component::Prefix(_) => return Err(bad()),
        }
    }
    if !target.starts_with('/') || target.contains('\0') {
        return Err(bad());
    }
    Ok(if clean.is_empty() { "/".to_owned() } else { clean })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn targets_are_cleaned() {
        for (target, expected) in [
            ("/data", Some("/data")),
            ("/data/", Some("/data")),
            ("//data/./sub//", Some("/data/sub")),
            ("/", Some("/")),
            (".", Some(".")),
            ("./data", None),
            ("data", None),
            ("", None),
            ("/data/../etc", None),
            ("/da\0ta", None),
        ] {
            assert_eq!(clean_target(target).ok().as_deref(), expected, "{target:?}");
        }
    }

    #[test]
    fn sources_lie_below_volumes_and_code_below_code() {
        for (path, good) in [
            ("volumes/a", true),
            ("volumes/a/b", true),
            ("volumes", false),
            ("volumes/..", false),
            ("volumes/../code/x", false),
            ("code/x", false),
            ("/volumes/a", false),
            ("", false),
        ] {
            assert_eq!(words_below(VOLUMES, Path::new(path)).is_ok(), good, "{path}");
        }
        assert!(code_path(Path::new("/r"), Path::new("code/x.cwasm")).is_ok());
        assert!(code_path(Path::new("/r"), Path::new("volumes/x.cwasm")).is_err());
    }

    #[test]
    fn symbolic_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("volumes/pod/data")).unwrap();
        symlink("/etc", root.path().join("volumes/pod/link")).unwrap();
        symlink("/", root.path().join("volumes/all")).unwrap();
        let open = |path: &str| open_below(root.path(), Path::new(path));
        assert!(open("volumes/pod/data").is_ok());
        for path in ["volumes/pod/link", "volumes/all", "volumes/all/etc", "volumes/pod/none"] {
            assert!(matches!(open(path), Err(PathError::Open { .. })), "{path}");
        }
    }
}
