//! The files of a config map, secret, downward API or projected volume on disk, replaced all at once.
//!
//! ```text
//!   VOLUME/key        ─▶ ..data/key
//!   VOLUME/..data     ─▶ ..17 (replaced by one rename)
//!   VOLUME/..17/key      the bytes
//! ```
//!
//! Whoever opens a name sees the old set or the new one; whoever opens `..data` keeps one whole set for as long as it
//! has it open. It is the layout that kubelet makes, and all of its links stay within the volume, so that guests may
//! follow them. Guests never write here.

use crate::sandbox::Owner;
use nix::fcntl::{Flock, FlockArg};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

/// The link to the set that counts.
pub(super) const DATA: &str = "..data";
/// What all sets begin with, and nothing that a volume may hold.
const OWN: &str = "..";
/// The runner must be able to read what it serves.
const MODE_READABLE: u32 = 0o444;

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VolumeFile {
    /// Relative, without `.` and `..`.
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    pub(super) mode: u32,
}

/// Makes a volume hold these files and no others. Says whether that changed anything.
///
/// # Errors
/// The volume is what it was before.
pub(super) fn put(volume: &Path, files: &[VolumeFile], owner: Owner) -> io::Result<bool> {
    fs::create_dir_all(volume)?;
    // One writer at a time: a pod that is set up, and a change that arrives.
    let lock =
        Flock::lock(File::open(volume)?, FlockArg::LockExclusive).map_err(|(_, error)| io::Error::from(error))?;
    let current = fs::read_link(volume.join(DATA)).ok();
    let is_same = current.as_ref().is_some_and(|current| holds(&volume.join(current), files, owner));
    let set = if let Some(current) = current.filter(|_| is_same) {
        current
    } else {
        let number = current_number(volume)? + 1;
        let set = PathBuf::from(format!("{OWN}{number}"));
        write(&volume.join(&set), files, owner)?;
        let link = volume.join("..data_tmp");
        remove_file(&link)?;
        symlink(&set, &link)?;
        fs::rename(&link, volume.join(DATA))?;
        set
    };
    // Also after an agent that ended in the middle of it.
    tidy(volume, files, &set)?;
    drop(lock);
    Ok(!is_same)
}

/// The directory that the volume's files are in now.
pub(super) fn current(volume: &Path) -> io::Result<PathBuf> {
    fs::read_link(volume.join(DATA)).map(|set| volume.join(set))
}

fn current_number(volume: &Path) -> io::Result<u64> {
    let mut highest = 0;
    for entry in fs::read_dir(volume)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(OWN)).and_then(|number| number.parse().ok());
        highest = highest.max(number.unwrap_or(0));
    }
    Ok(highest)
}

fn mode(file: &VolumeFile, owner: Owner) -> u32 {
    // The runner is another user than the agent, and nobody else gets as far as this directory. Guests see no modes.
    file.mode & 0o777 | if owner.id().is_some() { MODE_READABLE } else { 0 }
}

fn write(set: &Path, files: &[VolumeFile], owner: Owner) -> io::Result<()> {
    super::remove(set)?;
    fs::create_dir(set)?;
    for file in files {
        let path = set.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        // Nobody else reads a secret before it has its own mode. Of two files of one name the later one counts.
        remove_file(&path)?;
        let mut opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        opened.write_all(&file.bytes)?;
        opened.set_permissions(Permissions::from_mode(mode(file, owner)))?;
    }
    Ok(())
}

/// Whether a set holds just these files.
fn holds(set: &Path, files: &[VolumeFile], owner: Owner) -> bool {
    let wanted: std::collections::BTreeMap<&Path, &VolumeFile> =
        files.iter().map(|file| (file.path.as_path(), file)).collect();
    let is_there = |file: &VolumeFile| -> io::Result<bool> {
        let path = set.join(&file.path);
        let metadata = fs::symlink_metadata(&path)?;
        let is_alike = metadata.is_file() && metadata.permissions().mode() & 0o777 == mode(file, owner);
        Ok(is_alike && metadata.len() == file.bytes.len() as u64 && fs::read(&path)? == file.bytes)
    };
    wanted.values().all(|file| is_there(file).unwrap_or(false)) && count(set).is_ok_and(|count| count == wanted.len())
}

/// Files below a directory of the agent's own, which is no deeper than a path is long.
fn count(directory: &Path) -> io::Result<usize> {
    let mut files = 0;
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else {
                files += 1;
            }
        }
    }
    Ok(files)
}

/// Links for all names in the set, and nothing else beside it.
fn tidy(volume: &Path, files: &[VolumeFile], set: &Path) -> io::Result<()> {
    let names: BTreeSet<OsString> =
        files.iter().filter_map(|file| Some(file.path.components().next()?.as_os_str().to_owned())).collect();
    for name in &names {
        let (link, target) = (volume.join(name), Path::new(DATA).join(name));
        if fs::read_link(&link).ok().as_ref() != Some(&target) {
            super::remove(&link)?;
            symlink(target, &link)?;
        }
    }
    for entry in fs::read_dir(volume)? {
        let name = entry?.file_name();
        if name != DATA && name != set.as_os_str() && !names.contains(&name) {
            super::remove(&volume.join(name))?;
        }
    }
    Ok(())
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering::SeqCst},
        },
        thread,
    };

    fn file(path: &str, text: &str) -> VolumeFile {
        VolumeFile { path: path.into(), bytes: text.into(), mode: 0o644 }
    }

    fn names(volume: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(volume).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn sets_replace_each_other_and_leave_nothing() {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("v");
        let read = |path: &str| fs::read_to_string(volume.join(path)).unwrap();
        assert!(put(&volume, &[file("a", "1"), file("dir/b", "2")], Owner::AGENT).unwrap());
        assert_eq!((read("a"), read("dir/b")), ("1".to_owned(), "2".to_owned()));
        assert_eq!(names(&volume), ["..1", "..data", "a", "dir"]);
        assert!(!put(&volume, &[file("dir/b", "2"), file("a", "1")], Owner::AGENT).unwrap(), "nothing changed");
        for (files, expected) in [
            (vec![file("a", "1"), file("dir/b", "3")], vec!["..2", "..data", "a", "dir"]),
            (vec![file("dir/b", "3")], vec!["..3", "..data", "dir"]),
            (vec![VolumeFile { mode: 0o600, ..file("dir/b", "3") }], vec!["..4", "..data", "dir"]),
            (vec![file("dir", "now a file")], vec!["..5", "..data", "dir"]),
            (vec![], vec!["..6", "..data"]),
        ] {
            assert!(put(&volume, &files, Owner::AGENT).unwrap(), "{files:?}");
            assert_eq!(names(&volume), expected);
        }
    }

    #[test]
    fn what_an_agent_left_half_done_is_put_right() {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("v");
        put(&volume, &[file("a", "1")], Owner::AGENT).unwrap();
        fs::create_dir(volume.join("..7")).unwrap();
        symlink("..7", volume.join("..data_tmp")).unwrap();
        fs::write(volume.join("plain"), "of an older layout").unwrap();
        fs::remove_file(volume.join("a")).unwrap();
        assert!(!put(&volume, &[file("a", "1")], Owner::AGENT).unwrap());
        assert_eq!(names(&volume), ["..1", "..data", "a"]);
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "1");
    }

    #[test]
    fn a_reader_sees_one_set_or_the_other() {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("v");
        let set = |number: usize| [file("a", &number.to_string()), file("b", &number.to_string())];
        put(&volume, &set(0), Owner::AGENT).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let reader = thread::spawn({
            let (volume, done) = (volume.clone(), done.clone());
            move || {
                let mut looks = 0;
                while !done.load(SeqCst) || looks == 0 {
                    let current = current(&volume).unwrap();
                    let both = ["a", "b"].map(|name| fs::read_to_string(current.join(name)));
                    // A set that has been replaced may be gone, but is never half of another.
                    if let [Ok(a), Ok(b)] = both {
                        assert_eq!(a, b);
                        looks += 1;
                    }
                    assert!(fs::read_link(volume.join(DATA)).is_ok(), "there is always one");
                }
            }
        });
        for number in 1..200 {
            put(&volume, &set(number), Owner::AGENT).unwrap();
        }
        done.store(true, SeqCst);
        reader.join().unwrap();
    }
}
