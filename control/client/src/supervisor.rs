//! Keeps a loop going: a panic in one must not end the others.

use crate::{
    backoff::{Backoff, BackoffPolicy},
    clock::Clock,
};
use futures::FutureExt;
use std::{any::Any, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const RESTART: BackoffPolicy = BackoffPolicy { first: Duration::from_millis(500), max: Duration::from_mins(1) };

/// What runs this long without a panic starts again without its former failures being held against it.
const STEADY: Duration = Duration::from_mins(2);

/// Spawns `make()` and, when it panics, makes and runs it again after a growing wait. Ends when it returns or when
/// `shutdown` is cancelled.
pub fn spawn<F>(
    name: &'static str,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
    mut make: impl FnMut() -> F + Send + 'static,
) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send,
{
    tokio::spawn(async move {
        let supervised = async {
            let mut backoff = Backoff::new(RESTART);
            loop {
                let started = clock.monotonic();
                // What the future owned is dropped with it; it is made anew from `make`.
                let attempt = AssertUnwindSafe(async { make().await });
                let Err(panic) = attempt.catch_unwind().await else { return };
                if clock.monotonic().saturating_sub(started) >= STEADY {
                    backoff.succeed();
                }
                let wait = backoff.fail();
                tracing::error!(name, panic = panic_text(&*panic), restart_in_ms = wait.as_millis(), "loop panicked");
                clock.sleep(wait).await;
            }
        };
        shutdown.run_until_cancelled(supervised).await;
    })
}

/// The message of a panic, if it has one.
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::ManualClock;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn a_panic_restarts_the_loop_until_it_returns() {
        let clock = ManualClock::new();
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        let task = spawn("test", Arc::new(clock.clone()), CancellationToken::new(), move || {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            async move { assert!(run >= 2, "run {run}") }
        });
        clock.run_until(Duration::from_mins(1), || task.is_finished()).await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn shutdown_ends_it() {
        let shutdown = CancellationToken::new();
        let task = spawn("test", Arc::new(ManualClock::new()), shutdown.clone(), std::future::pending);
        shutdown.cancel();
        assert!(task.await.is_ok());
    }
}
