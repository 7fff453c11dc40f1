//! How far the guests' threads stand back, from everybody else and from those of other runners.
//!
//! Niceness is the weight that the kernel gives threads: each step is a quarter. All begin at [`SERVING`], behind the agent. A
//! thread that computes for a container beyond what it requested goes back as far as the agent says, which knows what was
//! requested in all runners, and stays there: to come forward again takes a right that a runner does not have. The agent
//! brings threads forward where it may.
//!
//! What must never happen here: a guest beyond its request computes before it stands back.

use crate::protocol::{NICENESS_MAX, NICENESS_MIN};
use nix::libc;
use std::{
    cell::Cell,
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Of threads that have not computed beyond a request: timers, connections.
pub(crate) const SERVING: u8 = 3;

thread_local! {
    /// What was said when the calling thread stood back last.
    static HEARD: Cell<u64> = const { Cell::new(0) };
}

/// See the module. One for all of a runner's guests.
///
/// How far is in the lowest byte, and above it how often that was said: a thread may have been brought forward since it
/// heard the same.
#[derive(Debug)]
pub(super) struct Niceness(AtomicU64);

impl Niceness {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(NICENESS_MIN.into()))
    }

    /// From now on threads stand back so far.
    pub(super) fn set(&self, niceness: u8) {
        let niceness = u64::from(niceness.clamp(NICENESS_MIN, NICENESS_MAX));
        let _ = self.0.fetch_update(Relaxed, Relaxed, |said| Some((((said >> u8::BITS) + 1) << u8::BITS) | niceness));
    }

    /// The calling thread is about to compute beyond a request.
    pub(super) fn stand_back(&self) {
        let said = self.0.load(Relaxed);
        if HEARD.replace(said) != said {
            let [niceness, ..] = said.to_le_bytes();
            // A thread that has to come forward is refused, and waits for the agent.
            let _ = set(niceness);
        }
    }
}

/// Sets the calling thread's niceness, unless it is further back and must not come forward, as when the agent was started
/// with a niceness of its own.
pub(crate) fn set(niceness: u8) -> io::Result<()> {
    // SAFETY: a plain system call on the calling thread, which is what Linux takes 0 for.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness.into()) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EACCES) => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_thread_stands_back_as_far_as_was_said() {
        let test = || {
            let niceness = Niceness::new();
            // SAFETY: a plain system call about the calling thread.
            let mine = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
            [0, 12, u8::MAX].map(|said| {
                niceness.set(said);
                niceness.stand_back();
                mine()
            })
        };
        let found = thread::spawn(test).join().unwrap();
        assert_eq!(found, [NICENESS_MIN.into(), 12, NICENESS_MAX.into()]);
    }

    #[test]
    fn a_thread_that_was_brought_forward_stands_back_again() {
        let test = || {
            let niceness = Niceness::new();
            niceness.set(12);
            niceness.stand_back();
            // The agent says so, brings it forward, and says otherwise before it computes again.
            niceness.set(NICENESS_MIN);
            let brought = set(NICENESS_MIN);
            niceness.set(12);
            niceness.stand_back();
            // SAFETY: a plain system call about the calling thread.
            (brought, unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) })
        };
        let (brought, found) = thread::spawn(test).join().unwrap();
        if brought.is_err() {
            println!("without CAP_SYS_NICE: NOT tried");
        }
        assert_eq!(found, 12);
    }
}
