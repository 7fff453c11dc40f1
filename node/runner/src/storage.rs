//! How much guests may keep in their mounts.
//!
//! A volume's account ([`account`]) is shared by all runs of this runner that mount it, and may be part of its pod's. It
//! begins with what is on disk when the first run mounts the volume, and is kept exact by what guests do: names are
//! counted as they come and go, bytes by the sizes of the files that are open ([`volume`]). Where that cannot be known,
//! because two guests change one file at the same moment, the account errs on the side of too much. Below all of it lies
//! the space that the machine itself needs ([`floor`]).
//!
//! What must never happen here: bytes on disk that no account knows of.

pub(crate) mod account;
pub(crate) mod floor;
pub(crate) mod volume;

use crate::{
    host::files::{VOLUMES, open_volume},
    protocol::Mount,
    tree::{self, Usage},
};
use account::Account;
use floor::Floor;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Weak},
};
use volume::Volume;

/// Names in a volume, where its mount does not say less.
const ENTRIES_MAX: u64 = 64 << 10;

/// The accounts of this runner. One lives as long as a run mounts its volume.
#[derive(Debug)]
pub(crate) struct Accounts {
    root: PathBuf,
    floor: Arc<Floor>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    volumes: HashMap<PathBuf, Weak<Volume>>,
    pods: HashMap<String, Weak<Account>>,
}

impl Accounts {
    /// Of a runner with this root.
    ///
    /// # Errors
    /// When its volumes cannot be opened.
    pub(crate) fn new(root: PathBuf) -> io::Result<Self> {
        let floor = Arc::new(Floor::new(&root.join(VOLUMES))?);
        Ok(Self { root, floor, open: Mutex::default() })
    }

    /// The volumes behind mounts, in their order; read-only ones have none. Reads whole volumes: not for async threads.
    ///
    /// # Errors
    /// When a volume cannot be measured.
    pub(crate) fn open(&self, pod_uid: &str, mounts: &[Mount]) -> io::Result<Vec<Option<Arc<Volume>>>> {
        mounts
            .iter()
            .map(|mount| if mount.read_only { Ok(None) } else { self.volume(pod_uid, mount).map(Some) })
            .collect()
    }

    fn volume(&self, pod_uid: &str, mount: &Mount) -> io::Result<Arc<Volume>> {
        let quota = mount.quota.clone().unwrap_or_default();
        let path = if quota.volume.as_os_str().is_empty() { &mount.source } else { &quota.volume };
        if let Some(volume) = self.open.lock().volumes.get(path).and_then(Weak::upgrade) {
            return Ok(volume);
        }
        // Nobody writes to a volume that no run mounts, so what is measured stays true until the first run has it; and
        // where two runs measure at once, they measure the same.
        let usage = if quota.counts_from_now {
            Usage::default()
        } else {
            tree::measure_open(open_volume(&self.root, path).map_err(io::Error::other)?)?
        };
        let mut open = self.open.lock();
        if let Some(volume) = open.volumes.get(path).and_then(Weak::upgrade) {
            return Ok(volume);
        }
        open.volumes.retain(|_, volume| volume.strong_count() > 0);
        open.pods.retain(|_, pod| pod.strong_count() > 0);
        let pod = quota.pod_bytes_max.map(|bytes_max| {
            open.pods.get(pod_uid).and_then(Weak::upgrade).unwrap_or_else(|| {
                let pod = Account::new(Some(bytes_max), u64::MAX, None, Arc::clone(&self.floor));
                open.pods.insert(pod_uid.to_owned(), Arc::downgrade(&pod));
                pod
            })
        });
        let entries_max = quota.entries_max.unwrap_or(ENTRIES_MAX).min(ENTRIES_MAX);
        let account = Account::new(quota.bytes_max, entries_max, pod, Arc::clone(&self.floor));
        account.burden(usage);
        let volume = Arc::new(Volume::new(account));
        open.volumes.insert(path.clone(), Arc::downgrade(&volume));
        Ok(volume)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{protocol::Quota, tree::ENTRY_BYTES};
    use std::fs;

    fn mount(source: &str, quota: Option<Quota>) -> Mount {
        Mount { source: source.into(), target: "/data".to_owned(), read_only: false, quota }
    }

    #[test]
    fn runs_share_a_volume_and_volumes_their_pods_limit() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a/sub", "b"] {
            fs::create_dir_all(root.path().join("volumes/pod").join(name)).unwrap();
        }
        let accounts = Accounts::new(root.path().to_owned()).unwrap();
        let quota = |volume: &str| {
            Some(Quota { volume: volume.into(), pod_bytes_max: Some(4 * 4096 + ENTRY_BYTES), ..Quota::default() })
        };
        let mounts = [
            mount("volumes/pod/a", quota("volumes/pod/a")),
            mount("volumes/pod/a/sub", quota("volumes/pod/a")),
            mount("volumes/pod/b", quota("volumes/pod/b")),
        ];
        let volumes: Vec<_> = accounts.open("pod", &mounts).unwrap().into_iter().flatten().collect();
        assert!(Arc::ptr_eq(&volumes[0], &volumes[1]) && !Arc::ptr_eq(&volumes[0], &volumes[2]));
        let usage = |blocks: u64| Usage { bytes: blocks * 4096, entries: 1 };
        volumes[0].account().charge(usage(2)).unwrap();
        volumes[2].account().charge(usage(2)).unwrap_err();
        volumes[2].account().charge(usage(1)).unwrap();
        // The sub directory was there before: what is on disk counts from the first mount on.
        drop(volumes);
        fs::write(root.path().join("volumes/pod/b/file"), vec![0; 3 * 4096]).unwrap();
        let again = accounts.open("pod", &mounts).unwrap();
        let [Some(a), _, Some(b)] = again.as_slice() else { panic!("{again:?}") };
        assert_eq!(a.account().used(), Usage { bytes: 4096 + ENTRY_BYTES, entries: 1 });
        assert_eq!(b.account().used(), Usage { bytes: 3 * 4096 + ENTRY_BYTES, entries: 1 });
        b.account().charge(usage(1)).unwrap_err();
    }

    #[test]
    fn read_only_mounts_need_no_account() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(VOLUMES)).unwrap();
        let accounts = Accounts::new(root.path().to_owned()).unwrap();
        let mount = Mount { read_only: true, ..mount("volumes/none", None) };
        assert!(accounts.open("pod", &[mount]).unwrap()[0].is_none());
    }
}
