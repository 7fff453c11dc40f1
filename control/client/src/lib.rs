//! The traits by which controllers and the scheduler read, watch and write. No store types: the same code
//! runs in the server (the API implements [`Client`] in process) and against a fake in tests.
//!
//! Beside the trait lie what every loop needs: [`cache::Cache`] (a local copy kept by watching), [`events::Recorder`],
//! [`backoff`] and the [`clock::Clock`] through which all waiting goes, so that tests turn time by hand.

pub mod backoff;
pub mod cache;
pub mod changes;
pub mod clock;
pub mod events;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod lru;
pub mod supervisor;

use async_trait::async_trait;
use coracle_objects::{ApiError, Kind, ObjectKey};
use futures::stream::BoxStream;
use serde_json::Value;
use std::sync::Arc;

/// What to list or watch.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// `None`: all namespaces.
    pub namespace: Option<String>,
    /// Query form of a label selector; empty: everything.
    pub label_selector: String,
    /// Query form of a field selector; empty: everything.
    pub field_selector: String,
}

/// A consistent listing.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Objects, shared with other readers.
    pub items: Vec<Arc<Value>>,
    /// Where a watch goes on from.
    pub resource_version: String,
}

/// What a watch yields.
#[derive(Debug, Clone)]
pub enum Event {
    /// New or changed.
    Applied(Arc<Value>),
    /// Gone; the last state.
    Deleted(Arc<Value>),
    /// Nothing else happened up to this resource version.
    Bookmark(String),
}

/// Which part of an object an update writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status.
    Object,
    /// The status only.
    Status,
    /// `spec.finalizers` of a namespace.
    Finalize,
}

/// Conditions and manner of a deletion.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// `None`: the object's own.
    pub grace_period_seconds: Option<i64>,
    /// Only if the object still has this uid.
    pub uid: Option<String>,
    /// Only if the object is still at this resource version.
    pub resource_version: Option<String>,
}

/// One write of a batch.
#[derive(Debug, Clone)]
pub enum Write {
    /// Creates; the namespace is the object's own.
    Create(&'static Kind, Value),
    /// Updates; `metadata.resourceVersion`, if set, is the precondition.
    Update(&'static Kind, Part, Value),
    /// Deletes.
    Delete(&'static Kind, ObjectKey, DeleteOptions),
    /// Binds a pod to a node; refused when it is bound already.
    Bind {
        /// Which pod.
        pod: ObjectKey,
        /// Only if it still has this uid.
        uid: String,
        /// To which node.
        node: String,
    },
}

/// The door as seen by a controller. Every call passes authorization, admission and revision checks.
#[async_trait]
pub trait Client: Send + Sync + 'static {
    /// One object.
    async fn get(&self, kind: &'static Kind, key: &ObjectKey) -> Result<Arc<Value>, ApiError>;

    /// All objects that match.
    async fn list(&self, kind: &'static Kind, query: &Query) -> Result<Listing, ApiError>;

    /// Changes after `resource_version`; `Err(Reason::Expired)` when that has left history.
    async fn watch(
        &self,
        kind: &'static Kind,
        query: &Query,
        resource_version: &str,
    ) -> Result<BoxStream<'static, Result<Event, ApiError>>, ApiError>;

    /// One write; answers the object as stored (for `Delete` and `Bind`: as it was left).
    async fn write(&self, write: Write) -> Result<Arc<Value>, ApiError>;

    /// Many independent writes at once, committed together where possible; one answer each, in order.
    async fn write_many(&self, writes: Vec<Write>) -> Vec<Result<Arc<Value>, ApiError>>;
}
