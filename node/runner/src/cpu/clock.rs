//! How long a thread has been computing, as the kernel counts it: in user mode and in the kernel.

use nix::libc;

thread_local! {
    static MINE: ThreadClock = ThreadClock::of_this_thread();
}

/// The clock of one thread, for other threads of this process to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// The calling thread's.
    pub(super) fn mine() -> Self {
        MINE.with(|clock| *clock)
    }

    fn of_this_thread() -> Self {
        let mut clock = libc::CLOCK_THREAD_CPUTIME_ID;
        // SAFETY: the call writes one number, which is there; the calling thread exists.
        let result = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        Self(if result == 0 { clock } else { libc::CLOCK_THREAD_CPUTIME_ID })
    }

    /// CPU time of that thread in nanoseconds; 0 when it is no more.
    pub(super) fn nanos(self) -> u64 {
        read(self.0)
    }
}

/// CPU time of the calling thread in nanoseconds.
pub(super) fn thread_nanos() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one `timespec`, which is there.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    // Every Linux has the clocks of living threads; without them nothing would count, and tests say so.
    if result != 0 {
        return 0;
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::mpsc, thread};

    #[test]
    fn computing_takes_time_and_sleeping_does_not() {
        let start = thread_nanos();
        while thread_nanos() - start < 5_000_000 {
            std::hint::spin_loop();
        }
        let busy = thread_nanos();
        thread::sleep(std::time::Duration::from_millis(50));
        assert!(thread_nanos() - busy < 25_000_000, "a sleeping thread uses no time");
    }

    #[test]
    fn another_thread_can_be_watched() {
        let (said, heard) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let busy = thread::spawn(move || {
            said.send(ThreadClock::mine()).unwrap();
            while ended.try_recv().is_err() {
                std::hint::spin_loop();
            }
        });
        let clock = heard.recv().unwrap();
        let start = clock.nanos();
        while clock.nanos() < start + 5_000_000 {
            thread::yield_now();
        }
        end.send(()).unwrap();
        busy.join().unwrap();
    }
}
