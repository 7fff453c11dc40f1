//! How much memory this process has, and the machine: what the ceiling over all guests is held against.
//!
//! Both come from procfs. A runner that has confined itself cannot open it any more, so [`Resident`] is opened before.

use nix::unistd::{SysconfVar, sysconf};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
};

/// The file has seven numbers.
const MAX_STATM_BYTES: usize = 256;

/// Memory of this process that is in use, now.
#[derive(Debug)]
pub(crate) struct Resident {
    statm: File,
    page_bytes: u64,
}

impl Resident {
    pub(crate) fn open() -> io::Result<Self> {
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|bytes| u64::try_from(bytes).ok());
        let page_bytes = page_bytes.ok_or_else(|| io::Error::other("the page size is not known"))?;
        Ok(Self { statm: File::open("/proc/self/statm")?, page_bytes })
    }

    /// `None` when the kernel does not say.
    pub(crate) fn bytes(&self) -> Option<u64> {
        let mut text = [0; MAX_STATM_BYTES];
        let count = self.statm.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..count)?).ok()?;
        // Size, then what of it is resident, both in pages.
        let pages = text.split_whitespace().nth(1)?.parse::<u64>().ok()?;
        Some(pages.saturating_mul(self.page_bytes))
    }
}

/// What the machine has.
///
/// # Errors
/// Where there is no procfs, or it says something else.
pub(crate) fn machine_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.map(|kibibytes| kibibytes << 10).ok_or_else(|| io::Error::other("/proc/meminfo has no MemTotal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_touched_is_seen() {
        let resident = Resident::open().unwrap();
        let before = resident.bytes().unwrap();
        let touched = vec![1_u8; 64 << 20];
        let after = resident.bytes().unwrap();
        assert!(after > before + (32 << 20), "{before} bytes, then {after} with {} more", touched.len());
        assert!(after < machine_bytes().unwrap());
    }
}
