//! The thread that starts all child processes.
//!
//! Children ask the kernel to be killed when their parent dies, and the kernel takes the *thread* that started a child
//! for its parent. A runtime's worker may end long before the process does, so children are started by one thread that
//! never ends.

use std::{io, sync::OnceLock, thread};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::{mpsc, oneshot},
};

/// Jobs that wait; whoever has one more waits too.
const MAX_WAITING: usize = 16;

struct Job {
    command: Command,
    runtime: Handle,
    answer: oneshot::Sender<io::Result<Child>>,
}

/// Starts `command`; its exit is reaped by the calling task's runtime.
pub(crate) async fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Option<mpsc::Sender<Job>>> = OnceLock::new();
    let gone = || io::Error::other("the thread that starts processes is gone");
    let jobs = SPAWNER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        thread::Builder::new().name("spawner".into()).spawn(move || serve(receiver)).ok().map(|_| sender)
    });
    let (answer, child) = oneshot::channel();
    let job = Job { command, runtime: Handle::current(), answer };
    jobs.as_ref().ok_or_else(gone)?.send(job).await.map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}

fn serve(mut jobs: mpsc::Receiver<Job>) {
    while let Some(Job { mut command, runtime, answer }) = jobs.blocking_recv() {
        let _in_runtime = runtime.enter();
        // A caller that no longer waits drops the child, and with it kills the process (`kill_on_drop`).
        let _ = answer.send(command.spawn());
    }
}
