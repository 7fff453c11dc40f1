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
use std::{fs, io, path::Path};

/// Files and directories of one: what the runner lets guests make, and some for what it does not count.
const INODES_MAX: u64 = 70_000;
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

/// How large such a volume is made on a node that has `node_bytes` for pods: its limit, and never more than that. Never 0,
/// which the kernel takes for no limit.
pub(super) fn size_bytes(pod: &Value, volume: &Value, node_bytes: u64) -> u64 {
    limit_bytes(pod, volume).unwrap_or(u64::MAX).min(node_bytes).max(1)
}

/// Mounts one of so many bytes, unless there is one already. False where this process must not.
///
/// # Errors
/// When it could be mounted and was not.
pub(super) fn provide(directory: &Path, bytes: u64, owner: Owner) -> io::Result<bool> {
    if is_mounted(directory) {
        return Ok(true);
    }
    let Some(id) = owner.id() else { return Ok(false) };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = format!("size={bytes},nr_inodes={INODES_MAX},mode=0777,uid={id},gid={id}");
    match mount(Some(DEVICE), directory, Some("tmpfs"), flags, Some(options.as_str())) {
        Ok(()) => Ok(true),
        Err(Errno::EPERM | Errno::ENODEV) => Ok(false),
        Err(error) => Err(error.into()),
    }
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
    fn none_is_larger_than_what_the_node_has_for_pods() {
        let volume = |size: Value| json!({"emptyDir": {"medium": "Memory", "sizeLimit": size}});
        for (size, node_bytes, expected) in [
            (Value::Null, 4096, 4096),
            (json!("1Ki"), 4096, 1024),
            (json!("1Ti"), 4096, 4096),
            (Value::Null, 0, 1),
            (json!("1Ki"), 0, 1),
        ] {
            let volume = volume(size);
            assert_eq!(size_bytes(&json!({"spec": {}}), &volume, node_bytes), expected, "{volume} of {node_bytes}");
        }
    }

    #[test]
    fn an_ordinary_agent_keeps_it_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!provide(directory.path(), 1 << 20, Owner::AGENT).unwrap());
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
        if !nix::unistd::Uid::effective().is_root() || !provide(&volume, 64 << 10, owner).unwrap() {
            return;
        }
        assert!(provide(&volume, 64 << 10, owner).unwrap() && is_mounted(&volume));
        assert_eq!(mounts_below(namespace.path()), 1, "one, however often it is asked for");
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&volume).unwrap()), 12_345);
        fs::write(volume.join("fits"), vec![0; 32 << 10]).unwrap();
        let error = fs::write(volume.join("does-not"), vec![0; 64 << 10]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        remove_pod(&pod).unwrap();
        assert_eq!((mounts_below(namespace.path()), pod.exists()), (0, false));

        fs::create_dir_all(&volume).unwrap();
        assert!(provide(&volume, 64 << 10, owner).unwrap());
        remove_namespace(namespace.path()).unwrap();
        assert_eq!((mounts_below(namespace.path()), namespace.path().exists()), (0, false));
    }
}
