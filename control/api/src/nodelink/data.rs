//! Sessions in which only the node speaks, in plain bytes: logs and statistics.

use super::{NodeLinks, Said, Session};
use bytes::Bytes;
use coracle_objects::ApiError;
use coracle_wire::v1::open_session::Purpose;
use futures::{StreamExt, stream::BoxStream};
use std::time::Duration;

/// How long the answer's beginning is held back for the node to say that it cannot: a refusal that comes before the
/// first byte becomes a proper error; one that comes later can only break the answer off.
const FIRST_FRAME_WAIT: Duration = Duration::from_secs(1);

impl NodeLinks {
    /// Opens a session and answers what the node sends, until it ends the session.
    ///
    /// # Errors
    /// As [`Self::open_session`], and what the node refuses at once with; later failures are items.
    pub(crate) async fn open_data(
        &self,
        node: &str,
        purpose: Purpose,
    ) -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError> {
        let mut data = Data { node: node.to_owned(), session: self.open_session(node, purpose).await? };
        let first = match tokio::time::timeout(FIRST_FRAME_WAIT, data.next()).await {
            Ok(Step::Data(bytes)) => Some(bytes),
            Ok(Step::End) => return Ok(futures::stream::empty().boxed()),
            Ok(Step::Failed(error)) => return Err(error),
            Err(_) => None,
        };
        let rest = futures::stream::unfold(Some(data), |data| async {
            let mut data = data?;
            match data.next().await {
                Step::Data(bytes) => Some((Ok(bytes), Some(data))),
                Step::End => None,
                Step::Failed(error) => Some((Err(error), None)),
            }
        });
        Ok(futures::stream::iter(first.map(Ok)).chain(rest).boxed())
    }
}

/// What is being read.
struct Data {
    node: String,
    session: Session,
}

enum Step {
    Data(Bytes),
    End,
    Failed(ApiError),
}

impl Data {
    /// Safe to drop half-way: nothing is taken from the session before it is returned.
    async fn next(&mut self) -> Step {
        match self.session.next().await {
            Ok(Said::Data(bytes)) => Step::Data(bytes),
            Ok(Said::End(status)) => refusal(&status).map_or(Step::End, Step::Failed),
            Ok(Said::Channel(_)) => {
                Step::Failed(ApiError::internal(format!("node \"{}\" sent something else than bytes", self.node)))
            }
            Err(error) => Step::Failed(error),
        }
    }
}

/// What a session's end says; `None` for a good one.
fn refusal(status: &[u8]) -> Option<ApiError> {
    if status.is_empty() {
        return None;
    }
    let Ok(status) = serde_json::from_slice::<serde_json::Value>(status) else {
        return Some(ApiError::internal("the node refused and did not say why"));
    };
    (status["status"] != "Success").then(|| ApiError::from_status(&status))
}
