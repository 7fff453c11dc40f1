//! Facts about the machine, read from `/proc` and the like. What cannot be read is left empty rather than invented.

pub(crate) mod memory;

use crate::stats::summary::{DiskUse, MachineUse};
use std::{fs, path::Path};

/// What a Node object says about its machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) cpus: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) storage_bytes: u64,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    pub(crate) machine_id: String,
    pub(crate) boot_id: String,
    pub(crate) system_uuid: String,
}

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The value of `key` in `/proc/meminfo` style text, in bytes.
fn meminfo_bytes(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kibibytes: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The value of `key` in `/etc/os-release` style text.
fn os_release(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches('"').to_owned())
}

/// Time that `/proc/stat` counts in one of its steps.
const JIFFY_NANOS: u64 = 10_000_000;
/// The columns of a line of `/proc/stat` that are work: user, nice, system, then interrupts and what a host took.
const WORKING_COLUMNS: [usize; 6] = [0, 1, 2, 5, 6, 7];

/// The file system below `directory`.
pub(crate) fn disk(directory: &Path) -> Option<DiskUse> {
    let stat = nix::sys::statvfs::statvfs(directory).ok()?;
    Some(DiskUse {
        capacity_bytes: stat.blocks() * stat.fragment_size(),
        available_bytes: stat.blocks_available() * stat.fragment_size(),
        inodes: stat.files(),
        inodes_free: stat.files_available(),
    })
}

/// Time that all processors together have worked since boot, by the text of `/proc/stat`.
fn cpu_nanos(text: &str) -> Option<u64> {
    let columns: Vec<u64> =
        text.strip_prefix("cpu ")?.lines().next()?.split_whitespace().flat_map(str::parse).collect();
    let steps: u64 = WORKING_COLUMNS.iter().filter_map(|index| columns.get(*index)).sum();
    Some(steps * JIFFY_NANOS)
}

/// Process ids: those in use, and how many there can be.
pub(crate) fn processes() -> Option<(u64, u64)> {
    // The last but one word's second half of `/proc/loadavg` counts the scheduling entities: `0.1 0.2 0.3 1/234 567`.
    let entities = line("/proc/loadavg").split(['/', ' ']).nth(4).and_then(|text| text.parse().ok());
    entities.zip(line("/proc/sys/kernel/pid_max").parse().ok())
}

/// What the machine uses now.
pub(crate) fn in_use(data_dir: &Path) -> MachineUse {
    let memory = memory::now();
    MachineUse {
        cpu_nanos: cpu_nanos(&line("/proc/stat")).unwrap_or(0),
        cpu_nanocores: None,
        memory_bytes: memory.map_or(0, |memory| memory.total_bytes),
        memory_available_bytes: memory.map_or(0, |memory| memory.available_bytes),
        disk: disk(data_dir).unwrap_or_default(),
    }
}

/// Reads the machine's facts; `data_dir` says whose file system counts as storage.
pub(crate) fn facts(data_dir: &Path) -> Facts {
    let machine_id = line("/etc/machine-id");
    let product = line("/sys/class/dmi/id/product_uuid");
    Facts {
        cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        memory_bytes: memory::now().map_or(0, |memory| memory.total_bytes),
        storage_bytes: disk(data_dir).map_or(0, |disk| disk.capacity_bytes),
        kernel: line("/proc/sys/kernel/osrelease"),
        os_image: os_release(&line("/etc/os-release"), "PRETTY_NAME").unwrap_or_default(),
        system_uuid: if product.is_empty() { machine_id.clone() } else { product },
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        machine_id,
    }
}

/// The processor as Go and so Kubernetes call it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let text = "MemTotal:       24576 kB\nMemFree:  1 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(meminfo_bytes(text, "MemTotal"), Some(24576 * 1024));
        assert_eq!(meminfo_bytes(text, "MemAvailable"), Some(2048 * 1024));
        assert_eq!(meminfo_bytes(text, "Mem"), None);
        let text = "cpu  100 10 50 1000 7 3 2 1 0 0\ncpu0 1 1 1 1\n";
        assert_eq!(cpu_nanos(text), Some(166 * JIFFY_NANOS), "neither idle nor waiting is work");
        let text = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n";
        assert_eq!(os_release(text, "PRETTY_NAME").as_deref(), Some("Debian GNU/Linux 13"));
    }

    #[test]
    fn this_machine_has_something() {
        let facts = facts(Path::new("/"));
        let used = in_use(Path::new("/"));
        assert!(used.cpu_nanos > 0 && used.memory_available_bytes > 0 && used.disk.available_bytes > 0);
        assert!(processes().is_some_and(|(used, all)| used > 0 && used < all));
        assert!(facts.cpus > 0 && facts.memory_bytes > 0 && facts.storage_bytes > 0 && !facts.kernel.is_empty());
    }
}
