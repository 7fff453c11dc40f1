//! `coracle.v1.PodLogs`: containers' logs for clients that speak gRPC.

use super::{Shared, answered, refusal};
use crate::{
    auth::Authenticator,
    door::{Door, Target},
    http::logs,
};
use coracle_objects::catalogue;
use coracle_wire::v1::{
    LogChunk, LogRequest,
    pod_logs_server::{PodLogs, PodLogsServer},
};
use futures::{StreamExt, stream::BoxStream};
use std::sync::Arc;
use tonic::{Request, Response, Status, async_trait};

/// The service, to be added to a router.
pub fn service(door: Arc<Door>, authenticator: Arc<Authenticator>) -> PodLogsServer<LogService> {
    PodLogsServer::new(LogService { shared: Shared { door, authenticator } })
}

/// Reads logs through the door.
#[derive(Clone)]
pub struct LogService {
    shared: Shared,
}

#[async_trait]
impl PodLogs for LogService {
    type ReadStream = BoxStream<'static, Result<LogChunk, Status>>;

    async fn read(&self, request: Request<LogRequest>) -> Result<Response<Self::ReadStream>, Status> {
        answered(async {
            let identity = self.shared.identity(&request)?;
            let asked = request.into_inner();
            logs::check_request(&asked)?;
            let target = Target::object(catalogue::pods(), asked.namespace.as_str(), asked.pod.as_str());
            let target = target.with_subresource("log")?;
            let log = logs::open(&self.shared.door, &identity, &target, asked).await?;
            let chunks = log.map(|data| data.map(|data| LogChunk { data }).map_err(|error| refusal::status(&error)));
            Ok(chunks.boxed())
        })
        .await
    }
}
