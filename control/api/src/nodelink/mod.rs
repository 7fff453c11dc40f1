//! The server's side of the connections that nodes keep open.

use async_trait::async_trait;
use bytes::Bytes;
use coracle_objects::ApiError;
use coracle_wire::v1::LogRequest;
use futures::stream::BoxStream;

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
