//! Who a namespace's runner is on this machine: a user id of its own, where the agent runs as root.
//!
//! A user id belongs to one namespace for ever: it is on disk before anybody uses it, and the counter only goes up, so
//! that what one namespace left behind never falls to another. The table lies outside every runner's root. An agent
//! that is an ordinary user (or a root without the capabilities for it) has one user for all, and only Landlock and
//! seccomp between them.
//!
//! It must never follow a link that a guest made: what is given away is the name itself.

use nix::{
    fcntl::AtFlags,
    libc,
    unistd::{Gid, Uid, fchownat},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Name of the table below the agent's directory.
const FILE: &str = "namespace-users.json";
/// User ids that distributions, systemd and user namespaces leave alone.
const FREE_IDS: Range<u32> = 1_900_000_000..2_100_000_000;
/// Where only part of all ids exist (an agent in a user namespace), those of small numbers are left to others.
const FIRST_MAPPED_ID: u32 = 20_000;
/// The user id of compiler processes: the first of the range, never a namespace's.
const COMPILER_OFFSET: u32 = 0;
/// Nodes on one machine begin at different places of the range, this far apart.
const BLOCK: u32 = 100_000;
/// What it takes to give files away, start processes as somebody else with a root of their own, and end them again:
/// `CAP_CHOWN`, `CAP_KILL`, `CAP_SETGID`, `CAP_SETUID`, `CAP_SYS_CHROOT`.
const NEEDED_CAPABILITIES: u64 = 1 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 18;

/// Whom a namespace's writable files belong to, and as whom its runner runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner(Option<u32>);

impl Owner {
    /// Whoever the agent is.
    pub(crate) const AGENT: Self = Self(None);

    /// A user of that id.
    #[cfg(test)]
    pub(crate) fn user(id: u32) -> Self {
        Self(Some(id))
    }

    /// User and group id, where it is not the agent's own user.
    pub(crate) fn id(self) -> Option<u32> {
        self.0
    }

    /// Gives a file or directory to this owner; of a symbolic link the link itself. The directories on the way to it
    /// must not be writable by guests.
    ///
    /// # Errors
    /// When it is not there, or the machine refuses.
    pub(crate) fn give(self, path: &Path) -> io::Result<()> {
        let Some(id) = self.0 else { return Ok(()) };
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        fchownat(nix::fcntl::AT_FDCWD, path, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)), flags)?;
        Ok(())
    }
}

/// What is on disk.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Table {
    /// First id of this node's range.
    first: u32,
    /// The next id that nobody had.
    next: u32,
    namespaces: BTreeMap<String, u32>,
}

/// The owners of all namespaces of a node.
#[derive(Debug)]
pub(crate) struct Owners {
    file: PathBuf,
    /// Ids that may be given out; `None` where all are the agent's user.
    ids: Option<Range<u32>>,
    table: Mutex<Table>,
}

impl Owners {
    /// Reads what `data_dir` remembers.
    ///
    /// # Errors
    /// When it cannot be read: to begin anew would give ids out twice.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        Self::with(data_dir, usable_ids()?)
    }

    fn with(data_dir: &Path, ids: Option<Range<u32>>) -> io::Result<Self> {
        let file = data_dir.join(FILE);
        let mut table = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", file.display())))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Table::default(),
            Err(error) => return Err(error),
        };
        if let Some(ids) = &ids
            && table.next == 0
        {
            let blocks = (ids.len() / BLOCK as usize).max(1);
            let block = u32::try_from(rand::random_range(0..blocks)).unwrap_or_default();
            table.first = ids.start + block * BLOCK;
            table.next = table.first + COMPILER_OFFSET + 1;
        }
        Ok(Self { file, ids, table: Mutex::new(table) })
    }

    /// Whose a namespace's files are; the first time it is asked, that is decided and written down.
    ///
    /// # Errors
    /// When it cannot be written down, or no id is left.
    pub(crate) fn of(&self, namespace_uid: &str) -> io::Result<Owner> {
        let Some(ids) = &self.ids else { return Ok(Owner::AGENT) };
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = table.namespaces.get(namespace_uid) {
            return Ok(Owner(Some(*id)));
        }
        if !ids.contains(&table.next) {
            return Err(io::Error::other("no user id is left for another namespace"));
        }
        let mut new = table.clone();
        let id = new.next;
        new.next += 1;
        new.namespaces.insert(namespace_uid.to_owned(), id);
        self.write(&new)?;
        *table = new;
        Ok(Owner(Some(id)))
    }

    /// As whom compilers run: a user that owns nothing.
    pub(crate) fn compiler(&self) -> Owner {
        let first = self.table.lock().unwrap_or_else(PoisonError::into_inner).first;
        Owner(self.ids.as_ref().map(|_| first + COMPILER_OFFSET))
    }

    /// The namespaces that have a user of their own.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).namespaces.keys().cloned().collect()
    }

    /// Forgets a namespace that is gone with all its files. Its id is not given out again.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub(crate) fn forget(&self, namespace_uid: &str) -> io::Result<()> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.namespaces.contains_key(namespace_uid) {
            let mut new = table.clone();
            new.namespaces.remove(namespace_uid);
            self.write(&new)?;
            *table = new;
        }
        Ok(())
    }

    /// On disk before it is used.
    fn write(&self, table: &Table) -> io::Result<()> {
        let directory = self.file.parent().unwrap_or(Path::new("."));
        let mut new = tempfile::NamedTempFile::new_in(directory)?;
        new.write_all(&serde_json::to_vec(table)?)?;
        new.as_file().sync_all()?;
        new.persist(&self.file).map_err(|error| error.error)?;
        File::open(directory)?.sync_all()
    }
}

/// The ids that this process can become and give files to, if it can at all.
fn usable_ids() -> io::Result<Option<Range<u32>>> {
    let may = Uid::effective().is_root() && effective_capabilities()? & NEEDED_CAPABILITIES == NEEDED_CAPABILITIES;
    if !may {
        return Ok(None);
    }
    let read = |file| fs::read_to_string(file).map(|text| extents(&text));
    Ok(choose(&read("/proc/self/uid_map")?, &read("/proc/self/gid_map")?))
}

fn effective_capabilities() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let text = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    u64::from_str_radix(text.trim(), 16).map_err(io::Error::other)
}

/// The ids that exist in this user namespace, by `uid_map` or `gid_map`.
fn extents(text: &str) -> Vec<Range<u32>> {
    let number = |word: Option<&str>| word.and_then(|word| word.parse::<u32>().ok());
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (start, _, count) = (number(words.next())?, number(words.next())?, number(words.next())?);
        Some(start..start.saturating_add(count))
    };
    text.lines().filter_map(line).collect()
}

fn choose(users: &[Range<u32>], groups: &[Range<u32>]) -> Option<Range<u32>> {
    let holds = |extents: &[Range<u32>], ids: &Range<u32>| {
        extents.iter().any(|extent| extent.start <= ids.start && ids.end <= extent.end)
    };
    if holds(users, &FREE_IDS) && holds(groups, &FREE_IDS) {
        return Some(FREE_IDS);
    }
    let last = users.iter().map(|extent| extent.end).max()?.min(libc::uid_t::from(u16::MAX - 2));
    let some = FIRST_MAPPED_ID..last;
    (some.len() > 1 && holds(users, &some) && holds(groups, &some)).then_some(some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn an_id_belongs_to_one_namespace_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let owners = Owners::with(directory.path(), Some(FREE_IDS)).unwrap();
        let [one, two] = ["one", "two"].map(|uid| owners.of(uid).unwrap());
        assert!(one != two && one != owners.compiler() && owners.of("one").unwrap() == one);
        assert!(FREE_IDS.contains(&one.id().unwrap()));
        owners.forget("two").unwrap();
        let again = Owners::with(directory.path(), Some(FREE_IDS)).unwrap();
        assert_eq!((again.of("one").unwrap(), again.compiler()), (one, owners.compiler()));
        let three = again.of("three").unwrap();
        assert!(three != one && three != two, "not that of a namespace that is gone");
        assert!(again.of("two").unwrap() != two);
    }

    #[test]
    fn a_table_that_cannot_be_read_is_no_empty_table() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), "{").unwrap();
        assert!(Owners::with(directory.path(), Some(FREE_IDS)).is_err());
    }

    #[test]
    fn an_ordinary_user_has_one_owner_for_all() {
        let directory = tempfile::tempdir().unwrap();
        let owners = Owners::with(directory.path(), None).unwrap();
        assert_eq!((owners.of("one").unwrap(), owners.compiler()), (Owner::AGENT, Owner::AGENT));
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        Owner::AGENT.give(&file).unwrap();
        assert!(!directory.path().join(FILE).exists());
    }

    #[test]
    fn ids_run_out_instead_of_coming_back() {
        let directory = tempfile::tempdir().unwrap();
        let owners = Owners::with(directory.path(), Some(10..13)).unwrap();
        assert_eq!(["a", "b"].map(|uid| owners.of(uid).unwrap().id()), [Some(11), Some(12)]);
        assert!(owners.of("c").is_err());
    }

    #[test]
    fn links_are_given_away_themselves() {
        if usable_ids().unwrap().is_none() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&file, "").unwrap();
        symlink(&file, &link).unwrap();
        Owner(Some(12_345)).give(&link).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().uid(), 0);
        assert_eq!(fs::symlink_metadata(&link).unwrap().uid(), 12_345);
    }

    #[test]
    fn ids_are_chosen_from_those_that_exist() {
        let all = "         0          0 4294967295\n";
        let some = "         0     100000      65536\n";
        let few = "0 1000 1\n";
        let choose = |users, groups| choose(&extents(users), &extents(groups));
        assert_eq!(choose(all, all), Some(FREE_IDS));
        assert_eq!(choose(some, some), Some(20_000..65_533));
        assert_eq!(choose(all, some), choose(some, some));
        assert_eq!(choose(all, few), None, "a group of each id must exist too");
        assert_eq!(choose(few, few), None);
        assert_eq!(choose("", ""), None);
    }
}
