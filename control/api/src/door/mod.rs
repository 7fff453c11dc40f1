//! The request pipeline: decode → authorize → mutate → admit → validate → encode → propose → answer.
//!
//! HTTP, gRPC and in-process callers all come through here; nothing else in this process proposes changes of objects.

pub(crate) mod change;
mod create;
mod delete;
mod disown;
pub(crate) mod encode;
pub(crate) mod gate;
pub(crate) mod read;
pub(crate) mod stamp;
pub(crate) mod target;
pub(crate) mod watch;

#[cfg(test)]
mod tests;

pub use target::{Body, DeleteOptions, Removed, Target, WriteOptions, Written};

use crate::{
    admission::{default_tolerations::TolerationDefaults, node_writes::NodeWrites},
    client::DoorClient,
    identity::Identity,
    metrics::Summaries,
    nodelink::{LogReader, NodeLinks},
    sessions::SessionSlots,
};
use coracle_client::Client;
use coracle_objects::{ApiError, Cause, Reason, error::Details};
use coracle_store::{Command, Outcome, ProposeError, Proposer, ReadError, Store};
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How long a deleted node's range of addresses rests: what runs on there without a server has been noticed by then.
pub const RANGE_REST: Duration = Duration::from_mins(10);

/// What the door stands on.
pub struct DoorConfig {
    /// Where changes go.
    pub proposer: Arc<dyn Proposer>,
    /// Where reads come from.
    pub store: Store,
    /// IPv4 range from which Services get their cluster IPs, e.g. `10.96.0.0/16`.
    pub service_range: (Ipv4Addr, u8),
    /// How long a deleted node's range of addresses rests before another node may get it: [`RANGE_REST`] is usual.
    pub range_rest: Duration,
    /// Where the registry keeps blobs.
    pub blob_dir: PathBuf,
    /// How long pods that say nothing else stay on a node that is lost.
    pub tolerations: TolerationDefaults,
}

/// Says what is missing before a pod could run; an empty list means ready.
pub type ReadyCheck = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// The request pipeline: decode → authorize → admit → store → answer. HTTP, gRPC and in-process clients share it.
pub struct Door {
    config: DoorConfig,
    ready: OnceLock<ReadyCheck>,
    logs: OnceLock<Arc<dyn LogReader>>,
    links: OnceLock<Arc<NodeLinks>>,
    session_slots: Arc<SessionSlots>,
    summaries: Summaries,
    pub(crate) node_writes: NodeWrites,
    closing: CancellationToken,
}

impl Door {
    /// Sets up the pipeline.
    #[must_use]
    pub fn new(config: DoorConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            ready: OnceLock::new(),
            logs: OnceLock::new(),
            links: OnceLock::new(),
            session_slots: Arc::default(),
            summaries: Summaries::default(),
            node_writes: NodeWrites::default(),
            closing: CancellationToken::new(),
        })
    }

    /// The door for code in this process, as `identity`.
    #[must_use]
    pub fn client(self: &Arc<Self>, identity: Identity) -> Arc<dyn Client> {
        Arc::new(DoorClient::new(Arc::clone(self), identity))
    }

    /// The reading side of the store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.config.store
    }

    /// Where changes go.
    #[must_use]
    pub fn proposer(&self) -> &Arc<dyn Proposer> {
        &self.config.proposer
    }

    /// Where the registry keeps blobs.
    #[must_use]
    pub fn blob_dir(&self) -> &Path {
        &self.config.blob_dir
    }

    /// The range from which Services get their cluster IPs.
    #[must_use]
    pub fn service_range(&self) -> (Ipv4Addr, u8) {
        self.config.service_range
    }

    /// How long pods that say nothing else stay on a node that is lost.
    #[must_use]
    pub(crate) fn tolerations(&self) -> TolerationDefaults {
        self.config.tolerations
    }

    /// Sets, once, what `/readyz` asks; a second call changes nothing.
    pub fn set_ready_check(&self, check: ReadyCheck) {
        if self.ready.set(check).is_err() {
            tracing::warn!("the readiness check was set twice; the first one stays");
        }
    }

    /// What is missing before a pod could run; empty when ready.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.ready.get().map_or_else(|| vec!["the server is still starting".to_owned()], |check| check())
    }

    /// Sets, once, who reads containers' logs; a second call changes nothing.
    pub fn set_log_reader(&self, reader: Arc<dyn LogReader>) {
        if self.logs.set(reader).is_err() {
            tracing::warn!("the log reader was set twice; the first one stays");
        }
    }

    /// Who reads containers' logs.
    ///
    /// # Errors
    /// 503 before there is one.
    pub(crate) fn log_reader(&self) -> Result<&Arc<dyn LogReader>, ApiError> {
        self.logs.get().ok_or_else(|| ApiError::new(Reason::ServiceUnavailable, "logs cannot be read yet"))
    }

    /// Sets, once, through which links sessions with nodes are opened; a second call changes nothing.
    pub fn set_node_links(&self, links: Arc<NodeLinks>) {
        if self.links.set(links).is_err() {
            tracing::warn!("the node links were set twice; the first ones stay");
        }
    }

    /// Through which links sessions with nodes are opened.
    ///
    /// # Errors
    /// 503 before there are any.
    pub(crate) fn node_links(&self) -> Result<&Arc<NodeLinks>, ApiError> {
        self.links.get().ok_or_else(|| ApiError::new(Reason::ServiceUnavailable, "no node can be reached yet"))
    }

    /// How many connections to pods there may be.
    pub(crate) fn session_slots(&self) -> &Arc<SessionSlots> {
        &self.session_slots
    }

    /// What nodes said of what they use.
    pub(crate) fn summaries(&self) -> &Summaries {
        &self.summaries
    }

    /// How long a deleted node's range of addresses rests before another node may get it.
    pub(crate) fn range_rest_seconds(&self) -> i64 {
        i64::try_from(self.config.range_rest.as_secs()).unwrap_or(i64::MAX)
    }

    /// Ends every watch, session and log stream that runs through this door; called once when the server stops.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Cancelled when the server stops: long answers end then.
    #[must_use]
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Waits until everything acknowledged so far can be read here.
    pub(crate) async fn barrier(&self) -> Result<(), ApiError> {
        self.config.proposer.read_barrier().await.map_err(|error| propose_error(&error))
    }

    /// Gets a command committed.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, ApiError> {
        self.config.proposer.propose(command).await.map_err(|error| propose_error(&error))
    }
}

fn propose_error(error: &ProposeError) -> ApiError {
    let reason = match error {
        ProposeError::Unavailable(_) => Reason::ServiceUnavailable,
        ProposeError::TooLarge { .. } => Reason::RequestEntityTooLarge,
    };
    ApiError::new(reason, error.to_string())
}

/// What a failed read means to a client; `what` names the request for the `Expired` text.
pub(crate) fn read_error(error: &ReadError) -> ApiError {
    match error {
        ReadError::Compacted { .. } => {
            ApiError::new(Reason::Expired, "The resourceVersion for the provided list is too old.")
        }
        ReadError::Future { current } => too_large(&format!("current: {}", current.0)),
        ReadError::TooSlow => ApiError::new(Reason::Expired, error.to_string()),
        ReadError::Storage(_) => {
            tracing::error!(%error, "reading failed");
            ApiError::internal(error.to_string())
        }
    }
}

/// 504: the client asks for a state that this server has not seen. Client libraries tell by the cause that they should
/// begin anew instead of asking again.
pub(crate) fn too_large(detail: &str) -> ApiError {
    let message = "Too large resource version".to_owned();
    let cause = Cause { reason: "ResourceVersionTooLarge", field: String::new(), message };
    let details = Details { causes: vec![cause], retry_after_seconds: Some(1), ..Details::default() };
    let error = ApiError::new(Reason::Timeout, format!("Timeout: Too large resource version: {detail}"));
    ApiError { details: Some(Box::new(details)), ..error }
}
