//! Logs over node sessions.

use super::{LogReader, NodeLinks};
use async_trait::async_trait;
use bytes::Bytes;
use coracle_objects::ApiError;
use coracle_wire::v1::{LogRequest, open_session::Purpose};
use futures::stream::BoxStream;

#[async_trait]
impl LogReader for NodeLinks {
    async fn open(
        &self,
        node: &str,
        request: LogRequest,
    ) -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError> {
        self.open_data(node, Purpose::Logs(request)).await
    }
}
