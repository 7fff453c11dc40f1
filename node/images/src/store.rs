//! The content store: verified blobs by digest, and an index from names to manifests. Never a half-written file
//! under a final name: everything is written beside, synced and renamed.

use crate::reference::parse_digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// Layout below the store's directory: `blobs/sha256/HEX`, `index/HEX-OF-NAME.json`, `partial/`.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    blobs: PathBuf,
    index: PathBuf,
    partial: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct IndexEntry {
    name: String,
    manifest: String,
}

impl Store {
    /// Opens or makes the store and removes what an earlier process left half-written.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let store = Self {
            blobs: directory.join("blobs/sha256"),
            index: directory.join("index"),
            partial: directory.join("partial"),
        };
        if store.partial.exists() {
            fs::remove_dir_all(&store.partial)?;
        }
        for path in [&store.blobs, &store.index, &store.partial] {
            fs::create_dir_all(path)?;
        }
        Ok(store)
    }

    /// Where the blob with this digest is or will be; `None` for what is no digest.
    pub(crate) fn blob_path(&self, digest: &str) -> Option<PathBuf> {
        let digest = parse_digest(digest).ok()?;
        Some(self.blobs.join(digest.strip_prefix("sha256:")?))
    }

    /// Whether a blob of this digest and length is here. Blobs were verified when they were written.
    pub(crate) fn holds(&self, digest: &str, size_bytes: u64) -> bool {
        let metadata = self.blob_path(digest).and_then(|path| fs::metadata(path).ok());
        metadata.is_some_and(|metadata| metadata.is_file() && metadata.len() == size_bytes)
    }

    /// Starts a blob of a known digest and length.
    pub(crate) fn begin(&self, digest: &str, size_bytes: u64) -> io::Result<BlobWriter> {
        let target = self.blob_path(digest).ok_or_else(|| io::Error::other("not a sha256 digest"))?;
        let file = NamedTempFile::new_in(&self.partial)?;
        Ok(BlobWriter { file, target, hasher: Sha256::new(), digest: digest.to_owned(), left_bytes: size_bytes })
    }

    /// Reads a small blob whole; one that was damaged on disk counts as not there.
    pub(crate) fn read(&self, digest: &str) -> Option<Vec<u8>> {
        let bytes = fs::read(self.blob_path(digest)?).ok()?;
        let actual = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        (actual == digest).then_some(bytes)
    }

    /// The manifest that `name` meant when it was last pulled.
    pub(crate) fn lookup(&self, name: &str) -> Option<String> {
        let entry: IndexEntry = serde_json::from_slice(&fs::read(self.index_path(name)).ok()?).ok()?;
        (entry.name == name).then_some(entry.manifest)
    }

    /// Remembers which manifest `name` means.
    pub(crate) fn remember(&self, name: &str, manifest: &str) -> io::Result<()> {
        let entry = IndexEntry { name: name.to_owned(), manifest: manifest.to_owned() };
        let mut file = NamedTempFile::new_in(&self.partial)?;
        file.write_all(&serde_json::to_vec(&entry)?)?;
        persist(file, &self.index_path(name))
    }

    fn index_path(&self, name: &str) -> PathBuf {
        self.index.join(format!("{}.json", hex::encode(Sha256::digest(name))))
    }
}

/// A blob being written. Dropped unfinished, it leaves nothing.
pub(crate) struct BlobWriter {
    file: NamedTempFile,
    target: PathBuf,
    hasher: Sha256,
    digest: String,
    left_bytes: u64,
}

impl BlobWriter {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// When there are more than were announced, or the disk refuses.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.left_bytes = self
            .left_bytes
            .checked_sub(length)
            .ok_or_else(|| format!("blob {} is longer than its manifest says", self.digest))?;
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(|error| format!("cannot write blob {}: {error}", self.digest))
    }

    /// Verifies length and digest, syncs, and puts the blob in its place.
    ///
    /// # Errors
    /// When it is not what was announced, or the disk refuses.
    pub(crate) fn finish(self) -> Result<(), String> {
        if self.left_bytes > 0 {
            return Err(format!("blob {} is {} bytes shorter than its manifest says", self.digest, self.left_bytes));
        }
        let actual = format!("sha256:{}", hex::encode(self.hasher.finalize()));
        if actual != self.digest {
            return Err(format!("what came for blob {} has digest {actual}", self.digest));
        }
        persist(self.file, &self.target).map_err(|error| format!("cannot keep blob {}: {error}", self.digest))
    }
}

/// SHA-256 of a file's bytes, in hex.
pub(crate) fn file_sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hex::encode(hasher.finalize()))
}

fn persist(file: NamedTempFile, target: &Path) -> io::Result<()> {
    file.as_file().set_permissions(Permissions::from_mode(0o444))?;
    file.as_file().sync_all()?;
    file.persist(target)?;
    target.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest_of(bytes: &[u8]) -> String {
        format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
    }

    #[test]
    fn only_verified_blobs_get_their_name() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let digest = digest_of(b"hello");
        let rows: [(&[u8], u64, &str); 4] = [
            (b"hell", 5, "1 bytes shorter"),
            (b"hello!", 5, "longer than"),
            (b"jello", 5, "has digest"),
            (b"hello", 5, ""),
        ];
        for (bytes, announced, complaint) in rows {
            let mut writer = store.begin(&digest, announced).unwrap();
            let result = writer.write(bytes).and_then(|()| writer.finish());
            match result {
                Ok(()) => assert_eq!(complaint, ""),
                Err(error) => {
                    assert!(!complaint.is_empty() && error.contains(complaint), "{error}");
                    assert!(!store.holds(&digest, 5));
                }
            }
        }
        assert!(store.holds(&digest, 5) && !store.holds(&digest, 6));
        assert_eq!(store.read(&digest).unwrap(), b"hello");
        let path = store.blob_path(&digest).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"jello").unwrap();
        assert_eq!(store.read(&digest), None, "it was damaged");
        assert!(store.begin("sha256:../../x", 1).is_err());
        assert_eq!(fs::read_dir(directory.path().join("partial")).unwrap().count(), 0);
    }

    #[test]
    fn names_survive_reopening_and_leftovers_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.lookup("r/app:v1"), None);
        store.remember("r/app:v1", "sha256:1").unwrap();
        store.remember("r/app:v1", "sha256:2").unwrap();
        fs::write(directory.path().join("partial/left"), b"x").unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.lookup("r/app:v1").as_deref(), Some("sha256:2"));
        assert!(!directory.path().join("partial/left").exists());
    }
}
