//! The thread that starts all child processes.
//!
//! Children ask the kernel to be killed when their parent dies, and the kernel takes the *thread* that started a child
//! for its parent. A runtime's worker may end long before the process does, so children are started by one thread that
//! never ends.

use std::{
    io,
    sync::{OnceLock, mpsc},
    thread,
};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

struct Job {
    command: Command,
    runtime: Handle,
    answer: oneshot::Sender<io::Result<Child>>,
}

/// Starts `command`; its exit is reaped by the calling task's runtime.
pub(crate) async fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Option<mpsc::SyncSender<Job>>> = OnceLock::new();
    let gone = || io::Error::other("the thread that starts processes is gone");
    let jobs = SPAWNER.get_or_init(|| {
        // Callers wait for their answer, so the queue holds at most one job per waiting task.
        let (sender, receiver) = mpsc::sync_channel::<Job>(1024);
        thread::Builder::new().name("spawner".into()).spawn(move || serve(&receiver)).ok().map(|_| sender)
    });
    let (answer, child) = oneshot::channel();
    let job = Job { command, runtime: Handle::current(), answer };
    jobs.as_ref().ok_or_else(gone)?.try_send(job).map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}

fn serve(jobs: &mpsc::Receiver<Job>) {
    for Job { mut command, runtime, answer } in jobs {
        let _in_runtime = runtime.enter();
        // A caller that no longer waits drops the child, and with it kills the process (`kill_on_drop`).
        let _ = answer.send(command.spawn());
    }
}
