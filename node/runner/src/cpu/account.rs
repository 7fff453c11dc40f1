//! What one container may use of the processors, and what it has used.

use super::{bucket::Bucket, line::Standing};
use crate::protocol::cpu_shares;
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A whole core in shares.
const SHARES_PER_CORE: u64 = 1024;
/// What everybody may use as if it had been requested, in thousandths of a core: who computes a little now and then is
/// served promptly.
const REQUEST_MIN_MILLIS: u32 = 2;

/// What all instances of one container use together: a command has one, an HTTP component one for each request.
#[derive(Debug)]
pub(crate) struct Account {
    shares: u64,
    limit: Option<Mutex<Bucket>>,
    /// Empty while more is used than was requested.
    requested: Mutex<Bucket>,
    used_nanos: AtomicU64,
    /// Locked only by who holds the lock of the line.
    pub(super) standing: Mutex<Standing>,
}

impl Account {
    /// Limit and request in thousandths of a core. Without a request a container has the least weight.
    pub(crate) fn new(limit_millis: Option<u32>, request_millis: Option<u32>) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            shares: cpu_shares(request_millis),
            limit: limit_millis.map(|limit| Mutex::new(Bucket::new(limit, now))),
            requested: Mutex::new(Bucket::new(request_millis.unwrap_or(0).max(REQUEST_MIN_MILLIS), now)),
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

    /// It uses more than was requested for it.
    pub(super) fn is_beyond_its_request(&self) -> bool {
        self.requested.lock().pause(Instant::now()).is_some()
    }

    /// Counts what was used. What the runner needed beside it (`unseen_nanos`) is no use of the container's, but paid by
    /// its limit, which then holds as seen from outside.
    pub(super) fn charge(&self, nanos: u64, unseen_nanos: u64) {
        self.used_nanos.fetch_add(nanos, Relaxed);
        self.requested.lock().take_forgiving(nanos);
        if let Some(bucket) = &self.limit {
            bucket.lock().take(nanos.saturating_add(unseen_nanos));
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
    fn use_is_counted_and_limited() {
        let account = Account::new(Some(100), None);
        assert_eq!(account.pause(), None);
        account.charge(9_000_000, 2_000_000);
        assert!(account.pause().is_some_and(|pause| pause <= Duration::from_millis(60)), "what is unseen is paid");
        assert_eq!(account.used_nanos(), 9_000_000, "but not used");
        let free = Account::new(None, None);
        free.charge(u64::MAX / 2, 0);
        assert_eq!(free.pause(), None);
    }

    #[test]
    fn what_was_requested_is_used_first() {
        // So much that no slow test brings it back meanwhile.
        let account = Account::new(None, Some(1));
        assert!(!account.is_beyond_its_request());
        account.charge(1_000_000_000, 0);
        assert!(account.is_beyond_its_request());
        let more = Account::new(None, Some(1_000_000));
        more.charge(1_000_000_000, 0);
        assert!(!more.is_beyond_its_request());
    }
}
