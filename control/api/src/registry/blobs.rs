//! Blobs as files: `sha256/ab/abcd…`. A file under that name is complete, checked and on disk.

use super::path::Digest;
use sha2::{Digest as _, Sha256};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use tokio::fs::File;

/// The directory of blobs.
pub(super) struct Blobs {
    directory: PathBuf,
}

impl Blobs {
    /// Makes the directories and removes what unfinished uploads have left.
    pub(super) fn open(directory: PathBuf) -> io::Result<Self> {
        let blobs = Self { directory };
        fs::create_dir_all(blobs.directory.join("sha256"))?;
        match fs::remove_dir_all(blobs.uploads()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(blobs.uploads())?;
        Ok(blobs)
    }

    /// Where uploads are kept until they are complete: on the same file system, so that a rename moves them.
    pub(super) fn uploads(&self) -> PathBuf {
        self.directory.join("uploads")
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.directory.join("sha256").join(hex.get(..2).unwrap_or_default()).join(hex)
    }

    /// Whether the blob is there and whole. One that was damaged on disk counts as missing, so that a push repairs it.
    pub(super) async fn holds(&self, digest: &Digest) -> io::Result<bool> {
        let (path, digest) = (self.path(digest), digest.clone());
        let work = tokio::task::spawn_blocking(move || {
            let mut file = match fs::File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            };
            let mut hash = Sha256::new();
            io::copy(&mut file, &mut hash)?;
            let is_whole = Digest::of(&hash.finalize()) == digest;
            if !is_whole {
                tracing::warn!(path = %path.display(), "a blob of the registry is damaged");
            }
            Ok(is_whole)
        });
        work.await.map_err(io::Error::other)?
    }

    /// The blob for reading, with its size.
    pub(super) async fn read(&self, digest: &Digest) -> io::Result<Option<(File, u64)>> {
        match File::open(self.path(digest)).await {
            Ok(file) => {
                let size = file.metadata().await?.len();
                Ok(Some((file, size)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a complete, synced file the blob `digest`; returns once it is found again after a power failure.
    pub(super) async fn keep(&self, file: PathBuf, digest: &Digest) -> io::Result<()> {
        let path = self.path(digest);
        tokio::task::spawn_blocking(move || {
            let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
            fs::create_dir_all(&directory)?;
            fs::rename(&file, &path)?;
            sync_directory(&directory)?;
            // The directory itself may be new.
            directory.parent().map_or(Ok(()), sync_directory)
        })
        .await
        .map_err(io::Error::other)?
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}
