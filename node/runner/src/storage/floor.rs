//! What guests leave free of the disk that the machine itself lives on.

use super::account::Full;
use nix::sys::statvfs::fstatvfs;
use parking_lot::Mutex;
use std::{
    fs::File,
    io,
    path::Path,
    time::{Duration, Instant},
};

/// Guests get no room when less than this part of the disk is free…
const RESERVE_PART: u64 = 20;
/// …or less than this, whichever is smaller.
const RESERVE_BYTES: u64 = 1 << 30;
/// How long what the disk said is believed, less what was taken since.
const BELIEVED_FOR: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(crate) struct Floor {
    /// Where to ask; `None`: there is no floor.
    disk: Option<File>,
    known: Mutex<Option<Known>>,
}

#[derive(Debug)]
struct Known {
    at: Instant,
    /// Bytes above the reserve.
    left: u64,
}

impl Floor {
    /// Of the disk that a directory is on.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        Ok(Self { disk: Some(File::open(directory)?), known: Mutex::default() })
    }

    #[cfg(test)]
    pub(crate) fn unlimited() -> Self {
        Self { disk: None, known: Mutex::default() }
    }

    /// Of a disk that had so many bytes above the reserve when it was asked last, and has none now.
    #[cfg(test)]
    pub(crate) fn with_room(left: u64) -> Self {
        let known = Known { at: Instant::now() + Duration::from_hours(1), left };
        // Procfs has no room for anything.
        Self { disk: Some(File::open("/proc/self/stat").unwrap()), known: Mutex::new(Some(known)) }
    }

    /// Takes room on the disk.
    ///
    /// # Errors
    /// [`Full`] when the machine would have too little left, or does not say how much it has.
    pub(crate) fn take(&self, bytes: u64) -> Result<(), Full> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let mut known = self.known.lock();
        let fresh = known.as_ref().filter(|known| known.at.elapsed() < BELIEVED_FOR && known.left >= bytes);
        let left = if let Some(known) = fresh {
            known.left
        } else {
            let disk = fstatvfs(disk).map_err(|_| Full)?;
            let unit = disk.fragment_size();
            above_reserve(disk.blocks().saturating_mul(unit), disk.blocks_available().saturating_mul(unit))
        };
        let at = fresh.map_or_else(Instant::now, |known| known.at);
        let rest = left.checked_sub(bytes);
        *known = Some(Known { at, left: rest.unwrap_or(left) });
        rest.map(|_| ()).ok_or(Full)
    }
}

/// What guests may take of a disk.
fn above_reserve(total: u64, free: u64) -> u64 {
    free.saturating_sub((total / RESERVE_PART).min(RESERVE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_disk_stays_free() {
        const GIB: u64 = 1 << 30;
        for (total, free, expected) in [
            (100 * GIB, 50 * GIB, 49 * GIB),
            (100 * GIB, GIB, 0),
            (100 * GIB, GIB + 1, 1),
            (2 * GIB, GIB, GIB - 2 * GIB / RESERVE_PART),
            (2 * GIB, 0, 0),
        ] {
            assert_eq!(above_reserve(total, free), expected, "{free} of {total}");
        }
    }

    #[test]
    fn nobody_takes_more_than_there_is() {
        let directory = tempfile::tempdir().unwrap();
        let floor = Floor::new(directory.path()).unwrap();
        assert_eq!(floor.take(u64::MAX / 2), Err(Full));
        let left = 100;
        *floor.known.lock() = Some(Known { at: Instant::now() + Duration::from_hours(1), left });
        assert_eq!(floor.take(60), Ok(()));
        assert_eq!(floor.known.lock().as_ref().unwrap().left, 40, "what was taken is remembered");
    }
}
