//! Volumes of medium `Memory`: a file system in memory, mounted at the volume's directory. Where the agent must not mount,
//! the directory is all there is, with the same limit.
//!
//! What is mounted lies below a directory that only the agent writes, so nobody can put something else there. It outlives
//! the agent, is found again by the next one, and goes with the pod's directory.

use crate::{pod::spec, sandbox::Owner};
use coracle_objects::{quantity::Quantity, rules::pod::limits};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{lstat, stat},
};
use serde_json::Value;
use std::{
    fs, io,
    path::Path,
    sync::{Mutex, PoisonError},
};

/// Files and directories of one: what the runner lets guests make, and some for what it does not count.
const INODES_MAX: u64 = 70_000;
/// Of so many parts of what the node has for pods, all volumes together may be one.
const NODE_PARTS: u64 = 4;
/// And of so many parts of what is left of that, one that has no limit.
const UNLIMITED_PARTS: u64 = 4;
/// What the kernel shows as the device of such a mount.
const DEVICE: &str = "coracle-memory";

/// Whether a volume is to be kept in memory.
pub(super) fn is_wanted(volume: &Value) -> bool {
    volume["emptyDir"]["medium"] == "Memory"
}

/// What such a volume may hold: its `sizeLimit` or what its pod's containers may have of the memory, whichever is less, as
/// kubelet has it; `None` where neither is said.
pub(super) fn limit_bytes(pod: &Value, volume: &Value) -> Option<u64> {
    let own =
        Quantity::from_value(&volume["emptyDir"]["sizeLimit"]).ok().and_then(|limit| u64::try_from(limit.ceil()).ok());
    let of_pod = u64::try_from(limits(pod).memory_bytes()).ok();
    [own, of_pod].into_iter().flatten().filter(|bytes| *bytes > 0).min()
}

/// What a volume asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// What it is to hold at most, where somebody said so.
    pub(super) limit_bytes: Option<u64>,
    /// What the node has for pods.
    pub(super) node_bytes: u64,
}

impl Request {
    /// How large it is made beside others of `held_bytes`; `None` where that is too much for all of them. No guest's end
    /// gives back what is in a volume, so they must leave the node enough whatever is written.
    fn size_bytes(self, held_bytes: u64) -> Option<u64> {
        let left = (self.node_bytes / NODE_PARTS).saturating_sub(held_bytes);
        let bytes = self.limit_bytes.unwrap_or(left / UNLIMITED_PARTS);
        (bytes > 0 && bytes <= left).then_some(bytes)
    }
}

/// Mounts one, unless it is there already. False where this process must not, or where it would be too much.
///
/// # Errors
/// When it could be mounted and was not.
pub(super) fn provide(directory: &Path, request: Request, owner: Owner) -> io::Result<bool> {
    // Held from the look at what there is until there is one more.
    static TURN: Mutex<()> = Mutex::new(());
    if is_mounted(directory) {
        return Ok(true);
    }
    let Some(id) = owner.id() else { return Ok(false) };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // A volume is at `ns/NAMESPACE/volumes/POD/VOLUME`.
    let homes = directory.ancestors().nth(4).unwrap_or(directory);
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let Some(bytes) = request.size_bytes(held_bytes(&mounts, homes)) else { return Ok(false) };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = format!("size={bytes},nr_inodes={INODES_MAX},mode=0777,uid={id},gid={id}");
    match mount(Some(DEVICE), directory, Some("tmpfs"), flags, Some(options.as_str())) {
        Ok(()) => Ok(true),
        Err(Errno::EPERM | Errno::ENODEV) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What the volumes below a directory may hold together, by the kernel's list of mounts.
fn held_bytes(mounts: &str, homes: &Path) -> u64 {
    let sizes = mounts.lines().filter_map(|mount| {
        let mut words = mount.split(' ');
        let (device, at, options) = (words.next()?, words.next()?, words.nth(1)?);
        let below = device == DEVICE && Path::new(&at.replace("\\040", " ")).starts_with(homes);
        let size = options.split(',').find_map(|option| option.strip_prefix("size=")?.strip_suffix('k'));
        below.then(|| size?.parse::<u64>().ok()).flatten()
    });
    sizes.sum::<u64>() << 10
}

/// Whether something is mounted at a directory.
pub(super) fn is_mounted(directory: &Path) -> bool {
    let (Ok(here), Some(Ok(above))) = (lstat(directory), directory.parent().map(stat)) else { return false };
    here.st_dev != above.st_dev
}

/// The volumes of a pod that should be in memory and are on the disk, by name.
pub(crate) fn on_disk<'a>(pod: &'a Value, directory: &Path) -> Vec<&'a str> {
    let names = spec::items(&pod["spec"], "volumes").iter().filter(|volume| is_wanted(volume));
    names.map(|volume| spec::text(volume, "name")).filter(|name| !is_mounted(&directory.join(name))).collect()
}

/// Removes a pod's directory, and before that what is mounted in it.
///
/// # Errors
/// When something stays.
pub(crate) fn remove_pod(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        unmount(&entry.path())?;
    }
    super::remove(directory)
}

/// The same for all pods of a namespace, and for the namespace's own directory.
///
/// # Errors
/// As [`remove_pod`].
pub(crate) fn remove_namespace(directory: &Path) -> io::Result<()> {
    for pod in fs::read_dir(directory.join("volumes")).into_iter().flatten().flatten() {
        remove_pod(&pod.path())?;
    }
    super::remove(directory)
}

/// Guests that still have something open there keep it, and nobody else finds it any more.
fn unmount(directory: &Path) -> io::Result<()> {
    match umount2(directory, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // Nothing is mounted there, or it is none of this process's business.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT | Errno::EPERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Mounts as the kernel lists them.
    fn mounts_below(directory: &Path) -> usize {
        let directory = directory.to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().filter(|line| line.split(' ').nth(1).is_some_and(|at| at.starts_with(directory))).count()
    }

    /// On a node that has enough.
    fn request(bytes: u64) -> Request {
        Request { limit_bytes: Some(bytes), node_bytes: 1 << 30 }
    }

    #[test]
    fn the_least_of_what_is_said_is_the_limit() {
        for (empty_dir, containers, expected) in [
            (json!({"medium": "Memory"}), json!([{}]), None),
            (json!({"medium": "Memory", "sizeLimit": "8Ki"}), json!([{}]), Some(8192)),
            (json!({"medium": "Memory", "sizeLimit": "0"}), json!([{}]), None),
            (
                json!({"medium": "Memory", "sizeLimit": "8Ki"}),
                json!([{"resources": {"limits": {"memory": "3Ki"}}}, {"resources": {"limits": {"memory": "2Ki"}}}]),
                Some(5120),
            ),
            (json!({"medium": "Memory"}), json!([{"resources": {"limits": {"memory": "3Ki"}}}]), Some(3072)),
        ] {
            let pod = json!({"spec": {"containers": containers}});
            assert_eq!(limit_bytes(&pod, &json!({"emptyDir": empty_dir})), expected, "{pod}");
        }
    }

    #[test]
    fn all_together_are_no_more_than_a_part_of_what_the_node_has() {
        for (limit_bytes, node_bytes, held_bytes, expected) in [
            (Some(1024), 4096, 0, Some(1024)),
            (Some(1025), 4096, 0, None),
            (Some(1024), 4096, 1, None),
            (Some(24), 4096, 1000, Some(24)),
            (None, 4096, 0, Some(256)),
            (None, 4096, 1000, Some(6)),
            (None, 4096, 1024, None),
            (Some(1), 0, 0, None),
            (None, 0, 0, None),
        ] {
            let request = Request { limit_bytes, node_bytes };
            assert_eq!(request.size_bytes(held_bytes), expected, "{request:?} beside {held_bytes}");
        }
    }

    #[test]
    fn what_is_there_is_read_from_the_list_of_mounts() {
        let mounts = "coracle-memory /n/ns/u/volumes/p/a tmpfs rw,nosuid,size=64k,mode=777 0 0\n\
                      coracle-memory /n/ns/u/volumes/p/b\\040c tmpfs rw,size=8k 0 0\n\
                      coracle-memory /other/ns/u/volumes/p/a tmpfs rw,size=1k 0 0\n\
                      tmpfs /n/ns/u tmpfs rw,size=2k 0 0\nnonsense\n";
        assert_eq!(held_bytes(mounts, Path::new("/n/ns")), 72 << 10);
    }

    #[test]
    fn an_ordinary_agent_keeps_it_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!provide(directory.path(), request(1 << 20), Owner::AGENT).unwrap());
        let pod = json!({"spec": {"volumes": [
            {"name": "a", "emptyDir": {"medium": "Memory"}}, {"name": "b", "emptyDir": {}}]}});
        assert_eq!(on_disk(&pod, directory.path()), ["a"]);
    }

    #[test]
    fn what_is_mounted_is_full_at_its_limit_is_found_again_and_goes_with_its_pod() {
        let namespace = tempfile::tempdir().unwrap();
        let pod = namespace.path().join("volumes/pod");
        let volume = pod.join("cache");
        fs::create_dir_all(&volume).unwrap();
        let owner = Owner::user(12_345);
        if !nix::unistd::Uid::effective().is_root() || !provide(&volume, request(64 << 10), owner).unwrap() {
            return;
        }
        assert!(provide(&volume, request(64 << 10), owner).unwrap() && is_mounted(&volume));
        assert_eq!(mounts_below(namespace.path()), 1, "one, however often it is asked for");
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&volume).unwrap()), 12_345);
        fs::write(volume.join("fits"), vec![0; 32 << 10]).unwrap();
        let error = fs::write(volume.join("does-not"), vec![0; 64 << 10]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        remove_pod(&pod).unwrap();
        assert_eq!((mounts_below(namespace.path()), pod.exists()), (0, false));

        fs::create_dir_all(&volume).unwrap();
        assert!(provide(&volume, request(64 << 10), owner).unwrap());
        remove_namespace(namespace.path()).unwrap();
        assert_eq!((mounts_below(namespace.path()), namespace.path().exists()), (0, false));
    }
}
