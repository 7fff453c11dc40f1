//! The server's side of the connections that nodes keep open.
//!
//! Nobody dials a node. Each node holds one control stream; what the control plane wants from it (a log, a command in a
//! container, a connection to a pod) is announced there with an unguessable session id, and the node answers with one
//! more stream that names it. A third stream tells each node what it has to know ([`follow`]). Session data never passes through the control stream, every channel is bounded, and a reader that
//! does not read slows down its own session only.

pub(crate) mod bounds;
mod data;
mod follow;
mod lease;
mod links;
mod logs;
mod relay;
mod service;
mod session;

#[cfg(test)]
mod relay_tests;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use bounds::Counted;
pub use bounds::NodeBounds;
pub use follow::Feed;
pub use links::NodeLinks;
pub use service::NodeLinkService;
pub(crate) use session::FRAME_BYTES;
pub use session::{Said, Session, SessionReader, SessionWriter};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_objects::ApiError;
use coracle_wire::v1::LogRequest;
use futures::stream::BoxStream;

/// Logs, commands and the like that one node serves at a time. Together with [`SESSION_WINDOW_BYTES`] it bounds what unread sessions
/// can take of a node's connection window; what is left is for the control stream and the node's own requests.
pub const MAX_SESSIONS_PER_NODE: usize = 64;

/// Connections to pods that one node forwards at a time, beside its other sessions.
pub const MAX_FORWARDS_PER_NODE: usize = 128;

/// What a node may send into one session before somebody reads it.
pub const SESSION_WINDOW_BYTES: u32 = 256 * 1024;

/// Reads container logs where they are: on the node.
#[async_trait]
pub trait LogReader: Send + Sync + 'static {
    /// The log that `request` asks for, from the node called `node`. The request is complete: container chosen,
    /// pod uid set, authorization checked.
    async fn open(
        &self,
        node: &str,
        request: LogRequest,
    ) -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError>;
}
