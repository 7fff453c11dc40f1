//! What must survive this process: which pods run here, how often their containers ran and how they ended. One file
//! per pod, replaced whole and synced, so that a crash leaves the old entry or the new one.

use crate::pod::state::Ended;
use coracle_objects::meta;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{self, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::NamedTempFile;
use tracing::warn;

/// A larger file is not ours.
const ENTRY_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Ending of entries that could not be read, kept for people until their pod goes.
const SET_ASIDE: &str = "bad";

/// One container as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    pub(crate) name: String,
    pub(crate) image_id: String,
    pub(crate) container_id: String,
    pub(crate) restarts: u32,
    /// Since when it runs, if it does.
    pub(crate) running_since: Option<String>,
    /// How its newest run ended, if it does not run.
    pub(crate) end: Option<Ended>,
    pub(crate) last: Option<Ended>,
    /// It ended to run again, whatever its restart policy says; entries of older agents do not say.
    #[serde(default)]
    pub(crate) again: bool,
}

/// One pod as it is remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The object as last seen; its status is the newest that was reported.
    pub(crate) pod: Arc<Value>,
    pub(crate) namespace_uid: String,
    pub(crate) start_time: String,
    /// The pod as a whole failed: reason and message.
    pub(crate) failed: Option<(String, String)>,
    /// The pod's address; entries of older agents have none.
    #[serde(default)]
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) containers: Vec<Remembered>,
}

impl Entry {
    /// The pod's uid.
    pub(crate) fn uid(&self) -> &str {
        meta::uid(&self.pod)
    }
}

/// Name of the directory in the data directory.
pub(crate) const DIRECTORY: &str = "ledger";

/// The directory of entries.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    directory: PathBuf,
}

impl Ledger {
    /// Opens or makes it.
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    /// All entries. What cannot be read is set aside under another name and said aloud: it must not keep the node
    /// from starting.
    pub(crate) fn load(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for file in fs::read_dir(&self.directory)? {
            let path = file?.path();
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".tmp")) {
                // A write that a crash cut off.
                fs::remove_file(&path)?;
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path) {
                Ok(entry) if is_file_name(entry.uid()) => entries.push(entry),
                Ok(_) => set_aside(&path, "it names no pod"),
                Err(error) => set_aside(&path, &error.to_string()),
            }
        }
        Ok(entries)
    }

    /// Writes an entry; done when it is on disk.
    pub(crate) async fn save(&self, entry: Entry) -> io::Result<()> {
        let directory = self.directory.clone();
        let written = tokio::task::spawn_blocking(move || write(&directory, &entry));
        written.await.unwrap_or_else(|_| Err(io::Error::other("writing was interrupted")))
    }

    /// Forgets a pod.
    pub(crate) fn remove(&self, uid: &str) -> io::Result<()> {
        if !is_file_name(uid) {
            return Ok(());
        }
        for extension in ["json", SET_ASIDE] {
            match fs::remove_file(self.directory.join(format!("{uid}.{extension}"))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        File::open(&self.directory)?.sync_all()
    }

    /// Uids of the entries that were set aside.
    pub(crate) fn unreadable(&self) -> Vec<String> {
        let files = fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|file| file.path());
        let aside = files.filter(|path| path.extension().is_some_and(|extension| extension == SET_ASIDE));
        aside.filter_map(|path| path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned)).collect()
    }
}

/// A uid comes from the server; it must never become a path elsewhere.
pub(crate) fn is_file_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= 255 && !text.starts_with('.') && text.bytes().all(fits)
}

fn read(path: &Path) -> io::Result<Entry> {
    if fs::metadata(path)?.len() > ENTRY_BYTES_MAX {
        return Err(io::Error::other("it is too large"));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn write(directory: &Path, entry: &Entry) -> io::Result<()> {
    if !is_file_name(entry.uid()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the pod's uid is not usable as a file name"));
    }
    let mut file = NamedTempFile::new_in(directory)?;
    file.write_all(&serde_json::to_vec(entry)?)?;
    file.as_file().sync_all()?;
    file.persist(directory.join(format!("{}.json", entry.uid())))?;
    File::open(directory)?.sync_all()
}

fn set_aside(path: &Path, why: &str) {
    warn!(path = %path.display(), why, "set an unreadable ledger entry aside");
    if let Err(error) = fs::rename(path, path.with_extension(SET_ASIDE)) {
        warn!(path = %path.display(), %error, "cannot set it aside");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(uid: &str) -> Entry {
        Entry {
            pod: Arc::new(json!({"metadata": {"uid": uid}})),
            namespace_uid: "ns".to_owned(),
            start_time: String::new(),
            failed: None,
            address: Some(Ipv4Addr::new(10, 244, 0, 7)),
            containers: Vec::new(),
        }
    }

    #[test]
    fn entries_from_before_pods_had_addresses_are_read() {
        let mut old = serde_json::to_value(entry("a")).unwrap();
        old.as_object_mut().unwrap().shift_remove("address").unwrap();
        assert_eq!(serde_json::from_value::<Entry>(old).unwrap(), Entry { address: None, ..entry("a") });
    }

    #[tokio::test]
    async fn entries_survive_and_rubbish_does_not_stop_the_node() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path().join("ledger")).unwrap();
        ledger.save(entry("a")).await.unwrap();
        ledger.save(Entry { start_time: "later".to_owned(), ..entry("a") }).await.unwrap();
        ledger.save(entry("b")).await.unwrap();
        ledger.remove("b").unwrap();
        ledger.remove("never-there").unwrap();
        fs::write(directory.path().join("ledger/torn.json"), b"{\"pod\":").unwrap();
        fs::write(directory.path().join("ledger/.tmpleft"), b"x").unwrap();

        let entries = Ledger::open(directory.path().join("ledger")).unwrap().load().unwrap();
        assert_eq!(entries, [Entry { start_time: "later".to_owned(), ..entry("a") }]);
        assert!(
            directory.path().join("ledger/torn.bad").exists() && !directory.path().join("ledger/.tmpleft").exists()
        );
        assert_eq!(ledger.unreadable(), ["torn"]);
        ledger.remove("torn").unwrap();
        assert_eq!(ledger.unreadable(), [""; 0]);
    }

    #[tokio::test]
    async fn a_uid_is_never_a_path() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path().join("ledger")).unwrap();
        for uid in ["", "..", "../x", "a/b", ".hidden", "a\0"] {
            assert!(ledger.save(entry(uid)).await.is_err(), "{uid:?}");
            ledger.remove(uid).unwrap();
        }
    }
}
