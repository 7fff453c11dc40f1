//! How much memory there is for this agent and all that it starts, and how much of it is left: the machine's, or that of
//! the narrowest control group that the agent is in. Pure but for reading procfs and the groups' files.

use super::meminfo_bytes;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// Bytes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total_bytes: u64,
    /// What can be had without taking anything from anybody: free, or of files that can be read again.
    pub(crate) available_bytes: u64,
}

/// What there is now; `None` where nobody says.
pub(crate) fn now() -> Option<Memory> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    within(&meminfo, &groups, |path| fs::read_to_string(Path::new(GROUPS).join(path)).ok())
}

/// The machine's memory by the text of `/proc/meminfo`, and what the groups of `/proc/self/cgroup` leave of it.
fn within(meminfo: &str, groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<Memory> {
    let total_bytes = meminfo_bytes(meminfo, "MemTotal")?;
    let mut memory = Memory { total_bytes, available_bytes: meminfo_bytes(meminfo, "MemAvailable").unwrap_or(0) };
    for group in groups.lines().filter_map(Group::of_line).flat_map(Group::and_above) {
        let Some(limit_bytes) = group.number(group.files.limit, &read).filter(|limit| *limit < total_bytes) else {
            continue;
        };
        let used_bytes = group.used_bytes(&read).unwrap_or(0);
        memory.total_bytes = memory.total_bytes.min(limit_bytes);
        memory.available_bytes = memory.available_bytes.min(limit_bytes.saturating_sub(used_bytes));
    }
    Some(memory)
}

/// Names of a group's files, which differ between the two kinds of hierarchies.
#[derive(Debug, Clone, Copy)]
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// In `memory.stat`: of files, and not used lately.
    inactive: &'static str,
}

const UNIFIED: Files = Files { limit: "memory.max", usage: "memory.current", inactive: "inactive_file" };
const LEGACY: Files =
    Files { limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", inactive: "total_inactive_file" };

/// A directory with a group's files, below [`GROUPS`].
#[derive(Debug, Clone)]
struct Group {
    hierarchy: &'static str,
    path: PathBuf,
    files: Files,
}

impl Group {
    /// A line of `/proc/self/cgroup`, if its group may limit memory.
    fn of_line(line: &str) -> Option<Self> {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let (hierarchy, files) = match controllers {
            "" => ("", UNIFIED),
            "memory" => ("memory", LEGACY),
            _ => return None,
        };
        Some(Self { hierarchy, path: PathBuf::from(path.trim_start_matches('/')), files })
    }

    /// In a container the path is often not what the files lie below, so what lies above counts too, up to the top.
    fn and_above(self) -> Vec<Self> {
        let above = self.path.ancestors().map(|path| Self { path: path.to_owned(), ..self.clone() });
        above.collect()
    }

    fn text(&self, file: &str, read: &impl Fn(&Path) -> Option<String>) -> Option<String> {
        read(&Path::new(self.hierarchy).join(&self.path).join(file))
    }

    fn number(&self, file: &str, read: &impl Fn(&Path) -> Option<String>) -> Option<u64> {
        self.text(file, read)?.trim().parse().ok()
    }

    /// What could not be had back: kubelet's working set.
    fn used_bytes(&self, read: &impl Fn(&Path) -> Option<String>) -> Option<u64> {
        let statistics = self.text("memory.stat", read).unwrap_or_default();
        let inactive = statistics.lines().find_map(|line| line.strip_prefix(self.files.inactive)?.strip_prefix(' '));
        let inactive_bytes = inactive.and_then(|number| number.trim().parse().ok()).unwrap_or(0);
        Some(self.number(self.files.usage, read)?.saturating_sub(inactive_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:  1000 kB\nMemFree:  1 kB\nMemAvailable:  600 kB\n";

    #[test]
    fn the_narrowest_group_counts() {
        let files = |path: &Path| {
            let text = match path.to_str()? {
                "memory.max" => "900000\n",
                "a/memory.max" => "500000\n",
                "a/memory.current" => "400000\n",
                "a/memory.stat" => "anon 1\ninactive_file 100000\n",
                "a/b/memory.max" => "max\n",
                "memory/c/memory.limit_in_bytes" => "700000\n",
                "memory/c/memory.usage_in_bytes" => "50000\n",
                "memory/c/memory.stat" => "inactive_file 9\ntotal_inactive_file 20000\n",
                "huge/memory.max" => "9223372036854771712\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        for (groups, total_bytes, available_bytes) in [
            ("0::/a/b\n", 500_000, 200_000),
            ("0::/\n", 900_000, 614_400),
            ("0::/elsewhere/x\n", 900_000, 614_400),
            ("5:cpu,cpuacct:/c\n4:memory:/c\n", 700_000, 614_400),
            ("", 1_024_000, 614_400),
        ] {
            assert_eq!(within(MEMINFO, groups, files), Some(Memory { total_bytes, available_bytes }), "{groups}");
        }
        let alone = |path: &Path| files(path).filter(|_| path.starts_with("huge"));
        let whole = Some(Memory { total_bytes: 1_024_000, available_bytes: 614_400 });
        assert_eq!(within(MEMINFO, "0::/huge\n", alone), whole, "a limit beyond the machine is none");
        assert_eq!(within("", "0::/a\n", files), None);
    }

    #[test]
    fn this_machine_has_some() {
        let memory = now().unwrap();
        assert!(memory.available_bytes > 0 && memory.available_bytes <= memory.total_bytes, "{memory:?}");
    }
}
