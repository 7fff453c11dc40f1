//! What a process may use of the machine. The kernel keeps to it, whatever the process does.

use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::{SysconfVar, sysconf},
};
use std::{
    fs::File,
    io::{self, Read},
};

/// Memory that the runner itself may need beyond its guests: stacks of threads that come later, code being loaded.
const HEADROOM_BYTES: u64 = 256 << 20;
/// A process's sizes in one line.
const STATM_BYTES: u64 = 256;
/// Which word of it says how many pages it could write to that are its own.
const STATM_DATA: usize = 5;

/// A core file would hold every guest's memory.
pub(super) fn no_core() -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?)
}

/// How much memory a runner may allocate once its engine is there.
///
/// The limit is on memory of its own that it can write to (`RLIMIT_DATA`). The pool's reservations are none of it until
/// an instance grows into them, so unlike a limit on address space it can be near what is really used, and unlike one
/// on resident memory the kernel enforces it: growing fails, for a guest as an error, and nobody is killed. It would
/// not count shared memory, which the list of system calls has none of. Control groups are used where the operator put
/// the agent into one; making more would need their tree to be writable, which it hardly ever is.
#[derive(Debug)]
pub(super) struct MemoryCeiling {
    bytes: Option<u64>,
    /// Opened while procfs can be reached.
    sizes: Option<File>,
}

impl MemoryCeiling {
    pub(super) fn new(bytes: Option<u64>) -> Self {
        Self { bytes, sizes: File::open("/proc/self/statm").ok() }
    }

    /// From here on at most so much more.
    pub(super) fn set(self) -> io::Result<()> {
        let Some(bytes) = self.bytes else { return Ok(()) };
        let reserved = match self.sizes {
            Some(sizes) => data_bytes(sizes)?,
            // Without procfs nobody knows what the pool took, and a guess would be wrong.
            None => return Ok(()),
        };
        let (_, hard) = getrlimit(Resource::RLIMIT_DATA)?;
        let limit = reserved.saturating_add(bytes).saturating_add(HEADROOM_BYTES).min(hard);
        Ok(setrlimit(Resource::RLIMIT_DATA, limit, limit)?)
    }
}

fn data_bytes(sizes: File) -> io::Result<u64> {
    let mut text = String::new();
    sizes.take(STATM_BYTES).read_to_string(&mut text)?;
    let pages = text.split_whitespace().nth(STATM_DATA).and_then(|word| word.parse::<u64>().ok());
    let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|bytes| u64::try_from(bytes).ok());
    pages.zip(page).map(|(pages, page)| pages.saturating_mul(page)).ok_or_else(|| io::Error::other("no such figure"))
}
