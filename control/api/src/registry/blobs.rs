//! Blobs as files: `sha256/ab/abcd…`. A file under that name is complete, checked and on disk.

use super::path::Digest;
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

    /// The blob's size, when it is there.
    pub(super) async fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        match tokio::fs::metadata(self.path(digest)).await {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
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
