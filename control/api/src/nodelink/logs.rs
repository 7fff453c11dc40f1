//! Logs over node sessions.

use super::{LogReader, NodeLinks, Said, Session};
use async_trait::async_trait;
use bytes::Bytes;
use coracle_objects::ApiError;
use coracle_wire::v1::{LogRequest, open_session::Purpose};
use futures::{StreamExt, stream::BoxStream};
use std::time::Duration;

/// How long the answer's beginning is held back for the node to say that it cannot read the log: a refusal that
/// comes before the first byte becomes a proper error; one that comes later can only break the answer off.
const FIRST_FRAME_WAIT: Duration = Duration::from_secs(1);

#[async_trait]
impl LogReader for NodeLinks {
    async fn open(
        &self,
        node: &str,
        request: LogRequest,
    ) -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError> {
        let mut log = Log { node: node.to_owned(), session: self.open_session(node, Purpose::Logs(request)).await? };
        let first = match tokio::time::timeout(FIRST_FRAME_WAIT, log.next()).await {
            Ok(Step::Data(bytes)) => Some(bytes),
            Ok(Step::End) => return Ok(futures::stream::empty().boxed()),
            Ok(Step::Failed(error)) => return Err(error),
            Err(_) => None,
        };
        let rest = futures::stream::unfold(Some(log), |log| async {
            let mut log = log?;
            match log.next().await {
                Step::Data(bytes) => Some((Ok(bytes), Some(log))),
                Step::End => None,
                Step::Failed(error) => Some((Err(error), None)),
            }
        });
        Ok(futures::stream::iter(first.map(Ok)).chain(rest).boxed())
    }
}

/// A log being read.
struct Log {
    node: String,
    session: Session,
}

enum Step {
    Data(Bytes),
    End,
    Failed(ApiError),
}

impl Log {
    /// Safe to drop half-way: nothing is taken from the session before it is returned.
    async fn next(&mut self) -> Step {
        match self.session.next().await {
            Ok(Said::Data(bytes)) => Step::Data(bytes),
            Ok(Said::End(status)) if status.is_empty() => Step::End,
            Ok(Said::End(status)) => Step::Failed(refusal(&status)),
            Ok(Said::Channel(_)) => {
                Step::Failed(ApiError::internal(format!("node \"{}\" sent no log but something else", self.node)))
            }
            Err(error) => Step::Failed(error),
        }
    }
}

fn refusal(status: &[u8]) -> ApiError {
    match serde_json::from_slice(status) {
        Ok(status) => ApiError::from_status(&status),
        Err(_) => ApiError::internal("the node refused to read the log and did not say why"),
    }
}
