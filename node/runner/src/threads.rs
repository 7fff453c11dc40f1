//! The threads of a runner as the agent sees them from outside: those that stand back can be brought forward from here alone.

use nix::{errno::Errno, libc};
use std::{fs, io};

/// Brings the threads of a process forward that stand back further than `niceness`.
///
/// # Errors
/// When the caller may not: it takes `CAP_SYS_NICE`.
pub(crate) fn bring_forward(pid: u32, niceness: u8) -> io::Result<()> {
    // A process that has ended has no threads.
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Ok(()) };
    for task in tasks.flatten() {
        let Some(task) = task.file_name().to_str().and_then(|name| name.parse::<libc::id_t>().ok()) else { continue };
        if niceness_of(task).is_some_and(|found| found > niceness.into()) {
            // SAFETY: a plain system call on numbers.
            let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, task, niceness.into()) };
            match Errno::result(result) {
                Ok(_) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// `None` when there is no such thread.
fn niceness_of(task: libc::id_t) -> Option<libc::c_int> {
    // -1 is a niceness too.
    Errno::clear();
    // SAFETY: a plain system call on numbers.
    let niceness = unsafe { libc::getpriority(libc::PRIO_PROCESS, task) };
    (Errno::last_raw() == 0).then_some(niceness)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu;
    use std::{sync::mpsc, thread};

    #[test]
    fn only_those_come_forward_that_stand_back_further() {
        let (said, heard) = mpsc::channel();
        let ends = [3_u8, 9, 15].map(|niceness| {
            let (end, ended) = mpsc::channel::<()>();
            let said = said.clone();
            thread::spawn(move || {
                cpu::set_niceness(niceness).unwrap();
                // SAFETY: a plain system call.
                said.send((niceness, unsafe { libc::gettid() })).unwrap();
                let _ = ended.recv();
            });
            end
        });
        let mut tasks = [(); 3].map(|()| heard.recv().unwrap());
        tasks.sort_unstable();
        let brought = bring_forward(std::process::id(), 9);
        let found = tasks.map(|(_, task)| niceness_of(task.cast_unsigned()).unwrap());
        drop(ends);
        // Where this may not be, it is said.
        assert_eq!(found, [3, 9, if brought.is_ok() { 9 } else { 15 }]);
        assert!(bring_forward(u32::MAX, 9).is_ok(), "nobody is there");
    }
}
