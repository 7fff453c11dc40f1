//! How much memory a runner takes, seen from outside. Its own ceiling ends containers before this does; who gets here
//! does not keep to it any more, so the whole process goes before the machine has none left for others. (Should that
//! come too late, the kernel takes the runner before the agent: see its `oom_score_adj`.)

use super::Runner;
use std::{
    fs,
    sync::{Arc, Weak},
    time::Duration,
};
use tracing::warn;

/// How often a runner is looked at: reading a page of procfs.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Of the machine's memory, in eighths, what one runner may take: more than the three quarters that it allows its guests.
const SHARE_EIGHTHS: u64 = 7;

/// What a runner may take on this machine; `None` where that is not known.
pub(super) fn ceiling() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok()?;
    let machine = kibibytes(&machine, "MemTotal")?;
    // Of a control group that has all of this machine, as in a container.
    let groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let group = groups.iter().find_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    Some((machine << 10).min(group.unwrap_or(u64::MAX)) / 8 * SHARE_EIGHTHS)
}

/// Kills the runner once it takes more than `ceiling_bytes`. Ends with it.
pub(super) async fn guard(runner: Weak<Runner>, ceiling_bytes: u64) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let Some(runner) = runner.upgrade() else { return };
        let Some(bytes) = taken(runner.process.pid()) else { continue };
        if bytes > ceiling_bytes {
            warn!(namespace = runner.namespace, bytes, ceiling_bytes, "a runner takes too much memory");
            return kill(&runner, bytes, ceiling_bytes);
        }
    }
}

fn kill(runner: &Arc<Runner>, bytes: u64, ceiling_bytes: u64) {
    runner.kill_because(format!("it took {bytes} bytes of memory, of at most {ceiling_bytes}"));
}

/// Resident and swapped memory of a process and the tables that describe it.
fn taken(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    sum(&status)
}

fn sum(status: &str) -> Option<u64> {
    let optional = |key| kibibytes(status, key).unwrap_or(0);
    Some((kibibytes(status, "VmRSS")? + optional("VmSwap") + optional("VmPTE")) << 10)
}

fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    rest.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_all_of_it() {
        assert_eq!(sum("VmRSS:\t  100 kB\nVmPTE:\t 20 kB\nVmSwap:\t 3 kB\n"), Some(123 << 10));
        assert_eq!(sum("VmRSS:\t  100 kB\n"), Some(100 << 10));
        assert_eq!(sum("Name:\tzombie\n"), None, "a process that is dead takes nothing");
        assert!(taken(std::process::id()).unwrap() < ceiling().unwrap());
    }
}
