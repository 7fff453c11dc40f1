//! The control plane as the agent sees it: a trait, so that everything behind it runs against a fake in tests.

use async_trait::async_trait;
use coracle_objects::{ApiError, ObjectKey};
use futures::stream::BoxStream;
use serde_json::Value;

/// A kind as URLs name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Resource {
    /// "" for the core group.
    pub(crate) group: &'static str,
    /// Version within the group.
    pub(crate) version: &'static str,
    /// Plural.
    pub(crate) plural: &'static str,
}

impl Resource {
    const fn core(plural: &'static str) -> Self {
        Self { group: "", version: "v1", plural }
    }
}

pub(crate) const PODS: Resource = Resource::core("pods");
pub(crate) const NODES: Resource = Resource::core("nodes");
pub(crate) const NAMESPACES: Resource = Resource::core("namespaces");
pub(crate) const SERVICES: Resource = Resource::core("services");
pub(crate) const CONFIG_MAPS: Resource = Resource::core("configmaps");
pub(crate) const SECRETS: Resource = Resource::core("secrets");
pub(crate) const EVENTS: Resource = Resource::core("events");
pub(crate) const ENDPOINT_SLICES: Resource =
    Resource { group: "discovery.k8s.io", version: "v1", plural: "endpointslices" };
pub(crate) const SIGNING_REQUESTS: Resource =
    Resource { group: "certificates.k8s.io", version: "v1", plural: "certificatesigningrequests" };
pub(crate) const LEASES: Resource = Resource { group: "coordination.k8s.io", version: "v1", plural: "leases" };

/// A consistent listing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    /// All objects that match.
    pub(crate) items: Vec<Value>,
    /// Where a watch goes on from.
    pub(crate) resource_version: String,
}

/// What a watch yields.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// New or changed.
    Applied(Value),
    /// Gone; the last state.
    Deleted(Value),
    /// Nothing else happened up to this resource version.
    Bookmark(String),
}

/// Changes in order; ends when the connection does.
pub(crate) type Changes = BoxStream<'static, Result<Change, ApiError>>;

/// Reads and writes as this node's identity. A server that cannot be reached is `ServiceUnavailable`.
#[async_trait]
pub(crate) trait Link: Send + Sync + 'static {
    /// One object.
    async fn get(&self, resource: Resource, key: &ObjectKey) -> Result<Value, ApiError>;

    /// All objects of all namespaces that match the field selector.
    async fn list(&self, resource: Resource, field_selector: &str) -> Result<Listing, ApiError>;

    /// Changes after `resource_version`; `Expired` when that has left history.
    async fn watch(
        &self,
        resource: Resource,
        field_selector: &str,
        resource_version: &str,
    ) -> Result<Changes, ApiError>;

    /// Creates; answers the object as stored.
    async fn create(&self, resource: Resource, object: &Value) -> Result<Value, ApiError>;

    /// Updates the object or a subresource of it; `metadata.resourceVersion` is the precondition.
    async fn update(&self, resource: Resource, subresource: &str, object: &Value) -> Result<Value, ApiError>;

    /// Deletes if the object still has this uid.
    async fn delete(&self, resource: Resource, key: &ObjectKey, grace_seconds: i64, uid: &str) -> Result<(), ApiError>;
}
