//! What the runner itself uses while guests compute: threads that wake up, switch and look around, and the ticker.
//!
//! It is part of what the process is seen to use, so that limits would not hold if nobody paid for it. Whoever ends a turn
//! next pays; of those without a limit nothing is asked, and nobody pays much at once for what others caused.

use super::clock::thread_nanos;
use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Most that a thread adds at once: beyond it, it did something else than to look for work.
const GAP_MAX_NANOS: u64 = 200_000;
/// Most that the end of one turn pays.
const PAYMENT_MAX_NANOS: u64 = 500_000;

thread_local! {
    /// The calling thread's time up to which all was counted.
    static COUNTED: Cell<u64> = const { Cell::new(0) };
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Overhead {
    unpaid_nanos: AtomicU64,
}

impl Overhead {
    /// The calling thread has done its own work until now, which its clock says.
    pub(super) fn counted_until(now_nanos: u64) {
        COUNTED.set(now_nanos);
    }

    /// The calling thread has looked for work since it last did some. Gives what its clock says.
    pub(super) fn found_work(&self) -> u64 {
        let now = thread_nanos();
        let gap = now.saturating_sub(COUNTED.replace(now));
        self.unpaid_nanos.fetch_add(gap.min(GAP_MAX_NANOS), Relaxed);
        now
    }

    /// What somebody has to pay now.
    pub(super) fn payment(&self) -> u64 {
        self.unpaid_nanos.swap(0, Relaxed).min(PAYMENT_MAX_NANOS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_between_work_is_paid_once_and_work_is_not() {
        let overhead = Overhead::default();
        overhead.found_work();
        overhead.payment();
        let spin = |nanos| {
            let since = thread_nanos();
            while thread_nanos() - since < nanos {}
        };
        spin(20_000_000);
        Overhead::counted_until(thread_nanos());
        overhead.found_work();
        assert!(overhead.payment() < GAP_MAX_NANOS, "work was counted twice");
        spin(100_000);
        overhead.found_work();
        assert!(overhead.payment() >= 100_000);
        assert_eq!(overhead.payment(), 0);
        for _ in 0..10 {
            spin(1_000_000);
            overhead.found_work();
        }
        assert_eq!(overhead.payment(), PAYMENT_MAX_NANOS);
    }
}
