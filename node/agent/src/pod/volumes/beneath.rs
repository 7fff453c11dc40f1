//! Paths below directories that guests write: no link in them is ever followed, and none leads out.

use crate::sandbox::Owner;
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2},
    sys::stat::{Mode, fchmod, mkdirat},
    unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat},
};
use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

/// A directory that guests share belongs to all of them.
pub(super) const SHARED_MODE: Mode = Mode::from_bits_truncate(0o777);

/// Opens what lies at a relative path below a directory of the agent's own. `""` is the directory itself.
///
/// # Errors
/// `ELOOP` where a link is on the way, `EXDEV` where the path leads out.
pub(super) fn open_beneath(root: &Path, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let root = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    Ok(open_at(&root, path, flags)?)
}

fn open_at(directory: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(directory.as_fd(), if path.as_os_str().is_empty() { Path::new(".") } else { path }, how)
}

/// Makes the directories of a relative path that are not there, for guests to write.
///
/// # Errors
/// As [`open_beneath`]; `ENOTDIR` where a file is on the way.
pub(super) fn make_directory(root: &Path, path: &Path, owner: Owner) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let mut directory = open_beneath(root, Path::new(""), flags)?;
    for word in path.components() {
        let word = Path::new(word.as_os_str());
        let made = match mkdirat(&directory, word, SHARED_MODE) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(error) => return Err(error.into()),
        };
        directory = open_at(&directory, word, flags)?;
        if made {
            fchmod(&directory, SHARED_MODE)?;
            give(&directory, owner)?;
        }
    }
    Ok(())
}

/// Makes a file for guests to write at a relative path, in the place of what is there, and the directories above it.
///
/// # Errors
/// As [`make_directory`]; `EEXIST` where somebody else makes one at the same moment.
pub(super) fn put_file(root: &Path, path: &Path, bytes: &[u8], mode: Mode, owner: Owner) -> io::Result<()> {
    let above = path.parent().unwrap_or(Path::new(""));
    make_directory(root, above, owner)?;
    let directory = open_beneath(root, above, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    let name = Path::new(path.file_name().ok_or(Errno::EINVAL)?);
    match unlinkat(&directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(&directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    file.write_all(bytes)?;
    fchmod(&file, mode)?;
    give(&file, owner)
}

fn give(file: impl AsFd, owner: Owner) -> io::Result<()> {
    let Some(id) = owner.id() else { return Ok(()) };
    Ok(fchown(file, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?)
}

/// A relative path that stays where it is: without `.`, and never with `..`.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn relative(path: &str) -> Result<PathBuf, String> {
    let mut clean = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(word) => clean.push(word),
            Component::CurDir => {}
            _ => return Err(format!("{path} is not a path within the volume")),
        }
    }
    if path.contains('\0') { Err(format!("{path} is not a path within the volume")) } else { Ok(clean) }
}

/// An absolute path of a guest's as words: what is relative begins at the root, and nothing leads above it.
pub(super) fn absolute(path: &str) -> String {
    let mut words = Vec::new();
    for word in path.split('/') {
        match word {
            "" | "." => {}
            ".." => {
                words.pop();
            }
            word => words.push(word),
        }
    }
    format!("/{}", words.join("/"))
}

/// What is left of `path` below `directory`, both of them absolute and clean.
pub(super) fn below<'a>(directory: &str, path: &'a str) -> Option<&'a str> {
    if directory == "/" {
        return path.strip_prefix('/');
    }
    let rest = path.strip_prefix(directory)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in [
            ("/data", "/data"),
            ("data", "/data"),
            ("//a/./b//", "/a/b"),
            ("/a/../b", "/b"),
            ("/../..", "/"),
            ("", "/"),
        ] {
            assert_eq!(absolute(path), expected, "{path}");
        }
        for (path, expected) in [
            ("a/b", Some("a/b")),
            ("./a//b/", Some("a/b")),
            ("", Some("")),
            ("../a", None),
            ("/a", None),
            ("a/../b", None),
        ] {
            assert_eq!(relative(path).ok().as_deref(), expected.map(Path::new), "{path}");
        }
        for (directory, path, expected) in [
            ("/data", "/data", Some("")),
            ("/data", "/data/a/b", Some("a/b")),
            ("/data", "/database", None),
            ("/", "/data", Some("data")),
            ("/data", "/", None),
        ] {
            assert_eq!(below(directory, path), expected, "{path} in {directory}");
        }
    }

    #[test]
    fn links_of_guests_lead_nowhere() {
        let root = tempfile::tempdir().unwrap();
        let (volume, outside) = (root.path().join("volume"), root.path().join("outside"));
        fs::create_dir_all(&volume).unwrap();
        fs::create_dir_all(&outside).unwrap();
        symlink(&outside, volume.join("absolute")).unwrap();
        symlink("../outside", volume.join("relative")).unwrap();
        fs::write(volume.join("file"), "x").unwrap();
        for path in ["absolute", "relative", "absolute/x", "relative/x", "file", "file/x", "../outside"] {
            assert!(make_directory(&volume, Path::new(path), Owner::AGENT).is_err(), "{path}");
        }
        let mode = Mode::S_IRUSR;
        for path in ["absolute/new", "relative/new", "../outside/new", "file/new"] {
            assert!(put_file(&volume, Path::new(path), b"x", mode, Owner::AGENT).is_err(), "{path}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        // A link in the place of the file itself is replaced, and what it leads to stays.
        fs::write(outside.join("kept"), "kept").unwrap();
        symlink(outside.join("kept"), volume.join("link")).unwrap();
        put_file(&volume, Path::new("link"), b"new", mode, Owner::AGENT).unwrap();
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept");
        assert_eq!(fs::read_to_string(volume.join("link")).unwrap(), "new");
        make_directory(&volume, Path::new("a/b/c"), Owner::AGENT).unwrap();
        make_directory(&volume, Path::new("a/b"), Owner::AGENT).unwrap();
        make_directory(&volume, Path::new(""), Owner::AGENT).unwrap();
        assert!(volume.join("a/b/c").is_dir());
        assert!(open_beneath(&volume, Path::new("file"), OFlag::O_RDONLY).is_ok());
        assert!(open_beneath(&volume, Path::new("relative"), OFlag::O_PATH).is_err());
    }
}
