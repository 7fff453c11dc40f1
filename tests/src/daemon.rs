//! A process of the binary under test that is killed, frozen and started again. It never outlives its test.

use crate::{processes, wait::eventually};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::process::{Child, Command, ExitStatus};

/// See the module. Dropping it kills the process and all that it has started.
#[derive(Default)]
pub(crate) struct Daemon {
    child: Option<Child>,
}

impl Daemon {
    /// Starts it.
    ///
    /// # Panics
    /// When it runs already, or cannot be started.
    pub(crate) fn start(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "it runs already: {command:?}");
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        self.child = Some(child);
    }

    /// Its process id, if it was started and not killed.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// All that it has started, and what that has.
    pub(crate) fn descendants(&self) -> Vec<u32> {
        self.pid().map(processes::descendants).unwrap_or_default()
    }

    /// Its exit status, when it has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Sends it a signal; one that has ended is none the worse for it.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            send(pid, signal);
        }
    }

    /// `kill -9` of it alone: what it has started must see to its own end.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        if let Some(mut child) = self.child.take() {
            drop(child.wait());
        }
    }

    /// Ends it as a service manager does and answers its exit status.
    ///
    /// # Panics
    /// When it does not end in time, with `log`.
    pub(crate) fn stop(&mut self, log: impl Fn() -> String) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.end(log)
    }

    /// Waits for its end and answers its exit status.
    ///
    /// # Panics
    /// When it does not end in time, with `log`.
    pub(crate) fn end(&mut self, log: impl Fn() -> String) -> ExitStatus {
        let status = eventually("a clean end", || self.ended().ok_or_else(&log));
        self.child = None;
        status
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let started = self.descendants();
        self.kill();
        // Numbers may belong to others by now, so only what nobody has adopted elsewhere is waited for.
        let alive = || started.iter().copied().filter(|pid| !processes::command_line(*pid).is_empty());
        let is_ours =
            |pid: &u32| processes::command_line(*pid).iter().any(|word| word == "runner" || word == "compile");
        alive().filter(is_ours).for_each(|pid| send(pid, Signal::SIGKILL));
        if !std::thread::panicking() {
            eventually("the end of all that it has started", || match alive().filter(is_ours).count() {
                0 => Ok(()),
                count => Err(format!("{count} run on")),
            });
        }
    }
}

/// A failure means that it has ended already, which whoever signals does not mind.
fn send(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}
