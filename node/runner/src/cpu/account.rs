//! What one container may use of the processors, and what it has used.

use super::{bucket::Bucket, line::Standing};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Shares of a whole core, and the least and the most that anyone has: Kubernetes' and the kernel's numbers.
const SHARES_PER_CORE: u64 = 1024;
const SHARES_MIN: u64 = 2;
const SHARES_MAX: u64 = 262_144;
/// What a poll costs beyond the time that is measured around it, as a part of that time: waking up, switching, and the
/// thread that ends long polls. Who has a limit pays for it, so that the limit holds as seen from outside.
const UNSEEN_PART: u64 = 32;

/// What all instances of one container use together: a command has one, an HTTP component one for each request.
#[derive(Debug)]
pub(crate) struct Account {
    shares: u64,
    limit: Option<Mutex<Bucket>>,
    used_nanos: AtomicU64,
    /// Locked only by who holds the lock of the line.
    pub(super) standing: Mutex<Standing>,
}

impl Account {
    /// Limit and request in thousandths of a core. Without a request a container has the least weight.
    pub(crate) fn new(limit_millis: Option<u32>, request_millis: Option<u32>) -> Arc<Self> {
        Arc::new(Self {
            shares: (u64::from(request_millis.unwrap_or(0)) * SHARES_PER_CORE / 1000).clamp(SHARES_MIN, SHARES_MAX),
            limit: limit_millis.map(|limit| Mutex::new(Bucket::new(limit, Instant::now()))),
            used_nanos: AtomicU64::new(0),
            standing: Mutex::default(),
        })
    }

    /// CPU time used since the container was started.
    pub(crate) fn used_nanos(&self) -> u64 {
        self.used_nanos.load(Relaxed)
    }

    /// How long the limit keeps it from computing; `None` when it may now.
    pub(super) fn pause(&self) -> Option<Duration> {
        self.limit.as_ref().and_then(|bucket| bucket.lock().pause(Instant::now()))
    }

    /// Counts what was used.
    pub(super) fn charge(&self, nanos: u64) {
        self.used_nanos.fetch_add(nanos, Relaxed);
        if let Some(bucket) = &self.limit {
            bucket.lock().take(nanos + nanos / UNSEEN_PART);
        }
    }

    /// Time as the line counts it: the more shares, the slower it passes.
    pub(super) fn virtual_time(&self, nanos: u64) -> u128 {
        u128::from(nanos) * u128::from(SHARES_PER_CORE) / u128::from(self.shares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_kubernetes() {
        for (request, shares) in [(None, 2), (Some(0), 2), (Some(1), 2), (Some(100), 102), (Some(1000), 1024)] {
            assert_eq!(Account::new(None, request).shares, shares, "{request:?}");
        }
        assert_eq!(Account::new(None, Some(u32::MAX)).shares, SHARES_MAX);
    }

    #[test]
    fn use_is_counted_and_limited() {
        let account = Account::new(Some(100), None);
        assert_eq!(account.pause(), None);
        account.charge(11_000_000);
        assert!(account.pause().is_some_and(|pause| pause <= Duration::from_millis(64)));
        assert_eq!(account.used_nanos(), 11_000_000);
        let free = Account::new(None, None);
        free.charge(u64::MAX / 2);
        assert_eq!(free.pause(), None);
    }
}
