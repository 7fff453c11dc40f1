//! A node's data directory: one process uses it at a time, and it is one node's for good.
//!
//! ```text
//!  DIR/node.lock     held by the process that uses it, whose id is in it; the system releases it when that ends
//!  DIR/node-name     whose it is, once the node has run
//! ```
//!
//! Nobody may write or remove anything there without a [`Hold`]: two agents in one directory would run the same pods twice.

use crate::{VIEW_DIRECTORY, contact, ledger};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::NamedTempFile;
use thiserror::Error;

/// Name of the file that is locked.
const LOCK_FILE: &str = "node.lock";
/// Name of the file with the node's name.
const NAME_FILE: &str = "node-name";

/// Why a directory cannot be a node's.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// It cannot be made, read or written.
    #[error("cannot use the data directory {0}")]
    Unusable(PathBuf, #[source] io::Error),
    /// Another process runs there.
    #[error("{path} is in use by another node (process {process}); stop it or choose another --data-dir")]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Process id of the other.
        process: String,
    },
    /// It has what another node keeps.
    #[error("{path} is the directory of node {owner}, not of {node}; choose another --data-dir")]
    OfAnother {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who wanted it.
        node: String,
    },
}

/// A directory that this process has for itself, until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Hold {
    path: PathBuf,
    /// Whose lock counts; closed in every child.
    _lock: Arc<File>,
}

impl Hold {
    /// Takes the directory at `path`, which is made, for this user only, where it is not there.
    ///
    /// # Errors
    /// When it cannot be used, or another process has it.
    pub fn take(path: &Path) -> Result<Self, DirectoryError> {
        let fail = |error| DirectoryError::Unusable(path.to_owned(), error);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
        let file = path.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = options.open(&file).map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let process = fs::read_to_string(&file).map_err(fail)?.trim().to_owned();
                return Err(DirectoryError::InUse { path: path.to_owned(), process });
            }
            Err(fs::TryLockError::Error(error)) => return Err(fail(error)),
        }
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(fail)?;
        Ok(Self { path: path.to_owned(), _lock: Arc::new(lock) })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node that has run there; none in a new directory.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn owner(&self) -> Result<Option<String>, DirectoryError> {
        match fs::read_to_string(self.path.join(NAME_FILE)) {
            Ok(name) => Ok(Some(name.trim().to_owned()).filter(|name| !name.is_empty())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unusable(error)),
        }
    }

    /// Refuses `node` where another one has run.
    ///
    /// # Errors
    /// Then, and when that cannot be told.
    pub fn check_owner(&self, node: &str) -> Result<(), DirectoryError> {
        match self.owner()? {
            Some(owner) if owner != node => {
                Err(DirectoryError::OfAnother { path: self.path.clone(), owner, node: node.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// From now on it is the directory of `node`.
    pub(crate) fn belongs_to(&self, node: &str) -> Result<(), DirectoryError> {
        self.check_owner(node)?;
        if self.owner()?.is_none() {
            self.replace(NAME_FILE, &format!("{node}\n")).map_err(|error| self.unusable(error))?;
        }
        Ok(())
    }

    /// Replaces a file in the directory, for this user only: it is the old or the new one, also after a crash.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace(&self, file: &str, text: &str) -> io::Result<()> {
        let mut new = NamedTempFile::new_in(&self.path)?;
        new.write_all(text.as_bytes())?;
        new.as_file().sync_all()?;
        new.persist(self.path.join(file))?;
        File::open(&self.path)?.sync_all()
    }

    /// Forgets what the node was told and which pods it had: this machine is another one to the cluster from now on. Images,
    /// its name and its range stay; what is left of the pods goes as of any that are unknown.
    pub(crate) fn begin_anew(&self) -> Result<(), DirectoryError> {
        for directory in [ledger::DIRECTORY, VIEW_DIRECTORY] {
            absent_is_fine(fs::remove_dir_all(self.path.join(directory))).map_err(|error| self.unusable(error))?;
        }
        absent_is_fine(fs::remove_file(self.path.join(contact::FILE))).map_err(|error| self.unusable(error))?;
        File::open(&self.path).and_then(|directory| directory.sync_all()).map_err(|error| self.unusable(error))
    }

    fn unusable(&self, error: io::Error) -> DirectoryError {
        DirectoryError::Unusable(self.path.clone(), error)
    }
}

fn absent_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn one_process_has_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/node");
        let hold = Hold::take(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let again = || Hold::take(&path).map(drop).map_err(|error| error.to_string());
        let process = std::process::id();
        let expected = format!("is in use by another node (process {process}); stop it or choose another --data-dir");
        assert!(again().is_err_and(|error| error.ends_with(&expected)));
        let kept = hold.clone();
        drop(hold);
        assert!(again().is_err(), "while anybody here holds it");
        drop(kept);
        assert_eq!(again(), Ok(()));
    }

    #[test]
    fn a_directory_stays_one_nodes() {
        let directory = tempfile::tempdir().unwrap();
        let hold = Hold::take(directory.path()).unwrap();
        assert_eq!(hold.owner().unwrap(), None);
        hold.check_owner("anybody").unwrap();
        hold.belongs_to("one").unwrap();
        hold.belongs_to("one").unwrap();
        let refused = hold.belongs_to("two").unwrap_err().to_string();
        assert!(refused.contains("is the directory of node one, not of two"), "{refused}");
        drop(hold);
        let again = Hold::take(directory.path()).unwrap();
        assert_eq!(again.owner().unwrap().as_deref(), Some("one"));
    }

    #[test]
    fn a_new_machine_knows_nothing_of_the_old_ones_pods() {
        let directory = tempfile::tempdir().unwrap();
        let hold = Hold::take(directory.path()).unwrap();
        hold.begin_anew().unwrap();
        for file in ["ledger/a.json", "view/all", "images/a", "contact.json", "pod-range"] {
            let file = directory.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        hold.belongs_to("one").unwrap();
        hold.begin_anew().unwrap();
        let mut left: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["images", NAME_FILE, LOCK_FILE, "pod-range"]);
    }

    #[test]
    fn what_cannot_be_a_directory_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Hold::take(&file).unwrap_err().to_string();
        assert!(error.starts_with("cannot use the data directory") && error.ends_with("/file"), "{error}");
    }
}
