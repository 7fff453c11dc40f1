//! One copy of every kind, shared by all controllers; of most kinds only the metadata is kept.

use coracle_client::{
    Client, Query,
    cache::{self, Cache, Projection},
    clock::Clock,
};
use coracle_objects::{Kind, catalogue};
use serde_json::Value;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The namespace in which nodes renew their leases.
pub const NODE_LEASES: &str = "kube-node-lease";

/// A copy of every kind of the catalogue.
pub struct Caches {
    /// Whole.
    pub pods: Cache,
    /// Whole.
    pub nodes: Cache,
    /// Whole.
    pub namespaces: Cache,
    /// Whole.
    pub services: Cache,
    /// Whole.
    pub endpoints: Cache,
    /// Whole.
    pub endpoint_slices: Cache,
    /// Whole, of all namespaces.
    pub leases: Cache,
    /// Metadata and times.
    pub events: Cache,
    every: Vec<Cache>,
}

/// Keeps of an Event what its age is computed from.
fn event_times(event: &Arc<Value>) -> Arc<Value> {
    let mut kept = Value::clone(&cache::metadata_only(event));
    for field in ["lastTimestamp", "eventTime"] {
        if event[field].is_string() {
            kept[field] = event[field].clone();
        }
    }
    if let Some(last) = event["series"].get("lastObservedTime") {
        kept["series"] = serde_json::json!({"lastObservedTime": last});
    }
    Arc::new(kept)
}

impl Caches {
    /// Starts all of them.
    #[must_use]
    pub fn start(client: &Arc<dyn Client>, clock: &Arc<dyn Clock>, shutdown: &CancellationToken) -> Self {
        let mut every: Vec<Cache> = Vec::new();
        let mut start = |kind: &'static Kind, projection: Projection| {
            let cache = Cache::start(client, clock, kind, Query::default(), projection, shutdown);
            every.push(cache.clone());
            cache
        };
        let pods = start(catalogue::pods(), cache::whole);
        let nodes = start(catalogue::nodes(), cache::whole);
        let namespaces = start(catalogue::namespaces(), cache::whole);
        let services = start(catalogue::services(), cache::whole);
        let endpoints = start(catalogue::endpoints(), cache::whole);
        let endpoint_slices = start(catalogue::endpoint_slices(), cache::whole);
        let leases = start(catalogue::leases(), cache::whole);
        let events = start(catalogue::events(), event_times);
        for kind in catalogue::all() {
            if !every.iter().any(|cache| cache.kind() == *kind) {
                every.push(Cache::start(client, clock, kind, Query::default(), cache::metadata_only, shutdown));
            }
        }
        Self { pods, nodes, namespaces, services, endpoints, endpoint_slices, leases, events, every }
    }

    /// The copies of every kind.
    #[must_use]
    pub fn every(&self) -> &[Cache] {
        &self.every
    }

    /// The copy of a kind.
    #[must_use]
    pub fn of(&self, kind: &Kind) -> Option<&Cache> {
        self.every.iter().find(|cache| cache.kind() == kind)
    }

    /// Resolves once all are there.
    pub async fn synced(&self) {
        for cache in &self.every {
            cache.synced().await;
        }
    }
}
