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

/// What a node is told of, in the order in which it is told: what pods need comes before them.
pub(crate) const FOLLOWED: [Resource; 7] = [NAMESPACES, NODES, CONFIG_MAPS, SECRETS, SERVICES, ENDPOINT_SLICES, PODS];

/// How far the node knows its view.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Position {
    /// In which history revisions count.
    pub(crate) history: String,
    /// Everything up to here; 0: nothing.
    pub(crate) revision: u64,
    /// Whether pods are among what it knows.
    pub(crate) has_pods: bool,
}

/// What happened to one object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// New or changed.
    Applied(Resource, Value),
    /// Gone; of pods the uid says which one of that name, of others it is empty.
    Gone(Resource, ObjectKey, String),
}

/// A part of what the node is told. Parts up to one that has a revision belong together.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Update {
    /// The whole view begins here: what is not told again is gone.
    pub(crate) whole: bool,
    /// All pods are among what belongs together here.
    pub(crate) all_pods: bool,
    pub(crate) changes: Vec<Change>,
    /// Everything up to here is told; 0: more follows.
    pub(crate) revision: u64,
    /// In which history; empty where it is as before.
    pub(crate) history: String,
}

/// Updates in order; ends when the connection does.
pub(crate) type Updates = BoxStream<'static, Result<Update, ApiError>>;

/// Reads and writes as this node's identity. A server that cannot be reached is `ServiceUnavailable`.
#[async_trait]
pub(crate) trait Link: Send + Sync + 'static {
    /// One object.
    async fn get(&self, resource: Resource, key: &ObjectKey) -> Result<Value, ApiError>;

    /// The node's view, from where it is on.
    async fn follow(&self, position: &Position) -> Result<Updates, ApiError>;

    /// Creates; answers the object as stored.
    async fn create(&self, resource: Resource, object: &Value) -> Result<Value, ApiError>;

    /// Updates the object or a subresource of it; `metadata.resourceVersion` is the precondition.
    async fn update(&self, resource: Resource, subresource: &str, object: &Value) -> Result<Value, ApiError>;

    /// Deletes if the object still has this uid.
    async fn delete(&self, resource: Resource, key: &ObjectKey, grace_seconds: i64, uid: &str) -> Result<(), ApiError>;
}
