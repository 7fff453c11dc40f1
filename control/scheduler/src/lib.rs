//! Chooses a node for every pod that has none.
//!
//! [`core`] is pure: nodes with what is placed on them, and a pod, give a decision. [`filters`] say where a pod may run,
//! [`scores`] where it would run best. [`queue`] decides who is next, and [`driver`] keeps all that in step with the
//! API: it alone does I/O. It must never write anything but bindings, the `PodScheduled` condition and events.

pub mod core;
pub mod driver;
pub mod filters;
pub mod node;
pub mod pod;
pub mod queue;
pub mod resources;
pub mod scores;

use coracle_client::{
    Client,
    clock::{Clock, SystemClock},
    supervisor,
};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Pods that name no scheduler are ours.
pub const SCHEDULER_NAME: &str = "default-scheduler";

/// Runs until `shutdown` is cancelled.
pub async fn run(client: Arc<dyn Client>, shutdown: CancellationToken) {
    run_with(client, Arc::new(SystemClock::new()), shutdown).await;
}

/// As [`run`], with a clock of the caller's.
pub async fn run_with(client: Arc<dyn Client>, clock: Arc<dyn Clock>, shutdown: CancellationToken) {
    let inner = shutdown.clone();
    let task = supervisor::spawn("scheduler", Arc::clone(&clock), shutdown, move || {
        let (client, clock) = (Arc::clone(&client), Arc::clone(&clock));
        // What one attempt started ends with it.
        let attempt = inner.child_token();
        async move {
            let _ends = attempt.clone().drop_guard();
            driver::Driver::new(&client, &clock, &attempt).run().await;
        }
    });
    if let Err(error) = task.await {
        tracing::error!(%error, "the scheduler's supervisor ended");
    }
}
