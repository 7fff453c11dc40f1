//! A view on disk: a file of records, each either all there or not there at all, so that whatever breaks a write leaves what
//! was known before it. Only the agent's user can read it: secrets are in it.
//!
//! ```text
//!   view: [length, checksum, what changed up to a revision]*
//! ```
//!
//! When the file has grown to several times of what is in it, it is written anew beside itself and takes its own place.

use crate::link::{Change, FOLLOWED, PODS, Position, Resource};
use coracle_objects::meta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, BufReader, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use tracing::warn;

const FILE: &str = "view";
/// What is not whole yet.
const NEW_FILE: &str = "view.new";
/// Bytes of a record's checksum.
const CHECKSUM_BYTES: usize = 16;
/// Longest record that is believed: more is taken for damage.
const RECORD_BYTES_MAX: u32 = 256 * 1024 * 1024;
/// The file is written anew when it is larger than this, and than [`GROWTH_MAX`] times what it was when it was new.
const SMALL_BYTES: u64 = 1024 * 1024;
const GROWTH_MAX: u64 = 4;

/// What changed up to a revision.
#[derive(Serialize, Deserialize)]
struct Record<'a> {
    /// Nothing but this is there.
    whole: bool,
    history: String,
    revision: u64,
    #[serde(borrow)]
    changes: Vec<Entry<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    plural: String,
    namespace: String,
    name: String,
    /// Without it, the object is gone.
    #[serde(borrow)]
    object: Option<&'a RawValue>,
}

/// What a file remembers.
#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) history: String,
    pub(super) revision: u64,
    pub(super) objects: Vec<(Resource, Value)>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    file: File,
    bytes: u64,
    bytes_when_new: u64,
}

/// Objects by what they are, as they are encoded.
/// Plural, namespace and name.
type Place = (String, String, String);
type Objects = BTreeMap<Place, Box<RawValue>>;

/// What the records of a file come to.
#[derive(Default)]
struct Sum {
    history: String,
    revision: u64,
    objects: Objects,
}

impl Disk {
    /// Opens or makes what is in `directory`. A last record that is torn goes; a file that makes no sense at all too.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub(super) fn open(directory: &Path) -> io::Result<(Self, Option<Remembered>)> {
        fs::create_dir_all(directory)?;
        fs::set_permissions(directory, Permissions::from_mode(0o700))?;
        let (sum, _) = read(&directory.join(FILE))?;
        let remembered = (sum.revision > 0).then(|| Remembered {
            history: sum.history.clone(),
            revision: sum.revision,
            objects: sum.objects.iter().filter_map(|((plural, ..), raw)| decoded(plural, raw)).collect(),
        });
        Ok((Self::write_anew(directory, &sum)?, remembered))
    }

    /// Notes what changed, up to `position`. Answers nothing when the disk fails: what is there stays as it was, and is
    /// what the next start goes on from.
    pub(super) async fn note(mut self, whole: bool, changes: &[Change], position: &Position) -> Option<Self> {
        let entries: Vec<_> = changes.iter().filter_map(entry).collect();
        if entries.is_empty() && !whole {
            return Some(self);
        }
        let (history, revision) = (position.history.clone(), position.revision);
        let written = tokio::task::spawn_blocking(move || {
            let changes = entries.iter().map(|((plural, namespace, name), object)| Entry {
                plural: plural.clone(),
                namespace: namespace.clone(),
                name: name.clone(),
                object: object.as_deref(),
            });
            let record = Record { whole, history, revision, changes: changes.collect() };
            if whole {
                return Self::replace(&self.directory, &record);
            }
            self.bytes += append(&mut self.file, &record)?;
            if self.bytes > SMALL_BYTES && self.bytes > self.bytes_when_new * GROWTH_MAX {
                let (sum, _) = read(&self.directory.join(FILE))?;
                return Self::write_anew(&self.directory, &sum);
            }
            Ok(self)
        });
        match written.await.unwrap_or_else(|_| Err(io::Error::other("it was interrupted"))) {
            Ok(disk) => Some(disk),
            Err(error) => {
                warn!(%error, "what the node is told is no longer kept on disk");
                None
            }
        }
    }

    fn write_anew(directory: &Path, sum: &Sum) -> io::Result<Self> {
        let changes = sum.objects.iter().map(|((plural, namespace, name), object)| Entry {
            plural: plural.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            object: Some(object),
        });
        let (history, revision) = (sum.history.clone(), sum.revision);
        Self::replace(directory, &Record { whole: true, history, revision, changes: changes.collect() })
    }

    /// Puts a file with one record in the place of the one that is there.
    fn replace(directory: &Path, record: &Record<'_>) -> io::Result<Self> {
        let (path, new) = (directory.join(FILE), directory.join(NEW_FILE));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&new)?;
        let bytes = append(&mut file, record)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(directory)?.sync_all()?;
        Ok(Self { directory: directory.to_owned(), file, bytes, bytes_when_new: bytes })
    }
}

/// What of a change is kept: where, and what is there from now on.
fn entry(change: &Change) -> Option<(Place, Option<Box<RawValue>>)> {
    match change {
        Change::Applied(PODS, _) | Change::Gone(PODS, ..) => None,
        Change::Applied(resource, object) => {
            let raw = RawValue::from_string(object.to_string()).ok()?;
            let place = (resource.plural.to_owned(), meta::namespace(object).to_owned(), meta::name(object).to_owned());
            Some((place, Some(raw)))
        }
        Change::Gone(resource, key, _) => {
            Some(((resource.plural.to_owned(), key.namespace.clone(), key.name.clone()), None))
        }
    }
}

fn decoded(plural: &str, raw: &RawValue) -> Option<(Resource, Value)> {
    let resource = FOLLOWED.into_iter().find(|resource| resource.plural == plural)?;
    Some((resource, serde_json::from_str(raw.get()).ok()?))
}

/// Writes a record in one go; answers its length.
fn append(file: &mut File, record: &Record<'_>) -> io::Result<u64> {
    let payload = serde_json::to_vec(record)?;
    let length = u32::try_from(payload.len()).ok().filter(|length| *length <= RECORD_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other("what changed is too much for one record"))?;
    let mut bytes = Vec::with_capacity(payload.len() + CHECKSUM_BYTES + 4);
    bytes.extend(length.to_le_bytes());
    bytes.extend(checksum(&payload));
    bytes.extend(payload);
    file.write_all(&bytes)?;
    Ok(bytes.len() as u64)
}

fn checksum(payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let whole: [u8; 32] = Sha256::digest(payload).into();
    std::array::from_fn(|index| whole[index])
}

/// What a file's records come to, up to the first that is not whole, and whether there was such a one.
fn read(path: &Path) -> io::Result<(Sum, bool)> {
    let mut sum = Sum::default();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((sum, false)),
        Err(error) => return Err(error),
    };
    let mut left = file.metadata()?.len();
    let mut reader = BufReader::new(file);
    let header = 4 + CHECKSUM_BYTES as u64;
    while left > 0 {
        let (mut length, mut expected) = ([0; 4], [0; CHECKSUM_BYTES]);
        if left < header {
            return Ok((sum, true));
        }
        reader.read_exact(&mut length)?;
        reader.read_exact(&mut expected)?;
        let length = u32::from_le_bytes(length);
        if length > RECORD_BYTES_MAX || u64::from(length) > left - header {
            return Ok((sum, true));
        }
        let mut payload = vec![0; length as usize];
        reader.read_exact(&mut payload)?;
        left -= header + u64::from(length);
        let Some(record) = whole(&payload, expected) else { return Ok((sum, true)) };
        sum.add(record);
    }
    Ok((sum, false))
}

fn whole(payload: &[u8], expected: [u8; CHECKSUM_BYTES]) -> Option<Record<'_>> {
    if checksum(payload) != expected {
        return None;
    }
    serde_json::from_slice(payload).ok()
}

impl Sum {
    fn add(&mut self, record: Record<'_>) {
        if record.whole {
            self.objects.clear();
        }
        (self.history, self.revision) = (record.history, record.revision);
        for Entry { plural, namespace, name, object } in record.changes {
            match object {
                Some(object) => drop(self.objects.insert((plural, namespace, name), object.to_owned())),
                None => drop(self.objects.remove(&(plural, namespace, name))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{CONFIG_MAPS, SECRETS, SERVICES};
    use coracle_objects::ObjectKey;
    use serde_json::json;

    fn object(name: &str, data: &str) -> Value {
        json!({"metadata": {"namespace": "a", "name": name}, "data": data})
    }

    fn position(revision: u64) -> Position {
        Position { history: "h".to_owned(), revision, has_pods: true }
    }

    fn open(directory: &Path) -> (Disk, u64, Vec<String>) {
        let (disk, remembered) = Disk::open(directory).unwrap();
        let Some(remembered) = remembered else { return (disk, 0, Vec::new()) };
        assert_eq!(remembered.history, "h");
        let text = |(resource, object): &(Resource, Value)| {
            format!("{} {} {}", resource.plural, meta::name(object), object["data"].as_str().unwrap())
        };
        (disk, remembered.revision, remembered.objects.iter().map(text).collect())
    }

    #[tokio::test]
    async fn what_was_told_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("view");
        let (disk, revision, objects) = open(&at);
        assert!(revision == 0 && objects.is_empty());
        let all = [
            Change::Applied(SECRETS, object("s", "1")),
            Change::Applied(SERVICES, object("x", "1")),
            Change::Applied(PODS, object("p", "1")),
        ];
        let disk = disk.note(true, &all, &position(5)).await.unwrap();
        let later = [
            Change::Gone(SERVICES, ObjectKey::namespaced("a", "x"), String::new()),
            Change::Applied(CONFIG_MAPS, object("c", "2")),
        ];
        let disk = disk.note(false, &later, &position(6)).await.unwrap();
        drop(disk.note(false, &[Change::Applied(PODS, object("q", "1"))], &position(9)).await);
        let (_, revision, objects) = open(&at);
        assert_eq!((revision, objects), (6, vec!["configmaps c 2".to_owned(), "secrets s 1".to_owned()]));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&at), mode(&at.join(FILE))), (0o700, 0o600));
    }

    #[tokio::test]
    async fn wherever_a_write_is_torn_what_was_before_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let (disk, ..) = open(at);
        let disk = disk.note(true, &[Change::Applied(SERVICES, object("x", "1"))], &position(1)).await.unwrap();
        let before = fs::read(at.join(FILE)).unwrap().len();
        drop(disk.note(false, &[Change::Applied(SERVICES, object("x", "2"))], &position(2)).await);
        let file = fs::read(at.join(FILE)).unwrap();
        for length in before..=file.len() {
            fs::write(at.join(FILE), &file[..length]).unwrap();
            let expected = if length == file.len() { (2, "services x 2") } else { (1, "services x 1") };
            let (_, revision, objects) = open(at);
            assert_eq!((revision, objects[0].as_str()), expected, "{length} of {} bytes", file.len());
        }
        for index in 0..file.len() {
            let mut damaged = file.clone();
            damaged[index] ^= 0x10;
            fs::write(at.join(FILE), &damaged).unwrap();
            let (_, revision, _) = open(at);
            assert_eq!(revision, u64::from(index >= before), "byte {index}");
        }
    }

    #[tokio::test]
    async fn a_file_grows_no_larger_than_some_times_of_what_is_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let (mut disk, ..) = open(directory.path());
        let large = "x".repeat(100_000);
        for revision in 1..60 {
            let change = Change::Applied(CONFIG_MAPS, object("c", &format!("{revision}{large}")));
            disk = disk.note(false, &[change], &position(revision)).await.unwrap();
            let bytes = fs::metadata(directory.path().join(FILE)).unwrap().len();
            assert!(bytes <= SMALL_BYTES + 200_000, "{bytes} bytes");
        }
        let (_, revision, objects) = open(directory.path());
        assert_eq!((revision, objects.len()), (59, 1));
    }
}
