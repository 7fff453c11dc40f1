//! How much something takes up, and how much it may.

use super::floor::Floor;
use crate::tree::Usage;
use parking_lot::Mutex;
use std::sync::Arc;

/// There is no room: `ENOSPC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// A volume's account, or a pod's over several volumes.
#[derive(Debug)]
pub(crate) struct Account {
    bytes_max: u64,
    entries_max: u64,
    used: Mutex<Usage>,
    above: Option<Arc<Account>>,
    floor: Arc<Floor>,
}

impl Account {
    pub(crate) fn new(
        bytes_max: Option<u64>,
        entries_max: u64,
        above: Option<Arc<Account>>,
        floor: Arc<Floor>,
    ) -> Arc<Self> {
        let bytes_max = bytes_max.unwrap_or(u64::MAX);
        Arc::new(Self { bytes_max, entries_max, used: Mutex::default(), above, floor })
    }

    /// Takes room here, in every account above, and on the disk; or takes none.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn charge(&self, more: Usage) -> Result<(), Full> {
        {
            let mut used = self.used.lock();
            let bytes = used.bytes.checked_add(more.bytes).filter(|bytes| *bytes <= self.bytes_max).ok_or(Full)?;
            let entries =
                used.entries.checked_add(more.entries).filter(|entries| *entries <= self.entries_max).ok_or(Full)?;
            *used = Usage { bytes, entries };
        }
        let rest = match &self.above {
            Some(above) => above.charge(more),
            None => self.floor.take(more.bytes),
        };
        if rest.is_err() {
            self.reduce(more);
        }
        rest
    }

    /// Counts what is on disk already, whatever the limits are.
    pub(crate) fn burden(&self, more: Usage) {
        let mut used = self.used.lock();
        used.bytes = used.bytes.saturating_add(more.bytes);
        used.entries = used.entries.saturating_add(more.entries);
        drop(used);
        if let Some(above) = &self.above {
            above.burden(more);
        }
    }

    /// Gives room back.
    pub(crate) fn free(&self, less: Usage) {
        self.reduce(less);
        if let Some(above) = &self.above {
            above.free(less);
        }
    }

    fn reduce(&self, less: Usage) {
        let mut used = self.used.lock();
        used.bytes = used.bytes.saturating_sub(less.bytes);
        used.entries = used.entries.saturating_sub(less.entries);
    }

    /// How many names are counted.
    pub(crate) fn entries(&self) -> u64 {
        self.used.lock().entries
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> Usage {
        *self.used.lock()
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // What no run mounts is counted again when one does.
        if let Some(above) = &self.above {
            above.free(*self.used.get_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_needs_of_its_disk_is_nobodys() {
        let floor = Arc::new(Floor::with_room(100));
        let pod = Account::new(None, u64::MAX, None, Arc::clone(&floor));
        let volume = Account::new(None, u64::MAX, Some(Arc::clone(&pod)), floor);
        volume.charge(Usage { bytes: 60, entries: 1 }).unwrap();
        assert_eq!(volume.charge(Usage { bytes: 41, entries: 1 }), Err(Full));
        let all = Usage { bytes: 60, entries: 1 };
        assert_eq!((volume.used(), pod.used()), (all, all), "what was refused is charged nobody");
    }

    #[test]
    fn a_charge_is_taken_whole_or_not_at_all() {
        let floor = Arc::new(Floor::unlimited());
        let pod = Account::new(Some(100), u64::MAX, None, Arc::clone(&floor));
        let volume = Account::new(None, 3, Some(Arc::clone(&pod)), Arc::clone(&floor));
        let limited = Account::new(Some(60), 10, Some(Arc::clone(&pod)), floor);
        let usage = |bytes, entries| Usage { bytes, entries };
        volume.charge(usage(30, 2)).unwrap();
        for (account, bytes, entries, fits) in [
            (&volume, 0, 2, false),
            (&limited, 61, 0, false),
            (&limited, u64::MAX, 0, false),
            (&volume, 71, 0, false),
            (&limited, 60, 1, true),
            (&volume, 11, 0, false),
            (&volume, 10, 1, true),
        ] {
            assert_eq!(account.charge(usage(bytes, entries)).is_ok(), fits, "{bytes} {entries}");
        }
        assert_eq!((volume.used(), limited.used(), pod.used()), (usage(40, 3), usage(60, 1), usage(100, 4)));
        volume.free(usage(40, 3));
        drop(limited);
        assert_eq!((volume.used(), pod.used()), (usage(0, 0), usage(0, 0)));
    }
}
