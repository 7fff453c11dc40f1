//! Facts about the machine, read from `/proc` and the like. What cannot be read is left empty rather than invented.

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

/// What changes while the machine runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) processes: bool,
}

/// Less available memory is pressure (kubelet's default hard eviction threshold).
const MEMORY_AVAILABLE_MIN_BYTES: u64 = 100 * 1024 * 1024;
/// Less available storage, in percent, is pressure.
const STORAGE_AVAILABLE_MIN_PERCENT: u64 = 5;
/// Fewer free process ids, in percent, is pressure.
const PROCESSES_FREE_MIN_PERCENT: u64 = 5;

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

/// Total and available bytes of the file system below `directory`.
fn storage(directory: &Path) -> Option<(u64, u64)> {
    let stat = nix::sys::statvfs::statvfs(directory).ok()?;
    Some((stat.blocks() * stat.fragment_size(), stat.blocks_available() * stat.fragment_size()))
}

/// Reads the machine's facts; `data_dir` says whose file system counts as storage.
pub(crate) fn facts(data_dir: &Path) -> Facts {
    let machine_id = line("/etc/machine-id");
    let product = line("/sys/class/dmi/id/product_uuid");
    Facts {
        cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        memory_bytes: meminfo_bytes(&line("/proc/meminfo"), "MemTotal").unwrap_or(0),
        storage_bytes: storage(data_dir).map_or(0, |(total, _)| total),
        kernel: line("/proc/sys/kernel/osrelease"),
        os_image: os_release(&line("/etc/os-release"), "PRETTY_NAME").unwrap_or_default(),
        system_uuid: if product.is_empty() { machine_id.clone() } else { product },
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        machine_id,
    }
}

/// Reads what is under pressure.
pub(crate) fn pressure(data_dir: &Path) -> Pressure {
    let available = meminfo_bytes(&line("/proc/meminfo"), "MemAvailable");
    // The last but one word's second half of `/proc/loadavg` counts the scheduling entities: `0.1 0.2 0.3 1/234 567`.
    let entities = line("/proc/loadavg").split(['/', ' ']).nth(4).and_then(|text| text.parse::<u64>().ok());
    let process_ids = line("/proc/sys/kernel/pid_max").parse::<u64>().ok();
    Pressure {
        memory: available.is_some_and(|available| available < MEMORY_AVAILABLE_MIN_BYTES),
        disk: storage(data_dir)
            .is_some_and(|(total, available)| available.saturating_mul(100) < total * STORAGE_AVAILABLE_MIN_PERCENT),
        processes: entities
            .zip(process_ids)
            .is_some_and(|(used, all)| all.saturating_sub(used) * 100 < all * PROCESSES_FREE_MIN_PERCENT),
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
        let text = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n";
        assert_eq!(os_release(text, "PRETTY_NAME").as_deref(), Some("Debian GNU/Linux 13"));
    }

    #[test]
    fn this_machine_has_something() {
        let facts = facts(Path::new("/"));
        assert!(facts.cpus > 0 && facts.memory_bytes > 0 && facts.storage_bytes > 0 && !facts.kernel.is_empty());
    }
}
