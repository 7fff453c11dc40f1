//! The content store: verified blobs by digest, and an index from names to manifests. Never a half-written file
//! under a final name: everything is written beside, synced and renamed.

use crate::{failure::Failure, reference::parse_digest, registry::Access};
use coracle_objects::registry_auth::Credential;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, Metadata, Permissions},
    io::{self, Read, Seek, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tempfile::NamedTempFile;

/// How long a broken-off download waits for its rest after this process has ended.
const PARTIAL_KEPT: Duration = Duration::from_hours(24);
/// Most credentials that are remembered as good for one image.
const KNOWN_CREDENTIALS_MAX: usize = 64;
const SALT_BYTES: usize = 32;

/// Layout below the store's directory: `blobs/sha256/HEX`, `index/HEX-OF-NAME.json`, `layers/HEX.json`, `partial/`,
/// `salt`.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    blobs: PathBuf,
    index: PathBuf,
    layers: PathBuf,
    partial: PathBuf,
    salt: Vec<u8>,
}

/// What a name meant when it was last pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexEntry {
    pub(crate) name: String,
    /// Digest of the manifest.
    pub(crate) manifest: String,
    /// Salted hashes of the credentials with which it was pulled; absent: it needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    access: Option<Vec<String>>,
}

/// A module that came out of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Extracted {
    pub(crate) name: String,
    pub(crate) digest: String,
    pub(crate) size_bytes: u64,
}

/// What an archive says about modules. The archive itself is not kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contents {
    pub(crate) modules: Vec<Extracted>,
    /// Modules of earlier layers that are gone.
    pub(crate) gone: Vec<String>,
}

/// A directory whose files are called by digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Manifests and modules.
    Blobs,
    /// Downloads that broke off.
    Partial,
    /// What archives held.
    Archives,
}

impl Place {
    /// Whether its digests are those of archives.
    pub(crate) fn holds_archives(self) -> bool {
        self == Self::Archives
    }
}

impl Store {
    /// Opens or makes the store and removes what an earlier process left half-written, but for downloads that can go
    /// on.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let mut store = Self {
            blobs: directory.join("blobs/sha256"),
            index: directory.join("index"),
            layers: directory.join("layers"),
            partial: directory.join("partial"),
            salt: Vec::new(),
        };
        for path in [&store.blobs, &store.index, &store.layers, &store.partial] {
            fs::create_dir_all(path)?;
        }
        for left in fs::read_dir(&store.partial)? {
            let left = left?;
            let age = left.metadata()?.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            let is_young = age.is_none_or(|age| age < PARTIAL_KEPT);
            let is_blob = parse_digest(&format!("sha256:{}", left.file_name().to_string_lossy())).is_ok();
            if !(is_young && is_blob) {
                fs::remove_file(left.path())?;
            }
        }
        store.salt = store.read_salt(&directory.join("salt"))?;
        Ok(store)
    }

    /// Without it, hashes of short passwords could be looked up in a table.
    fn read_salt(&self, path: &Path) -> io::Result<Vec<u8>> {
        match fs::read(path) {
            Ok(salt) if salt.len() == SALT_BYTES => return Ok(salt),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut salt = vec![0; SALT_BYTES];
        File::open("/dev/urandom")?.read_exact(&mut salt)?;
        let mut file = NamedTempFile::new_in(&self.partial)?;
        file.write_all(&salt)?;
        persist(file, path, 0o600)?;
        Ok(salt)
    }

    /// Where the blob with this digest is or will be; `None` for what is no digest.
    pub(crate) fn blob_path(&self, digest: &str) -> Option<PathBuf> {
        Some(self.blobs.join(hex_of(digest)?))
    }

    /// Whether a blob of this digest and length is here. Blobs were verified when they were written.
    pub(crate) fn holds(&self, digest: &str, size_bytes: u64) -> bool {
        let metadata = self.blob_path(digest).and_then(|path| fs::metadata(path).ok());
        metadata.is_some_and(|metadata| metadata.is_file() && metadata.len() == size_bytes)
    }

    /// Starts a blob of a known digest and length, or goes on with one that broke off. Only one may be written at a
    /// time.
    pub(crate) fn begin(&self, digest: &str, size_bytes: u64) -> io::Result<BlobWriter> {
        let not_a_digest = || io::Error::other("not a sha256 digest");
        let target = self.blob_path(digest).ok_or_else(not_a_digest)?;
        let partial = self.partial.join(hex_of(digest).ok_or_else(not_a_digest)?);
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&partial)?;
        if file.metadata()?.len() > size_bytes {
            file.set_len(0)?;
        }
        let mut hasher = Sha256::new();
        let done_bytes = io::copy(&mut file, &mut hasher)?;
        let digest = digest.to_owned();
        Ok(BlobWriter { file, partial, target, hasher, digest, size_bytes, done_bytes, stays: false })
    }

    /// Keeps a small blob whose digest was computed by the caller.
    pub(crate) fn put(&self, digest: &str, bytes: &[u8]) -> io::Result<()> {
        let target = self.blob_path(digest).ok_or_else(|| io::Error::other("not a sha256 digest"))?;
        let mut file = NamedTempFile::new_in(&self.partial)?;
        file.write_all(bytes)?;
        persist(file, &target, 0o444)
    }

    /// Keeps what `from` holds as a blob, and answers its digest.
    pub(crate) fn take(&self, from: &mut dyn Read, size_bytes: u64) -> io::Result<String> {
        let mut file = NamedTempFile::new_in(&self.partial)?;
        let mut hasher = Sha256::new();
        let mut left = size_bytes;
        let mut buffer = vec![0; 64 * 1024];
        while left > 0 {
            let count = from.read(&mut buffer)?;
            let part = &buffer[..count];
            left = left.checked_sub(part.len() as u64).filter(|_| count > 0).ok_or(io::ErrorKind::UnexpectedEof)?;
            hasher.update(part);
            file.write_all(part)?;
        }
        let digest = format!("sha256:{}", hex::encode(hasher.finalize()));
        let target = self.blob_path(&digest).ok_or_else(|| io::Error::other("not a sha256 digest"))?;
        persist(file, &target, 0o444)?;
        Ok(digest)
    }

    /// Removes a blob that is of no more use.
    pub(crate) fn remove(&self, digest: &str) -> io::Result<()> {
        self.blob_path(digest).map_or(Ok(()), fs::remove_file)
    }

    /// Reads a small blob whole; one that was damaged on disk counts as not there.
    pub(crate) fn read(&self, digest: &str) -> Option<Vec<u8>> {
        let bytes = fs::read(self.blob_path(digest)?).ok()?;
        let actual = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        (actual == digest).then_some(bytes)
    }

    /// What an archive of this digest held, if all of its modules are here.
    pub(crate) fn contents(&self, digest: &str) -> Option<Contents> {
        let contents: Contents = read_json(&self.layers.join(format!("{}.json", hex_of(digest)?)))?;
        contents.modules.iter().all(|module| self.holds(&module.digest, module.size_bytes)).then_some(contents)
    }

    /// Remembers what an archive held.
    pub(crate) fn remember_contents(&self, digest: &str, contents: &Contents) -> io::Result<()> {
        let hex = hex_of(digest).ok_or_else(|| io::Error::other("not a sha256 digest"))?;
        self.write_json(&self.layers.join(format!("{hex}.json")), contents)
    }

    /// The manifest that `name` meant when it was last pulled.
    pub(crate) fn lookup(&self, name: &str) -> Option<IndexEntry> {
        read_json(&self.index_path(name)).filter(|entry: &IndexEntry| entry.name == name)
    }

    /// All names that mean something.
    pub(crate) fn entries(&self) -> io::Result<Vec<IndexEntry>> {
        let mut entries = Vec::new();
        for file in fs::read_dir(&self.index)? {
            entries.extend(read_json::<IndexEntry>(&file?.path()));
        }
        Ok(entries)
    }

    /// `name` means nothing any more.
    pub(crate) fn forget(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.index_path(name))
    }

    /// Notes that somebody uses the image with this manifest; a disk that does not take the note loses only the order in
    /// which images go.
    pub(crate) fn touch(&self, manifest: &str) {
        let file = self.blob_path(manifest).and_then(|path| File::open(path).ok());
        let _ = file.map(|file| file.set_modified(SystemTime::now()));
    }

    /// When the image with this manifest was last used.
    pub(crate) fn last_used(&self, manifest: &str) -> Option<SystemTime> {
        fs::metadata(self.blob_path(manifest)?).ok()?.modified().ok()
    }

    /// Removes every file called by a digest that is not to stay.
    pub(crate) fn retain(&self, mut stays: impl FnMut(Place, &str, &Metadata) -> bool) -> io::Result<()> {
        let places = [(Place::Blobs, &self.blobs), (Place::Partial, &self.partial), (Place::Archives, &self.layers)];
        for (place, directory) in places {
            for file in fs::read_dir(directory)? {
                let file = file?;
                let name = file.file_name();
                let hex = name.to_str().map(|name| name.strip_suffix(".json").unwrap_or(name)).unwrap_or_default();
                let digest = format!("sha256:{hex}");
                // Other names are those of files that are being written.
                if parse_digest(&digest).is_ok() && !stays(place, &digest, &file.metadata()?) {
                    fs::remove_file(file.path())?;
                }
            }
        }
        Ok(())
    }

    /// Remembers which manifest `name` means and what it took to get it.
    pub(crate) fn remember(&self, name: &str, manifest: &str, access: &Access) -> io::Result<()> {
        let known = self.lookup(name).filter(|entry| entry.manifest == manifest);
        let access = match (known.as_ref().map(|entry| &entry.access), access) {
            (_, Access::Open) | (Some(None), _) => None,
            (Some(Some(known)), Access::By(credential)) => {
                let new = self.hash(credential);
                let skipped = (known.len() + 1).saturating_sub(KNOWN_CREDENTIALS_MAX);
                let kept = known.iter().filter(|hash| **hash != new).skip(skipped).cloned();
                Some(kept.chain([new.clone()]).collect())
            }
            (None, Access::By(credential)) => Some(vec![self.hash(credential)]),
        };
        let entry = IndexEntry { name: name.to_owned(), manifest: manifest.to_owned(), access };
        if known.as_ref() == Some(&entry) { Ok(()) } else { self.write_json(&self.index_path(name), &entry) }
    }

    /// Whether one who has these credentials may use the image.
    pub(crate) fn may_use(&self, entry: &IndexEntry, credentials: &[&Credential]) -> bool {
        let Some(known) = &entry.access else { return true };
        credentials.iter().any(|credential| known.contains(&self.hash(credential)))
    }

    fn hash(&self, credential: &Credential) -> String {
        let mut hasher = Sha256::new();
        hasher.update(&self.salt);
        let parts: [&str; 3] = match credential {
            Credential::Password { username, password } => ["password", username, password],
            Credential::Identity(token) => ["identity", token, ""],
            Credential::Bearer(token) => ["bearer", token, ""],
        };
        for part in parts {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hex::encode(hasher.finalize())
    }

    fn index_path(&self, name: &str) -> PathBuf {
        self.index.join(format!("{}.json", hex::encode(Sha256::digest(name))))
    }

    fn write_json(&self, path: &Path, value: &impl Serialize) -> io::Result<()> {
        let mut file = NamedTempFile::new_in(&self.partial)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        persist(file, path, 0o444)
    }
}

fn hex_of(digest: &str) -> Option<String> {
    parse_digest(digest).ok()?.strip_prefix("sha256:").map(str::to_owned)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// A blob being written. Dropped unfinished, it leaves nothing unless it is told to.
pub(crate) struct BlobWriter {
    file: File,
    partial: PathBuf,
    target: PathBuf,
    hasher: Sha256,
    digest: String,
    size_bytes: u64,
    done_bytes: u64,
    stays: bool,
}

impl BlobWriter {
    /// Bytes that are there.
    pub(crate) fn done_bytes(&self) -> u64 {
        self.done_bytes
    }

    /// Announced length.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Forgets what is there.
    pub(crate) fn restart(&mut self) -> Result<(), Failure> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|error| self.refused(&error))?;
        self.hasher = Sha256::new();
        self.done_bytes = 0;
        Ok(())
    }

    /// What is there stays for a later attempt.
    pub(crate) fn leave(mut self) {
        self.stays = true;
    }

    fn refused(&self, error: &io::Error) -> Failure {
        Failure::last(format!("cannot write blob {}: {error}", self.digest))
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When there are more than were announced, or the disk refuses.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let done_bytes = self.done_bytes.saturating_add(bytes.len() as u64);
        if done_bytes > self.size_bytes {
            return Err(Failure::last(format!("blob {} is longer than its manifest says", self.digest)));
        }
        self.file.write_all(bytes).map_err(|error| self.refused(&error))?;
        self.hasher.update(bytes);
        self.done_bytes = done_bytes;
        Ok(())
    }

    /// Verifies length and digest, syncs, and puts the blob in its place.
    ///
    /// # Errors
    /// When it is not what was announced, or the disk refuses.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        let left = self.size_bytes - self.done_bytes;
        if left > 0 {
            return Err(Failure::last(format!("blob {} is {left} bytes shorter than its manifest says", self.digest)));
        }
        let actual = format!("sha256:{}", hex::encode(std::mem::take(&mut self.hasher).finalize()));
        if actual != self.digest {
            return Err(Failure::last(format!("what came for blob {} has digest {actual}", self.digest)));
        }
        let kept = (|| {
            self.file.set_permissions(Permissions::from_mode(0o444))?;
            self.file.sync_all()?;
            fs::rename(&self.partial, &self.target)?;
            sync_parent(&self.target)
        })();
        self.stays = kept.is_ok();
        kept.map_err(|error| Failure::last(format!("cannot keep blob {}: {error}", self.digest)))
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if !self.stays {
            // It may have got its name already.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// SHA-256 of a file's bytes, in hex.
pub(crate) fn file_sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hex::encode(hasher.finalize()))
}

fn persist(file: NamedTempFile, target: &Path, mode: u32) -> io::Result<()> {
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(target)?;
    sync_parent(target)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
