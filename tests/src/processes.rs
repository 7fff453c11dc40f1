//! Looking at processes from outside: children, descriptors, environment, memory, processor time.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Linux shows processor time in hundredths of a second, whatever it counts in.
const TICK: Duration = Duration::from_millis(10);

/// States of sockets, as Linux numbers them: `FIN_WAIT1`, `FIN_WAIT2`, `CLOSE_WAIT`, `LAST_ACK`.
const HALF_OPEN: [&str; 4] = ["04", "05", "08", "09"];

/// Every process of the machine.
#[must_use]
pub fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether a process has its working directory or root below `directory`, or was told a path there.
#[must_use]
pub fn works_below(pid: u32, directory: &Path) -> bool {
    let stands =
        |link: &str| fs::read_link(format!("/proc/{pid}/{link}")).is_ok_and(|path| path.starts_with(directory));
    stands("cwd") || stands("root") || command_line(pid).iter().any(|word| Path::new(word).starts_with(directory))
}

/// Process ids of the children of `pid`, and theirs.
#[must_use]
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut waiting = vec![pid];
    while let Some(parent) = waiting.pop() {
        let Ok(tasks) = fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        for task in tasks.flatten() {
            let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            let children = text.split_whitespace().filter_map(|word| word.parse().ok());
            for child in children {
                found.push(child);
                waiting.push(child);
            }
        }
    }
    found
}

/// The command line of a process.
#[must_use]
pub fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The environment of a process as it was started.
#[must_use]
pub fn environment(pid: u32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()).replace('\0', "\n")
}

/// What each open descriptor of a process points at.
#[must_use]
pub fn descriptors(pid: u32) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

/// How many threads a process has.
#[must_use]
pub fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map(Iterator::count).unwrap_or_default()
}

/// Inodes of the sockets that are in state LISTEN anywhere, TCP over IPv4 and IPv6.
#[must_use]
pub fn listening_inodes() -> Vec<String> {
    inodes_in(&["0A"])
}

/// How many TCP sockets a process has of which one side is closed and the other is not.
#[must_use]
pub fn half_open(pid: u32) -> usize {
    let half_open: Vec<_> = inodes_in(&HALF_OPEN).iter().map(|inode| format!("socket:[{inode}]")).collect();
    let own = descriptors(pid);
    own.iter().filter(|path| half_open.iter().any(|socket| path.as_os_str() == socket.as_str())).count()
}

/// Inodes of TCP sockets in these states, over IPv4 and IPv6.
fn inodes_in(states: &[&str]) -> Vec<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    let columns = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    columns
        .filter(|columns| columns.get(3).is_some_and(|state| states.contains(state)))
        .filter_map(|columns| columns.get(9).map(|inode| (*inode).to_owned()))
        .collect()
}

/// Proportional set size in KiB: what is shared counts in parts, so it grows when others that share it end.
#[must_use]
pub fn pss_kib(pid: u32) -> Option<u64> {
    rollup_kib(pid, "Pss:")
}

/// Memory in KiB that is no file's and so nobody else's.
#[must_use]
pub fn anonymous_kib(pid: u32) -> Option<u64> {
    rollup_kib(pid, "Anonymous:")
}

fn rollup_kib(pid: u32, key: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Mappings of memory, of which the kernel allows a process only so many (`vm.max_map_count`).
#[must_use]
pub fn mappings(pid: u32) -> usize {
    fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default().lines().count()
}

/// Processor time that all threads of a process have used.
#[must_use]
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything: state is the first, user and system time the 12th and 13th.
    let words: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |index: usize| words.get(index)?.parse::<u32>().ok();
    Some(TICK * (ticks(11)? + ticks(12)?))
}

/// The user that a process belongs to, while there is one.
#[must_use]
pub fn user(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok())
}
