//! Directory trees that guests have made: measured and removed without following a link, without recursion, and with
//! few descriptors open however deep they are.
//!
//! What must never happen here: a path below the tree is resolved by name in more than one step.

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, open, openat},
    libc,
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat},
    unistd::{UnlinkatFlags, unlinkat},
};
use std::{
    collections::HashSet,
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// What a name costs, whatever it stands for.
pub const ENTRY_BYTES: u64 = 256;
/// Files take up whole blocks; directories and symbolic links one.
pub const BLOCK_BYTES: u64 = 4096;

/// Directories that are held open at one time; the way back up from deeper ones is checked.
const OPEN_MAX: usize = 16;
/// Room for one call that lists a directory.
const LISTING_BYTES: usize = 32 << 10;

/// What a tree takes up, its own directory not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Whole blocks of files, and [`ENTRY_BYTES`] for each name. Several names of one file count its blocks once.
    pub bytes: u64,
    /// Names.
    pub entries: u64,
}

/// What the bytes of a file of this size take up.
#[must_use]
pub fn file_bytes(size: u64) -> u64 {
    size.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES)
}

/// Measures what lies below a directory. What appears or goes meanwhile may or may not be in it.
///
/// # Errors
/// When a directory cannot be read, or was moved elsewhere meanwhile.
pub fn measure(directory: &Path) -> io::Result<Usage> {
    measure_open(open_directory(directory)?)
}

/// The same for a directory that is open for reading.
///
/// # Errors
/// As [`measure`].
pub fn measure_open(directory: OwnedFd) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    walk(
        directory,
        |_, _, stat| {
            let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
            let is_first = stat.st_nlink < 2 || kind == SFlag::S_IFDIR || linked.insert((stat.st_dev, stat.st_ino));
            let bytes = match kind {
                SFlag::S_IFREG if is_first => file_bytes(u64::try_from(stat.st_size).unwrap_or(0)),
                SFlag::S_IFREG => 0,
                _ => BLOCK_BYTES,
            };
            usage.bytes = usage.bytes.saturating_add(bytes).saturating_add(ENTRY_BYTES);
            usage.entries += 1;
            Ok(())
        },
        |_, _| Ok(()),
    )?;
    Ok(usage)
}

/// Removes a directory and all that is in it; what is not there is removed already.
///
/// # Errors
/// When something cannot be removed, or keeps coming back.
pub fn remove(directory: &Path) -> io::Result<()> {
    let root = match open_directory(directory) {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A file or a link, which is removed as such.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {
            return std::fs::remove_file(directory);
        }
        Err(error) => return Err(error),
    };
    walk(
        root,
        |parent, name, stat| {
            if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
                return Ok(());
            }
            gone_is_fine(unlinkat(parent, name, UnlinkatFlags::NoRemoveDir))
        },
        |parent, name| gone_is_fine(unlinkat(parent, name, UnlinkatFlags::RemoveDir)),
    )?;
    match std::fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn gone_is_fine(result: nix::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, flags(), Mode::empty())?)
}

/// A directory on the way down.
struct Level {
    /// Closed while the walk is far below.
    directory: Option<OwnedFd>,
    identity: (u64, u64),
    /// Its name in the one above.
    name: CString,
    /// Directories in it that are still to be walked.
    below: Vec<CString>,
}

fn identity(stat: &FileStat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Shows everything below `root`: each name to `visit`, and each directory to `leave` after what is in it.
fn walk(
    root: OwnedFd,
    mut visit: impl FnMut(BorrowedFd<'_>, &CStr, &FileStat) -> io::Result<()>,
    mut leave: impl FnMut(BorrowedFd<'_>, &CStr) -> io::Result<()>,
) -> io::Result<()> {
    let mut enter = |directory: OwnedFd, name: CString| -> io::Result<Level> {
        let mut below = Vec::new();
        for name in names(directory.as_fd())? {
            let stat = match fstatat(&directory, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::ENOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            visit(directory.as_fd(), &name, &stat)?;
            if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
                below.push(name);
            }
        }
        let identity = identity(&fstat(&directory)?);
        Ok(Level { directory: Some(directory), identity, name, below })
    };
    let mut levels = vec![enter(root, CString::default())?];
    while let Some(level) = levels.last_mut() {
        let Some(directory) = &level.directory else { return Err(io::Error::other("the way back up is lost")) };
        if let Some(name) = level.below.pop() {
            match openat(directory, name.as_c_str(), flags(), Mode::empty()) {
                Ok(child) => levels.push(enter(child, name)?),
                // Removed or replaced since it was listed.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
                Err(error) => return Err(error.into()),
            }
            if let Some(far) = levels.len().checked_sub(OPEN_MAX + 1) {
                levels[far].directory = None;
            }
            continue;
        }
        let Some(done) = levels.pop() else { break };
        let (Some(above), Some(directory)) = (levels.last_mut(), done.directory) else { break };
        if above.directory.is_none() {
            let up = openat(&directory, "..", flags(), Mode::empty())?;
            // A guest that moves a directory while it is walked must not lead the way out of the tree.
            if identity(&fstat(&up)?) != above.identity {
                return Err(io::Error::other("a directory was moved while its tree was walked"));
            }
            above.directory = Some(up);
        }
        if let Some(above) = &above.directory {
            leave(above.as_fd(), &done.name)?;
        }
    }
    Ok(())
}

/// The names in a directory, but for itself and the one above.
fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    /// Offsets within `struct linux_dirent64`: the record's length, and where the name begins.
    const LENGTH_AT: usize = 16;
    const NAME_AT: usize = 19;
    let mut names = Vec::new();
    let mut buffer = vec![0_u8; LISTING_BYTES];
    loop {
        // SAFETY: the kernel writes at most `buffer.len()` bytes into the buffer, which lives through the call.
        let filled =
            unsafe { libc::syscall(libc::SYS_getdents64, directory.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
        let filled = usize::try_from(filled).map_err(|_| io::Error::last_os_error())?;
        let mut records = buffer.get(..filled).unwrap_or_default();
        if records.is_empty() {
            return Ok(names);
        }
        while let Some(length) = records.get(LENGTH_AT..LENGTH_AT + 2) {
            let length = usize::from(u16::from_ne_bytes([length[0], length[1]]));
            let Some(name) = records.get(NAME_AT..length).and_then(|name| CStr::from_bytes_until_nul(name).ok()) else {
                return Err(io::Error::other("a directory's listing makes no sense"));
            };
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name.to_owned());
            }
            records = records.get(length..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    /// A directory so deep that no path names its end, made step by step.
    fn make_deep(root: &Path, depth: usize) {
        let mut directory = open_directory(root).unwrap();
        for _ in 0..depth {
            nix::sys::stat::mkdirat(&directory, "d", Mode::from_bits_truncate(0o755)).unwrap();
            directory = openat(&directory, "d", flags(), Mode::empty()).unwrap();
        }
        openat(&directory, "end", OFlag::O_CREAT | OFlag::O_WRONLY, Mode::from_bits_truncate(0o644)).unwrap();
    }

    #[test]
    fn files_count_in_blocks_and_names_cost() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(measure(root.path()).unwrap(), Usage::default());
        fs::write(root.path().join("one"), [0]).unwrap();
        fs::write(root.path().join("none"), []).unwrap();
        fs::hard_link(root.path().join("one"), root.path().join("two")).unwrap();
        fs::create_dir(root.path().join("sub")).unwrap();
        fs::write(root.path().join("sub/full"), vec![0; 4097]).unwrap();
        symlink("/", root.path().join("sub/link")).unwrap();
        let bytes = BLOCK_BYTES + BLOCK_BYTES + 2 * BLOCK_BYTES + BLOCK_BYTES + 6 * ENTRY_BYTES;
        assert_eq!(measure(root.path()).unwrap(), Usage { bytes, entries: 6 });
    }

    #[test]
    fn depth_costs_neither_stack_nor_descriptors() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        fs::create_dir(&tree).unwrap();
        make_deep(&tree, 3000);
        fs::write(tree.join("beside"), "x").unwrap();
        assert_eq!(measure(&tree).unwrap().entries, 3002);
        remove(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (tree, other) = (root.path().join("tree"), root.path().join("other"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("precious"), "x").unwrap();
        symlink(&other, tree.join("a/link")).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.exists() && other.join("precious").exists());
        symlink(&other, &tree).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.is_symlink() && other.join("precious").exists());
        remove(&tree).unwrap();
    }
}
