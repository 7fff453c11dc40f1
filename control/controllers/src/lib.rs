//! Controllers: each has a pure `plan` from what is wanted and what is there to what is to be done, and a loop around
//! it on the small [`runtime`].
//!
//! A signal only says "look again"; every loop compares anew and is idempotent. Nothing here writes except through
//! [`Client`], and none of these loops can end another: each is supervised on its own.

mod bound_pods;
pub mod caches;
pub mod endpoint_mirror;
pub mod endpoint_slices;
pub mod endpoints;
pub mod event_expiry;
pub mod namespaces;
pub mod node_lifecycle;
pub mod owner_references;
pub mod pod_garbage;
pub mod runtime;
pub mod service_backends;
pub mod service_endpoints;
pub mod taint_eviction;
pub mod work_queue;

use caches::Caches;
use coracle_client::{
    Client,
    clock::{Clock, SystemClock},
    events::Recorder,
};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How events name these controllers.
pub const COMPONENT: &str = "controller-manager";

/// How controllers behave, where that is for an operator to choose. Defaults are kube-controller-manager's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How patient the cluster is with its nodes.
    pub nodes: node_lifecycle::Settings,
    /// How long pods of a node that is gone stay.
    pub gone_node_grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { nodes: node_lifecycle::Settings::default(), gone_node_grace: pod_garbage::QUARANTINE_DEFAULT }
    }
}

/// What every controller stands on.
#[derive(Clone)]
pub struct Context {
    /// The door.
    pub client: Arc<dyn Client>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Copies of what is stored, shared by all controllers.
    pub caches: Arc<Caches>,
    /// Tells people.
    pub recorder: Recorder,
    /// Ends everything.
    pub shutdown: CancellationToken,
}

impl Context {
    /// Starts the caches.
    #[must_use]
    pub fn new(client: Arc<dyn Client>, clock: Arc<dyn Clock>, shutdown: CancellationToken) -> Self {
        let caches = Arc::new(Caches::start(&client, &clock, &shutdown));
        let recorder = Recorder::start(&client, &clock, COMPONENT, &shutdown);
        Self { client, clock, caches, recorder, shutdown }
    }
}

/// Runs every controller until `shutdown` is cancelled.
pub async fn run(client: Arc<dyn Client>, settings: Settings, shutdown: CancellationToken) {
    run_with(client, Arc::new(SystemClock::new()), settings, shutdown).await;
}

/// As [`run`], with a clock of the caller's.
pub async fn run_with(client: Arc<dyn Client>, clock: Arc<dyn Clock>, settings: Settings, shutdown: CancellationToken) {
    let context = Context::new(client, clock, shutdown);
    let mut tasks = vec![
        namespaces::start(&context),
        service_endpoints::start(&context),
        taint_eviction::start(&context),
        pod_garbage::start(&context, settings.gone_node_grace),
        owner_references::start(&context),
        event_expiry::start(&context),
    ];
    tasks.extend(node_lifecycle::start(&context, &settings.nodes));
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "a controller's supervisor ended");
        }
    }
}
